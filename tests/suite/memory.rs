//! What memory nodes promise besides being nodes: clusters of any age in one client, restarts, and no lock that is
//! held while a user's code runs.

use std::{
    sync::{Arc, mpsc},
    task::{Context, Wake, Waker},
    time::Duration,
};

use redlock_fifo::{FifoRedlock, LockError, MemoryCluster};
use tokio::{runtime::Builder, time::sleep};

use crate::rig::with_defaults;

const TTL: Duration = Duration::from_secs(10);

async fn on(clusters: [&MemoryCluster; 3]) -> FifoRedlock {
    let builder = clusters
        .into_iter()
        .fold(FifoRedlock::builder(), |builder, cluster| {
            builder.memory(cluster)
        });
    builder.connect().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn s1_clusters_of_different_age_are_one_in_any_order() {
    let a = MemoryCluster::new(1);
    sleep(Duration::from_secs(60)).await;
    let (b, c) = (MemoryCluster::new(1), MemoryCluster::new(1));
    let (one, other) = (on([&a, &b, &c]).await, on([&b, &c, &a]).await);
    let guard = other.lock("r", TTL).await.unwrap();
    assert!(matches!(one.try_lock("r", TTL).await, Ok(None)));
    let nodes = a.nodes().chain(b.nodes()).chain(c.nodes());
    let left: Vec<_> = nodes.map(|node| node.ttl("r")).collect();
    assert!(left.iter().all(|left| *left == Some(TTL)), "{left:?}");
    guard.release().await.unwrap();
    // Only one vote is left that counts.
    sleep(Duration::from_secs(100)).await;
    a.node(0).stop();
    b.node(0).restart();
    let outcome = one.try_lock("r", TTL).await;
    assert!(
        matches!(outcome, Err(LockError::NoQuorum(_))),
        "{outcome:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn clusters_without_nodes_are_none() {
    let (nodes, none) = (MemoryCluster::new(3), MemoryCluster::new(0));
    let redlock = on([&nodes, &none, &none]).await;
    drop(redlock.lock("r", TTL).await.unwrap());
    assert!(nodes.node(0).set_nx("other", "theirs", Duration::MAX));
    assert!(nodes.node(0).get("other").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_restart_ends_what_was_under_way() {
    let cluster = MemoryCluster::new(3);
    let builder = FifoRedlock::builder().memory(&cluster);
    let builder = builder.restart_grace(Duration::ZERO);
    let redlock = builder.connect().await.unwrap();
    cluster.node(0).set_latency(Duration::from_secs(3600));
    drop(redlock.lock("a", TTL).await.unwrap());
    sleep(Duration::from_secs(1)).await;
    cluster.node(0).set_latency(Duration::ZERO);
    cluster.node(0).restart();
    sleep(Duration::from_secs(60)).await;
    cluster.node(1).stop();
    let outcome = redlock.try_lock("b", TTL).await;
    assert!(matches!(outcome, Ok(Some(_))), "{outcome:?}");
}

struct Looks(MemoryCluster);

impl Wake for Looks {
    fn wake(self: Arc<Self>) {
        let _ = self.0.node(0).get("r");
    }
}

#[test]
fn a_waker_may_look_at_the_node_that_wakes_it() {
    let (tell, told) = mpsc::channel();
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    let cluster = MemoryCluster::new(3);
    let redlock = runtime.block_on(with_defaults(&cluster));
    std::thread::spawn(move || {
        cluster.node(0).pause();
        let mut inspect = Box::pin(async { drop(redlock.inspect("r").await) });
        let waker = Waker::from(Arc::new(Looks(cluster.clone())));
        let polled = inspect.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        cluster.node(0).resume();
        tell.send(())
    });
    let resumed = told.recv_timeout(Duration::from_secs(10));
    assert!(resumed.is_ok(), "it waits for itself");
}
