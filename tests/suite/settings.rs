//! Settings and arguments that cannot work are refused, and those at the edge of what can work do.

use std::{sync::mpsc, time::Duration};

use redlock_fifo::{BuildError, ExtendError, FifoRedlock, LockError, MemoryCluster};
use tokio::time::{Instant, sleep};

use crate::rig::{client, ends, millis, nodes, patient};

const TTL: Duration = Duration::from_secs(9);

/// Whether a lease of this ttl is refused as such, or lives on for many of them.
async fn is_refused_or_lives(ttl: Duration, round_trip: u64) -> bool {
    let cluster = nodes(&[round_trip; 3]);
    let redlock = client(&cluster).await;
    match redlock.lock("r", ttl).await {
        Err(LockError::Argument(_)) => true,
        Err(_) => false,
        Ok(guard) => {
            sleep(50 * ttl).await;
            guard.is_held()
        }
    }
}

/// Two milliseconds are what a round trip takes on a local network that is busy.
#[test]
fn l6_a_ttl_is_refused_or_long_enough_to_be_renewed() {
    ends(async || {
        let mut lost = Vec::new();
        for round_trip in [2, 4] {
            for ttl in 5..30 {
                if !is_refused_or_lives(millis(ttl), round_trip).await {
                    lost.push((ttl, round_trip));
                }
            }
        }
        assert!(lost.is_empty(), "ttl and round trip in ms: {lost:?}");
    });
}

#[tokio::test(start_paused = true)]
async fn a_node_timeout_of_a_millisecond_is_refused() {
    let cluster = MemoryCluster::new(3);
    let connected = patient(&cluster).node_timeout(millis(1)).connect().await;
    let refused = connected.err();
    assert!(
        matches!(
            refused,
            Some(BuildError::InvalidSetting {
                setting: "node_timeout",
                ..
            })
        ),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_prefix_that_opens_a_hash_tag_is_refused() {
    for prefix in ["{", "a{"] {
        let cluster = MemoryCluster::new(3);
        let refused = patient(&cluster).key_prefix(prefix).connect().await.err();
        assert!(
            matches!(
                refused,
                Some(BuildError::InvalidSetting {
                    setting: "key_prefix",
                    ..
                })
            ),
            "{prefix}: {refused:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_prefix_with_a_hash_tag_of_its_own_is_taken() {
    let cluster = MemoryCluster::new(3);
    let redlock = patient(&cluster)
        .key_prefix("{billing}:")
        .connect()
        .await
        .unwrap();
    let guard = redlock.lock("r", TTL).await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_auto_extension_that_comes_after_the_end_of_the_lease_is_refused() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let lock = redlock.lock("r", TTL).auto_extend(false);
    let guard = lock.await.unwrap();
    let seldom = guard.start_auto_extend(millis(5000), millis(2000));
    assert!(
        matches!(seldom, Err(ExtendError::Argument(_))),
        "{seldom:?}"
    );
    // What was refused has changed nothing.
    guard.start_auto_extend(TTL / 3, TTL).unwrap();
    sleep(3 * TTL).await;
    assert!(guard.is_held());
}

/// How many calls one node carries out per second of a lease that is extended every nanosecond.
#[test]
fn an_auto_extension_without_a_pause_sends_few_renewals() {
    for round_trip in [0, 1] {
        ends(async move || {
            let cluster = nodes(&[round_trip; 3]);
            let redlock = client(&cluster).await;
            let lock = redlock.lock("r", TTL).auto_extend(false);
            let guard = lock.await.unwrap();
            let before = cluster.node(0).calls();
            if guard
                .start_auto_extend(Duration::from_nanos(1), TTL)
                .is_err()
            {
                return;
            }
            sleep(millis(10_000)).await;
            let calls = cluster.node(0).calls() - before;
            assert!(calls <= 1000, "{calls} in ten seconds");
            assert!(guard.is_held());
        });
    }
}

/// How many calls one node carries out in a minute of a lease that is held, once every node has it.
async fn calls_in_a_minute(every: Duration) -> u64 {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let lock = redlock.lock("r", TTL).auto_extend(false);
    let guard = lock.await.unwrap();
    guard.start_auto_extend(every, TTL).unwrap();
    guard.extend(10 * TTL).await.unwrap();
    sleep(TTL).await;
    let before = cluster.node(0).calls();
    sleep(Duration::from_secs(60)).await;
    cluster.node(0).calls() - before
}

/// A third of the ttl is the default interval, but whoever names it means it.
#[tokio::test(start_paused = true)]
async fn an_interval_of_a_third_of_the_ttl_stays_when_the_ttl_changes() {
    let (other, third) = (
        calls_in_a_minute(TTL / 3 - millis(1)).await,
        calls_in_a_minute(TTL / 3).await,
    );
    assert!(other >= 19, "renewed every three seconds: {other}");
    assert!(third >= 19, "renewed every three seconds: {third}");
}

/// As long as a lease may be, it is not what one node's silence costs.
#[tokio::test(start_paused = true)]
async fn c3_shutdown_beside_a_dead_node_is_done_when_a_quorum_has_confirmed() {
    for nodes in [3, 5] {
        let cluster = MemoryCluster::new(nodes);
        let redlock = client(&cluster).await;
        let hour = Duration::from_secs(3600);
        let released = redlock.lock("released", hour).await.unwrap();
        let dropped = redlock.lock("dropped", hour).await.unwrap();
        sleep(millis(100)).await;
        cluster.node(nodes - 1).stop();
        released.release().await.unwrap();
        drop(dropped);
        let asked = Instant::now();
        redlock.shutdown().await;
        let took = asked.elapsed();
        assert!(took <= millis(10_000), "{nodes} nodes: {took:?}");
    }
}

/// Runs on a thread of its own, in real time: a task that never yields would keep the test from failing.
#[test]
fn l1_attempts_without_a_pause_let_others_run() {
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let gave_up = runtime.block_on(async {
            let cluster = MemoryCluster::new(3);
            let redlock = FifoRedlock::builder()
                .memory(&cluster)
                .retry_delay(Duration::ZERO)
                .retry_count(u32::MAX)
                .connect()
                .await
                .unwrap();
            cluster.nodes().for_each(|node| node.stop());
            let lock = redlock.lock("r", TTL);
            tokio::time::timeout(millis(200), lock).await.is_err()
        });
        done.send(gave_up).unwrap();
    });
    let finished = finished.recv_timeout(Duration::from_secs(20));
    assert_eq!(finished, Ok(true), "the timeout around it fires");
}
