//! The store on the side: a server that keeps each set as one value, and the highest token seen of it.

use redis::{RedisResult, aio::MultiplexedConnection, cmd};

/// What stands between an old holder and the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// The lock was acquired.
    Nothing,
    /// The guard says that it is still held, right before the write.
    Guard,
    /// The store refuses a write with a token below one that it has seen in a write.
    Writes,
    /// The store refuses reads and writes with a token below one that it has seen in either.
    ReadsAndWrites,
}

/// Answers whether the token in ARGV[1] is none or not below the highest that was seen; notes it then.
const FENCE: &str = "
    local token = tonumber(ARGV[1])
    if token and token < tonumber(redis.call('GET', KEYS[2]) or 0) then return false end
    if token then redis.call('SET', KEYS[2], ARGV[1]) end
";

impl Check {
    pub(crate) const ALL: [Self; 4] = [
        Self::Nothing,
        Self::Guard,
        Self::Writes,
        Self::ReadsAndWrites,
    ];

    /// The name of its set, and of the lock of that.
    pub(crate) fn set(self) -> &'static str {
        match self {
            Self::Nothing => "unchecked",
            Self::Guard => "asked",
            Self::Writes => "fenced-writes",
            Self::ReadsAndWrites => "fenced",
        }
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Nothing => "nothing is checked",
            Self::Guard => "`is_held()` is asked",
            Self::Writes => "the store checks the token of writes",
            Self::ReadsAndWrites => "the store checks the token of reads and writes",
        }
    }
}

/// A connection to the store.
#[derive(Clone)]
pub(crate) struct Store(MultiplexedConnection);

impl Store {
    pub(crate) async fn connect(url: &str) -> Self {
        let client = redis::Client::open(url).expect("a url");
        let connection = client.get_multiplexed_async_connection().await;
        Self(connection.expect("connected"))
    }

    /// The set, if the store gives it out. A store that fails is no part of the experiment, but a process
    /// that was paused finds its requests timed out: then it is unknown, and so not given out.
    pub(crate) async fn read(&mut self, check: Check, token: u64) -> Option<String> {
        let script = format!("{FENCE} return redis.call('GET', KEYS[1]) or ''");
        let token = (check == Check::ReadsAndWrites).then_some(token);
        self.run(&script, check, token, "").await
    }

    /// Writes the whole set; whether the store has confirmed it.
    pub(crate) async fn write(&mut self, check: Check, token: u64, set: &str) -> bool {
        let script = format!("{FENCE} redis.call('SET', KEYS[1], ARGV[2]) return 'OK'");
        let fences = matches!(check, Check::Writes | Check::ReadsAndWrites);
        let written = self.run(&script, check, fences.then_some(token), set).await;
        written.is_some()
    }

    async fn run(
        &mut self,
        script: &str,
        check: Check,
        token: Option<u64>,
        set: &str,
    ) -> Option<String> {
        let token = token.map(|token| token.to_string()).unwrap_or_default();
        let answer: RedisResult<Option<String>> = cmd("EVAL")
            .arg(script)
            .arg(2)
            .arg(check.set())
            .arg(format!("{}:token", check.set()))
            .arg(token)
            .arg(set)
            .query_async(&mut self.0)
            .await;
        match answer {
            Err(error) if !error.is_timeout() => panic!("the store: {error}"),
            answer => answer.ok().flatten(),
        }
    }
}
