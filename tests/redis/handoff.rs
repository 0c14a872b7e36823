//! From release to the next holder, with and without pushes.

use std::time::Duration;

use redlock_fifo::{FifoRedlock, FifoRedlockBuilder};
use tokio::time::timeout;

use crate::{
    process::{PATIENCE, builder, now, patient, residue, servers, until},
    server::Server,
};

const TTL: Duration = Duration::from_secs(30);

/// What a busy machine may add to a promised time.
const SLACK: Duration = Duration::from_millis(700);

/// Whether somebody waits on this server.
fn waits(server: &Server) -> bool {
    server.number(&["ZCARD", "{r}:redlock-fifo:queue"]) > 0
}

/// How long the waiters of one client took after the holder of another released, in turn.
async fn handoffs(servers: &[Server], waiting: FifoRedlockBuilder) -> Vec<Duration> {
    let holding = builder(servers).connect().await.expect("connected");
    let waiting: FifoRedlock = waiting.connect().await.expect("connected");
    let mut guard = holding.lock("r", TTL).await.expect("free");
    let mut handoffs = Vec::new();
    for in_line_everywhere in [true, false, true, false] {
        let mut ticket = waiting.enqueue("r", TTL).await.expect("enqueued");
        let waiter =
            tokio::spawn(async move { ticket.acquire().await.map(|guard| (guard, now())) });
        if in_line_everywhere {
            until("it stands in line on all servers", || {
                servers.iter().all(waits)
            })
            .await;
        }
        let released = now();
        guard.release().await.expect("held");
        let served = timeout(PATIENCE, waiter).await.expect("served");
        let (next, at) = served.expect("no panic").expect("served");
        handoffs.push(at - released);
        guard = next;
    }
    guard.release().await.expect("held");
    holding.shutdown().await;
    waiting.shutdown().await;
    assert_eq!(residue(servers, "r"), [""; 0]);
    println!("handoffs: {handoffs:?}");
    handoffs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_is_told_of_its_turn() {
    let servers = servers(5);
    let waiting = builder(&servers).fifo_retry_delay(Duration::from_secs(10));
    for handoff in handoffs(&servers, waiting).await {
        assert!(handoff < Duration::from_secs(1), "{handoff:?}");
    }
}

/// How often a client that is not told of its turn asks.
const POLL: Duration = Duration::from_millis(500);

async fn comes_with_a_poll(servers: &[Server], waiting: FifoRedlockBuilder) {
    for handoff in handoffs(servers, waiting.fifo_retry_delay(POLL)).await {
        assert!(handoff <= POLL + SLACK, "{handoff:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_over_resp2_asks_for_its_turn() {
    let servers = servers(3);
    let urls = servers
        .iter()
        .map(|server| format!("{}?protocol=resp2", server.url()));
    comes_with_a_poll(&servers, urls.fold(patient(), FifoRedlockBuilder::node)).await;
}

fn driver(server: &Server) -> redis::Client {
    redis::Client::open(server.url()).expect("a url")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_over_connection_managers_asks_for_its_turn() {
    let servers = servers(3);
    let mut waiting = patient();
    for server in &servers {
        let manager = driver(server).get_connection_manager().await;
        waiting = waiting.connection(manager.expect("connected"));
    }
    comes_with_a_poll(&servers, waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_over_multiplexed_connections_asks_for_its_turn() {
    let servers = servers(3);
    let mut waiting = patient();
    for server in &servers {
        let connection = driver(server).get_multiplexed_async_connection().await;
        waiting = waiting.connection(connection.expect("connected"));
    }
    comes_with_a_poll(&servers, waiting).await;
}
