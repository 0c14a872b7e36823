//! What the user is told: every cause has an error of its own, and none of them looks like "locked".

use std::time::Duration;

use redlock_fifo::{BuildError, LeaseLost, LockError, ReleaseError};

use crate::cluster::run;

const TTL: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_millis(300);

#[test]
fn a_held_lock_is_a_timeout_and_no_error_of_try_lock() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let _guard = client.lock("shorts", TTL).await.unwrap();
        let outcome = client.lock("shorts", TTL).wait_timeout(PATIENCE).await;
        assert!(
            matches!(outcome, Err(LockError::TimedOut { .. })),
            "{outcome:?}"
        );
        assert!(client.try_lock("shorts", TTL).await.unwrap().is_none());
    });
}

#[test]
fn the_set_patience_ends_after_so_many_polls() {
    run(3, async |cluster| {
        let client = cluster
            .client_with(|builder| {
                builder
                    .fifo_retry_count(3)
                    .retry_delay(Duration::from_millis(50))
                    .fifo_retry_delay(Duration::from_millis(50))
            })
            .await;
        let _guard = client.lock("shorts", TTL).await.unwrap();
        let outcome = client.lock("shorts", TTL).await;
        assert!(
            matches!(outcome, Err(LockError::TimedOut { .. })),
            "{outcome:?}"
        );
        let mut ticket = client.enqueue("shorts", TTL).await.unwrap();
        let outcome = ticket.acquire().await;
        assert!(
            matches!(outcome, Err(LockError::TimedOut { .. })),
            "{outcome:?}"
        );
        let outcome = ticket.acquire().await;
        assert!(
            matches!(outcome, Err(LockError::TicketSpent)),
            "{outcome:?}"
        );
    });
}

#[test]
fn a_full_line_is_said_to_be_full() {
    run(3, async |cluster| {
        let client = cluster
            .client_with(|builder| builder.fifo_queue_length(2))
            .await;
        let _guard = client.lock("shorts", TTL).await.unwrap();
        let _first = client.enqueue("shorts", TTL).await.unwrap();
        let _second = client.enqueue("shorts", TTL).await.unwrap();
        cluster.until_waiting(&client, "shorts", 2).await;
        let outcome = client.enqueue("shorts", TTL).await;
        assert!(
            matches!(outcome, Err(LockError::QueueFull { waiting: 2 })),
            "{outcome:?}"
        );
        let outcome = client.lock("shorts", TTL).wait_timeout(PATIENCE).await;
        assert!(
            matches!(outcome, Err(LockError::QueueFull { waiting: 2 })),
            "{outcome:?}"
        );
    });
}

#[test]
fn missing_nodes_are_named() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        cluster.stop(0);
        cluster.stop(2);
        let locked = client.lock("shorts", TTL).await.map(drop);
        let tried = client.try_lock("shorts", TTL).await.map(drop);
        let queued = client.enqueue("shorts", TTL).await.map(drop);
        let inspected = client.inspect("shorts").await.map(drop);
        for outcome in [locked, tried, queued, inspected] {
            let Err(LockError::NoQuorum(why)) = &outcome else {
                panic!("{outcome:?}");
            };
            assert_eq!(why.needed(), 2);
            assert!(why.failures().len() >= 2, "{why}");
        }
    });
}

#[test]
fn a_client_that_is_shut_down_says_so() {
    run(3, async |cluster| {
        let (client, other) = (cluster.client().await, cluster.client().await);
        let guard = other.lock("shorts", TTL).await.unwrap();
        let mine = client.lock("trousers", TTL).await.unwrap();
        let mut ticket = client.enqueue("shorts", TTL).await.unwrap();
        let waiting = tokio::spawn(client.lock("shorts", TTL));
        cluster.until_waiting(&other, "shorts", 2).await;

        client.shutdown().await;

        let outcomes = [
            waiting.await.unwrap().map(drop),
            ticket.acquire().await.map(drop),
            client.lock("shorts", TTL).await.map(drop),
            client.try_lock("shorts", TTL).await.map(drop),
            client.enqueue("shorts", TTL).await.map(drop),
        ];
        for outcome in outcomes {
            assert!(matches!(outcome, Err(LockError::ShutDown)), "{outcome:?}");
        }
        assert!(mine.is_valid().await.unwrap());
        mine.release().await.unwrap();
        guard.release().await.unwrap();
        let again = other.try_lock("shorts", TTL).await.unwrap();
        assert!(again.is_some(), "its places are free at once");
    });
}

#[test]
fn an_unconfirmed_release_is_not_a_lost_lease() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let ttl = Duration::from_secs(2);
        let guard = client.lock("shorts", ttl).await.unwrap();
        cluster.stop(0);
        cluster.stop(1);
        let outcome = guard.release().await;
        assert!(
            matches!(outcome, Err(ReleaseError::Unconfirmed(_))),
            "{outcome:?}"
        );
    });
}

#[test]
fn work_under_a_lease_that_was_lost_is_stopped_and_told() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let ttl = Duration::from_secs(1);
        let outcome = client
            .with_lock("shorts", ttl, async |_| {
                (0..3).for_each(|place| cluster.flush(place));
                std::future::pending::<()>().await;
            })
            .await;
        assert_eq!(outcome, Err(LockError::LeaseLost(LeaseLost::QuorumLost)));
        let value = client.with_lock("shorts", ttl, async |guard| guard.fencing_token());
        assert!(value.await.unwrap() > 0);
        assert!(client.try_lock("shorts", ttl).await.unwrap().is_some());
    });
}

#[test]
fn finished_work_is_not_thrown_away_for_an_unconfirmed_release() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let outcome = client
            .with_lock("shorts", Duration::from_secs(2), async |_| {
                cluster.stop(0);
                cluster.stop(1);
                42
            })
            .await;
        assert_eq!(outcome, Ok(42));
    });
}

#[test]
fn bad_arguments_cost_nothing() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        for (name, ttl) in [("", TTL), ("shorts", Duration::ZERO), ("shor{ts", TTL)] {
            let outcomes = [
                client.lock(name, ttl).await.map(drop),
                client.try_lock(name, ttl).await.map(drop),
                client.enqueue(name, ttl).await.map(drop),
                client.with_lock(name, ttl, async |_| ()).await,
            ];
            for outcome in outcomes {
                assert!(
                    matches!(outcome, Err(LockError::Argument(_))),
                    "{outcome:?}"
                );
            }
        }
        assert!(client.try_lock("shorts", TTL).await.unwrap().is_some());
    });
}

#[test]
fn a_bad_url_is_an_error_of_the_builder() {
    run(3, async |_| {
        let outcome = redlock_fifo::FifoRedlock::connect(["cat://hog"]).await;
        assert!(
            matches!(outcome, Err(BuildError::InvalidUrl { node: 0, .. })),
            "{outcome:?}"
        );
    });
}
