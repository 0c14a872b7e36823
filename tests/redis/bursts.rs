//! Many requests at once: a burst is slow, never refused, and costs no connection.

use std::time::Duration;

use futures::future::join_all;
use redlock_fifo::{FifoRedlock, LockGuard};

use crate::{
    process::{builder, client, now, servers, until},
    server::Server,
};

const TTL: Duration = Duration::from_secs(30);

/// Guards of that many names, by so many at once.
async fn guards(redlock: &FifoRedlock, count: usize, at_once: usize) -> Vec<LockGuard> {
    let mut guards = Vec::with_capacity(count);
    for first in (0..count).step_by(at_once) {
        let names = first..(first + at_once).min(count);
        let locks = names.map(|name| tokio::spawn(redlock.lock(format!("r{name}"), TTL)));
        for lock in join_all(locks).await {
            guards.push(lock.expect("no panic").expect("it is free"));
        }
    }
    guards
}

/// How many connections this server ever had.
fn connections(server: &Server) -> u64 {
    let stats = server.text(&["INFO", "stats"]);
    let count = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_connections_received:"));
    count.expect("a count").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_burst_of_free_names_is_slow_and_never_refused() {
    const NAMES: usize = 16_000;
    let servers = servers(3);
    let redlock = client(&servers).await;
    redlock.inspect("r").await.expect("all are connected");
    let before: Vec<_> = servers.iter().map(connections).collect();
    let started = now();
    let locks = (0..NAMES).map(|name| tokio::spawn(redlock.lock(format!("r{name}"), TTL)));
    let mut guards = Vec::new();
    let mut refused = Vec::new();
    for lock in join_all(locks).await {
        match lock.expect("no panic") {
            Ok(guard) => guards.push(guard),
            Err(error) => refused.push(error.to_string()),
        }
    }
    println!("{} held after {:?}", guards.len(), now() - started);
    assert!(
        refused.is_empty(),
        "{} of {NAMES} are refused, as {}",
        refused.len(),
        refused[0]
    );
    assert!(guards.iter().all(LockGuard::is_held), "L6");
    // The two that look themselves at each server are the only new ones.
    let after: Vec<_> = servers.iter().map(connections).collect();
    let grown = before.iter().zip(&after).all(|(old, new)| new - old == 1);
    assert!(grown, "connections: {before:?}, then {after:?}");
    drop(guards);
    redlock.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_many_guards_that_are_dropped_at_once_delay_no_other_lock() {
    const GUARDS: usize = 20_000;
    let servers = servers(3);
    let redlock = client(&servers).await;
    let guards = guards(&redlock, GUARDS, 500).await;
    assert!(guards.iter().all(LockGuard::is_held), "L6");
    let dropped = now();
    drop(guards);
    let other = redlock.lock("other", TTL).await.expect("free");
    let delayed = now() - dropped;
    drop(other);
    // What is left then are the counters, one for each name. To list all keys would delay what is measured.
    let keys = |server: &Server| server.number(&["DBSIZE"]);
    until("all are cleared", || {
        servers
            .iter()
            .all(|server| keys(server) <= GUARDS as i64 + 1)
    })
    .await;
    let cleared = now() - dropped;
    println!("another lock took {delayed:?}; all are cleared after {cleared:?}");
    assert!(delayed <= Duration::from_secs(1), "{delayed:?}");
    assert!(cleared <= Duration::from_secs(6), "{cleared:?}");
}

/// Dropped waiters leave the line; their leases do not have to run out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_many_waiters_that_are_dropped_at_once_leave_the_line() {
    const WAITERS: usize = 20_000;
    let servers = servers(3);
    let lease = Duration::from_secs(60);
    let patient = builder(&servers).fifo_ephemeral_ttl(lease);
    let redlock = patient.connect().await.expect("connected");
    let other = client(&servers).await;
    let held = other.lock("r", TTL).await.expect("free");
    let mut waiting = Vec::new();
    for _ in 0..WAITERS / 500 {
        let tickets = join_all((0..500).map(|_| redlock.enqueue("r", TTL))).await;
        waiting.extend(tickets.into_iter().map(|ticket| ticket.expect("enqueued")));
    }
    let dropped = now();
    drop(waiting);
    let queue = |server: &Server| server.number(&["ZCARD", "{r}:redlock-fifo:queue"]);
    until("the line is empty", || {
        servers.iter().all(|server| queue(server) == 0)
    })
    .await;
    let took = now() - dropped;
    println!("{WAITERS} left the line in {took:?}");
    assert!(took <= Duration::from_secs(10), "{took:?}");
    held.release().await.expect("held");
}
