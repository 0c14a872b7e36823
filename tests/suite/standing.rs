//! On healthy nodes a lease stands on all of them, for its full ttl, within a few round trips of the guard.

use std::time::Duration;

use redlock_fifo::{LockGuard, MemoryCluster};
use tokio::time::sleep;

use crate::rig::{client, millis, nodes, orders};

/// A handoff of `r` from one client to another.
async fn handed_over(cluster: &MemoryCluster, ttl: Duration) -> LockGuard {
    let (one, two) = (client(cluster).await, client(cluster).await);
    let held = one.lock("r", ttl).await.unwrap();
    let mut next = two.enqueue("r", ttl).await.unwrap();
    sleep(millis(500)).await;
    held.release().await.unwrap();
    next.acquire().await.unwrap()
}

/// The ways in which three nodes can differ, in milliseconds.
fn ways() -> Vec<[u64; 3]> {
    let mut ways = vec![[0, 0, 0], [2, 2, 2]];
    for order in orders(3) {
        for latencies in [[0, 2, 4], [1, 3, 10], [0, 0, 20]] {
            ways.push([0, 1, 2].map(|place: usize| latencies[order[place]]));
        }
    }
    ways
}

#[tokio::test(start_paused = true)]
async fn l5_a_lease_that_was_handed_over_stands_on_all_nodes_for_its_full_ttl() {
    let ttl = Duration::from_secs(30);
    for latencies in ways() {
        let cluster = nodes(&latencies);
        let guard = handed_over(&cluster, ttl).await;
        sleep(millis(200)).await;
        let left: Vec<_> = cluster.nodes().map(|node| node.ttl("r")).collect();
        let most = ttl - Duration::from_secs(1);
        assert!(
            left.iter().all(|left| *left > Some(most)),
            "{latencies:?}: {left:?}"
        );
        guard.release().await.unwrap();
    }
}

/// Nothing shortens a lease, also not where a node hears of it only after its owner has asked for less.
#[tokio::test(start_paused = true)]
async fn l5_a_lease_whose_owner_asks_for_less_at_once_stands_on_all_nodes_for_its_full_ttl() {
    let ttl = Duration::from_secs(30);
    for latencies in ways() {
        for handed in [false, true] {
            let cluster = nodes(&latencies);
            let guard = if handed {
                handed_over(&cluster, ttl).await
            } else {
                client(&cluster).await.lock("r", ttl).await.unwrap()
            };
            guard.extend(ttl / 10).await.unwrap();
            guard.stop_auto_extend();
            sleep(millis(200)).await;
            let left: Vec<_> = cluster.nodes().map(|node| node.ttl("r")).collect();
            let most = ttl - Duration::from_secs(1);
            assert!(
                left.iter().all(|left| *left > Some(most)),
                "{latencies:?}, handed over: {handed}: {left:?}"
            );
            guard.release().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn l5_a_lease_that_was_handed_over_survives_a_restart_of_any_node_at_any_time() {
    for ttl in [10, 30].map(Duration::from_secs) {
        for latencies in [[0, 0, 0], [2, 2, 2], [0, 0, 20]] {
            for moment in [1, 2, 3, 4, 5, 7, 9] {
                for place in 0..3 {
                    let cluster = MemoryCluster::new(3);
                    for (node, latency) in cluster.nodes().zip(latencies) {
                        node.set_latency(millis(latency));
                    }
                    sleep(Duration::from_secs(100)).await;
                    let guard = handed_over(&cluster, ttl).await;
                    sleep(Duration::from_secs(moment)).await;
                    cluster.node(place).restart();
                    sleep(2 * ttl).await;
                    assert!(
                        guard.is_held(),
                        "{ttl:?}, {latencies:?}: node {place} restarted {moment} s after the handoff"
                    );
                    guard.release().await.unwrap();
                }
            }
        }
    }
}

/// A deletion on one node is the like of its restart.
#[tokio::test(start_paused = true)]
async fn s1_a_deletion_on_one_node_after_a_handoff_lets_no_waiter_in() {
    for ttl in [16, 30].map(Duration::from_secs) {
        for moment in [500, 2000, 5500] {
            for place in 0..3 {
                let cluster = nodes(&[2, 2, 2]);
                let waiting = client(&cluster).await;
                let guard = handed_over(&cluster, ttl).await;
                let lock = waiting.lock("r", ttl).wait_forever();
                let waiter = tokio::spawn(lock.into_future());
                sleep(millis(moment)).await;
                cluster.node(place).delete("r");
                sleep(2 * ttl).await;
                assert!(
                    guard.is_held() && !waiter.is_finished(),
                    "{ttl:?}: deleted on node {place} after {moment} ms"
                );
                guard.release().await.unwrap();
                waiter.await.unwrap().unwrap().release().await.unwrap();
            }
        }
    }
}

/// The answer came before, and the verdict waits for another node.
#[tokio::test(start_paused = true)]
async fn l5_a_restart_between_an_answer_and_the_verdict_is_noticed() {
    for auto_extend in [true, false] {
        let cluster = nodes(&[2, 100, 100]);
        let redlock = client(&cluster).await;
        sleep(millis(100_000)).await;
        let lock = redlock.lock("r", millis(10_000)).auto_extend(auto_extend);
        let lock = tokio::spawn(lock.into_future());
        sleep(millis(50)).await;
        assert!(cluster.node(0).get("r").is_some());
        cluster.node(0).restart();
        let guard = lock.await.unwrap().unwrap();
        sleep(millis(300)).await;
        assert!(
            cluster.node(0).get("r").is_some(),
            "auto_extend {auto_extend}"
        );
        guard.release().await.unwrap();
    }
}
