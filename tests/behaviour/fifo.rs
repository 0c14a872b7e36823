//! First come, first served.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use redlock_fifo::{FifoRedlock, LockError, Ticket, Waiter};
use tokio::{sync::Mutex, task::JoinSet};

use crate::cluster::{Cluster, run, until};

const TTL: Duration = Duration::from_secs(10);

/// Serves `lines` and returns their names in the order in which they had the lock.
async fn serve(lines: Vec<(usize, Ticket)>) -> Vec<usize> {
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    // The last first, so that no order of polling helps.
    for (name, mut ticket) in lines.into_iter().rev() {
        let order = order.clone();
        tasks.spawn(async move {
            let guard = ticket.acquire().await.expect("its turn comes");
            order.lock().await.push((name, guard.fencing_token()));
            guard.release().await.expect("it was held");
        });
    }
    tasks.join_all().await;
    let order = order.lock().await;
    assert!(order.is_sorted_by_key(|(_, token)| *token), "{order:?}");
    order.iter().map(|(name, _)| *name).collect()
}

/// Clients that wait for as long as it takes.
async fn clients<const N: usize>(cluster: &Cluster) -> [FifoRedlock; N] {
    let mut clients = Vec::new();
    for name in 0..N {
        let tweak = cluster
            .client_with(|builder| builder.client_name(name.to_string()).fifo_retry_count(None));
        clients.push(tweak.await);
    }
    clients.try_into().expect("so many")
}

/// Who is in line, once all nodes say the same.
async fn agreed_order(client: &FifoRedlock) -> Vec<usize> {
    let names = |waiters: &[Waiter]| -> Vec<usize> {
        let name = |waiter: &Waiter| waiter.client_name()?.parse().ok();
        waiters.iter().filter_map(name).collect()
    };
    let mut agreed = Vec::new();
    until("all nodes agree", async || {
        let inspection = client.inspect("shorts").await.expect("all nodes answer");
        agreed = names(inspection.waiters());
        let nodes = inspection.nodes();
        nodes.iter().all(|node| names(node.waiters()) == agreed)
    })
    .await;
    agreed
}

#[test]
fn three_are_served_in_order_when_each_releases() {
    run(3, async |cluster| {
        let clients: [_; 3] = clients(cluster).await;
        let guard = clients[0].lock("shorts", TTL).await.unwrap();
        let mut lines = Vec::new();
        for (name, client) in clients.iter().enumerate() {
            lines.push((name, client.enqueue("shorts", TTL).await.unwrap()));
        }
        drop(guard);
        assert_eq!(serve(lines).await, [0, 1, 2]);
    });
}

#[test]
fn three_are_served_in_order_when_each_lets_its_lease_run_out() {
    run(3, async |cluster| {
        let ttl = Duration::from_millis(400);
        let client = cluster
            .client_with(|builder| builder.auto_extend(false).fifo_retry_count(None))
            .await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for name in 0..3 {
            let mut ticket = client.enqueue("shorts", ttl).await.unwrap();
            let order = order.clone();
            tasks.spawn(async move {
                let guard = ticket.acquire().await.unwrap();
                order.lock().await.push(name);
                guard.lost().await;
            });
        }
        tasks.join_all().await;
        assert_eq!(*order.lock().await, [0, 1, 2]);
    });
}

#[test]
fn those_who_come_one_after_another_are_served_so() {
    run(5, async |cluster| {
        let clients: [_; 4] = clients(cluster).await;
        let guard = clients[0].lock("shorts", TTL).await.unwrap();
        let mut lines = Vec::new();
        for name in 0..16 {
            let client = &clients[name % 4];
            lines.push((name, client.enqueue("shorts", TTL).await.unwrap()));
        }
        guard.release().await.unwrap();
        assert_eq!(serve(lines).await, (0..16).collect::<Vec<_>>());
    });
}

#[test]
fn a_burst_of_sixteen_is_served_in_the_order_that_the_nodes_agreed_on() {
    run(5, async |cluster| {
        let clients: [_; 16] = clients(cluster).await;
        let guard = clients[0].lock("shorts", TTL).await.unwrap();
        let enqueued = clients.iter().map(|client| client.enqueue("shorts", TTL));
        let tickets = futures::future::try_join_all(enqueued).await.unwrap();
        let agreed = agreed_order(&clients[0]).await;
        assert_eq!(agreed.len(), 16);
        guard.release().await.unwrap();
        assert_eq!(
            serve(tickets.into_iter().enumerate().collect()).await,
            agreed
        );
    });
}

#[test]
fn a_burst_on_a_free_lock_lets_everybody_through() {
    run(3, async |cluster| {
        let clients: [_; 4] = clients(cluster).await;
        let enqueued = (0..16).map(|place| clients[place % 4].enqueue("shorts", TTL));
        let tickets = futures::future::try_join_all(enqueued).await.unwrap();
        let served = serve(tickets.into_iter().enumerate().collect()).await;
        assert_eq!(served.len(), 16);
    });
}

#[test]
fn more_callers_of_a_client_than_the_line_is_long_are_served_in_order() {
    run(3, async |cluster| {
        let client = cluster
            .client_with(|builder| {
                builder
                    .fifo_queue_length(3)
                    .fifo_retry_count(None)
                    .fifo_retry_delay(Duration::from_millis(20))
            })
            .await;
        let guard = client.lock("shorts", TTL).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for name in 0..10 {
            let (mut lock, order) = (client.lock("shorts", TTL), order.clone());
            // It asks by being polled, and tasks need not run in the order they were made in.
            assert!((&mut lock).now_or_never().is_none(), "it is held");
            tasks.spawn(async move {
                let guard = lock.await.unwrap();
                order.lock().await.push(name);
                guard.release().await.unwrap();
            });
            cluster
                .until_waiting(&client, "shorts", 3.min(name + 1))
                .await;
        }
        guard.release().await.unwrap();
        tasks.join_all().await;
        assert_eq!(*order.lock().await, (0..10).collect::<Vec<_>>());
    });
}

#[test]
fn a_newcomer_does_not_pass_those_of_its_client_that_wait_for_room() {
    run(3, async |cluster| {
        let client = cluster
            .client_with(|builder| {
                builder
                    .fifo_queue_length(1)
                    .fifo_retry_count(None)
                    .fifo_retry_delay(Duration::from_millis(300))
            })
            .await;
        let guard = client.lock("shorts", TTL).await.unwrap();
        let first = client.enqueue("shorts", TTL).await.unwrap();
        let mut outside = client.lock("shorts", TTL);
        // Its first round is over long before it asks for the second time.
        let refused = tokio::time::timeout(Duration::from_millis(150), &mut outside).await;
        assert!(refused.is_err(), "there is no room");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        drop(first);
        guard.release().await.unwrap();
        for (name, lock) in [outside, client.lock("shorts", TTL)]
            .into_iter()
            .enumerate()
        {
            let order = order.clone();
            tasks.spawn(async move {
                let guard = lock.await.unwrap();
                order.lock().await.push(name);
                guard.release().await.unwrap();
            });
        }
        tasks.join_all().await;
        assert_eq!(*order.lock().await, [0, 1]);
    });
}

#[test]
fn nobody_barges() {
    run(3, async |cluster| {
        let [patient, eager] = clients(cluster).await;
        let guard = patient.lock("shorts", TTL).await.unwrap();
        let mut ticket = patient.enqueue("shorts", TTL).await.unwrap();
        let late = tokio::spawn(eager.lock("shorts", TTL));
        cluster.until_waiting(&eager, "shorts", 2).await;
        guard.release().await.unwrap();
        for _ in 0..20 {
            assert!(eager.try_lock("shorts", TTL).await.unwrap().is_none());
        }
        let next = ticket.acquire().await.unwrap();
        assert!(!late.is_finished());
        next.release().await.unwrap();
        late.await.unwrap().unwrap().release().await.unwrap();
    });
}

#[test]
fn a_waiter_that_gives_up_leaves_no_key() {
    run(3, async |cluster| {
        let [client, other] = clients(cluster).await;
        let guard = client.lock("pants", TTL).await.unwrap();
        let patience = Duration::from_millis(100);
        let refused = other.lock("pants", TTL).wait_timeout(patience).await;
        assert!(matches!(refused, Err(LockError::TimedOut { .. })));
        cluster.until_waiting(&client, "pants", 0).await;
        guard.release().await.unwrap();
        client.shutdown().await;
        assert_eq!(cluster.values("pants"), [None, None, None]);
    });
}

#[test]
fn a_ticket_that_leaves_moves_the_others_up() {
    run(3, async |cluster| {
        let [client] = clients(cluster).await;
        let guard = client.lock("pants", TTL).await.unwrap();
        let first = client.enqueue("pants", TTL).await.unwrap();
        let second = client.enqueue("pants", TTL).await.unwrap();
        let mut third = client.enqueue("pants", TTL).await.unwrap();
        until("all know their place", async || {
            [first.position(), second.position(), third.position()] == [0, 1, 2]
        })
        .await;
        first.leave().await.unwrap();
        drop(second);
        let mut positions = third.positions();
        while futures::StreamExt::next(&mut positions).await != Some(0) {}
        guard.release().await.unwrap();
        let guard = third.acquire().await.unwrap();
        // Used up, though the guard and the ticket are still there.
        let after = futures::StreamExt::next(&mut positions).await;
        assert_eq!(after, None);
        guard.release().await.unwrap();
    });
}
