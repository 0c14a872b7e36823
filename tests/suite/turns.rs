//! L1: progress does not depend on the settings of the waiter in front.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::rig::{millis, nodes, patient};

const TTL: Duration = Duration::from_secs(10);

/// Whether a waiter with default settings is served behind one with this waiter ttl.
async fn is_served_behind(lease: Duration) -> bool {
    let cluster = nodes(&[50; 3]);
    let in_front = patient(&cluster).fifo_ephemeral_ttl(lease).connect().await;
    // Settings that cannot work may be refused as soon as that is known.
    let Ok(in_front) = in_front else { return true };
    let behind = patient(&cluster).connect().await.unwrap();
    let holding = patient(&cluster).connect().await.unwrap();
    let held = holding.lock("r", TTL).await.unwrap();
    let lock = in_front.lock("r", TTL).wait_forever();
    let first = tokio::spawn(async move {
        if let Ok(guard) = lock.await {
            let _ = guard.release().await;
        }
    });
    sleep(millis(200)).await;
    let lock = behind.lock("r", TTL).wait_forever();
    let second = tokio::spawn(lock.into_future());
    sleep(millis(500)).await;
    held.release().await.unwrap();
    let served = timeout(Duration::from_secs(60), second).await;
    first.abort();
    served.is_ok()
}

#[tokio::test(start_paused = true)]
async fn l1_a_waiter_whose_lease_is_too_short_for_its_turn_blocks_nobody() {
    let mut stuck = Vec::new();
    for lease in (60..200).step_by(4).chain([107, 127]) {
        if !is_served_behind(millis(lease)).await {
            stuck.push(lease);
        }
    }
    assert!(
        stuck.is_empty(),
        "a waiter ttl of that many milliseconds in front: {stuck:?}"
    );
}

/// A waiter that got the vote of one node gives it back to whoever comes first, however seldom it polls.
#[tokio::test(start_paused = true)]
async fn l1_l6_a_waiter_that_polls_hourly_keeps_no_vote_from_others() {
    for (poll, ttl) in [(3_600_000, 1000), (60_000, 1000), (200, 50)] {
        let cluster = nodes(&[2; 3]);
        let holding = patient(&cluster).connect().await.unwrap();
        let builder = patient(&cluster).fifo_retry_delay(millis(poll));
        let waiting = builder.connect().await.unwrap();
        let held = holding.lock("r", millis(ttl)).await.unwrap();
        let next = tokio::spawn(holding.lock("r", millis(ttl)).wait_forever().into_future());
        sleep(millis(20)).await;
        let last = tokio::spawn(waiting.lock("r", TTL).wait_forever().into_future());
        for n in 0..12 {
            // For longer than the lease has, there.
            cluster.node(0).pause();
            sleep(millis(ttl * 13 / 10 + 37 * n % 20)).await;
            cluster.node(0).resume();
            sleep(millis(5 * ttl)).await;
            assert!(held.is_held());
        }
        cluster.node(1).pause();
        sleep(millis(3 * ttl)).await;
        assert!(held.is_held(), "L6: polls every {poll} ms, ttl {ttl} ms");
        held.release().await.unwrap();
        let served = timeout(Duration::from_secs(5), next).await;
        assert!(served.is_ok(), "L1: polls every {poll} ms, ttl {ttl} ms");
        last.abort();
    }
}

/// How far the nodes are away, the drift factor in hundredths, and the ttls of those who ask too hastily.
type Hasty = (&'static [u64], f64, &'static [u64]);

/// The line has room for fewer than there are of them, and they ask again and again.
#[tokio::test(start_paused = true)]
async fn l1_a_full_line_of_waiters_that_cannot_be_served_lets_others_in() {
    let cases: [Hasty; 4] = [
        (&[11, 7], 0.01, &[100, 43, 31, 49, 97, 65, 55, 29]),
        (&[15, 7], 0.5, &[61, 81, 41, 71, 54, 30, 39, 75]),
        (&[16, 2, 15, 19], 0.01, &[95, 34, 61, 83, 44, 38, 33, 24]),
        (&[12, 14, 8], 0.01, &[62, 72, 27, 82, 27, 35, 89, 68]),
    ];
    for (latencies, drift, ttls) in cases {
        for (room, poll) in [(1, 10), (1, 200), (2, 10)] {
            for (same, pause) in [(false, 40), (true, 40), (true, 250)] {
                let cluster = nodes(latencies);
                let line = || {
                    patient(&cluster)
                        .fifo_queue_length(Some(room))
                        .fifo_retry_delay(millis(poll))
                };
                let hasty = line().clock_drift_factor(drift).connect().await;
                let (hasty, own) = (hasty.unwrap(), line().connect().await.unwrap());
                let first = hasty.lock("r", TTL).await.unwrap();
                let waiters = ttls.iter().map(|ttl| {
                    let lock = hasty.lock("r", millis(*ttl)).wait_forever();
                    tokio::spawn(async move { lock.await.map(drop) })
                });
                let waiters: Vec<_> = waiters.collect();
                sleep(millis(pause)).await;
                let last = if same { &hasty } else { &own };
                let last = last.lock("r", TTL).wait_forever().into_future();
                let last = tokio::spawn(last);
                sleep(millis(300)).await;
                drop(first);
                let served = timeout(Duration::from_secs(120), last).await;
                assert!(
                    served.is_ok(),
                    "{latencies:?}, {ttls:?}, {room}, {poll}, {same}, {pause}"
                );
                waiters.iter().for_each(|waiter| waiter.abort());
            }
        }
    }
}
