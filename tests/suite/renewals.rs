//! L6: while a quorum answers in time, an auto-extended lease is not lost, whatever its owner does.

use std::time::Duration;

use redlock_fifo::{LeaseLost, LockGuard};
use tokio::time::{Instant, sleep, timeout};
use tokio_test::{assert_pending, task::spawn};

use crate::rig::{client, millis, nodes, patient, settle};

const TTL: Duration = Duration::from_secs(10);

/// The lease must outlive this many of its ttls.
const LIVES: u32 = 3;

async fn asks_again_and_again(guard: &LockGuard, step: Duration, until: Instant) {
    while Instant::now() < until {
        assert_eq!(guard.is_valid().await, Ok(true), "round trips and {step:?}");
        sleep(step).await;
    }
}

#[tokio::test(start_paused = true)]
async fn l6_asking_whether_it_is_valid_in_a_loop_keeps_no_lease_from_being_renewed() {
    let cases = [
        (50, 20, 10),
        (50, 49, 10),
        (20, 5, 5),
        (20, 10, 5),
        (2, 1, 5),
        (2, 1, 10),
    ];
    for (round_trip, step, ttl) in cases {
        let ttl = Duration::from_secs(ttl);
        let cluster = nodes(&[round_trip; 3]);
        let redlock = client(&cluster).await;
        let guard = redlock.lock("r", ttl).await.unwrap();
        let until = Instant::now() + LIVES * ttl;
        asks_again_and_again(&guard, millis(step), until).await;
        assert!(guard.is_held());
        guard.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn l6_two_tasks_that_ask_in_turn_keep_no_lease_from_being_renewed() {
    let cluster = nodes(&[50; 3]);
    let redlock = client(&cluster).await;
    let guard = redlock.lock("r", TTL).await.unwrap();
    let until = Instant::now() + LIVES * TTL;
    let second = async {
        sleep(millis(25)).await;
        asks_again_and_again(&guard, millis(1), until).await;
    };
    tokio::join!(asks_again_and_again(&guard, millis(1), until), second);
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn l6_a_question_that_is_polled_once_and_kept_stops_no_renewal() {
    for latency in [10, 50, 200] {
        let cluster = nodes(&[latency; 3]);
        let redlock = client(&cluster).await;
        let guard = redlock.lock("r", TTL).await.unwrap();
        let mut kept = spawn(guard.is_valid());
        assert_pending!(kept.poll());
        sleep(LIVES * TTL).await;
        assert!(guard.is_held(), "{latency} ms");
        assert_eq!(kept.await, Ok(true), "the question is answered late");
    }
}

#[tokio::test(start_paused = true)]
async fn l6_an_extension_that_is_polled_once_and_kept_stops_no_renewal() {
    for latency in [10, 50, 200] {
        let cluster = nodes(&[latency; 3]);
        let redlock = client(&cluster).await;
        let guard = redlock.lock("r", TTL).await.unwrap();
        let mut kept = spawn(guard.extend(TTL));
        assert_pending!(kept.poll());
        sleep(LIVES * TTL).await;
        assert!(guard.is_held(), "{latency} ms");
    }
}

/// Cancels a question that was asked at some moment, and sees whether the lease outlives it.
async fn outlives_a_cancelled_question(asked: Duration) -> bool {
    let cluster = nodes(&[100; 3]);
    let redlock = client(&cluster).await;
    let guard = redlock.lock("r", TTL).await.unwrap();
    sleep(asked).await;
    let cancelled = timeout(millis(60), guard.is_valid()).await;
    assert!(cancelled.is_err(), "a round trip takes longer");
    sleep(LIVES * TTL).await;
    guard.is_held()
}

#[tokio::test(start_paused = true)]
async fn l6_a_question_that_is_cancelled_when_a_renewal_is_due_delays_none() {
    let mut lost = Vec::new();
    for asked in (0..7000).step_by(15) {
        if !outlives_a_cancelled_question(millis(asked)).await {
            lost.push(asked);
        }
    }
    assert!(
        lost.is_empty(),
        "the lease is lost if it is asked after that many milliseconds: {lost:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn l6_a_grant_that_is_taken_late_is_renewed_from_when_its_votes_were_given() {
    let ttl = Duration::from_secs(3);
    for late in [0, 1000, 1990, 2010, 2500, 2900] {
        let cluster = nodes(&[1; 3]);
        let redlock = client(&cluster).await;
        let mut ticket = redlock.enqueue("r", ttl).await.unwrap();
        sleep(millis(late)).await;
        let guard = ticket.acquire().await.unwrap();
        sleep(LIVES * ttl).await;
        assert!(guard.is_held(), "taken after {late} ms");
        guard.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn l6_an_extension_to_a_shorter_ttl_brings_the_next_renewal_forward() {
    for after in [0, 1, 50, 1000] {
        let cluster = nodes(&[2; 3]);
        let (one, two) = (client(&cluster).await, client(&cluster).await);
        let held = one.lock("r", 3 * TTL).await.unwrap();
        let mut next = two.enqueue("r", 3 * TTL).await.unwrap();
        held.release().await.unwrap();
        let guard = next.acquire().await.unwrap();
        sleep(millis(after)).await;
        guard.extend(Duration::from_secs(6)).await.unwrap();
        sleep(3 * TTL).await;
        assert!(guard.is_held(), "extended {after} ms after the handoff");
        guard.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn l6_a_turn_that_is_taken_at_its_very_end_gives_a_lease_that_lasts() {
    for late in [4500, 4700, 4750, 4800, 4840, 4880, 4900] {
        let cluster = nodes(&[50; 3]);
        let (one, two) = (client(&cluster).await, client(&cluster).await);
        let held = one.lock("r", TTL).await.unwrap();
        let mut next = two.enqueue("r", TTL).await.unwrap();
        sleep(millis(200)).await;
        held.release().await.unwrap();
        sleep(millis(late)).await;
        // The turn may have been passed on; then the only waiter has the next one, too.
        let guard = next.acquire().await.unwrap();
        let shown = guard.validity();
        sleep(2 * TTL).await;
        assert!(
            guard.is_held(),
            "taken after {late} ms, handed out with {shown:?}"
        );
        guard.release().await.unwrap();
    }
}

/// A turn lives for the waiter ttl, of which so large a drift leaves less than half.
#[tokio::test(start_paused = true)]
async fn l6_no_handoff_is_lost_with_a_short_waiter_lease_and_the_largest_drift() {
    for latency in [0, 2, 5, 10, 20, 40] {
        let cluster = nodes(&[latency; 3]);
        let builder = || {
            patient(&cluster)
                .clock_drift_factor(0.5)
                .fifo_ephemeral_ttl(millis(500))
        };
        let clients = [
            builder().connect().await.unwrap(),
            builder().connect().await.unwrap(),
        ];
        let mut guard = clients[0].lock("r", TTL).await.unwrap();
        for turn in 1..=50_u32 {
            let mut next = clients[turn as usize % 2].enqueue("r", TTL).await.unwrap();
            // Every handoff meets another moment between two keep-alives.
            sleep(millis(u64::from(turn) * 13 % 500)).await;
            assert!(guard.is_held(), "turn {turn}, {latency} ms");
            guard.release().await.unwrap();
            guard = next.acquire().await.unwrap();
            let lost = timeout(millis(300), guard.lost()).await;
            assert!(lost.is_err(), "turn {turn}, {latency} ms: {lost:?}");
        }
        guard.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn l6_an_extension_reaches_the_nodes_beyond_the_quorum_as_well() {
    for latencies in [[0, 0, 0], [1, 2, 30], [30, 1, 2], [2, 30, 1]] {
        let cluster = nodes(&latencies);
        let redlock = client(&cluster).await;
        let guard = redlock.lock("r", TTL).await.unwrap();
        sleep(millis(200)).await;
        guard.extend(4 * TTL).await.unwrap();
        guard.stop_auto_extend();
        settle().await;
        sleep(millis(200)).await;
        let left: Vec<_> = cluster.nodes().map(|node| node.ttl("r")).collect();
        assert!(
            left.iter().all(|left| *left > Some(4 * TTL - millis(1000))),
            "{latencies:?}: {left:?}"
        );
        guard.release().await.unwrap();
    }
}

/// The same without auto-extension, where nothing would make up for it.
#[tokio::test(start_paused = true)]
async fn l5_a_lease_that_was_extended_by_hand_survives_a_restart_of_any_node() {
    for place in 0..3 {
        let cluster = nodes(&[0, 1, 2]);
        sleep(Duration::from_secs(100)).await;
        let redlock = client(&cluster).await;
        let lock = redlock.lock("r", TTL).auto_extend(false);
        let guard = lock.await.unwrap();
        guard.extend(2 * TTL).await.unwrap();
        sleep(TTL + millis(500)).await;
        cluster.node(place).restart();
        assert_eq!(guard.is_valid().await, Ok(true), "node {place}");
        assert!(guard.is_held());
        assert_eq!(guard.lost().await, LeaseLost::Expired);
    }
}
