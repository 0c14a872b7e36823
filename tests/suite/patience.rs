//! How a wait ends when the patience does, and which of the causes it is given.

use std::time::Duration;

use futures::{FutureExt, future::join_all};
use redlock_fifo::{ArgumentError, FifoRedlock, LockError, MemoryCluster};
use tokio::time::sleep;

use crate::{
    cluster::now,
    rig::{millis, nodes},
};

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
    // They may have been about to answer.
    assert!(
        matches!(outcome, Err(LockError::TimedOut { .. })),
        "{outcome:?}"
    );
    assert_eq!(start.elapsed(), patience);
    let outcome = client.lock("other", TTL).wait_timeout(TTL).await;
    assert!(
        matches!(outcome, Err(LockError::NoQuorum(_))),
        "{outcome:?}"
    );
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

#[tokio::test(start_paused = true)]
async fn a_node_that_was_not_waited_for_is_no_failure() {
    let cluster = MemoryCluster::new(3);
    let client = client(&cluster).await;
    cluster.node(0).stop();
    cluster.node(1).stop();
    cluster.node(2).set_latency(Duration::from_millis(50));
    let Err(LockError::NoQuorum(tally)) = client.lock("r", TTL).await else {
        panic!("a quorum is down");
    };
    let failed: Vec<_> = tally.failures().iter().map(|it| it.node()).collect();
    assert_eq!(failed, ["memory node 0", "memory node 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_the_pause_between_two_rounds() {
    let cluster = MemoryCluster::new(3);
    let pause = Duration::from_secs(3600);
    let builder = FifoRedlock::builder().memory(&cluster);
    let builder = builder.retry_count(2).retry_delay(pause);
    let client = builder.connect().await.expect("memory nodes");
    cluster.nodes().for_each(|node| node.stop());
    let start = now();
    let lock = tokio::spawn(client.lock("r", TTL));
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.shutdown().await;
    assert_eq!(lock.await.unwrap().err(), Some(LockError::ShutDown));
    assert!(start.elapsed() < pause);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_would_be_lost_at_once_is_refused() {
    let cluster = MemoryCluster::new(3);
    let lock = client(&cluster).await.lock("r", TTL);
    let outcome = lock.max_hold(Duration::ZERO).await.err();
    let expected = LockError::Argument(ArgumentError::ZeroMaxHold);
    assert_eq!(outcome, Some(expected));
}

/// Neither that it is held nor that there is no quorum would be true.
#[tokio::test(start_paused = true)]
async fn l4_try_lock_that_is_polled_after_its_votes_have_ended_asks_again() {
    let ttl = Duration::from_millis(300);
    // Just after what can be trusted of the votes, and long after it was given up.
    for pause in [298, 5000].map(Duration::from_millis) {
        let cluster = nodes(&[10, 10, 10]);
        let redlock = client(&cluster).await;
        sleep(Duration::from_secs(1)).await;
        let mut asked = Box::pin(redlock.try_lock("r", ttl));
        assert!(asked.as_mut().now_or_never().is_none());
        sleep(pause).await;
        let guard = asked.await.unwrap();
        guard.expect("it is free").release().await.unwrap();
        redlock.shutdown().await;
        assert!(cluster.nodes().all(|node| node.get("r").is_none()));
    }
}

/// Python's settings count polls, which may be shorter than the way to the nodes.
#[tokio::test(start_paused = true)]
async fn a_set_patience_below_the_round_trip_ends_no_round() {
    for (pause, latency) in [(1, 2), (2, 30), (60, 70), (90, 70), (150, 70)] {
        let cluster = nodes(&[latency; 3]);
        // Their counters differ: the token is written before the guard is out, which is another round.
        cluster.node(1).step_clock(0.5);
        let builder = FifoRedlock::builder().memory(&cluster);
        let builder = builder.retry_delay(millis(pause));
        let builder = builder.fifo_retry_count(1).fifo_retry_delay(millis(0));
        let client = builder.connect().await.expect("memory nodes");
        // More than are asked for at once.
        let locks = (0..100).map(|n| client.lock(format!("l{n}"), TTL).into_future());
        let guards = join_all(locks).await;
        let refused = guards.iter().find_map(|guard| guard.as_ref().err());
        assert_eq!(refused, None, "{pause} ms, {latency} ms away");
        let tried = client.try_lock("l0", TTL).await;
        assert!(matches!(tried, Ok(None)), "{tried:?}");
        let ticket = client.enqueue("l0", TTL).await.expect("recorded");
        drop(ticket);
    }
}

/// The clocks are not what they were taken for, so the first call comes too late by them and is sent again.
#[tokio::test(start_paused = true)]
async fn a_set_patience_below_the_round_trip_ends_no_call_that_is_sent_again() {
    let cluster = nodes(&[300; 3]);
    let builder = FifoRedlock::builder().memory(&cluster);
    let builder = builder.fifo_retry_count(1).retry_delay(millis(10));
    let client = builder.fifo_retry_delay(millis(10)).connect().await;
    let client = client.expect("memory nodes");
    sleep(10 * TTL).await;
    cluster.nodes().for_each(|node| node.step_clock(2.0));
    let guard = client.lock("r", TTL).await.expect("free");
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_extension_to_less_than_the_way_takes_is_answered_while_the_lease_stands() {
    let cluster = nodes(&[30; 3]);
    let client = client(&cluster).await;
    let guard = client.lock("r", TTL).await.expect("free");
    assert_eq!(guard.extend(millis(40)).await, Ok(()));
}

/// An attempt that is polled within its turn, but only just.
#[tokio::test(start_paused = true)]
async fn c4_try_lock_that_is_polled_now_and_then_has_what_is_free() {
    for (ttl, gap, drift) in [(5000, 4970, 0.01), (5000, 3000, 0.5), (1000, 990, 0.01)] {
        let cluster = nodes(&[1; 3]);
        let builder = FifoRedlock::builder().memory(&cluster);
        let builder = builder.clock_drift_factor(drift);
        let client = builder.connect().await.expect("memory nodes");
        let mut attempt = Box::pin(client.try_lock("r", millis(ttl)));
        let outcome = loop {
            if let Some(outcome) = (&mut attempt).now_or_never() {
                break outcome;
            }
            sleep(millis(gap)).await;
        };
        assert!(matches!(outcome, Ok(Some(_))), "{gap} ms: {outcome:?}");
    }
}

/// The way is so long for the ttl that no command about the lease is ever answered in time.
#[tokio::test(start_paused = true)]
async fn l1_a_grant_that_cannot_be_made_whole_ends_every_call() {
    for latencies in [[5, 12, 3], [5, 8, 9], [4, 6, 10]] {
        for ttl in [20, 24, 27].map(millis) {
            let cluster = nodes(&latencies);
            let builder = FifoRedlock::builder().memory(&cluster);
            let builder = builder.clock_drift_factor(0.5).retry_count(5);
            let client = builder.retry_delay(millis(0)).connect().await;
            let client = client.expect("memory nodes");
            let most = Duration::from_secs(60);
            let calls = async {
                let _ = client.try_lock("r", ttl).await;
                let _ = client.enqueue("r", ttl).await;
                let _ = client.lock("r", ttl).await;
            };
            let ended = tokio::time::timeout(most, calls).await;
            assert!(ended.is_ok(), "{latencies:?} ms away, {ttl:?}");
        }
    }
}
