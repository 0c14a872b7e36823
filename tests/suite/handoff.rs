//! A request that is under way while the lock is released, in every order of what the nodes see.

use std::time::Duration;

use redlock_fifo::{FifoRedlock, MemoryCluster};
use tokio::time::sleep;

use crate::cluster::now;

const TTL: Duration = Duration::from_secs(10);
const SLOW: Duration = Duration::from_millis(8);
const QUICK: Duration = Duration::from_millis(2);

/// Makes the nodes with a set bit slow.
fn set_latencies(cluster: &MemoryCluster, slow: u32) {
    for (place, node) in cluster.nodes().enumerate() {
        node.set_latency(if slow >> place & 1 == 1 { SLOW } else { QUICK });
    }
}

/// How long a request takes that meets a release: the nodes in `asked` are slow for the one, those in
/// `told` for the other, and `delay` lies between them, the release first if `release_first`.
async fn meet(asked: u32, told: u32, delay: Duration, release_first: bool) -> Duration {
    let cluster = MemoryCluster::new(3);
    // Nobody polls or keeps alive within the time that matters: only a push can tell in time.
    let client = async || {
        let builder = FifoRedlock::builder().memory(&cluster);
        let builder = builder.fifo_retry_delay(TTL).fifo_ephemeral_ttl(TTL);
        builder.connect().await.expect("memory nodes")
    };
    let (holder, waiter) = (client().await, client().await);
    let held = holder.lock("r", TTL * 10).await.expect("it is free");
    sleep(Duration::from_secs(1)).await;
    let start = now();
    let lock = async {
        if release_first {
            sleep(delay).await;
        }
        set_latencies(&cluster, asked);
        waiter.lock("r", TTL).await.expect("its turn comes")
    };
    let release = async {
        if !release_first {
            sleep(delay).await;
        }
        set_latencies(&cluster, told);
        held.release().await.expect("it was held");
    };
    let (guard, ()) = tokio::join!(biased; lock, release);
    let took = start.elapsed();
    drop(guard);
    holder.shutdown().await;
    waiter.shutdown().await;
    took
}

#[tokio::test(start_paused = true)]
async fn a_request_that_meets_a_release_is_told_of_its_turn() {
    for asked in 0..8 {
        for told in 0..8 {
            for millis in 0..6 {
                for release_first in [false, true] {
                    let delay = Duration::from_millis(millis);
                    let took = meet(asked, told, delay, release_first).await;
                    assert!(
                        took <= SLOW * 6,
                        "{asked:03b} {told:03b} {delay:?} {release_first}: {took:?}"
                    );
                }
            }
        }
    }
}
