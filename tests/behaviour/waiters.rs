//! Waiters that die, and what they cost the living.

use std::time::Duration;

use redlock_fifo::{FifoRedlock, FifoRedlockBuilder};

use crate::cluster::{now, run};

const TTL: Duration = Duration::from_secs(20);
const EPHEMERAL: Duration = Duration::from_secs(3);

fn short_lived(builder: FifoRedlockBuilder) -> FifoRedlockBuilder {
    builder.fifo_ephemeral_ttl(EPHEMERAL).fifo_retry_count(None)
}

#[test]
fn a_dead_waiter_is_skipped_and_the_others_keep_their_order_however_fast_one_polls() {
    run(3, async |cluster| {
        let a = cluster.client_with(short_lived).await;
        let c = cluster.client_with(short_lived).await;
        let d = cluster
            .client_with(|builder| short_lived(builder).fifo_retry_delay(Duration::ZERO))
            .await;
        let held = a.lock("pants", TTL).await.unwrap();
        let dies = async |b: FifoRedlock| b.enqueue("pants", TTL).await.unwrap();
        cluster.dies(short_lived, dies).await;
        let third = tokio::spawn(c.lock("pants", TTL));
        cluster.until_waiting(&a, "pants", 2).await;
        let fourth = tokio::spawn(d.lock("pants", TTL));
        cluster.until_waiting(&a, "pants", 3).await;
        held.release().await.unwrap();

        let third = third.await.unwrap().unwrap();
        cluster.until_waiting(&a, "pants", 1).await;
        assert!(!fourth.is_finished());
        assert!(third.is_valid().await.unwrap());
        third.release().await.unwrap();
        fourth.await.unwrap().unwrap().release().await.unwrap();
    });
}

#[test]
fn several_dead_waiters_cost_one_waiter_lease_together() {
    run(3, async |cluster| {
        let client = cluster.client_with(short_lived).await;
        let held = client.lock("pants", TTL).await.unwrap();
        let dead = 5;
        for _ in 0..dead {
            let dies = async |client: FifoRedlock| client.enqueue("pants", TTL).await.unwrap();
            cluster.dies(short_lived, dies).await;
        }
        let mut alive = client.enqueue("pants", TTL).await.unwrap();
        let start = now();
        held.release().await.unwrap();
        let guard = alive.acquire().await.unwrap();
        // One lease, a poll, and much room for a busy machine; five leases would be 15 s.
        assert!(start.elapsed() < EPHEMERAL * 2, "{:?}", start.elapsed());
        guard.release().await.unwrap();
    });
}

#[test]
fn a_dead_holder_before_dead_waiters_costs_its_ttl_and_one_waiter_lease() {
    run(3, async |cluster| {
        let client = cluster.client_with(short_lived).await;
        let ttl = Duration::from_secs(1);
        let dies = async |client: FifoRedlock| {
            let guard = client.lock("pants", ttl).await.unwrap();
            let first = client.enqueue("pants", ttl).await.unwrap();
            (guard, first, client.enqueue("pants", ttl).await.unwrap())
        };
        cluster.dies(short_lived, dies).await;
        let start = now();
        let guard = client.lock("pants", TTL).await.unwrap();
        assert!(
            start.elapsed() < ttl + EPHEMERAL * 2,
            "{:?}",
            start.elapsed()
        );
        guard.release().await.unwrap();
    });
}

#[test]
fn waiters_have_short_leases_and_the_holder_the_ttl_it_asked_for() {
    run(3, async |cluster| {
        let client = cluster.client_with(short_lived).await;
        let _guard = client.lock("pants", TTL).await.unwrap();
        let mut waiter = client.enqueue("pants", TTL).await.unwrap();
        let inspection = client.inspect("pants").await.unwrap();
        let lease = inspection.waiters().first().expect("it waits").lease();
        assert!(lease <= EPHEMERAL, "{lease:?}");
        let left = inspection.holder().expect("held").ttl().expect("it ends");
        assert!(left <= TTL && left > TTL / 2, "{left:?}");
        drop(_guard);
        let guard = waiter.acquire().await.unwrap();
        guard.extend(TTL).await.unwrap();
        let left = cluster.ttl(0, "pants").max(cluster.ttl(1, "pants"));
        assert!(left.expect("held") > TTL / 2, "{left:?}");
    });
}

#[test]
fn a_waiter_that_lives_keeps_its_place_for_longer_than_its_lease() {
    run(3, async |cluster| {
        let brief = Duration::from_millis(900);
        let client = cluster
            .client_with(|builder| short_lived(builder).fifo_ephemeral_ttl(brief))
            .await;
        let guard = client.lock("pants", TTL).await.unwrap();
        let mut ticket = client.enqueue("pants", TTL).await.unwrap();
        let late = tokio::spawn(client.lock("pants", TTL));
        cluster.until_waiting(&client, "pants", 2).await;
        tokio::time::sleep(brief * 3).await;
        guard.release().await.unwrap();
        let guard = ticket.acquire().await.unwrap();
        assert!(!late.is_finished());
        guard.release().await.unwrap();
        late.await.unwrap().unwrap().release().await.unwrap();
    });
}
