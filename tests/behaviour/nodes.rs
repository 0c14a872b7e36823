//! Nodes that are slow, hang, die and come back.

use std::time::Duration;

use crate::cluster::{now, run, until};

const TTL: Duration = Duration::from_secs(10);

#[test]
fn a_hung_minority_is_not_waited_for() {
    run(5, async |cluster| {
        // Longer than any noise, so that waiting for one of them just once is seen.
        let timeout = Duration::from_secs(5);
        let ttl = timeout * 3;
        let client = cluster
            .client_with(|builder| builder.node_timeout(timeout))
            .await;
        cluster.pause(1);
        cluster.pause(3);
        let start = now();
        let guard = client.lock("shorts", ttl).await.unwrap();
        assert!(guard.is_valid().await.unwrap());
        guard.extend(ttl).await.unwrap();
        let queued = client.enqueue("shorts", ttl).await.unwrap();
        guard.release().await.unwrap();
        let mut queued = queued;
        let next = queued.acquire().await.unwrap();
        next.release().await.unwrap();
        assert!(client.try_lock("shorts", ttl).await.unwrap().is_some());
        assert!(start.elapsed() < timeout, "{:?}", start.elapsed());
    });
}

#[test]
fn a_dead_minority_is_not_waited_for() {
    run(3, async |cluster| {
        let timeout = Duration::from_secs(5);
        let client = cluster
            .client_with(|builder| builder.node_timeout(timeout))
            .await;
        cluster.stop(2);
        let start = now();
        for _ in 0..3 {
            let guard = client.lock("shorts", timeout * 3).await.unwrap();
            let mut next = client.enqueue("shorts", timeout * 3).await.unwrap();
            guard.release().await.unwrap();
            next.acquire().await.unwrap().release().await.unwrap();
        }
        assert!(start.elapsed() < timeout, "{:?}", start.elapsed());
    });
}

#[test]
fn a_node_that_hung_during_a_lease_is_clean_afterwards() {
    run(3, async |cluster| {
        let client = cluster.client().await;
        cluster.pause(0);
        let guard = client.lock("shorts", TTL).await.unwrap();
        guard.release().await.unwrap();
        cluster.resume(0);
        until("the node is clean", async || {
            cluster.value(0, "shorts").is_none()
        })
        .await;
    });
}

#[test]
fn a_restarted_node_takes_part_again() {
    run(3, async |cluster| {
        let client = cluster
            .client_with(|builder| builder.restart_grace(Duration::ZERO))
            .await;
        cluster.restart(0);
        cluster.until_all_answer(&client).await;
        cluster.stop(1);
        let lock = client.lock("shorts", Duration::from_secs(2));
        let guard = lock.await.unwrap();
        assert!(guard.is_valid().await.unwrap());
        guard.release().await.unwrap();
    });
}

#[test]
fn a_lease_survives_nodes_that_restart_one_by_one() {
    run(3, async |cluster| {
        let client = cluster
            .client_with(|builder| builder.restart_grace(Duration::ZERO))
            .await;
        let ttl = Duration::from_secs(3);
        let guard = client.lock("shorts", ttl).await.unwrap();
        cluster.until_everywhere("shorts").await;
        let mut waiter = client.enqueue("shorts", ttl).await.unwrap();
        let held = cluster.value(0, "shorts");
        for place in 0..3 {
            cluster.restart(place);
            cluster.until_all_answer(&client).await;
            until("the node has the lease again", async || {
                cluster.value(place, "shorts") == held
            })
            .await;
        }
        assert!(guard.is_valid().await.unwrap());
        guard.release().await.unwrap();
        waiter.acquire().await.unwrap().release().await.unwrap();
    });
}
