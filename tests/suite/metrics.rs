//! The metrics: what a recorder gets, each compared with the page that lists them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use metrics::set_default_local_recorder;
use redlock_fifo::{FifoRedlock, LeaseLost, MemoryCluster};
use tokio::time::{sleep, timeout};

use crate::{
    events::{PAGE, code},
    recorder::{Ledger, Recorded, listed},
    rig::with_defaults,
};

const TTL: Duration = Duration::from_secs(9);

#[test]
fn the_page_lists_every_metric_of_the_source_and_no_other() {
    let source = include_str!("../../src/telemetry/meter.rs");
    let names = source
        .split('"')
        .filter(|text| text.starts_with("redlock_fifo_"));
    assert_eq!(
        names.collect::<BTreeSet<_>>(),
        listed().into_keys().collect()
    );
}

#[tokio::test(start_paused = true)]
async fn waiting_and_holding_are_measured() {
    let ledger = Arc::new(Ledger::default());
    let recorded = Recorded(ledger.clone());
    let _recorder = set_default_local_recorder(&recorded);
    let redlock = FifoRedlock::in_memory(3);
    let held = redlock.lock("a", TTL).await.unwrap();
    let mut next = redlock.enqueue("a", TTL).await.unwrap();
    let gone = timeout(Duration::from_secs(1), redlock.lock("a", TTL)).await;
    assert!(gone.is_err());
    assert_eq!(
        (ledger.sum("waiters{}"), ledger.sum("holders{}")),
        (1.0, 1.0)
    );
    sleep(Duration::from_secs(9)).await;
    held.release().await.unwrap();
    drop(next.acquire().await.unwrap());
    redlock.shutdown().await;

    assert_eq!(ledger.values("wait_seconds{end=acquired}"), [0.0, 10.0]);
    assert_eq!(ledger.values("wait_seconds{end=left}"), [1.0]);
    assert_eq!(ledger.values("hold_seconds{end=released}"), [10.0, 0.0]);
    assert_eq!(ledger.values("waiters_ahead{}"), [0.0, 1.0]);
    assert_eq!(ledger.sum("handoffs_total{}"), 1.0);
    assert_eq!(
        (ledger.sum("waiters{}"), ledger.sum("holders{}")),
        (0.0, 0.0)
    );
    let margins = ledger.values("renewal_margin_ratio{}");
    assert_eq!(ledger.sum("renewals_total{}"), margins.len() as f64);
    assert_eq!(margins.len(), 3, "every third of the ttl: {margins:?}");
    assert!(
        margins.iter().all(|margin| (0.64..0.7).contains(margin)),
        "{margins:?}"
    );
}

/// Or an alert on a rise would not see the first.
#[tokio::test(start_paused = true)]
async fn what_has_not_happened_yet_is_there_as_zero() {
    let ledger = Arc::new(Ledger::default());
    let recorded = Recorded(ledger.clone());
    let _recorder = set_default_local_recorder(&recorded);
    let _redlock = FifoRedlock::in_memory(3);
    let rows = PAGE
        .lines()
        .filter(|line| line.contains("| counter |") || line.contains("| gauge |"));
    for row in rows.filter(|row| !row.contains("`node`")) {
        let codes = code(row);
        let name = codes[0].strip_prefix("redlock_fifo_").unwrap();
        let all = match &codes[1..] {
            [] => vec![format!("{name}{{}}")],
            [label, values @ ..] => values
                .iter()
                .map(|value| format!("{name}{{{label}={value}}}"))
                .collect(),
        };
        for series in all {
            assert_eq!(ledger.values(&series), [0.0], "{series}");
        }
    }
    assert_eq!(
        ledger.described(),
        listed().into_keys().map(str::to_owned).collect()
    );
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_is_counted() {
    let ledger = Arc::new(Ledger::default());
    let recorded = Recorded(ledger.clone());
    let _recorder = set_default_local_recorder(&recorded);
    let cluster = MemoryCluster::new(3);
    let redlock = with_defaults(&cluster).await;

    let expired = redlock.lock("a", TTL).await.unwrap();
    cluster.node(0).stop();
    cluster.node(1).pause();
    assert_eq!(expired.lost().await, LeaseLost::Expired);
    assert_eq!(ledger.sum("leases_lost_total{cause=expired}"), 1.0);
    assert_eq!(ledger.values("hold_seconds{end=lost}").len(), 1);
    redlock.lock("a", TTL).await.unwrap_err();
    assert_eq!(ledger.sum("refusals_total{reason=no_quorum}"), 1.0);
    assert!(ledger.sum("node_errors_total{node=memory node 0,error=down}") > 1.0);
    assert!(ledger.sum("node_errors_total{node=memory node 1,error=timed_out}") > 1.0);
    cluster.node(1).resume();

    let hangs = redlock.lock("b", TTL).max_hold(Duration::from_secs(1));
    assert_eq!(hangs.await.unwrap().lost().await, LeaseLost::MaxHold);
    assert_eq!(ledger.sum("leases_lost_total{cause=max_hold}"), 1.0);

    let held = redlock.lock("c", TTL).await.unwrap();
    let forgotten = redlock.enqueue("c", TTL).await.unwrap();
    drop(held);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(ledger.sum("unpolled_grants_total{}"), 1.0);
    assert_eq!(ledger.sum("waiters{}"), 1.0, "it keeps its number");
    drop((expired, forgotten));
    redlock.shutdown().await;
    assert_eq!(
        (ledger.sum("waiters{}"), ledger.sum("holders{}")),
        (0.0, 0.0)
    );
}

#[tokio::test(start_paused = true)]
async fn split_votes_are_counted() {
    let ledger = Arc::new(Ledger::default());
    let recorded = Recorded(ledger.clone());
    let _recorder = set_default_local_recorder(&recorded);
    let cluster = MemoryCluster::new(2);
    let client = async || with_defaults(&cluster).await;
    let (one, two) = (client().await, client().await);
    let slow = |place, millis| {
        cluster
            .node(place)
            .set_latency(Duration::from_millis(millis))
    };
    // Each is first on one node.
    let first = tokio::spawn({
        slow(0, 2);
        slow(1, 20);
        one.lock("a", TTL)
    });
    tokio::task::yield_now().await;
    slow(0, 20);
    slow(1, 2);
    let second = tokio::spawn(two.lock("a", TTL));
    let served = async |lock: tokio::task::JoinHandle<_>| drop(lock.await.unwrap());
    tokio::join!(served(first), served(second));
    assert!(ledger.sum("split_votes_total{}") >= 1.0);
    assert_eq!(ledger.values("wait_seconds{end=acquired}").len(), 2);
}
