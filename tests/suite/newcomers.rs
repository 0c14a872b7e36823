//! What arrives while a lease is taken neither holds it up nor takes it away.

use std::time::Duration;

use futures::FutureExt;
use redlock_fifo::{FifoRedlock, MemoryCluster};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::rig::{client, lengthen, millis, nodes, settle};

const TTL: Duration = Duration::from_secs(10);

/// Requests that come every so often, equally near to all nodes, and give up soon.
fn newcomers(cluster: &MemoryCluster, latencies: [u64; 3], every: Duration) -> JoinHandle<()> {
    let cluster = cluster.clone();
    tokio::spawn(async move {
        loop {
            sleep(every).await;
            lengthen(&cluster, millis(10));
            let newcomer = client(&cluster).await;
            let lock = async move { newcomer.lock("r", TTL).await.map(drop) };
            tokio::spawn(timeout(millis(100), lock));
            settle().await;
            for (node, latency) in cluster.nodes().zip(latencies) {
                node.set_latency(millis(latency));
            }
        }
    })
}

/// The token is written to nodes that are near and far, while newcomers raise the counters.
#[tokio::test(start_paused = true)]
async fn l3_a_handoff_does_not_chase_the_numbers_of_newcomers() {
    let latencies = [11, 43, 101];
    for every in [5, 7, 10, 20, 50] {
        for phase in 0..5 {
            let cluster = nodes(&latencies);
            let (one, two) = (client(&cluster).await, client(&cluster).await);
            let guard = one.lock("r", TTL).await.unwrap();
            let next = tokio::spawn(two.lock("r", TTL).wait_forever().into_future());
            sleep(millis(1000)).await;
            let newcomers = newcomers(&cluster, latencies, millis(every));
            sleep(millis(1000 + phase)).await;
            let start = Instant::now();
            drop(guard);
            drop(next.await.unwrap().unwrap());
            let took = start.elapsed();
            newcomers.abort();
            assert!(took < millis(250), "one every {every} ms: {took:?}");
        }
    }
}

async fn stand_behind(client: FifoRedlock) {
    loop {
        sleep(millis(1000)).await;
        let lock = client.lock("r", TTL).wait_forever().into_future();
        tokio::spawn(async { lock.await.map(drop) });
    }
}

#[tokio::test(start_paused = true)]
async fn c4_a_grant_that_is_kept_fresh_is_not_lost_to_those_who_stand_behind() {
    let cluster = nodes(&[2; 3]);
    let (one, two) = (client(&cluster).await, client(&cluster).await);
    let before = two.lock("r", TTL).await.unwrap();
    let mut lock = one.lock("r", TTL).auto_extend(false).wait_forever();
    assert!((&mut lock).now_or_never().is_none());
    sleep(millis(50)).await;
    drop(before);
    sleep(millis(50)).await;
    let behind = tokio::spawn(stand_behind(two));
    let mut polls = 0;
    while (&mut lock).now_or_never().is_none() {
        sleep(millis(4000)).await;
        polls += 1;
        assert!(polls < 4, "polled within its waiter ttl each time");
    }
    behind.abort();
}
