//! For how long a vote lives, however it came about: never longer than the ttl of its request allows.

use std::time::Duration;

use redlock_fifo::{FifoRedlock, FifoRedlockBuilder};
use tokio::time::timeout;

use crate::{
    process::{PATIENCE, Worker, builder, client, now, servers, until},
    server::Server,
};

/// What a busy machine may add to a promised time.
const SLACK: Duration = Duration::from_millis(1500);

/// Whether somebody waits for `r` on this server.
fn waits(server: &Server) -> bool {
    server.number(&["ZCARD", "{r}:redlock-fifo:queue"]) > 0
}

async fn until_in_line(servers: &[Server]) {
    until("it stands in line", || servers.iter().all(waits)).await;
}

async fn connect(builder: FifoRedlockBuilder) -> FifoRedlock {
    builder.connect().await.expect("connected")
}

/// The waiter ttl is above the grace here, as it is by default for every grace below five seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_a_vote_that_was_handed_over_is_forgotten_only_for_as_long_as_the_grace_lasts() {
    let ttl = Duration::from_secs(1);
    let servers = servers(3);
    let graceful = || {
        builder(&servers)
            .restart_grace(Duration::from_secs(2))
            .cold_start_grace(true)
    };
    let (one, two) = (connect(graceful()).await, connect(graceful()).await);
    let held = timeout(PATIENCE, one.lock("r", ttl).wait_forever()).await;
    let held = held.expect("the grace ends").expect("free");
    let lock = two.lock("r", ttl).wait_forever().auto_extend(false);
    let waiter = tokio::spawn(lock.into_future());
    until_in_line(&servers).await;
    held.release().await.expect("held");
    let handed = waiter.await.expect("no panic").expect("served");

    servers[0].restart();
    servers[1].restart();
    let newcomer = connect(graceful()).await;
    let asked = timeout(PATIENCE, newcomer.lock("r", ttl).wait_forever()).await;
    let second = asked.expect("L1: the grace ends").expect("served");
    let shown = handed.validity();
    assert!(
        !(second.is_held() && handed.is_held()),
        "S1: two holders at once, the first for another {shown:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_no_setting_makes_a_vote_outlive_the_restart_grace() {
    let ttl = Duration::from_secs(10);
    let grace = Duration::from_secs(30);
    let servers = servers(3);
    let long = builder(&servers)
        .restart_grace(grace)
        .fifo_ephemeral_ttl(2 * grace);
    // Such settings may as well be refused.
    let Ok(waiting) = long.connect().await else {
        return;
    };
    let holding = client(&servers).await;
    let held = holding.lock("r", ttl).await.expect("free");
    let lock = waiting.lock("r", ttl).wait_forever().auto_extend(false);
    let waiter = tokio::spawn(lock.into_future());
    until_in_line(&servers).await;
    held.release().await.expect("held");
    let handed = waiter.await.expect("no panic").expect("served");
    let left: Vec<_> = servers
        .iter()
        .map(|server| server.number(&["PTTL", "r"]))
        .collect();
    assert!(
        handed.validity() <= grace && left.iter().all(|left| *left <= 30_000),
        "{:?} of validity, {left:?} ms on the servers",
        handed.validity()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_holder_that_was_handed_the_lock_and_dies_costs_its_ttl() {
    let ttl = Duration::from_secs(1);
    let servers = servers(3);
    let redlock = client(&servers).await;
    let held = redlock.lock("r", ttl).await.expect("free");
    let mut dies = Worker::start(&servers);
    dies.order("lock r 1000");
    until_in_line(&servers).await;
    held.release().await.expect("held");
    dies.expect("locked");
    dies.kill();
    let killed = now();
    let asked = timeout(PATIENCE, redlock.lock("r", ttl).wait_forever()).await;
    let _next = asked.expect("served").expect("served");
    let waited = now() - killed;
    println!("served {waited:?} after the kill");
    assert!(waited <= ttl + SLACK, "{waited:?}");
}
