//! Extending by hand, and how long a lease can be trusted.

use std::time::Duration;

use redlock_fifo::{ArgumentError, ExtendError, LeaseLost};
use tokio::time::sleep;

use crate::cluster::run;

const TTL: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(500);

#[test]
fn an_extended_lock_outlives_its_first_ttl() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("shorts", SHORT).auto_extend(false).await;
        let guard = guard.unwrap();
        guard.extend(TTL).await.unwrap();
        sleep(SHORT + Duration::from_millis(100)).await;
        assert!(guard.is_held());
        assert!(guard.is_valid().await.unwrap());
    });
}

#[test]
fn an_expired_lock_cannot_be_extended() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("shorts", SHORT).auto_extend(false).await;
        let guard = guard.unwrap();
        sleep(SHORT + Duration::from_millis(250)).await;
        assert_eq!(
            guard.extend(TTL).await,
            Err(ExtendError::Lost(LeaseLost::Expired))
        );
        assert!(!guard.is_valid().await.unwrap());
        assert_eq!(cluster.values("shorts"), [None, None, None]);
    });
}

#[test]
fn an_extension_never_shortens_a_lease() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("shorts", TTL).auto_extend(false).await.unwrap();
        guard.extend(SHORT).await.unwrap();
        sleep(SHORT * 2).await;
        assert!(guard.is_valid().await.unwrap());
    });
}

#[test]
fn an_extension_to_zero_is_refused_and_keeps_the_lock() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("shorts", TTL).auto_extend(false).await.unwrap();
        for ttl in [Duration::ZERO, Duration::from_millis(2)] {
            let refused = guard.extend(ttl).await;
            assert!(
                matches!(
                    refused,
                    Err(ExtendError::Argument(ArgumentError::TtlTooShort { .. }))
                ),
                "{refused:?}"
            );
        }
        assert!(guard.is_valid().await.unwrap());
    });
}

#[test]
fn validity_is_the_ttl_less_the_drift_and_the_time_that_passed() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("pants", TTL).auto_extend(false).await.unwrap();
        let (validity, drift) = (guard.validity(), Duration::from_millis(102));
        assert!(validity <= TTL - drift, "{validity:?}");
        assert!(validity > TTL - Duration::from_secs(5), "{validity:?}");
        sleep(Duration::from_millis(20)).await;
        assert!(guard.validity() <= validity - Duration::from_millis(20));
    });
}

#[test]
fn a_lock_is_valid_within_its_validity_and_not_after_it() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let ttl = Duration::from_millis(1500);
        let guard = client.lock("pants", ttl).auto_extend(false).await.unwrap();
        assert!(guard.is_valid().await.unwrap());
        sleep(guard.validity() + Duration::from_millis(100)).await;
        assert!(!guard.is_valid().await.unwrap());
        assert!(!guard.is_held());
        assert_eq!(guard.validity(), Duration::ZERO);
    });
}

#[test]
fn a_lock_is_not_valid_once_a_majority_of_the_nodes_lost_it() {
    run(5, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("pants", TTL).auto_extend(false).await.unwrap();
        cluster.until_everywhere("pants").await;
        cluster.delete(0, "pants");
        cluster.delete(1, "pants");
        assert!(guard.is_valid().await.unwrap());
        // A minority is put right; a majority is not.
        cluster.until_everywhere("pants").await;
        // Nor by what is still under way for the minority.
        sleep(SHORT).await;
        (0..3).for_each(|node| cluster.delete(node, "pants"));
        assert!(!guard.is_valid().await.unwrap());
        assert_eq!(guard.lost().await, LeaseLost::QuorumLost);
    });
}

#[test]
fn a_lock_is_valid_while_one_node_is_down_or_hangs() {
    run(5, async |cluster| {
        let client = cluster.client().await;
        let ttl = Duration::from_secs(3);
        let guard = client.lock("pants", ttl).await.unwrap();
        cluster.until_everywhere("pants").await;
        cluster.stop(0);
        cluster.pause(1);
        assert!(guard.is_valid().await.unwrap());
        guard.extend(ttl).await.unwrap();
        assert!(guard.is_valid().await.unwrap());
        cluster.resume(1);
        guard.release().await.unwrap();
    });
}

#[test]
fn without_a_quorum_nobody_can_tell_and_the_lease_lives_on() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let ttl = Duration::from_secs(3);
        let guard = client.lock("pants", ttl).auto_extend(false).await.unwrap();
        cluster.stop(0);
        cluster.stop(1);
        let unknown = guard.is_valid().await;
        assert!(
            matches!(unknown, Err(ExtendError::NoQuorum(_))),
            "{unknown:?}"
        );
        let unknown = guard.extend(ttl).await;
        assert!(
            matches!(unknown, Err(ExtendError::NoQuorum(_))),
            "{unknown:?}"
        );
        assert!(guard.is_held());
        assert_eq!(guard.lost().await, LeaseLost::Expired);
    });
}
