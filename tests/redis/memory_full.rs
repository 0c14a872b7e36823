//! Servers that refuse what may need memory.

use std::time::Duration;

use redlock_fifo::{FifoRedlock, Ticket};
use tokio::time::{sleep, timeout};

use crate::{
    process::{PATIENCE, builder, servers, until},
    server::Server,
};

const TTL: Duration = Duration::from_secs(10);
const LEASE: Duration = Duration::from_secs(1);

async fn client(servers: &[Server]) -> FifoRedlock {
    let builder = builder(servers).fifo_ephemeral_ttl(LEASE);
    builder.connect().await.expect("connected")
}

/// Sets two servers of three so that they refuse, or so that they refuse no more.
fn set(servers: &[Server], name: &str, value: &str) {
    for server in &servers[..2] {
        server.command(&["CONFIG", "SET", name, value]);
    }
}

/// How many wait for `r` on this server.
fn waiting(server: &Server) -> i64 {
    server.number(&["ZCARD", "{r}:redlock-fifo:queue"])
}

/// A line of five keeps its places and its order while two servers refuse for some leases of theirs.
async fn keeps_its_order(servers: &[Server], refuse: impl FnOnce(), recover: impl FnOnce()) {
    let (holding, one, two) = (
        client(servers).await,
        client(servers).await,
        client(servers).await,
    );
    let held = holding.lock("r", 6 * TTL).await.expect("free");
    let mut line: Vec<Ticket> = Vec::new();
    for turn in 0..5 {
        let client = [&one, &two][turn % 2];
        line.push(client.enqueue("r", TTL).await.expect("enqueued"));
    }
    until("all stand in line everywhere", || {
        servers.iter().all(|server| waiting(server) == 5)
    })
    .await;
    refuse();
    sleep(4 * LEASE).await;
    recover();
    let kept: Vec<_> = servers.iter().map(waiting).collect();
    let mut newcomer = holding.enqueue("r", TTL).await.expect("enqueued");
    assert!(held.is_held(), "L6: keeping a lease needs no memory");
    held.release().await.expect("held");
    let mut last = 0;
    for (place, ticket) in line.iter_mut().enumerate() {
        let guard = tokio::select! {
            biased;
            guard = newcomer.acquire() => {
                panic!("F2: the newcomer passed waiter {place}, {kept:?} were left in line: {guard:?}")
            }
            guard = timeout(PATIENCE, ticket.acquire()) => guard.expect("served").expect("served"),
        };
        assert!(guard.fencing_token() > last, "F1: waiter {place}");
        last = guard.fencing_token();
        guard.release().await.expect("held");
    }
    let guard = newcomer.acquire().await.expect("served");
    guard.release().await.expect("held");
    assert_eq!(kept, [5; 3], "F2: nobody was thrown out of the line");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f2_servers_without_memory_throw_no_waiter_out() {
    let servers = servers(3);
    let refuse = || set(&servers, "maxmemory", "1");
    let recover = || set(&servers, "maxmemory", "0");
    keeps_its_order(&servers, refuse, recover).await;
}
