//! Connections that lead to more than one server: to a cluster, and to a sentinel's master.

mod cluster;
mod sentinel;

use std::time::Duration;

use redis::aio::ConnectionLike;
use redlock_fifo::{FifoRedlock, LockError, NoQuorum};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    process::{PATIENCE, patient},
    server::Server,
};

const TTL: Duration = Duration::from_secs(30);

/// A client that has `connection` for its only node.
async fn over<C>(connection: C) -> FifoRedlock
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    let builder = patient().fifo_retry_delay(Duration::from_millis(50));
    let connected = builder.connection(connection).connect().await;
    connected.expect("a node")
}

/// One holds `resource`, the others are kept out, stand in line and are served in their order.
async fn serves_in_order(clients: &[FifoRedlock; 3], resource: &str) {
    let [holding, second, third] = clients;
    let guard = holding.lock(resource, TTL).await.expect("free");
    guard.extend(2 * TTL).await.expect("held");
    assert!(guard.is_valid().await.expect("answered"));
    let barging = second.try_lock(resource, TTL).await.expect("answered");
    assert!(barging.is_none());
    let (sender, mut served) = mpsc::unbounded_channel();
    let mut waiting = Vec::new();
    for (place, client) in [third, second, third, holding].into_iter().enumerate() {
        let mut ticket = client.enqueue(resource, TTL).await.expect("enqueued");
        let sender = sender.clone();
        waiting.push(async move {
            let guard = ticket.acquire().await.expect("served");
            let token = guard.fencing_token();
            sender.send((place, token)).expect("the test listens");
            guard.release().await.expect("held");
        });
    }
    let inspection = holding.inspect(resource).await.expect("answered");
    assert!(inspection.holder().is_some(), "{inspection:?}");
    // Who waits longest asks last, so that the order is not that of the asking.
    let waiting: Vec<_> = waiting.into_iter().rev().map(tokio::spawn).collect();
    let mut token = guard.fencing_token();
    assert!(served.try_recv().is_err(), "nobody passes the holder");
    guard.release().await.expect("held");
    for expected in 0..4 {
        let next = timeout(PATIENCE, served.recv()).await;
        let (place, next) = next.expect("served").expect("it reports");
        assert_eq!(place, expected);
        assert!(next > token, "S2: {next} after {token}");
        token = next;
    }
    for waiter in waiting {
        waiter.await.expect("released");
    }
}

/// Why nobody could tell whether `resource` is free.
async fn no_quorum(client: &FifoRedlock, resource: &str) -> NoQuorum {
    match client.lock(resource, TTL).await {
        Err(LockError::NoQuorum(tally)) => tally,
        other => panic!("{other:?}"),
    }
}

/// All keys on all servers but the counters.
fn left_over(servers: &[Server]) -> Vec<String> {
    let keys = servers.iter().flat_map(Server::keys);
    keys.filter(|key| !key.ends_with(":redlock-fifo:seq"))
        .collect()
}

fn port(server: &Server) -> String {
    let url = server.url();
    let (_, port) = url.rsplit_once(':').expect("a port");
    port.to_owned()
}
