//! What comes late: polls, answers of an earlier connection, verdicts; and what is asked again.

use std::time::Duration;

use futures::FutureExt;
use redlock_fifo::{FifoRedlock, LockError, MemoryCluster};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{client, lengthen, millis, nodes, patient, with_defaults};

const TTL: Duration = Duration::from_secs(10);

/// A future that is polled now and then, more often than its turn lasts, and somebody behind it.
#[tokio::test(start_paused = true)]
async fn l1_c4_a_lock_that_is_polled_now_and_then_is_had() {
    let cases = [
        (false, 10_000, 600),
        (false, 10_000, 4900),
        (false, 300, 110),
        (false, 3000, 510),
        (true, 10_000, 1000),
        (true, 1000, 800),
        (true, 300, 250),
    ];
    for (auto_extend, ttl, every) in cases {
        for held in [false, true] {
            let cluster = nodes(&[2; 3]);
            let (one, two) = (client(&cluster).await, client(&cluster).await);
            let before = match held {
                true => Some(two.lock("r", TTL).await.unwrap()),
                false => None,
            };
            let lock = one.lock("r", millis(ttl)).auto_extend(auto_extend);
            let mut lock = lock.wait_forever();
            assert!((&mut lock).now_or_never().is_none());
            sleep(millis(50)).await;
            // Whoever is behind may be served first if it comes later than its turn lasts.
            let next = two.lock("r", TTL).wait_forever().into_future();
            let next = tokio::spawn(async {
                next.await?.release().await.map_err(|_| LockError::ShutDown)
            });
            sleep(millis(50)).await;
            drop(before);
            let mut guard = None;
            for _ in 0..8 {
                sleep(millis(every)).await;
                if let Some(had) = (&mut lock).now_or_never() {
                    guard = Some(had.unwrap());
                    break;
                }
            }
            let guard = guard.unwrap_or_else(|| panic!("{auto_extend}, {ttl}, {every}: not had"));
            // What is renewed may begin with what is left of a handoff.
            let enough = auto_extend || guard.validity() >= millis(ttl) / 2;
            assert!(enough, "{:?}", guard.validity());
            guard.release().await.unwrap();
            timeout(TTL, next).await.unwrap().unwrap().unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn l4_try_lock_ends_where_the_way_is_as_long_as_a_renewal_may_take() {
    let cluster = MemoryCluster::new(3);
    lengthen(&cluster, millis(6));
    let one = FifoRedlock::builder()
        .memory(&cluster)
        .auto_extend(false)
        .connect()
        .await
        .unwrap();
    let out = timeout(millis(600_000), one.try_lock("r", millis(20))).await;
    assert!(
        out.is_ok(),
        "try_lock of a free lock has not ended in ten minutes"
    );
}

#[tokio::test(start_paused = true)]
async fn c3_shutdown_does_not_wait_for_what_healthy_nodes_have_confirmed() {
    let cluster = MemoryCluster::new(3);
    lengthen(&cluster, millis(20));
    let one = FifoRedlock::builder()
        .memory(&cluster)
        .node_timeout(millis(600_000))
        .connect()
        .await
        .unwrap();
    let refused = one.lock("r", millis(20)).await; // The ttl is below the round trip.
    assert!(matches!(refused, Err(LockError::NoQuorum(_))));
    sleep(millis(1000)).await;
    assert!(cluster.nodes().all(|node| node.used().is_empty()));
    let start = Instant::now();
    one.shutdown().await;
    assert!(start.elapsed() < millis(3000), "took {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn l4_try_lock_does_not_wait_for_a_grace() {
    for latencies in [[20u64, 45, 50], [12, 10, 4]] {
        for poll in [1, 20] {
            let cluster = MemoryCluster::new(3);
            for (node, latency) in cluster.nodes().zip(latencies) {
                node.set_latency(millis(latency));
            }
            let one = FifoRedlock::builder()
                .memory(&cluster)
                .cold_start_grace(true)
                .fifo_retry_delay(millis(poll))
                .connect()
                .await
                .unwrap();
            if latencies[0] == 12 {
                let lock = one.lock("r", millis(10_000)).wait_timeout(millis(35));
                tokio::spawn(async move {
                    sleep(millis(12)).await;
                    drop(lock.await)
                });
                sleep(millis(46)).await;
            }
            let start = Instant::now();
            let out = one
                .try_lock("r", millis(10_000))
                .await
                .map(|guard| guard.is_some());
            assert!(
                start.elapsed() < millis(1000),
                "{latencies:?} poll {poll} ms: {:?} {:?}",
                start.elapsed(),
                out.map_err(|e| e.to_string())
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_quorum_says_how_many_have_answered() {
    let cluster = MemoryCluster::new(3);
    sleep(millis(60_000)).await;
    let one = with_defaults(&cluster).await;
    let other = with_defaults(&cluster).await;
    let guard = other.lock("r", millis(10_000)).await.unwrap();
    sleep(millis(1000)).await;
    cluster.node(0).restart();
    sleep(millis(8000)).await; // The holder is on node 0 again.
    cluster.node(2).set_latency(millis(300));
    tokio::spawn(async move {
        sleep(millis(50)).await;
        drop(guard);
    });
    match one
        .lock("r", millis(10_000))
        .wait_timeout(millis(100))
        .await
    {
        Err(LockError::NoQuorum(none)) => {
            assert!(none.answered() < none.needed(), "no quorum: {none}")
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn two_extensions_at_once_each_get_what_they_ask() {
    let redlock = FifoRedlock::in_memory(3);
    let guard = redlock.lock("r", TTL).auto_extend(false).await.unwrap();
    let (long, short) = tokio::join!(
        guard.extend(Duration::from_secs(20)),
        guard.extend(Duration::from_secs(4))
    );
    assert_eq!((long, short), (Ok(()), Ok(())));
    assert!(
        guard.validity() > Duration::from_secs(15),
        "{:?}",
        guard.validity()
    );
}

#[tokio::test(start_paused = true)]
async fn an_extension_that_is_dropped_after_its_first_poll_is_carried_out() {
    let redlock = FifoRedlock::in_memory(3);
    let guard = redlock.lock("r", TTL).auto_extend(false).await.unwrap();
    assert!(
        guard
            .extend(Duration::from_secs(20))
            .now_or_never()
            .is_none()
    );
    guard
        .start_auto_extend(Duration::from_secs(1), TTL)
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    assert!(
        guard.validity() > Duration::from_secs(15),
        "{:?}",
        guard.validity()
    );
}

#[tokio::test(start_paused = true)]
async fn enqueue_says_that_there_is_no_quorum() {
    let cluster = MemoryCluster::new(3);
    let redlock = with_defaults(&cluster).await;
    redlock
        .lock("r", TTL)
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    sleep(Duration::from_secs(1)).await;
    // Attempts that reach one node only: the counters differ.
    for (node, times) in [(1, 1), (2, 2)] {
        for _ in 0..times {
            (0..3)
                .filter(|n| *n != node)
                .for_each(|n| cluster.node(n).set_latency(Duration::from_secs(2)));
            let _ = redlock.try_lock("r", TTL).await;
            sleep(Duration::from_secs(8)).await;
            lengthen(&cluster, Duration::ZERO);
            sleep(Duration::from_secs(2)).await;
        }
    }
    lengthen(&cluster, Duration::from_millis(100));
    let used = redlock.clone();
    let asks = tokio::spawn(async move { used.enqueue("r", TTL).await.map(|t| t.position()) });
    sleep(Duration::from_millis(120)).await;
    assert!(!asks.is_finished(), "it fences");
    for node in 1..3 {
        cluster.node(node).stop();
    }
    let outcome = timeout(Duration::from_secs(3600), asks).await;
    assert!(outcome.is_ok(), "enqueue hangs");
}

#[tokio::test(start_paused = true)]
async fn a_repeated_first_round_is_waited_for() {
    let cluster = MemoryCluster::new(3);
    let redlock = FifoRedlock::builder()
        .memory(&cluster)
        .retry_count(2)
        .connect()
        .await
        .unwrap();
    // A moment without a quorum.
    for node in 1..3 {
        cluster.node(node).set_latency(Duration::from_secs(2));
    }
    let since = tokio::time::Instant::now();
    let asks = tokio::spawn(redlock.lock("r", 10 * TTL).into_future());
    sleep(Duration::from_millis(550)).await;
    assert!(!asks.is_finished());
    for node in 1..3 {
        cluster.node(node).set_latency(Duration::from_millis(10));
    }
    let outcome = asks.await.unwrap();
    assert!(outcome.is_ok(), "after {:?}: {outcome:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn c1_nothing_is_left_on_a_node_that_comes_up_as_it_is_asked() {
    let cluster = MemoryCluster::new(3);
    let redlock = with_defaults(&cluster).await;
    sleep(Duration::from_secs(1)).await;
    lengthen(&cluster, Duration::from_millis(20));
    cluster.node(2).stop();
    let mut lock = redlock.lock("r", 10 * TTL);
    assert!((&mut lock).now_or_never().is_none());
    sleep(Duration::from_millis(5)).await;
    cluster.node(2).restart();
    drop(lock);
    redlock.shutdown().await;
    sleep(Duration::from_secs(2)).await;
    for node in cluster.nodes() {
        assert_eq!(node.used(), Vec::<String>::new(), "{node:?}: C1, C3");
    }
}

#[tokio::test(start_paused = true)]
async fn s5_a_late_answer_of_an_earlier_run_does_not_end_the_grace() {
    let mut early = Vec::new();
    for late in (900..1300).step_by(10) {
        let cluster = MemoryCluster::new(3);
        let redlock = FifoRedlock::builder()
            .memory(&cluster)
            .node_timeout(Duration::from_secs(5))
            .fifo_retry_count(None)
            .connect()
            .await
            .unwrap();
        sleep(Duration::from_secs(100)).await;
        let z = redlock
            .lock("z", Duration::from_secs(25))
            .auto_extend(false)
            .await
            .unwrap();
        sleep(Duration::from_millis(100)).await;
        cluster.node(2).set_latency(Duration::from_millis(late));
        let _ = z.is_valid().now_or_never();
        sleep(Duration::from_millis(late / 2 + 10)).await;
        cluster.node(0).stop();
        cluster.node(2).restart();
        cluster.node(2).set_latency(Duration::ZERO);
        cluster.node(1).set_latency(Duration::from_millis(100));
        let begin = tokio::time::Instant::now();
        let got = timeout(
            Duration::from_secs(20),
            redlock.lock("r", Duration::from_secs(10)),
        )
        .await;
        if let Ok(guard) = got {
            early.push((late, begin.elapsed(), guard.is_ok()));
        }
    }
    assert!(
        early.is_empty(),
        "S5: a node that restarted 30 s too late to vote made a quorum: {early:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn l5_a_late_answer_of_an_earlier_run_does_not_hide_that_the_vote_is_gone() {
    let mut missing = Vec::new();
    for auto in [true, false] {
        let cluster = MemoryCluster::new(3);
        let redlock = with_defaults(&cluster).await;
        sleep(Duration::from_secs(100)).await;
        let guard = redlock
            .lock("r", Duration::from_secs(25))
            .auto_extend(auto)
            .await
            .unwrap();
        sleep(Duration::from_millis(100)).await;
        cluster.node(2).set_latency(Duration::from_millis(400));
        let _ = guard.is_valid().now_or_never();
        sleep(Duration::from_millis(210)).await;
        cluster.node(2).restart();
        cluster.node(2).set_latency(Duration::ZERO);
        sleep(Duration::from_secs(9)).await;
        if cluster.node(2).get("r").is_none() {
            missing.push(auto);
        }
        // The next node restarts, more than a third of the ttl later.
        cluster.node(1).restart();
        sleep(Duration::from_secs(1)).await;
    }
    assert!(
        missing.is_empty(),
        "L5: not asked for the vote that it forgot, auto_extend {missing:?}"
    );
}

/// Where a node without the vote is repaired in between.
#[tokio::test(start_paused = true)]
async fn an_extension_gives_what_was_asked_for() {
    for (drift, auto_extend, far) in [
        (0.01, false, 2),
        (0.01, true, 2),
        (0.5, false, 2),
        (0.5, true, 2),
        (0.01, false, 60),
        (0.01, true, 60),
    ] {
        let cluster = nodes(&[2; 3]);
        let blocked = cluster.node(1);
        assert!(blocked.set_nx("r", "another", 100 * TTL));
        let redlock = FifoRedlock::builder()
            .memory(&cluster)
            .clock_drift_factor(drift)
            .fifo_retry_delay(millis(10));
        let redlock = redlock.connect().await.unwrap();
        let guard = redlock.lock("r", TTL).auto_extend(auto_extend).await;
        let guard = guard.unwrap();
        sleep(millis(100)).await;
        cluster.node(0).set_latency(millis(far));
        cluster.node(2).set_latency(millis(400));
        let start = Instant::now();
        tokio::spawn(async move {
            sleep(millis(5)).await;
            blocked.delete("r");
        });
        guard.extend(6 * TTL).await.unwrap();
        let trusted = (6 * TTL).mul_f64(1.0 - drift) - millis(5) - start.elapsed();
        let validity = guard.validity();
        assert!(
            validity >= trusted,
            "{drift}, {auto_extend}, {far}: {validity:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn c4_a_turn_that_is_polled_in_time_is_not_passed_on() {
    for part in [60, 70, 80, 84, 88, 92, 96] {
        for phase in 0..50 {
            let cluster = nodes(&[2; 3]);
            let (one, two, three) = (
                client(&cluster).await,
                client(&cluster).await,
                client(&cluster).await,
            );
            let held = two.lock("r", TTL).await.unwrap();
            let ahead = two.clone();
            tokio::spawn(async move { drop(ahead.lock("r", TTL).await) });
            sleep(millis(10)).await;
            let mut ticket = one.enqueue("r", TTL).await.unwrap();
            let behind = tokio::spawn(three.lock("r", TTL).wait_forever().into_future());
            sleep(millis(10)).await;
            tokio::spawn(async move {
                sleep(millis(phase * 100)).await;
                drop(held);
            });
            while ticket.acquire().now_or_never().is_none() {
                assert!(!behind.is_finished(), "{part} %, {phase}");
                sleep(millis(50 * part)).await;
            }
            behind.abort();
        }
    }
}

/// It has had a full vote of a node that has been away since.
#[tokio::test(start_paused = true)]
async fn a_holder_asks_no_more_often_than_it_needs() {
    for (ephemeral, stops, hangs) in [
        (3000, true, true),
        (3000, true, false),
        (4000, true, true),
        (4000, false, false),
    ] {
        let cluster = nodes(&[2; 3]);
        let redlock = patient(&cluster).fifo_ephemeral_ttl(millis(ephemeral));
        let redlock = redlock.connect().await.unwrap();
        for node in [1, 2] {
            assert!(cluster.node(node).set_nx("r", "another", millis(8000)));
        }
        let node = cluster.node(0);
        tokio::spawn(async move {
            sleep(millis(3)).await;
            if hangs { node.pause() } else { node.stop() }
        });
        let guard = redlock.lock("r", TTL / 2).await.unwrap();
        if stops {
            guard.stop_auto_extend();
        }
        sleep(millis(100)).await;
        let before = cluster.node(1).calls();
        sleep(millis(1000)).await;
        let calls = cluster.node(1).calls() - before;
        assert!(calls <= 6, "{ephemeral}, {stops}, {hangs}: {calls}");
        assert!(guard.is_held());
    }
}

/// The interval is the longest that is allowed, and the way about as long as a call may take.
#[tokio::test(start_paused = true)]
async fn l6_asking_whether_a_lease_is_valid_delays_no_renewal() {
    let ttl = millis(1605);
    for pause in [1, 400, 700, 900, 1040] {
        let cluster = nodes(&[450; 3]);
        let redlock = client(&cluster).await;
        let guard = redlock.lock("r", ttl).auto_extend(false).await.unwrap();
        let every = Duration::from_micros(1_057_900);
        guard.start_auto_extend(every, ttl).unwrap();
        sleep(2 * TTL).await;
        assert!(guard.is_held());
        for _ in 0..10 {
            sleep(millis(pause)).await;
            assert_eq!(guard.is_valid().await, Ok(true), "every {pause} ms");
        }
    }
}
