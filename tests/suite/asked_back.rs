//! L5: a holder gets a vote back that a node gave to another after it restarted, whatever that other request does.

use std::time::Duration;

use futures::FutureExt;
use redlock_fifo::{FifoRedlock, FifoRedlockBuilder, LockGuard, LockRequest, MemoryCluster};
use tokio::time::{Instant, sleep};

use crate::rig::{client, millis, nodes, patient};

const TTL: Duration = Duration::from_secs(10);

/// A lease on two of three nodes, while node 0 is down.
async fn on_two_nodes(cluster: &MemoryCluster, ttl: Duration) -> LockGuard {
    let holder = client(cluster).await;
    sleep(10 * TTL).await;
    cluster.node(0).stop();
    let guard = holder.lock("r", ttl).await.unwrap();
    sleep(millis(1000)).await;
    guard
}

/// Node 0 restarts just before a first request of another reaches it. When the lease stands there, if it does
/// within `most`.
async fn comes_back(cluster: &MemoryCluster, most: Duration) -> Option<Duration> {
    sleep(millis(9)).await;
    cluster.node(0).restart();
    let restarted = Instant::now();
    while restarted.elapsed() < most {
        sleep(millis(10)).await;
        let votes = [0, 1].map(|node| cluster.node(node).get("r"));
        if votes[0].is_some() && votes[0] == votes[1] {
            return Some(restarted.elapsed());
        }
    }
    None
}

/// A line with room for one is full for this client, on the nodes that know of it.
async fn without_room(cluster: &MemoryCluster, set: FifoRedlockBuilder) -> FifoRedlock {
    let line = client(cluster).await;
    tokio::spawn(line.lock("r", TTL).wait_forever().into_future());
    sleep(millis(100)).await;
    set.fifo_queue_length(Some(1)).connect().await.unwrap()
}

fn wait(lock: LockRequest) {
    tokio::spawn(lock.wait_forever().into_future());
}

#[tokio::test(start_paused = true)]
async fn l5_by_a_request_that_waits_for_room_behind_another_of_its_client() {
    for behind in [false, true] {
        let cluster = nodes(&[20; 3]);
        let guard = on_two_nodes(&cluster, TTL).await;
        let others = without_room(&cluster, patient(&cluster)).await;
        if behind {
            wait(others.lock("r", 3 * TTL));
            sleep(millis(5)).await;
        }
        wait(others.lock("r", 3 * TTL));
        let back = comes_back(&cluster, TTL / 3).await;
        assert!(back < Some(millis(500)) && back.is_some(), "{back:?}");
        drop(guard);
    }
}

#[tokio::test(start_paused = true)]
async fn l5_by_a_request_that_waits_for_room_and_polls_seldom() {
    let cluster = nodes(&[20; 3]);
    let guard = on_two_nodes(&cluster, millis(3000)).await;
    let seldom = patient(&cluster).fifo_retry_delay(TTL / 2);
    let others = without_room(&cluster, seldom).await;
    wait(others.lock("r", 3 * TTL));
    let back = comes_back(&cluster, millis(1000)).await;
    assert!(back < Some(millis(500)) && back.is_some(), "{back:?}");
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn l5_by_a_first_round_that_has_failed_and_is_not_polled() {
    let cluster = nodes(&[20; 3]);
    let guard = on_two_nodes(&cluster, TTL).await;
    let hurried = patient(&cluster).node_timeout(millis(30));
    let hurried = hurried.connect().await.unwrap();
    for node in [1, 2] {
        cluster.node(node).set_latency(millis(80));
    }
    let mut lock = hurried.lock("r", TTL);
    assert!((&mut lock).now_or_never().is_none());
    let back = comes_back(&cluster, TTL / 3).await;
    assert!(back < Some(millis(500)) && back.is_some(), "{back:?}");
    drop(guard);
}
