//! What several files need: clients on memory nodes, and a clock that stands outside of the paused one.

use std::time::Duration;

use redlock_fifo::{FifoRedlock, FifoRedlockBuilder, MemoryCluster};

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A client on `cluster` with the default settings.
pub(crate) async fn with_defaults(cluster: &MemoryCluster) -> FifoRedlock {
    FifoRedlock::builder()
        .memory(cluster)
        .connect()
        .await
        .unwrap()
}

/// A builder on `cluster` whose waiters never give up.
pub(crate) fn patient(cluster: &MemoryCluster) -> FifoRedlockBuilder {
    FifoRedlock::builder()
        .memory(cluster)
        .fifo_retry_count(None)
}

/// A client on `cluster` whose waiters never give up.
pub(crate) async fn client(cluster: &MemoryCluster) -> FifoRedlock {
    patient(cluster).connect().await.unwrap()
}

/// Nodes whose calls take this many milliseconds each.
pub(crate) fn nodes(latencies: &[u64]) -> MemoryCluster {
    let cluster = MemoryCluster::new(latencies.len());
    for (node, latency) in cluster.nodes().zip(latencies) {
        node.set_latency(millis(*latency));
    }
    cluster
}

/// From now on calls to any node take `latency`.
pub(crate) fn lengthen(cluster: &MemoryCluster, latency: Duration) {
    cluster.nodes().for_each(|node| node.set_latency(latency));
}

/// Every order of the numbers from 0 to below `count`.
pub(crate) fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![Vec::new()];
    for next in 0..count {
        orders = orders
            .iter()
            .flat_map(|order: &Vec<usize>| {
                (0..=order.len()).map(move |place| {
                    let mut longer = order.clone();
                    longer.insert(place, next);
                    longer
                })
            })
            .collect();
    }
    orders
}

/// Lets the background tasks catch up, without time passing.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Runs a behaviour that must not keep a task busy. A task that never yields stops the paused clock as well, so
/// a clock outside of it has to tell.
pub(crate) fn ends(behaviour: impl AsyncFnOnce() + Send + 'static) {
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(behaviour());
        done.send(()).unwrap();
    });
    let finished = finished.recv_timeout(Duration::from_secs(20));
    assert_eq!(finished, Ok(()), "a task spins, or the behaviour failed");
}
