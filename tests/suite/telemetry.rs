//! What the client tells of itself: events, levels and fields, each compared with the page that lists them.

use std::{collections::BTreeSet, time::Duration};

use futures::FutureExt;
use redlock_fifo::{FifoRedlock, LeaseLost, LockError, MemoryCluster};
use tokio::time::{advance, sleep};

use crate::events::{Listener, listed};

const TTL: Duration = Duration::from_secs(9);

#[test]
fn the_page_lists_every_event_of_the_source_and_no_other() {
    let source = [
        include_str!("../../src/telemetry/call.rs"),
        include_str!("../../src/telemetry/node.rs"),
        include_str!("../../src/telemetry/request.rs"),
        include_str!("../../src/telemetry/mod.rs"),
    ]
    .concat();
    let source = source.split("#[cfg(test)]").next().unwrap();
    let mut told = BTreeSet::new();
    for call in ["tell!(", "debug!(", "info!(", "warn!(", "error!("] {
        for (at, _) in source.match_indices(call) {
            let mut depth = 0;
            let end = source[at..].find(|letter| {
                depth += i32::from(letter == '(') - i32::from(letter == ')');
                depth == 0 && letter == ')'
            });
            let words: Vec<_> = source[at..at + end.unwrap()].split('"').collect();
            // What the macro `tell` is made of has no name of its own.
            told.extend(words.iter().rev().nth(1).copied());
        }
    }
    assert_eq!(told, listed().keys().copied().collect());
}

async fn client(cluster: &MemoryCluster) -> FifoRedlock {
    let builder = FifoRedlock::builder().memory(cluster).client_name("web-1");
    builder.connect().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_healthy_run_is_told_at_debug_only() {
    let (listener, _guard) = Listener::listen();
    let redlock = client(&MemoryCluster::new(3)).await;
    let first = redlock.lock("a", TTL).await.unwrap();
    let (one, two) = (
        first.fencing_token(),
        redlock.enqueue("a", TTL).await.unwrap(),
    );
    let third = redlock.enqueue("a", TTL).await.unwrap();
    sleep(Duration::from_secs(4)).await;
    drop(third);
    first.release().await.unwrap();
    let mut two = two;
    let second = two.acquire().await.unwrap();
    drop(second);
    redlock.shutdown().await;

    let told = listener.told();
    assert!(told.iter().all(|told| told.level == "DEBUG"), "{told:#?}");
    let names = listener.names();
    let expected = [
        "lock acquired",
        "in line",
        "in line",
        "lease renewed",
        "left the line",
        "lock released",
        "lock acquired",
        "lock released",
    ];
    assert_eq!(names, expected);
    let events: Vec<_> = told.iter().filter(|told| !told.name().is_empty()).collect();
    let [
        acquired,
        in_line,
        behind,
        renewed,
        left,
        released,
        handed,
        _,
    ] = *events
    else {
        panic!("{events:#?}");
    };
    assert_eq!(acquired.get("resource"), "a");
    assert!(
        acquired.get("holder_id").contains(":0:web-1:"),
        "{acquired:?}"
    );
    assert_eq!(acquired.number("fencing_token"), one);
    assert_eq!(acquired.number("wait_ms"), 0);
    assert!(
        !acquired.fields.contains_key("ticket"),
        "it never stood in line"
    );
    assert_eq!(
        (in_line.number("position"), behind.number("position")),
        (0, 1)
    );
    assert!(in_line.number("ticket") < behind.number("ticket"));
    // Validity less a third of the ttl, on a grid of an eighth of that.
    assert!(
        (5800..6300).contains(&renewed.number("margin_ms")),
        "{renewed:?}"
    );
    assert_eq!((left.number("position"), left.number("wait_ms")), (1, 4000));
    assert_eq!(
        (released.number("held_ms"), released.number("fencing_token")),
        (4000, one)
    );
    assert_eq!(handed.number("wait_ms"), 4000);
    assert_eq!(handed.number("ticket"), in_line.number("ticket"));

    let calls: Vec<_> = listener.spans();
    let calls: Vec<_> = calls
        .iter()
        .map(|span| (span.get("call"), span.get("fencing_token")))
        .collect();
    let (first, second) = (one.to_string(), handed.number("fencing_token").to_string());
    let expected = [
        ("lock", &*first),
        ("enqueue", ""),
        ("enqueue", ""),
        ("acquire", &*second),
    ];
    assert_eq!(calls, expected);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_tells_which_nodes_failed_and_for_how_long_it_was_held() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let (listener, _guard) = Listener::listen();
    let guard = redlock.lock("a", TTL).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    cluster.node(0).stop();
    cluster.node(2).pause();
    assert_eq!(guard.lost().await, LeaseLost::Expired);
    let lost = listener.only("lease lost");
    assert_eq!(lost.level, "WARN");
    let faults = "memory node 0: not connected (stopped); memory node 2: no answer in time";
    assert_eq!(lost.get("faults"), faults);
    assert_eq!(lost.get("cause"), "its validity ran out");
    assert!(lost.get("help").contains("`faults`"), "{lost:?}");
    assert!(
        (16_000..19_000).contains(&lost.number("held_ms")),
        "{lost:?}"
    );
    assert!(lost.number("overdue_ms") < 5, "{lost:?}");
    // Of one that is down each call would say so.
    let told = listener.told();
    let failed = told.iter().filter(|told| told.name() == "call failed");
    let failed: BTreeSet<_> = failed
        .map(|told| (told.get("node"), told.get("error")))
        .collect();
    let hung = ("memory node 2", "no answer in time");
    assert_eq!(failed, BTreeSet::from([hung]));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_by_max_hold_says_so() {
    let redlock = client(&MemoryCluster::new(3)).await;
    let (listener, _guard) = Listener::listen();
    let lock = redlock.lock("a", TTL).max_hold(TTL);
    assert_eq!(lock.await.unwrap().lost().await, LeaseLost::MaxHold);
    let lost = listener.only("lease lost");
    assert!(lost.get("help").contains("max_hold"), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_lost_in_a_pause_tells_how_long_that_was() {
    let redlock = client(&MemoryCluster::new(3)).await;
    let (listener, _guard) = Listener::listen();
    let guard = redlock.lock("a", TTL).await.unwrap();
    // Nothing of this process runs meanwhile.
    advance(Duration::from_secs(60)).await;
    assert!(guard.lost().await == LeaseLost::Expired);
    let lost = listener.only("lease lost");
    assert_eq!(lost.get("faults"), "");
    assert!(
        (51_000..51_200).contains(&lost.number("overdue_ms")),
        "{lost:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_keys_were_deleted_is_told_as_such() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let (listener, _guard) = Listener::listen();
    let guard = redlock.lock("a", TTL).await.unwrap();
    let other = redlock.lock("b", TTL).await.unwrap();
    for place in 0..2 {
        cluster.node(place).delete("a");
        cluster.node(place).delete("b");
    }
    other.release().await.unwrap_err();
    listener.only("lease was lost before its release");
    assert_eq!(guard.lost().await, LeaseLost::QuorumLost);
    let lost = listener.only("lease lost");
    assert_eq!(
        lost.get("faults"),
        "memory node 0: has it no more; memory node 1: has it no more"
    );
    assert!(lost.get("help").contains("evicted"), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_late_renewal_is_warned_of_once_a_minute() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let (listener, _guard) = Listener::listen();
    let guard = redlock.lock("a", TTL).await.unwrap();
    let hang = async || {
        // Just after a renewal, so that there is time for it.
        while guard.validity() < TTL * 19 / 20 {
            sleep(Duration::from_millis(50)).await;
        }
        cluster.nodes().for_each(|node| node.pause());
        sleep(Duration::from_secs(7)).await;
        cluster.nodes().for_each(|node| node.resume());
        sleep(Duration::from_secs(1)).await;
        assert!(guard.is_held());
    };
    for _ in 0..3 {
        hang().await;
    }
    let late = listener.only("lease renewed late");
    assert_eq!(late.level, "WARN");
    assert!(
        late.number("margin_ms") < late.number("usual_ms") / 2,
        "{late:?}"
    );
    assert_eq!(late.number("suppressed"), 0);
    sleep(Duration::from_secs(60)).await;
    hang().await;
    let told = listener.told();
    let late = told
        .iter()
        .filter(|told| told.name() == "lease renewed late");
    let suppressed: Vec<_> = late.map(|told| told.number("suppressed")).collect();
    assert_eq!(suppressed, [0, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_nobody_polls_is_warned_of_once_a_minute() {
    let redlock = client(&MemoryCluster::new(3)).await;
    let (listener, _guard) = Listener::listen();
    let held = redlock.lock("a", TTL).await.unwrap();
    let one = redlock.enqueue("a", TTL).await.unwrap();
    let two = redlock.enqueue("a", TTL).await.unwrap();
    drop(held);
    sleep(Duration::from_secs(20)).await;
    let told = listener.told();
    let unpolled = told
        .iter()
        .filter(|told| told.name() == "granted, but nobody took it");
    let levels: Vec<_> = unpolled
        .map(|told| (&*told.level, told.number("granted_ms")))
        .collect();
    assert_eq!(levels, [("WARN", 5000), ("DEBUG", 5000)]);
    drop((one, two));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_held_for_long_is_warned_of_once() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let (listener, _guard) = Listener::listen();
    let guard = redlock.lock("a", TTL).await.unwrap();
    sleep(Duration::from_secs(599)).await;
    assert!(!listener.names().contains(&"held for long".to_owned()));
    sleep(Duration::from_secs(3000)).await;
    assert_eq!(listener.only("held for long").number("held_ms"), 600_000);
    drop(guard);

    let builder = FifoRedlock::builder().memory(&cluster).long_hold(None);
    let patient = builder.connect().await.unwrap();
    let guard = patient.lock("a", TTL).await.unwrap();
    sleep(Duration::from_secs(3000)).await;
    listener.only("held for long");
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_keeps_leaving_the_line_is_told_what_to_do() {
    let redlock = client(&MemoryCluster::new(3)).await;
    let (listener, _guard) = Listener::listen();
    let held = redlock.lock("a", TTL).await.unwrap();
    let loops = async || {
        for _ in 0..9 {
            tokio::select! {
                _ = redlock.lock("a", TTL) => unreachable!("it is held"),
                () = sleep(Duration::from_millis(50)) => {}
            }
        }
    };
    loops().await;
    let warned = listener.only("the same task keeps leaving the line");
    assert_eq!((warned.level.as_str(), warned.number("times")), ("WARN", 5));
    assert!(warned.get("help").contains("Ticket"), "{warned:?}");
    // Callers that give up once each, such as requests of a service, do nothing wrong.
    for _ in 0..20 {
        let lock = redlock.lock("b", TTL);
        let waits = async {
            tokio::time::timeout(Duration::from_millis(50), lock)
                .await
                .is_err()
        };
        tokio::spawn(waits.map(drop)).await.unwrap();
    }
    drop(held);
    listener.only("the same task keeps leaving the line");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_guard_tells_its_error() {
    let redlock = client(&MemoryCluster::new(3)).await;
    let (listener, _guard) = Listener::listen();
    let held = redlock.lock("a", TTL).await.unwrap();
    let lock = redlock.lock("a", TTL).wait_timeout(Duration::from_secs(1));
    assert!(matches!(lock.await, Err(LockError::TimedOut { .. })));
    let told = listener.only("no lock");
    assert_eq!(
        (told.get("resource"), told.get("error")),
        ("a", "timed out with 0 waiters ahead")
    );
    assert_eq!(listener.only("left the line").number("wait_ms"), 1000);
    assert!(redlock.try_lock("a", TTL).await.unwrap().is_none());
    listener.only("left the line");
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_quorum_that_is_missing_is_warned_of_once_a_minute() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let (listener, _guard) = Listener::listen();
    cluster.nodes().skip(1).for_each(|node| node.stop());
    let refused = async || redlock.lock("a", TTL).await.unwrap_err();
    for _ in 0..3 {
        refused().await;
    }
    let warned = listener.only("no quorum");
    assert_eq!((&*warned.level, warned.get("resource")), ("WARN", "a"));
    assert!(warned.get("error").contains("memory node 2"), "{warned:?}");
    sleep(Duration::from_secs(60)).await;
    refused().await;
    let told = listener.told();
    let suppressed: Vec<_> = told
        .iter()
        .filter(|told| told.name() == "no quorum")
        .map(|told| told.number("suppressed"))
        .collect();
    assert_eq!(suppressed, [0, 2]);
}

/// Its process stood still past the end of the lease, and nobody has looked since.
#[tokio::test(start_paused = true)]
async fn s3_a_guard_that_is_dropped_after_its_lease_ran_out_is_told_as_lost() {
    let (listener, _guard) = Listener::listen();
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let guard = redlock.lock("r", TTL).await.unwrap();
    let lost = guard.lost();
    let _ = tokio::time::advance(2 * TTL).now_or_never();
    drop(guard);
    assert_eq!(lost.await, LeaseLost::Expired);
    let names = listener.names();
    assert!(names.contains(&"lease lost".to_owned()), "{names:?}");
    assert!(!names.contains(&"lock released".to_owned()), "{names:?}");
}
