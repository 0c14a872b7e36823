//! Many leases and places on a way to the nodes that becomes longer, or varies: in time is soon enough (L6).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::join_all;
use redlock_fifo::{FifoRedlock, LockGuard, MemoryCluster};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::rig::{client, lengthen, millis, nodes, patient, with_defaults};

const TTL: Duration = Duration::from_secs(10);

/// A client whose lines have room for all, and whose waiters never give up.
async fn unbounded(cluster: &MemoryCluster) -> FifoRedlock {
    let builder = patient(cluster).fifo_queue_length(None);
    builder.connect().await.unwrap()
}

/// So many leases of `ttl` milliseconds.
async fn held(redlock: &FifoRedlock, count: usize, ttl: u64) -> Vec<LockGuard> {
    let mut guards = Vec::new();
    for n in 0..count {
        guards.push(redlock.lock(format!("l{n}"), millis(ttl)).await.unwrap());
    }
    guards
}

fn count_lost(guards: &[LockGuard]) -> usize {
    guards.iter().filter(|guard| !guard.is_held()).count()
}

/// Leases that are lost while all nodes answer each question within `latency` of a `node_timeout` of 500 ms.
async fn lost_at(count: usize, latency: u64, ttl: u64) -> usize {
    let cluster = nodes(&[5; 3]);
    let redlock = client(&cluster).await;
    let guards = held(&redlock, count, ttl).await;
    sleep(millis(2 * ttl)).await;
    assert_eq!(count_lost(&guards), 0);
    lengthen(&cluster, millis(latency));
    sleep(millis(6 * ttl)).await;
    count_lost(&guards)
}

#[tokio::test(start_paused = true)]
async fn l6_many_leases_stand_a_longer_way() {
    let mut lost = Vec::new();
    for (count, ttl) in [
        (30, 10_000),
        (60, 10_000),
        (100, 10_000),
        (300, 10_000),
        (1000, 10_000),
        (1000, 30_000),
    ] {
        for latency in [200, 300, 370, 380, 400, 450, 490] {
            let gone = lost_at(count, latency, ttl).await;
            if gone > 0 {
                lost.push((count, ttl, latency, gone));
            }
        }
    }
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn l6_many_leases_stand_a_way_that_varies() {
    let mut lost = Vec::new();
    for count in [30, 60, 100, 200, 300, 1000] {
        for (low, high) in [(5u64, 400u64), (50, 450), (5, 250), (100, 490)] {
            let cluster = nodes(&[5; 3]);
            let redlock = client(&cluster).await;
            let guards = held(&redlock, count, 10_000).await;
            for n in 0..1200u64 {
                let of = |node: u64| {
                    if (n * 7 + node * 3).is_multiple_of(5) {
                        low
                    } else {
                        high
                    }
                };
                cluster
                    .nodes()
                    .zip(0..)
                    .for_each(|(node, at)| node.set_latency(millis(of(at))));
                sleep(millis(50)).await;
            }
            let gone = count_lost(&guards);
            if gone > 0 {
                lost.push((count, low, high, gone));
            }
        }
    }
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn l6_the_longest_interval_leaves_time_for_an_answer() {
    let mut lost = Vec::new();
    for ttl in [100u64, 300, 500, 1000, 1200, 1300, 1400, 1500] {
        for back in [1u64, 2, 3, 5, 10] {
            let cluster = MemoryCluster::new(3);
            let redlock = client(&cluster).await;
            sleep(millis(ttl * 7 % 31)).await;
            let guard = redlock
                .lock("r", millis(ttl))
                .auto_extend(false)
                .await
                .unwrap();
            let validity = millis(ttl) - millis(2) - millis(ttl) / 100;
            let every = validity * 2 / 3;
            guard.start_auto_extend(every, millis(ttl)).unwrap();
            sleep(millis(1)).await;
            let latency = (validity / 3).min(millis(500)) - millis(back);
            lengthen(&cluster, latency);
            if timeout(millis(ttl * 200), guard.lost()).await.is_ok() {
                lost.push((ttl, back));
            }
        }
    }
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn l6_a_renewal_does_not_wait_behind_requests() {
    for crowd in [0, 100, 300, 1000] {
        let cluster = MemoryCluster::new(3);
        let redlock = unbounded(&cluster).await;
        let other = with_defaults(&cluster).await;
        let _q = other.lock("q", 10 * TTL).await.unwrap();
        // Slow, and in time.
        cluster.node(2).set_latency(Duration::from_millis(450));
        let waiters: Vec<_> = (0..crowd)
            .map(|_| tokio::spawn(redlock.lock("q", 10 * TTL).wait_forever().into_future()))
            .collect();
        sleep(Duration::from_millis(1)).await;
        let guard = redlock.lock("r", TTL).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        cluster.node(0).stop();
        let lost = timeout(Duration::from_secs(20), guard.lost()).await;
        waiters.iter().for_each(|w| w.abort());
        assert!(
            lost.is_err(),
            "crowd {crowd}: L6: two of three nodes answer within node_timeout: {lost:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn l6_a_renewal_does_not_wait_behind_keep_alives() {
    let mut fails = Vec::new();
    for (crowd, late, latency) in [
        (300, false, 450),
        (3000, false, 450),
        (3000, true, 450),
        (3000, false, 300),
        (3000, false, 100),
    ] {
        let cluster = MemoryCluster::new(3);
        let redlock = unbounded(&cluster).await;
        let other = with_defaults(&cluster).await;
        let _q = other.lock("q", 10 * TTL).await.unwrap();
        let guard = redlock.lock("r", TTL).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        if !late {
            lengthen(&cluster, Duration::from_millis(latency));
        }
        let waiters: Vec<_> = (0..crowd)
            .map(|_| tokio::spawn(redlock.lock("q", 10 * TTL).wait_forever().into_future()))
            .collect();
        if late {
            sleep(Duration::from_secs(1)).await;
            lengthen(&cluster, Duration::from_millis(latency));
        }
        let lost = timeout(Duration::from_secs(30), guard.lost()).await;
        if lost.is_ok() {
            fails.push((crowd, late, latency));
        }
        waiters.iter().for_each(|w| w.abort());
    }
    assert!(fails.is_empty(), "L6: {fails:?}");
}

#[tokio::test(start_paused = true)]
async fn l6_f2_a_longer_way_costs_no_lease_and_no_place() {
    let mut fails = Vec::new();
    let ttl = Duration::from_secs(10);
    for (crowd, latency) in [
        (0, 450),
        (100, 450),
        (200, 450),
        (300, 450),
        (1000, 450),
        (300, 300),
        (1000, 300),
        (3000, 300),
    ] {
        let cluster = MemoryCluster::new(3);
        let redlock = unbounded(&cluster).await;
        let other = FifoRedlock::builder()
            .memory(&cluster)
            .fifo_queue_length(None)
            .connect()
            .await
            .unwrap();
        let _q = other.lock("q", ttl).await.unwrap();
        let guard = redlock.lock("r", ttl).await.unwrap();
        let waiters: Vec<_> = (0..crowd)
            .map(|_| tokio::spawn(redlock.lock("q", ttl).wait_forever().into_future()))
            .collect();
        sleep(Duration::from_secs(5)).await;
        lengthen(&cluster, Duration::from_millis(latency));
        let lost = timeout(Duration::from_secs(120), guard.lost()).await;
        let line = other.inspect("q").await.unwrap().waiters().len();
        // An inspection lists a thousand.
        if lost.is_ok() || line != crowd.min(1000) {
            fails.push((crowd, latency, line));
        }
        waiters.iter().for_each(|w| w.abort());
    }
    assert!(fails.is_empty(), "L6: {fails:?}");
}

/// A waiter in second place, and the nodes hang for less than half of the waiter ttl.
async fn f2(node_timeout: u64, from: u64, to: u64) -> (bool, Vec<&'static str>) {
    let cluster = MemoryCluster::new(3);
    let make = || patient(&cluster).node_timeout(millis(node_timeout));
    let holder = make().connect().await.unwrap();
    let first = make().connect().await.unwrap();
    let second = make().connect().await.unwrap();
    let late = make().connect().await.unwrap();
    let held = holder.lock("r", Duration::from_secs(60)).await.unwrap();
    let start = Instant::now();
    let one = first.enqueue("r", TTL).await.unwrap();
    let two = second.enqueue("r", TTL).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let spawn = |mut ticket: redlock_fifo::Ticket, name: &'static str| {
        let order = order.clone();
        tokio::spawn(async move {
            let guard = ticket.acquire().await.unwrap();
            order.lock().unwrap().push(name);
            sleep(millis(20)).await;
            guard.release().await.unwrap();
        })
    };
    let a = spawn(one, "first");
    let b = spawn(two, "second");
    sleep_until(start + millis(from)).await;
    cluster.nodes().for_each(|node| node.pause());
    sleep_until(start + millis(to)).await;
    cluster.nodes().for_each(|node| node.resume());
    sleep_until(start + millis(5010)).await;
    let three = late.enqueue("r", TTL).await.unwrap();
    late.inspect("r").await.unwrap();
    let c = spawn(three, "late");
    held.release().await.unwrap();
    timeout(Duration::from_secs(30), async {
        a.await.unwrap();
        b.await.unwrap();
        c.await.unwrap();
    })
    .await
    .unwrap();
    let order = order.lock().unwrap().clone();
    (order == ["first", "second", "late"], order)
}

#[tokio::test(start_paused = true)]
async fn f2_a_hang_that_is_shorter_than_the_waiter_lease_costs_no_place() {
    let mut bad = Vec::new();
    for (timeout, from) in [
        (500u64, 1300u64),
        (2000, 1300),
        (2300, 1300),
        (3000, 1300),
        (500, 2700),
    ] {
        for to in (from + 200..4900).step_by(100) {
            let (ok, order) = f2(timeout, from, to).await;
            if !ok {
                bad.push((timeout, from, to, order));
            }
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
}

#[tokio::test(start_paused = true)]
async fn l6_leases_of_two_to_five_seconds_stand_a_longer_way() {
    let mut gone = Vec::new();
    for (count, ttl, latency) in [(200, 2000, 400), (300, 3000, 400), (300, 5000, 450)] {
        let cluster = nodes(&[5; 3]);
        let redlock = client(&cluster).await;
        let guards = held(&redlock, count, ttl).await;
        sleep(millis(2 * ttl)).await;
        lengthen(&cluster, millis(latency));
        sleep(millis(6 * ttl)).await;
        gone.push((count, ttl, latency, count_lost(&guards)));
    }
    assert!(gone.iter().all(|it| it.3 == 0), "{gone:?}");
}

/// Asks again and again for what nodes that are 400 ms away cannot answer in time.
fn ask_too_short(redlock: &FifoRedlock) {
    let redlock = redlock.clone();
    tokio::spawn(async move {
        loop {
            let _ = redlock.try_lock("short", millis(300)).await;
            sleep(millis(1000)).await;
        }
    });
}

#[tokio::test(start_paused = true)]
async fn l6_a_call_that_cannot_be_answered_in_time_tells_nothing_of_the_way() {
    let mut gone = Vec::new();
    for short in [false, true] {
        let cluster = nodes(&[400; 3]);
        let redlock = client(&cluster).await;
        let locks = (0..300).map(|n| redlock.lock(format!("r{n}"), millis(3000)).into_future());
        let guards: Vec<_> = join_all(locks)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        sleep(millis(30_000)).await;
        assert_eq!(count_lost(&guards), 0);
        if short {
            ask_too_short(&redlock);
        }
        sleep(millis(40_000)).await;
        gone.push((short, count_lost(&guards)));
    }
    assert!(gone.iter().all(|it| it.1 == 0), "{gone:?}");
}

#[tokio::test(start_paused = true)]
async fn l1_a_call_that_cannot_be_answered_in_time_slows_no_others() {
    let mut took = Vec::new();
    for short in [false, true] {
        let cluster = nodes(&[400; 3]);
        let redlock = client(&cluster).await;
        for n in 0..20 {
            redlock
                .lock(format!("w{n}"), millis(10_000))
                .await
                .unwrap()
                .release()
                .await
                .unwrap();
        }
        if short {
            ask_too_short(&redlock);
        }
        sleep(millis(5000)).await;
        let start = Instant::now();
        let _guards = join_all(
            (0..1000).map(|n| redlock.lock(format!("r{n}"), millis(600_000)).into_future()),
        )
        .await;
        took.push(start.elapsed());
    }
    assert!(took[1] < 2 * took[0], "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn f1_f2_places_are_kept_beside_many_leases() {
    const LINES: usize = 20;
    let cluster = nodes(&[5; 3]);
    let (holder, busy, late) = (
        client(&cluster).await,
        client(&cluster).await,
        client(&cluster).await,
    );
    let first = Arc::new(Mutex::new(BTreeMap::<usize, &str>::new()));
    let guards = held(&busy, 1000, 10_000).await;
    let (mut tasks, mut before) = (Vec::new(), Vec::new());
    for n in 0..LINES {
        let name = format!("r{n}");
        before.push(holder.lock(&name, millis(60_000)).await.unwrap());
        for (who, client) in [("A", &busy), ("B", &late)] {
            let mut ticket = client.enqueue(&name, millis(60_000)).await.unwrap();
            let first = first.clone();
            tasks.push(tokio::spawn(async move {
                let guard = ticket.acquire().await.unwrap();
                first.lock().unwrap().entry(n).or_insert(who);
                drop(guard);
            }));
        }
    }
    sleep(millis(6000)).await;
    lengthen(&cluster, millis(400));
    sleep(millis(8000)).await;
    assert_eq!(count_lost(&guards), 0);
    before.clear();
    for task in tasks {
        task.await.unwrap();
    }
    let passed = first
        .lock()
        .unwrap()
        .values()
        .filter(|who| **who == "B")
        .count();
    assert_eq!(passed, 0, "B before A, of {LINES} lines");
}

#[tokio::test(start_paused = true)]
async fn l1_none_of_a_burst_on_free_locks_is_refused() {
    let mut refused = Vec::new();
    for (count, before, latency, retries) in [
        (300, 5, 400, 30u32),
        (1000, 400, 400, 2),
        (5000, 100, 100, 2),
    ] {
        for attempt in [false, true] {
            let cluster = nodes(&[before; 3]);
            let redlock = FifoRedlock::builder()
                .memory(&cluster)
                .fifo_retry_count(retries)
                .connect()
                .await
                .unwrap();
            held(&redlock, 5, 10_000).await.clear();
            lengthen(&cluster, millis(latency));
            let outcomes = join_all((0..count).map(|n| {
                let redlock = redlock.clone();
                async move {
                    if attempt {
                        redlock
                            .try_lock(&format!("r{n}"), millis(60_000))
                            .await
                            .map(drop)
                    } else {
                        redlock
                            .lock(format!("r{n}"), millis(60_000))
                            .await
                            .map(std::mem::forget)
                    }
                }
            }))
            .await;
            let errors: Vec<_> = outcomes
                .iter()
                .filter_map(|it| it.as_ref().err())
                .map(ToString::to_string)
                .collect();
            refused.push((
                count,
                before,
                latency,
                retries,
                attempt,
                errors.len(),
                errors.first().cloned(),
            ));
        }
    }
    assert!(refused.iter().all(|it| it.5 == 0), "{refused:#?}");
}

#[tokio::test(start_paused = true)]
async fn c1_places_are_given_up_beside_many_leases() {
    let mut took = Vec::new();
    for leases in [10, 1000] {
        let cluster = nodes(&[5; 3]);
        let (holder, busy) = (client(&cluster).await, client(&cluster).await);
        let guards = held(&busy, leases, 10_000).await;
        let (mut tickets, mut before) = (Vec::new(), Vec::new());
        for n in 0..8 {
            before.push(holder.lock(format!("r{n}"), millis(60_000)).await.unwrap());
            tickets.push(
                busy.enqueue(&format!("r{n}"), millis(60_000))
                    .await
                    .unwrap(),
            );
        }
        sleep(millis(6000)).await;
        lengthen(&cluster, millis(400));
        sleep(millis(4000)).await;
        let start = Instant::now();
        for left in join_all(tickets.into_iter().map(redlock_fifo::Ticket::leave)).await {
            left.unwrap();
        }
        took.push(start.elapsed());
        assert_eq!(count_lost(&guards), 0);
    }
    assert!(took[1] < 5 * took[0], "{took:?}");
}
