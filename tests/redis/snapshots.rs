//! Servers that come back with an older state than they had, as from a snapshot.

use std::time::Duration;

use redlock_fifo::{FifoRedlock, LockGuard};

use tokio::time::sleep;

use crate::{
    process::{PATIENCE, builder, now, servers, until},
    server::Server,
};

const TTL: Duration = Duration::from_secs(1);

/// As short as the leases allow, so that the test takes seconds.
const GRACE: Duration = Duration::from_secs(2);

async fn graceful(servers: &[Server]) -> FifoRedlock {
    let builder = builder(servers).restart_grace(GRACE).cold_start_grace(true);
    builder.connect().await.expect("connected")
}

/// The lock, as soon as enough nodes vote for it.
async fn lock(redlock: &FifoRedlock, resource: &str) -> LockGuard {
    let deadline = now() + PATIENCE;
    loop {
        match redlock.lock(resource, TTL).await {
            Ok(guard) => return guard,
            Err(error) => assert!(now() < deadline, "{error}"),
        }
    }
}

/// The token of a lease that is given back at once.
async fn lease(redlock: &FifoRedlock, resource: &str) -> u64 {
    let guard = lock(redlock, resource).await;
    let token = guard.fencing_token();
    guard.release().await.expect("held");
    token
}

/// A release is confirmed by a quorum, and reaches the last server a little later.
async fn until_given_back(servers: &[Server]) {
    until("all servers have it back", || {
        servers
            .iter()
            .all(|server| server.number(&["EXISTS", "r"]) == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_a_node_that_comes_back_with_an_older_snapshot_repeats_no_token() {
    let servers = servers(3);
    let redlock = graceful(&servers).await;
    let mut last = lease(&redlock, "r").await;
    until_given_back(&servers).await;

    // One server hangs, and another one saves what it has: that is already old when it goes on.
    servers[2].pause();
    servers[0].command(&["SAVE"]);
    for _ in 0..5 {
        let token = lease(&redlock, "r").await;
        assert!(token > last, "S2 among healthy nodes: {token} after {last}");
        last = token;
    }
    // What the one that hangs was asked must be too late when it goes on.
    sleep(2 * TTL).await;
    servers[2].resume();
    servers[0].restart();
    let kept = servers[0].text(&["GET", "{r}:redlock-fifo:seq"]);
    assert!(
        kept.parse::<u64>().expect("a number") < last,
        "it came back with its old state: {kept}"
    );

    // All of them vote again before the next one hangs: one at a time is away.
    let next = graceful(&servers).await;
    servers[1].pause();
    let other = lease(&next, "other").await;
    let token = lease(&next, "r").await;
    assert!(
        token > last,
        "S2: {token} after {last}, and {other} for another name"
    );
    servers[1].resume();
}
