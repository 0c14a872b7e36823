//! Servers that refuse every write: to their clients they have failed, for as long as that lasts.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::join_all;
use redlock_fifo::{
    ExtendError, FifoRedlock, LeaseLost, LockError, NoQuorum, NodeError, ReleaseError, Ticket,
};
use tokio::time::timeout;

use crate::{
    process::{PATIENCE, builder, now, servers, until},
    server::Server,
};

const TTL: Duration = Duration::from_secs(4);
const LEASE: Duration = Duration::from_secs(1);

/// Why a server refuses.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// It cannot save its snapshot, with `stop-writes-on-bgsave-error`.
    Misconf,
    /// It has too few replicas, with `min-replicas-to-write`.
    NoReplicas,
}

impl Cause {
    const ALL: [Self; 2] = [Self::Misconf, Self::NoReplicas];

    fn code(self) -> &'static str {
        match self {
            Self::Misconf => "MISCONF",
            Self::NoReplicas => "NOREPLICAS",
        }
    }

    /// Makes a server refuse.
    async fn befall(self, server: &Server) {
        match self {
            Self::Misconf => {
                // No file takes the place of a directory.
                fs::create_dir(snapshot(server)).expect("a directory");
                set(server, "save", "86400 1000000");
                save(server, "err").await;
            }
            Self::NoReplicas => set(server, "min-replicas-to-write", "1"),
        }
        assert_eq!(refusal(server).as_deref(), Some(self.code()));
    }

    /// Makes it take writes again.
    async fn pass(self, server: &Server) {
        match self {
            Self::Misconf => {
                fs::remove_dir(snapshot(server)).expect("the directory");
                save(server, "ok").await;
            }
            Self::NoReplicas => set(server, "min-replicas-to-write", "0"),
        }
        assert_eq!(refusal(server), None);
    }

    async fn befall_all(self, servers: &[Server]) {
        join_all(servers.iter().map(|server| self.befall(server))).await;
    }

    async fn pass_all(self, servers: &[Server]) {
        join_all(servers.iter().map(|server| self.pass(server))).await;
    }

    /// Whether this is why too few of three nodes answered, and nothing else.
    fn is_why(self, failed: &NoQuorum) -> bool {
        let refused = NodeError::Refused(self.code().to_owned());
        let failures = failed.failures();
        failures.len() >= 2 && failures.iter().all(|failure| *failure.error() == refused)
    }
}

fn set(server: &Server, name: &str, value: &str) {
    server.command(&["CONFIG", "SET", name, value]);
}

/// Where the server saves its snapshot.
fn snapshot(server: &Server) -> PathBuf {
    let setting = |name| -> String {
        let told = server.command(&["CONFIG", "GET", name]);
        let [_, value]: [String; 2] = redis::from_redis_value(told).expect("a setting");
        value
    };
    Path::new(&setting("dir")).join(setting("dbfilename"))
}

/// Has the server save its snapshot, and waits until it has come to `outcome`.
async fn save(server: &Server, outcome: &str) {
    let status = format!("rdb_last_bgsave_status:{outcome}");
    server.command(&["BGSAVE"]);
    until("the snapshot is done", || {
        let told = server.text(&["INFO", "persistence"]);
        let has = |line: &str| told.lines().any(|told| told == line);
        has("rdb_bgsave_in_progress:0") && has(&status)
    })
    .await;
}

/// The code with which the server refuses to write now.
fn refusal(server: &Server) -> Option<String> {
    const TRY: &str = "local told = redis.pcall('DEL', KEYS[1])
        return type(told) == 'table' and told.err or ''";
    let told = server.text(&["EVAL", TRY, "1", "nobody's"]);
    let code = told.trim_start_matches('-').split(' ').next();
    code.filter(|code| !code.is_empty()).map(str::to_owned)
}

/// How often the server has refused so far. What a script was refused counts, as it is what the script answers.
fn refused(server: &Server, cause: Cause) -> u64 {
    let line = format!("errorstat_{}:count=", cause.code());
    let told = server.text(&["INFO", "errorstats"]);
    let count = told.lines().find_map(|told| told.strip_prefix(&line));
    count.map_or(0, |count| count.trim().parse().expect("a number"))
}

async fn client(servers: &[Server]) -> FifoRedlock {
    let builder = builder(servers).fifo_ephemeral_ttl(LEASE);
    builder.connect().await.expect("connected")
}

/// How many wait for `r` on this server.
fn waiting(server: &Server) -> i64 {
    server.number(&["ZCARD", "{r}:redlock-fifo:queue"])
}

/// All that is left on the servers, but counters.
fn left(servers: &[Server]) -> Vec<String> {
    let keys = servers.iter().flat_map(Server::keys);
    keys.filter(|key| !key.ends_with(":redlock-fifo:seq"))
        .collect()
}

/// Who has the vote of each server for `r`.
fn votes(servers: &[Server]) -> Vec<Option<String>> {
    let vote = |server: &Server| redis::from_redis_value(server.command(&["GET", "r"]));
    servers
        .iter()
        .map(|server| vote(server).expect("a text"))
        .collect()
}

/// A line for `r`, in order, that all servers know of.
async fn line(clients: &[FifoRedlock], servers: &[Server], length: usize) -> Vec<Ticket> {
    let mut line = Vec::new();
    for turn in 0..length {
        let client = &clients[turn % clients.len()];
        line.push(client.enqueue("r", TTL).await.expect("enqueued"));
    }
    until("all stand in line everywhere", || {
        servers
            .iter()
            .all(|server| waiting(server) == length as i64)
    })
    .await;
    line
}

/// Serves a line in its order, with tokens above `last`.
async fn serve(line: &mut [Ticket], mut last: u64) -> u64 {
    for place in 0..line.len() {
        let (ticket, behind) = line[place..].split_first_mut().expect("one");
        let guard = timeout(PATIENCE, ticket.acquire()).await;
        let guard = guard.expect("served").expect("served");
        assert!(guard.fencing_token() > last, "S2: waiter {place}");
        last = guard.fencing_token();
        for next in behind {
            let early = timeout(Duration::ZERO, next.acquire()).await;
            assert!(early.is_err(), "S1, F1: {early:?} beside waiter {place}");
        }
        assert!(guard.is_held(), "L6: waiter {place}");
        guard.release().await.expect("a quorum confirms");
    }
    last
}

/// Ends all clients. Nothing may be left on the servers then.
async fn end(clients: Vec<FifoRedlock>, servers: &[Server]) {
    for client in clients {
        timeout(PATIENCE, client.shutdown()).await.expect("ends");
    }
    assert_eq!(left(servers), [""; 0], "C1, C3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_f2_a_minority_that_refuses_to_write_takes_no_lease_and_no_place() {
    for cause in Cause::ALL {
        let servers = servers(3);
        let clients = vec![
            client(&servers).await,
            client(&servers).await,
            client(&servers).await,
        ];
        let guard = clients[0].lock("r", TTL).await.expect("free");
        let mut line = line(&clients[1..], &servers, 4).await;
        cause.befall(&servers[2]).await;
        // That takes longer than any lease of before.
        until("what stood there has run out", || {
            votes(&servers)[2].is_none() && waiting(&servers[2]) == 0
        })
        .await;
        assert!(guard.is_held(), "L6: {cause:?}");
        assert_eq!(
            servers[..2].iter().map(waiting).collect::<Vec<_>>(),
            [4; 2],
            "F2: {cause:?}"
        );
        let mut last = guard.fencing_token();
        guard.release().await.expect("a quorum confirms");
        let (first, behind) = line.split_at_mut(2);
        last = serve(first, last).await;

        let guard = timeout(PATIENCE, behind[0].acquire())
            .await
            .expect("served")
            .expect("served");
        assert!(guard.fencing_token() > last, "S2: {cause:?}");
        last = guard.fencing_token();
        cause.pass(&servers[2]).await;
        until("the lease stands everywhere, and the line, too", || {
            let votes = votes(&servers);
            votes[0].is_some()
                && votes.iter().all(|vote| *vote == votes[0])
                && waiting(&servers[2]) == 1
        })
        .await;
        assert!(guard.is_held(), "L6: {cause:?}");
        guard.release().await.expect("a quorum confirms");
        serve(&mut behind[1..], last).await;
        end(clients, &servers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_s3_servers_that_all_refuse_to_write_end_a_lease_in_time_and_serve_again_afterwards() {
    for cause in Cause::ALL {
        let servers = servers(3);
        let clients = vec![client(&servers).await, client(&servers).await];
        let guard = clients[0].lock("r", TTL).await.expect("free");
        let mut line = line(&clients, &servers, 3).await;
        let token = guard.fencing_token();
        cause.befall_all(&servers).await;
        let since = now();

        let tried = clients[1].try_lock("other", TTL).await;
        assert!(
            matches!(&tried, Err(LockError::NoQuorum(failed)) if cause.is_why(failed)),
            "L1: {tried:?}"
        );
        let extended = guard.extend(TTL).await;
        assert!(
            matches!(&extended, Err(ExtendError::NoQuorum(failed)) if cause.is_why(failed)),
            "L6: {extended:?}"
        );
        assert!(guard.is_held(), "L6: it has what it had");
        let lost = timeout(PATIENCE, guard.lost()).await;
        assert_eq!(lost, Ok(LeaseLost::Expired), "S3");
        assert!(now() - since < 2 * TTL, "S3: {:?}", now() - since);
        assert!(!guard.is_held(), "S3");
        let released = guard.release().await;
        assert_eq!(
            released,
            Err(ReleaseError::Lost(LeaseLost::Expired)),
            "C3: {cause:?}"
        );
        until("all has run out", || left(&servers).is_empty()).await;
        for ticket in &mut line {
            let early = timeout(Duration::ZERO, ticket.acquire()).await;
            assert!(early.is_err(), "S1: {early:?} without a quorum");
        }

        cause.pass_all(&servers).await;
        // Its places are lost (F2), but not its tickets: each is served, and none beside another.
        let turns = line.iter_mut().map(async |ticket| {
            let guard = timeout(PATIENCE, ticket.acquire()).await;
            let guard = guard.expect("served").expect("served");
            let token = guard.fencing_token();
            let since = now();
            until("the lease stands everywhere", || {
                let votes = votes(&servers);
                votes[0].is_some() && votes.iter().all(|vote| *vote == votes[0])
            })
            .await;
            assert!(guard.is_held(), "L6: {cause:?}");
            let until = now();
            guard.release().await.expect("a quorum confirms");
            (since, until, token)
        });
        let mut turns = join_all(turns).await;
        turns.sort();
        let tokens: Vec<u64> = turns.iter().map(|(.., token)| *token).collect();
        assert!(
            token < tokens[0] && tokens.is_sorted_by(|a, b| a < b),
            "S2: {token} {tokens:?}"
        );
        for turns in turns.windows(2) {
            assert!(turns[0].1 <= turns[1].0, "S1: {turns:?}");
        }
        end(clients, &servers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_c3_l6_what_was_refused_is_made_up_for_as_soon_as_servers_take_writes_again() {
    /// Of leases and of places, so that all of them outlast what is refused.
    const LONG: Duration = Duration::from_secs(60);
    for cause in Cause::ALL {
        let servers = servers(3);
        let holding = client(&servers).await;
        let waits = builder(&servers).fifo_ephemeral_ttl(LONG);
        let waits = waits.connect().await.expect("connected");
        let kept = holding.lock("kept", LONG).await.expect("free");
        let released = holding.lock("r", LONG).await.expect("free");
        let dropped = holding.lock("dropped", LONG).await.expect("free");
        let leaves = waits.enqueue("r", LONG).await.expect("enqueued");
        let mut next = waits.enqueue("r", LONG).await.expect("enqueued");
        let mut other = waits.enqueue("dropped", LONG).await.expect("enqueued");
        until("all stand in line everywhere", || {
            servers.iter().all(|server| waiting(server) == 2)
        })
        .await;
        let tokens = [released.fencing_token(), dropped.fencing_token()];
        cause.befall_all(&servers).await;

        let extended = kept.extend(LONG).await;
        assert!(
            matches!(&extended, Err(ExtendError::NoQuorum(failed)) if cause.is_why(failed)),
            "L6: {extended:?}"
        );
        assert!(kept.is_held(), "L6: it has what it had");
        for refused in [released.release().await, leaves.leave().await] {
            assert!(
                matches!(&refused, Err(ReleaseError::Unconfirmed(failed)) if cause.is_why(failed)),
                "C1, C3: {refused:?}"
            );
        }
        drop(dropped);
        let count = || servers.iter().map(|server| refused(server, cause));
        let before: Vec<_> = count().collect();
        until("all have refused again and again", || {
            count().zip(&before).all(|(now, before)| now > before + 6)
        })
        .await;
        for ticket in [&mut next, &mut other] {
            let early = timeout(Duration::ZERO, ticket.acquire()).await;
            assert!(early.is_err(), "S1: {early:?} where nobody has released");
        }
        cause.pass_all(&servers).await;

        let since = now();
        for (ticket, last) in [&mut next, &mut other].into_iter().zip(tokens) {
            let guard = timeout(PATIENCE, ticket.acquire()).await;
            let guard = guard.expect("served").expect("served");
            assert!(guard.fencing_token() > last, "S2: {guard:?} after {last}");
            assert!(guard.is_held(), "S3: {guard:?}");
            guard.release().await.expect("a quorum confirms");
        }
        // What is refused is sent again within a second, and does not wait for the end of the lease.
        assert!(now() - since < LONG / 2, "C3: {:?}", now() - since);
        kept.extend(LONG).await.expect("L6: it stands");
        kept.release().await.expect("a quorum confirms");
        end(vec![holding, waits], &servers).await;
    }
}
