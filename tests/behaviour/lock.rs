//! Locking, excluding, releasing: what the Python project's tests pin of a plain Redlock.

use std::time::Duration;

use redlock_fifo::{LeaseLost, LockError, ReleaseError};

use crate::{
    Kind,
    cluster::{Nodes, run, until},
};

const TTL: Duration = Duration::from_secs(10);

#[test]
fn released_lock_can_be_had_again() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let first = client.lock("shorts", TTL).await.unwrap();
        let token = first.fencing_token();
        first.release().await.unwrap();
        let second = client.lock("shorts", TTL).await.unwrap();
        assert!(second.fencing_token() > token);
        second.release().await.unwrap();
    });
}

#[test]
fn dropped_guard_frees_the_lock() {
    run(3, async |cluster| {
        let (client, other) = (cluster.client().await, cluster.client().await);
        drop(client.lock("shorts", TTL).await.unwrap());
        let guard = other.lock("shorts", TTL).await.unwrap();
        assert!(guard.is_held());
    });
}

#[test]
fn a_held_lock_excludes_and_the_second_caller_learns_why() {
    run(3, async |cluster| {
        let (client, other) = (cluster.client().await, cluster.client().await);
        let guard = client.lock("shorts", TTL).await.unwrap();
        let patience = Duration::from_millis(300);
        let refused = other.lock("shorts", TTL).wait_timeout(patience).await;
        match refused.unwrap_err() {
            LockError::TimedOut {
                position,
                holder_ttl,
            } => {
                assert_eq!(position, 0);
                let left = holder_ttl.expect("somebody holds");
                assert!(Duration::ZERO < left && left <= TTL, "{left:?}");
            }
            error => panic!("{error:?}"),
        }
        assert!(other.try_lock("shorts", TTL).await.unwrap().is_none());
        assert!(guard.is_held());
    });
}

#[test]
fn the_second_caller_learns_how_many_are_ahead() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let _guard = client.lock("shorts", TTL).await.unwrap();
        let _first = client.enqueue("shorts", TTL).await.unwrap();
        let _second = client.enqueue("shorts", TTL).await.unwrap();
        let patience = Duration::from_millis(300);
        let third = client.lock("shorts", TTL).wait_timeout(patience).await;
        assert!(
            matches!(third, Err(LockError::TimedOut { position: 2, .. })),
            "{third:?}"
        );
    });
}

#[test]
fn the_ttl_frees_the_lock_of_a_dead_holder() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let ttl = Duration::from_secs(1);
        cluster
            .dies(
                |builder| builder,
                async |client| client.lock("shorts", ttl).await.unwrap(),
            )
            .await;
        assert!(client.try_lock("shorts", TTL).await.unwrap().is_none());
        let guard = client.lock("shorts", TTL).await.unwrap();
        assert!(guard.is_held());
    });
}

#[test]
fn a_holder_that_does_not_extend_loses_to_the_next() {
    run(3, async |cluster| {
        let (client, other) = (cluster.client().await, cluster.client().await);
        let ttl = Duration::from_millis(500);
        let late = client.lock("shorts", ttl).auto_extend(false).await.unwrap();
        let guard = other.lock("shorts", TTL).await.unwrap();
        assert!(!late.is_held());
        assert_eq!(late.lost().await, LeaseLost::Expired);
        assert!(guard.fencing_token() > late.fencing_token());
        assert!(guard.is_held());
    });
}

#[test]
fn releasing_a_lost_lock_says_so_and_leaves_the_next_holder_alone() {
    run(3, async |cluster| {
        let (client, other) = (cluster.client().await, cluster.client().await);
        let brief = |name| {
            client
                .lock(name, Duration::from_millis(500))
                .auto_extend(false)
        };
        let (released, dropped) = (
            brief("shorts").await.unwrap(),
            brief("trousers").await.unwrap(),
        );
        let shorts = other.lock("shorts", TTL).await.unwrap();
        let trousers = other.lock("trousers", TTL).await.unwrap();
        // A node that had it not yet is asked again in the background.
        cluster.until_everywhere("shorts").await;
        cluster.until_everywhere("trousers").await;
        let held = [cluster.values("shorts"), cluster.values("trousers")];

        let lost = Err(ReleaseError::Lost(LeaseLost::Expired));
        assert_eq!(released.release().await, lost);
        drop(dropped);
        client.shutdown().await;

        assert_eq!([cluster.values("shorts"), cluster.values("trousers")], held);
        assert!(shorts.is_valid().await.unwrap());
        assert!(trousers.is_valid().await.unwrap());
    });
}

#[test]
fn another_clients_value_survives_our_release() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let guard = client.lock("shorts", TTL).auto_extend(false).await.unwrap();
        cluster.until_everywhere("shorts").await;
        cluster.delete(1, "shorts");
        assert!(cluster.set_nx(1, "shorts", "abcde", TTL));
        guard.release().await.unwrap();
        client.shutdown().await;
        let theirs = Some("abcde".to_owned());
        assert_eq!(cluster.values("shorts"), [None, theirs, None]);
        cluster.delete(1, "shorts");
    });
}

#[test]
fn a_quorum_of_many_nodes_locks() {
    run(Kind::MANY, async |cluster| {
        let client = cluster.client().await;
        for place in 0..(Kind::MANY - 1) / 2 {
            cluster.stop(place);
        }
        let guard = client.lock("shorts", TTL).await.unwrap();
        assert!(guard.is_valid().await.unwrap());
        guard.release().await.unwrap();
        assert!(client.lock("shorts", TTL).await.is_ok());
    });
}

#[test]
fn half_of_many_nodes_does_not_lock_and_keeps_no_key() {
    run(Kind::MANY, async |cluster| {
        let client = cluster.client().await;
        let down = Kind::MANY.div_ceil(2);
        (0..down).for_each(|place| cluster.stop(place));
        let refused = client.lock("shorts", TTL).await.unwrap_err();
        match &refused {
            LockError::NoQuorum(why) => {
                assert_eq!(why.needed(), Kind::MANY / 2 + 1);
                assert!(why.failures().len() >= down, "{refused}");
            }
            error => panic!("{error:?}"),
        }
        until("the partial votes are taken back", async || {
            (down..Kind::MANY).all(|place| cluster.value(place, "shorts").is_none())
        })
        .await;
    });
}

#[test]
fn of_two_at_once_one_has_the_lock_and_the_other_waits() {
    run(3, async |cluster| {
        let (client, other) = (cluster.client().await, cluster.client().await);
        for _ in 0..20 {
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(client.lock("shorts", TTL));
            tasks.spawn(other.lock("shorts", TTL));
            let winner = tasks.join_next().await.unwrap().unwrap().unwrap();
            cluster.until_waiting(&client, "shorts", 1).await;
            assert!(tasks.try_join_next().is_none());
            assert!(winner.is_held());
            winner.release().await.unwrap();
            let loser = tasks.join_next().await.unwrap().unwrap().unwrap();
            loser.release().await.unwrap();
        }
    });
}

#[test]
fn of_many_attempts_at_once_at_most_one_has_the_lock() {
    run(3, async |cluster| {
        let (client, other) = (cluster.client().await, cluster.client().await);
        for _ in 0..20 {
            let attempts = (0..8).map(|place| {
                let client = if place % 2 == 0 { &client } else { &other };
                client.try_lock("shorts", TTL)
            });
            let outcomes = futures::future::try_join_all(attempts).await.unwrap();
            let had: Vec<_> = outcomes.into_iter().flatten().collect();
            assert!(had.len() <= 1, "{had:?}");
            drop(had);
            let next = client.lock("shorts", TTL).await.unwrap();
            next.release().await.unwrap();
        }
    });
}

#[test]
fn ttls_down_to_twenty_milliseconds_work() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let mut last = 0;
        for _ in 0..10 {
            // On a busy machine six milliseconds for an answer, or twenty for a lease, may be too few.
            let mut had = None;
            until("a lease is had", async || {
                had = client.lock("shorts", Duration::from_millis(20)).await.ok();
                had.is_some()
            })
            .await;
            let guard = had.expect("just had");
            assert!(guard.fencing_token() > last);
            last = guard.fencing_token();
            let released = guard.release().await;
            assert!(
                matches!(released, Ok(()) | Err(ReleaseError::Lost(_))),
                "{released:?}"
            );
        }
    });
}

#[test]
fn unrelated_names_do_not_block_each_other() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        let names = [
            "a",
            "a__5",
            "a__1",
            "{a}:x",
            "{a}:redlock-fifo",
            "a:queue",
            "b",
        ];
        let mut guards = Vec::new();
        for name in names {
            let guard = client.try_lock(name, TTL).await.unwrap();
            guards.push(guard.unwrap_or_else(|| panic!("{name} is blocked")));
        }
        for name in names {
            assert!(client.try_lock(name, TTL).await.unwrap().is_none());
        }
        for suffix in ["queue", "waiters", "seq"] {
            let derived = format!("{{a}}:redlock-fifo:{suffix}");
            let refused = client.try_lock(derived, TTL).await;
            assert!(
                matches!(refused, Err(LockError::Argument(_))),
                "{refused:?}"
            );
        }
    });
}
