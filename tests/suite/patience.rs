//! How a wait ends when the patience does, and which of the causes it is given.

use std::time::Duration;

use redlock_fifo::{FifoRedlock, LockError, MemoryCluster};

use crate::cluster::now;

const TTL: Duration = Duration::from_secs(10);

async fn client(cluster: &MemoryCluster) -> FifoRedlock {
    let builder = FifoRedlock::builder().memory(cluster);
    builder.connect().await.expect("memory nodes")
}

#[tokio::test(start_paused = true)]
async fn nodes_that_hang_cost_no_more_than_the_patience() {
    let cluster = MemoryCluster::new(3);
    let client = client(&cluster).await;
    cluster.nodes().for_each(|node| node.pause());
    let patience = Duration::from_millis(100);
    let start = now();
    let outcome = client.lock("r", TTL).wait_timeout(patience).await;
    assert!(
        matches!(outcome, Err(LockError::NoQuorum(_))),
        "{outcome:?}"
    );
    assert_eq!(start.elapsed(), patience);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_under_way_when_the_patience_ends_is_no_failure() {
    let cluster = MemoryCluster::new(3);
    let client = client(&cluster).await;
    let _held = client.lock("r", TTL).await.unwrap();
    for node in cluster.nodes() {
        node.set_latency(Duration::from_millis(150));
    }
    for millis in (200..1000).step_by(50) {
        let patience = Duration::from_millis(millis);
        let outcome = client.lock("r", TTL).wait_timeout(patience).await;
        assert!(
            matches!(outcome, Err(LockError::TimedOut { .. })),
            "{patience:?}: {outcome:?}"
        );
    }
}
