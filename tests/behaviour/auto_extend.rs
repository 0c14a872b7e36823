//! Leases that extend themselves.

use std::time::Duration;

use redlock_fifo::{ArgumentError, ExtendError, FifoRedlock, LeaseLost, LockGuard};
use tokio::time::sleep;

use crate::cluster::run;

const TTL: Duration = Duration::from_millis(1500);
const EVERY: Duration = Duration::from_millis(400);

/// A guard that does not extend itself.
async fn lock_plainly(client: &FifoRedlock, ttl: Duration) -> LockGuard {
    let lock = client.lock("shorts", ttl).auto_extend(false);
    lock.await.expect("it is free")
}

#[test]
fn a_guard_outlives_its_ttl_by_itself() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("shorts", TTL).await.unwrap();
        sleep(TTL * 2).await;
        assert!(guard.is_valid().await.unwrap());
        assert!(client.try_lock("shorts", TTL).await.unwrap().is_none());
    });
}

#[test]
fn asking_whether_it_is_valid_keeps_no_lease_from_being_renewed() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("shorts", TTL).await.unwrap();
        for _ in 0..20 {
            sleep(TTL / 10).await;
            assert!(guard.is_valid().await.unwrap());
        }
    });
}

#[test]
fn started_extension_outlives_the_ttl_until_it_is_stopped() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = lock_plainly(&client, TTL).await;
        guard.start_auto_extend(EVERY, TTL).unwrap();
        sleep(TTL * 2).await;
        assert!(guard.is_valid().await.unwrap());
        guard.stop_auto_extend();
        assert_eq!(guard.lost().await, LeaseLost::Expired);
        assert!(client.lock("shorts", TTL).await.is_ok());
    });
}

#[test]
fn extension_can_be_started_and_stopped_again() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = lock_plainly(&client, TTL).await;
        for _ in 0..2 {
            guard.start_auto_extend(EVERY, TTL).unwrap();
            guard.stop_auto_extend();
            guard.stop_auto_extend();
        }
        guard.start_auto_extend(EVERY, TTL).unwrap();
        sleep(TTL * 2).await;
        assert!(guard.is_valid().await.unwrap());
    });
}

#[test]
fn extension_started_twice_is_an_error() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = lock_plainly(&client, TTL).await;
        guard.start_auto_extend(EVERY, TTL).unwrap();
        let twice = guard.start_auto_extend(EVERY, TTL);
        assert_eq!(twice, Err(ExtendError::AutoExtendRunning));
        let guard = client.lock("trousers", TTL).await.unwrap();
        let twice = guard.start_auto_extend(EVERY, TTL);
        assert_eq!(twice, Err(ExtendError::AutoExtendRunning));
        assert!(guard.is_held());
    });
}

#[test]
fn extension_of_a_lost_lease_cannot_be_started() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = lock_plainly(&client, Duration::from_millis(300)).await;
        guard.lost().await;
        let late = guard.start_auto_extend(EVERY, TTL);
        assert_eq!(late, Err(ExtendError::Lost(LeaseLost::Expired)));
    });
}

#[test]
fn an_interval_in_which_the_lease_would_end_is_refused() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = lock_plainly(&client, TTL).await;
        for every in [TTL * 2, TTL, TTL * 3 / 4] {
            let refused = guard.start_auto_extend(every, TTL);
            let too_long = |error| {
                matches!(
                    error,
                    ExtendError::Argument(ArgumentError::IntervalTooLong { .. })
                )
            };
            assert!(refused.is_err_and(too_long), "{every:?}");
        }
        guard.start_auto_extend(TTL / 2, TTL).unwrap();
    });
}

#[test]
fn a_lease_that_cannot_be_extended_is_lost() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("shorts", TTL).await.unwrap();
        cluster.stop(0);
        cluster.stop(1);
        assert_eq!(guard.lost().await, LeaseLost::Expired);
        assert!(!guard.is_valid().await.unwrap());
    });
}

#[test]
fn extension_never_brings_a_flushed_lock_back() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("shorts", TTL).await.unwrap();
        (0..3).for_each(|place| cluster.flush(place));
        assert_eq!(guard.lost().await, LeaseLost::QuorumLost);
        assert!(!guard.is_valid().await.unwrap());
        sleep(TTL).await;
        assert_eq!(cluster.values("shorts"), [None, None, None]);
        let next = client.try_lock("shorts", TTL).await.unwrap();
        let next = next.expect("it is free");
        drop(guard);
        sleep(TTL).await;
        assert!(next.is_valid().await.unwrap());
    });
}

#[test]
fn extension_repairs_a_minority_that_forgot() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("shorts", TTL).await.unwrap();
        cluster.until_everywhere("shorts").await;
        cluster.flush(1);
        cluster.until_everywhere("shorts").await;
        assert!(guard.is_valid().await.unwrap());
    });
}

#[test]
fn a_guard_that_may_hold_no_longer_is_lost() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let lock = client.lock("shorts", TTL).max_hold(TTL * 2);
        let guard = lock.await.unwrap();
        sleep(TTL).await;
        assert!(guard.is_held());
        assert_eq!(guard.lost().await, LeaseLost::MaxHold);
        let next = client.lock("shorts", TTL).await.unwrap();
        assert!(next.is_held());
    });
}

#[test]
fn a_forgotten_guard_holds_no_longer_than_it_may() {
    run(3, async |cluster| {
        let client = cluster
            .client_with(|builder| builder.max_hold(TTL * 2))
            .await;
        std::mem::forget(client.lock("shorts", TTL).await.unwrap());
        sleep(TTL).await;
        assert!(client.try_lock("shorts", TTL).await.unwrap().is_none());
        let next = client.lock("shorts", TTL).wait_forever().await.unwrap();
        assert!(next.is_held());
    });
}

#[test]
fn a_panic_in_the_section_ends_its_extension_and_releases() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("shorts", Duration::from_secs(60)).await;
        let guard = guard.unwrap();
        let panics = tokio::spawn(async move {
            assert!(!guard.is_held(), "as a bug in the user's code would");
        });
        assert!(panics.await.unwrap_err().is_panic());
        let lock = client.lock("shorts", TTL);
        let next = lock.wait_timeout(Duration::from_secs(20)).await;
        assert!(next.unwrap().is_held());
    });
}
