//! A server that is none: it shakes hands as a node does, and then answers as a test wants it to.
//!
//! It speaks just enough of the protocol for the handshake. What it is asked after that, and with some
//! misbehaviour even before, goes to its [`Manner`].

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::sleep,
};

/// What it does when it is asked; `None`: what a good server would.
pub(crate) type Manner = Arc<dyn Fn(&Call) -> Option<Vec<Act>> + Send + Sync>;

/// One step of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Send(Vec<u8>),
    /// One byte a second.
    Drip(Vec<u8>),
    /// The same bytes again and again, as fast as they are taken.
    Flood(Vec<u8>),
    Close,
    /// Answers nothing more on this connection.
    Hang,
    /// Takes nothing more from it either.
    Stop,
    Pause(Duration),
}

/// The scripts, in the order in which a client loads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Enqueue,
    Extend,
    Release,
    Inspect,
    Handshake,
}

/// A command as it came.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) words: Vec<String>,
    /// The script that is to run.
    pub(crate) script: Option<Script>,
    /// Which connection it came over, from 0.
    pub(crate) connection: usize,
    /// The channel that was subscribed to on it.
    pub(crate) channel: String,
}

impl Call {
    /// A call of one of the scripts that a lock consists of.
    pub(crate) fn is_request(&self) -> bool {
        self.script
            .is_some_and(|script| script != Script::Handshake)
    }

    /// The holder ids that it names, one for each group of keys.
    pub(crate) fn ids(&self) -> Vec<&str> {
        let keys: usize = self.words.get(2).map_or(0, |keys| keys.parse().unwrap());
        let (first, step) = match self.script {
            Some(Script::Enqueue) => (5, 4),
            Some(Script::Extend) => (4, 4),
            Some(Script::Release) => (4, 1),
            _ => return Vec::new(),
        };
        let ids = self.words.iter().skip(3 + keys + first).step_by(step);
        ids.map(String::as_str).collect()
    }

    /// An answer with the same value for each group.
    pub(crate) fn envelope(&self, value: &str) -> Vec<u8> {
        let groups = self.ids().len();
        let values = value.repeat(groups);
        format!("*{}\r\n:{}\r\n{values}", groups + 1, now_millis()).into_bytes()
    }
}

/// The clock that it shows.
pub(crate) fn now_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// How often it was asked what.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicUsize,
    pub(crate) open: AtomicUsize,
    /// Calls of the scripts that a lock consists of.
    pub(crate) requests: AtomicU64,
    /// The most of them on one connection.
    pub(crate) deepest: AtomicUsize,
}

/// One server. It is gone when dropped.
#[derive(Debug)]
pub(crate) struct Fake {
    url: String,
    pub(crate) counts: Arc<Counts>,
    task: AbortHandle,
}

impl Fake {
    pub(crate) async fn start(manner: Manner) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let run_id = format!("{:040x}", STARTED.fetch_add(1, Ordering::Relaxed));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let counts = Arc::<Counts>::default();
        let all = counts.clone();
        let accept = async move {
            // The connections end with this task.
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let serve = Connection {
                    place: all.connections.fetch_add(1, Ordering::Relaxed),
                    requests: 0,
                    stream: BufReader::new(stream),
                    loaded: 0,
                    channel: String::new(),
                    run_id: run_id.clone(),
                    manner: manner.clone(),
                    counts: all.clone(),
                };
                all.open.fetch_add(1, Ordering::Relaxed);
                let all = all.clone();
                serving.spawn(async move {
                    // However it ends: the other side has closed, or this one will.
                    let _ = serve.serve().await;
                    all.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        };
        let task = tokio::spawn(accept).abort_handle();
        Self { url, counts, task }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Connection {
    place: usize,
    requests: usize,
    stream: BufReader<TcpStream>,
    loaded: usize,
    channel: String,
    run_id: String,
    manner: Manner,
    counts: Arc<Counts>,
}

impl Connection {
    /// `None` at its end.
    async fn serve(mut self) -> Option<()> {
        loop {
            let call = self.read().await?;
            let acts = (self.manner)(&call);
            for act in acts.unwrap_or_else(|| vec![Act::Send(self.decently(&call))]) {
                self.perform(act).await?;
            }
        }
    }

    async fn perform(&mut self, act: Act) -> Option<()> {
        match act {
            Act::Send(bytes) => self.stream.write_all(&bytes).await.ok(),
            Act::Drip(bytes) => {
                for byte in bytes {
                    self.stream.write_all(&[byte]).await.ok()?;
                    sleep(Duration::from_secs(1)).await;
                }
                Some(())
            }
            Act::Flood(bytes) => loop {
                self.stream.write_all(&bytes).await.ok()?;
            },
            Act::Close => None,
            Act::Hang => {
                while self.read().await.is_some() {}
                None
            }
            Act::Stop => pending().await,
            Act::Pause(span) => {
                sleep(span).await;
                Some(())
            }
        }
    }

    async fn read(&mut self) -> Option<Call> {
        let count = self.line('*').await?;
        let mut words = Vec::with_capacity(count);
        for _ in 0..count {
            let length = self.line('$').await?;
            let mut word = vec![0; length + 2];
            self.stream.read_exact(&mut word).await.ok()?;
            words.push(String::from_utf8_lossy(&word[..length]).into_owned());
        }
        let script = (words[0] == "EVALSHA").then(|| match words[1].as_bytes().last() {
            Some(b'0') => Script::Enqueue,
            Some(b'1') => Script::Extend,
            Some(b'2') => Script::Release,
            Some(b'3') => Script::Inspect,
            _ => Script::Handshake,
        });
        let call = Call {
            words,
            script,
            connection: self.place,
            channel: self.channel.clone(),
        };
        if call.is_request() {
            self.requests += 1;
            self.counts.requests.fetch_add(1, Ordering::Relaxed);
            self.counts
                .deepest
                .fetch_max(self.requests, Ordering::Relaxed);
        }
        Some(call)
    }

    async fn line(&mut self, mark: char) -> Option<usize> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.ok()?;
        line.trim_end().strip_prefix(mark)?.parse().ok()
    }

    /// As a good server would answer that keeps nothing.
    fn decently(&mut self, call: &Call) -> Vec<u8> {
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let answer = match call.words[0].as_str() {
            "HELLO" => "%1\r\n$5\r\nproto\r\n:3\r\n".to_owned(),
            "INFO" if call.words[1] == "server" => bulk(&format!(
                "redis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:{}\r\nuptime_in_seconds:1\r\n",
                self.run_id
            )),
            "INFO" => bulk("role:master\r\n"),
            "TIME" => {
                let now = now_millis();
                let (seconds, micros) = (now / 1000, now % 1000 * 1000);
                format!(
                    "*2\r\n{}{}",
                    bulk(&seconds.to_string()),
                    bulk(&micros.to_string())
                )
            }
            "SCRIPT" => {
                self.loaded += 1;
                bulk(&format!("{:040}", (self.loaded - 1) % 5))
            }
            "SUBSCRIBE" => {
                self.channel.clone_from(&call.words[1]);
                format!(">3\r\n{}{}:1\r\n", bulk("subscribe"), bulk(&call.words[1]))
            }
            "EVALSHA" => match call.script {
                Some(Script::Handshake) => bulk(""),
                Some(Script::Inspect) => {
                    format!("*5\r\n:{}\r\n$0\r\n\r\n:-2\r\n:0\r\n:0\r\n", now_millis())
                }
                _ => return call.envelope("*1\r\n:0\r\n"),
            },
            _ => "+OK\r\n".to_owned(),
        };
        answer.into_bytes()
    }
}
