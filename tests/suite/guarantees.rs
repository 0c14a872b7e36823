//! A test per promise, named by it, on memory nodes under virtual time.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake},
    time::Duration,
};

use futures::FutureExt;
use redlock_fifo::{
    FifoRedlock, FifoRedlockBuilder, LeaseLost, LockError, MemoryCluster, MemoryNode,
};
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_test::{assert_pending, assert_ready, task::spawn};

use crate::rig::ends;

const TTL: Duration = Duration::from_secs(10);
const EPHEMERAL: Duration = Duration::from_secs(5);

fn builder(cluster: &MemoryCluster) -> FifoRedlockBuilder {
    FifoRedlock::builder()
        .memory(cluster)
        .fifo_retry_count(None)
}

async fn client(cluster: &MemoryCluster) -> FifoRedlock {
    builder(cluster).connect().await.unwrap()
}

/// Nothing may be left once the clients are shut down.
async fn assert_no_residue(cluster: &MemoryCluster, clients: &[&FifoRedlock]) {
    for client in clients {
        client.shutdown().await;
    }
    for node in cluster.nodes() {
        assert_eq!(node.used(), [""; 0], "{node:?}");
    }
}

/// Lets the background tasks catch up, without time passing.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn s1_of_many_at_once_one_holds() {
    let cluster = MemoryCluster::new(5);
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(client(&cluster).await);
    }
    let attempts = clients.iter().map(|client| client.try_lock("r", TTL));
    let guards: Vec<_> = futures::future::join_all(attempts).await;
    let held = guards
        .iter()
        .filter(|guard| matches!(guard, Ok(Some(_))))
        .count();
    assert!(held <= 1, "{held}");
    drop(guards);
    assert_no_residue(&cluster, &clients.iter().collect::<Vec<_>>()).await;
}

/// Keys that are deleted by hand void S1 until the holder is told: then it must be told.
#[tokio::test(start_paused = true)]
async fn s1_a_lease_whose_quorum_is_gone_does_not_come_back() {
    // Each node's answer comes by itself, and the first ones while the others are still believed in.
    for lags in [[0, 0, 0], [0, 20, 40], [40, 0, 20], [20, 40, 0]] {
        let cluster = MemoryCluster::new(3);
        let (first, second) = (client(&cluster).await, client(&cluster).await);
        let guard = first.lock("r", TTL).await.unwrap();
        for (node, lag) in cluster.nodes().zip(lags) {
            node.set_latency(Duration::from_millis(lag));
            node.delete("r");
        }
        let other = second.lock("r", TTL).await.unwrap();
        other.release().await.unwrap();
        let lost = timeout(TTL / 3 + Duration::from_millis(100), guard.lost());
        assert_eq!(lost.await, Ok(LeaseLost::QuorumLost), "{lags:?}");
        assert_no_residue(&cluster, &[&first, &second]).await;
    }
}

/// What one node forgot is put back all the same, two round trips after it was found out.
#[tokio::test(start_paused = true)]
async fn l5_what_a_minority_forgot_is_put_back_at_once() {
    for lags in [[0, 0, 0], [0, 20, 40], [40, 0, 20], [20, 40, 0]] {
        let cluster = MemoryCluster::new(3);
        let redlock = client(&cluster).await;
        let guard = redlock.lock("r", TTL).await.unwrap();
        settle().await;
        for (node, lag) in cluster.nodes().zip(lags) {
            node.set_latency(Duration::from_millis(lag));
        }
        cluster.node(0).delete("r");
        sleep(TTL / 3 + Duration::from_millis(3 * 40)).await;
        assert!(cluster.node(0).get("r").is_some(), "{lags:?}");
        guard.release().await.unwrap();
        assert_no_residue(&cluster, &[&redlock]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn s2_tokens_rise_across_wiped_nodes_and_idle_times() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let mut last = 0;
    for round in 0..12 {
        sleep(Duration::from_millis([1, 1000, 100_000][round % 3])).await;
        match round % 4 {
            1 => cluster.node(round % 3).restart(),
            2 => cluster.node(round % 3).flush(),
            3 => cluster.nodes().for_each(|node| node.flush()),
            _ => {}
        }
        let guard = redlock.lock("r", TTL).await.unwrap();
        assert!(guard.fencing_token() > last, "round {round}");
        last = guard.fencing_token();
        guard.release().await.unwrap();
    }
    assert_no_residue(&cluster, &[&redlock]).await;
}

#[tokio::test(start_paused = true)]
async fn s2_unequal_counters_are_written_to_a_quorum_first() {
    let cluster = MemoryCluster::new(3);
    let (one, two) = (client(&cluster).await, client(&cluster).await);
    cluster.node(2).stop();
    drop(one.lock("r", TTL).await.unwrap());
    settle().await;
    let ahead = one.lock("r", TTL).await.unwrap();
    let token = ahead.fencing_token();
    ahead.release().await.unwrap();
    // Now node 2 is the only one that lags, and node 0 is gone.
    cluster.node(2).restart();
    sleep(Duration::from_secs(31)).await;
    cluster.node(0).stop();
    assert!(two.lock("r", TTL).await.unwrap().fencing_token() > token);
}

#[tokio::test(start_paused = true)]
async fn s3_lost_is_said_before_any_node_gives_the_lease_away() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let ttl = Duration::from_millis(300);
    let guard = redlock.lock("r", ttl).auto_extend(false).await.unwrap();
    settle().await;
    while guard.is_held() {
        assert!(cluster.nodes().all(|node| node.get("r").is_some()));
        advance(Duration::from_millis(1)).await;
    }
    assert_eq!(guard.validity(), Duration::ZERO);
    assert_eq!(guard.lost().await, LeaseLost::Expired);
}

#[tokio::test(start_paused = true)]
async fn s4_what_a_hung_node_was_asked_does_nothing_when_it_wakes() {
    let cluster = MemoryCluster::new(3);
    let (one, two) = (client(&cluster).await, client(&cluster).await);
    cluster.node(0).pause();
    let guard = one.lock("r", TTL).await.unwrap();
    guard.release().await.unwrap();
    sleep(Duration::from_secs(2)).await;
    cluster.node(0).resume();
    assert_eq!(cluster.node(0).get("r"), None);
    let guard = two.lock("r", TTL).await.unwrap();
    assert!(cluster.nodes().all(|node| node.get("r").is_some()));
    drop(guard);
    assert_no_residue(&cluster, &[&one, &two]).await;
}

#[tokio::test(start_paused = true)]
async fn s5_a_node_that_restarted_gives_no_vote_that_counts() {
    let cluster = MemoryCluster::new(3);
    sleep(Duration::from_secs(100)).await;
    let (one, two) = (client(&cluster).await, client(&cluster).await);
    let ttl = Duration::from_secs(20);
    let guard = one.lock("r", ttl).auto_extend(false).await.unwrap();
    // One of the holder's nodes forgets, another cannot be asked: two are left, and one of them forgot.
    cluster.node(0).restart();
    cluster.node(1).stop();
    let refused = two.try_lock("r", ttl).await;
    assert!(
        matches!(refused, Err(LockError::NoQuorum(_)) | Ok(None)),
        "{refused:?}"
    );
    let mut next = spawn(two.lock("r", ttl).wait_forever());
    while guard.is_held() {
        assert_pending!(next.poll());
        advance(Duration::from_millis(100)).await;
        settle().await;
    }
    assert!(timeout(Duration::from_secs(40), next).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn f1_who_was_recorded_first_is_served_first() {
    let cluster = MemoryCluster::new(5);
    let clients = [
        client(&cluster).await,
        client(&cluster).await,
        client(&cluster).await,
    ];
    let first = clients[0].lock("r", TTL).await.unwrap();
    let mut tickets = Vec::new();
    for turn in 0..16 {
        tickets.push(clients[turn % 3].enqueue("r", TTL).await.unwrap());
    }
    drop(first);
    let mut last = 0;
    for mut ticket in tickets {
        let guard = ticket.acquire().await.unwrap();
        assert!(guard.fencing_token() > last);
        last = guard.fencing_token();
        guard.release().await.unwrap();
    }
    assert_no_residue(&cluster, &clients.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(start_paused = true)]
async fn f2_a_live_waiter_is_never_evicted() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let guard = redlock.lock("r", TTL).await.unwrap();
    let mut ticket = redlock.enqueue("r", TTL).await.unwrap();
    sleep(Duration::from_secs(3600)).await;
    let later = redlock.enqueue("r", TTL).await.unwrap();
    assert_eq!((ticket.position(), later.position()), (0, 1));
    drop(guard);
    ticket.acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn f3_dead_waiters_are_skipped_together() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let guard = redlock.lock("r", TTL).await.unwrap();
    leave_dead_waiters(&cluster);
    let mut ticket = redlock.enqueue("r", TTL).await.unwrap();
    assert_eq!(ticket.position(), 5);
    let released = Instant::now();
    drop(guard);
    let guard = ticket.acquire().await.unwrap();
    assert!(
        released.elapsed() <= EPHEMERAL + Duration::from_secs(1),
        "{:?}",
        released.elapsed()
    );
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn f3_who_waits_behind_the_dead_asks_when_their_lease_ends() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let guard = redlock.lock("r", TTL).await.unwrap();
    leave_dead_waiters(&cluster);
    let released = Instant::now();
    drop(guard);
    // The last keep-alive comes shortly before the end of that lease, and the next one long after it.
    sleep(Duration::from_millis(1600)).await;
    let mut ticket = redlock.enqueue("r", TTL).await.unwrap();
    let guard = ticket.acquire().await.unwrap();
    let took = released.elapsed();
    assert!(took <= EPHEMERAL + Duration::from_millis(10), "{took:?}");
    guard.release().await.unwrap();
}

/// Five waiters of a client whose runtime is gone: nobody keeps or takes back what it left.
fn leave_dead_waiters(cluster: &MemoryCluster) {
    let other = cluster.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let dying = client(&other).await;
            for _ in 0..5 {
                std::mem::forget(dying.enqueue("r", TTL).await.unwrap());
            }
            std::mem::forget(dying);
        });
    })
    .join()
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn f4_nobody_passes_a_waiter() {
    let cluster = MemoryCluster::new(3);
    let (one, two) = (client(&cluster).await, client(&cluster).await);
    let guard = one.lock("r", TTL).await.unwrap();
    let mut ticket = one.enqueue("r", TTL).await.unwrap();
    drop(guard);
    assert!(two.try_lock("r", TTL).await.unwrap().is_none());
    let mut newcomer = spawn(two.lock("r", TTL).wait_forever());
    assert_pending!(newcomer.poll());
    let guard = ticket.acquire().await.unwrap();
    settle().await;
    assert_pending!(newcomer.poll());
    drop(guard);
    newcomer.await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn l1_a_waiter_goes_on_when_the_quorum_is_back() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let guard = redlock.lock("r", TTL).await.unwrap();
    let mut ticket = redlock.enqueue("r", TTL).await.unwrap();
    cluster.node(0).pause();
    cluster.node(1).pause();
    drop(guard);
    sleep(Duration::from_secs(3)).await;
    cluster.nodes().for_each(|node| node.resume());
    let acquired = timeout(Duration::from_secs(20), ticket.acquire())
        .await
        .unwrap();
    acquired.unwrap().release().await.unwrap();
    assert_no_residue(&cluster, &[&redlock]).await;
}

#[tokio::test(start_paused = true)]
async fn l2_a_dead_holder_costs_what_is_left_of_its_lease() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    for node in cluster.nodes() {
        assert!(node.set_nx("r", "a client that died", TTL));
    }
    let asked = Instant::now();
    let guard = redlock.lock("r", TTL).wait_forever().await.unwrap();
    assert!(asked.elapsed() >= TTL && asked.elapsed() <= TTL + Duration::from_millis(200));
    guard.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn l3_split_votes_resolve_without_a_ttl() {
    let cluster = MemoryCluster::new(5);
    for (place, node) in cluster.nodes().enumerate() {
        node.set_latency(Duration::from_millis(2 + 3 * place as u64));
    }
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(client(&cluster).await);
    }
    let started = Instant::now();
    let cycles = clients.iter().map(|client| async {
        let guard = client.lock("r", TTL).wait_forever().await.unwrap();
        guard.release().await.unwrap();
    });
    futures::future::join_all(cycles).await;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    assert_no_residue(&cluster, &clients.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(start_paused = true)]
async fn l4_a_hung_or_dead_minority_costs_nothing() {
    let cluster = MemoryCluster::new(5);
    let redlock = client(&cluster).await;
    cluster.node(0).pause();
    cluster.node(3).stop();
    let started = Instant::now();
    for _ in 0..10 {
        let guard = redlock.lock("r", TTL).await.unwrap();
        guard.release().await.unwrap();
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn l5_a_lease_survives_a_restart_of_every_node() {
    let cluster = MemoryCluster::new(5);
    sleep(Duration::from_secs(100)).await;
    let clients = [client(&cluster).await, client(&cluster).await];
    let guard = clients[0].lock("r", TTL).await.unwrap();
    let mut tickets = Vec::new();
    for turn in 0..3 {
        tickets.push(clients[turn % 2].enqueue("r", TTL).await.unwrap());
    }
    settle().await;
    let holder = cluster.node(0).get("r");
    assert!(holder.is_some());
    for node in cluster.nodes() {
        node.restart();
        let repaired = async {
            while node.get("r") != holder {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(TTL, repaired).await.unwrap();
        assert!(guard.is_held());
    }
    assert!(guard.is_valid().await.unwrap());
    guard.release().await.unwrap();
    for mut ticket in tickets {
        ticket.acquire().await.unwrap().release().await.unwrap();
    }
    assert_no_residue(&cluster, &clients.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(start_paused = true)]
async fn c1_a_dropped_lock_future_leaves_nothing() {
    for latency in [0, 5, 700] {
        for polls in 1..12 {
            let cluster = MemoryCluster::new(3);
            cluster.node(1).set_latency(Duration::from_millis(latency));
            let (one, two) = (client(&cluster).await, client(&cluster).await);
            let held = (polls % 2 == 0).then_some(one.lock("r", TTL));
            let held = match held {
                Some(lock) => Some(lock.await.unwrap()),
                None => None,
            };
            let mut lock = spawn(two.lock("r", TTL));
            for _ in 0..polls {
                if lock.poll().is_ready() {
                    break;
                }
                advance(Duration::from_millis(1)).await;
            }
            drop(lock);
            drop(held);
            assert_no_residue(&cluster, &[&one, &two]).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn c2_an_acquire_that_is_dropped_keeps_the_place() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let guard = redlock.lock("r", TTL).await.unwrap();
    let mut ticket = redlock.enqueue("r", TTL).await.unwrap();
    let mut later = spawn(redlock.lock("r", TTL).wait_forever());
    assert_pending!(later.poll());
    for _ in 0..20 {
        assert!(
            timeout(Duration::from_millis(700), ticket.acquire())
                .await
                .is_err()
        );
    }
    drop(guard);
    let guard = ticket.acquire().await.unwrap();
    settle().await;
    assert_pending!(later.poll());
    guard.release().await.unwrap();
    assert!(matches!(
        ticket.acquire().await,
        Err(LockError::TicketSpent)
    ));
}

#[tokio::test(start_paused = true)]
async fn c3_a_dropped_guard_is_released() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let guard = redlock.lock("r", TTL).await.unwrap();
    let lost = guard.lost();
    drop(guard);
    assert_eq!(lost.await, LeaseLost::Released);
    let dropped = Instant::now();
    let guard = redlock.lock("r", TTL).await.unwrap();
    assert_eq!(dropped.elapsed(), Duration::ZERO);
    let panicked = tokio::spawn(async move {
        let _guard = guard;
        panic!("in the section");
    });
    assert!(panicked.await.is_err());
    assert_no_residue(&cluster, &[&redlock]).await;
}

#[tokio::test(start_paused = true)]
async fn c3_a_lease_that_was_once_longer_is_taken_back_for_as_long() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let guard = redlock.lock("r", TTL).await.unwrap();
    // From now on it is renewed for a second, but nothing shortens what the nodes have.
    guard.extend(Duration::from_secs(1)).await.unwrap();
    settle().await;
    cluster.node(2).set_latency(Duration::from_secs(10));
    drop(guard);
    sleep(Duration::from_secs(7)).await;
    cluster.node(2).set_latency(Duration::ZERO);
    assert_no_residue(&cluster, &[&redlock]).await;
}

#[tokio::test(start_paused = true)]
async fn c4_a_grant_that_nobody_polls_is_passed_on() {
    let cluster = MemoryCluster::new(3);
    let (one, two) = (client(&cluster).await, client(&cluster).await);
    let guard = one.lock("r", TTL).await.unwrap();
    let mut forgotten = spawn(one.lock("r", TTL).wait_forever());
    assert_pending!(forgotten.poll());
    let mut next = two.enqueue("r", TTL).await.unwrap();
    drop(guard);
    let granted = Instant::now();
    let guard = next.acquire().await.unwrap();
    assert!(granted.elapsed() <= EPHEMERAL + Duration::from_millis(500));
    // Polled again, it is first in line again.
    assert_pending!(forgotten.poll());
    settle().await;
    let last = two.enqueue("r", TTL).await.unwrap();
    assert_eq!(last.position(), 1);
    guard.release().await.unwrap();
    settle().await;
    let guard = assert_ready!(forgotten.poll()).unwrap();
    drop((guard, last));
    assert_no_residue(&cluster, &[&one, &two]).await;
}

#[test]
fn c4_a_grant_whose_votes_run_out_unpolled_keeps_nobody_busy() {
    ends(async || {
        let cluster = MemoryCluster::new(3);
        let holder = client(&cluster).await;
        let redlock = builder(&cluster).auto_extend(false).connect().await;
        let redlock = redlock.unwrap();
        let guard = holder.lock("r", TTL).await.unwrap();
        let mut ticket = redlock.enqueue("r", TTL / 10).await.unwrap();
        drop(guard);
        settle().await;
        // Polled just once: its votes are fenced, and nobody takes them then. They end before the grant
        // is passed on, as they grew from a lease that is older than it.
        assert!(ticket.acquire().now_or_never().is_none());
        sleep(2 * EPHEMERAL).await;
        ticket.acquire().await.unwrap().release().await.unwrap();
    });
}

#[test]
fn f1_a_fence_that_takes_long_costs_no_place() {
    ends(async || {
        let cluster = MemoryCluster::new(3);
        sleep(Duration::from_secs(60)).await;
        let (first, second) = (client(&cluster).await, client(&cluster).await);
        first.lock("r", TTL).await.unwrap().release().await.unwrap();
        settle().await;
        // The counters differ, and of three nodes one is in its grace: both others must be fenced.
        cluster.node(2).flush();
        cluster.node(1).restart();
        for (place, latency) in [10, 40, 10].into_iter().enumerate() {
            let latency = Duration::from_millis(latency);
            cluster.node(place).set_latency(latency);
        }
        let lock = first.lock("r", 3 * TTL);
        let waits = tokio::spawn(lock.wait_forever().into_future());
        sleep(Duration::from_millis(12)).await;
        cluster.node(2).pause();
        let mut ticket = second.enqueue("r", TTL).await.unwrap();
        sleep(EPHEMERAL + Duration::from_secs(1)).await;
        cluster.node(2).resume();
        let served = tokio::spawn(async move { ticket.acquire().await });
        let guard = timeout(Duration::from_secs(2), waits).await;
        let guard = guard.expect("who is polled is served").unwrap().unwrap();
        assert!(!served.is_finished());
        guard.release().await.unwrap();
        served.await.unwrap().unwrap().release().await.unwrap();
    });
}

/// The counter of node 1 runs ahead of the others'.
async fn let_node_1_run_ahead(cluster: &MemoryCluster, asker: &FifoRedlock) {
    cluster.node(0).pause();
    cluster.node(2).pause();
    for _ in 0..5 {
        assert!(asker.enqueue("r", TTL).await.is_err());
    }
    cluster.node(0).resume();
    cluster.node(2).resume();
    sleep(Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn f1_a_ticket_that_was_granted_at_once_and_stood_aside_is_first_again() {
    let cluster = MemoryCluster::new(3);
    let (one, two) = (client(&cluster).await, client(&cluster).await);
    drop(one.lock("r", TTL).await.unwrap());
    settle().await;
    let_node_1_run_ahead(&cluster, &one).await;

    cluster.node(2).set_latency(Duration::from_millis(80));
    let mut first = one.enqueue("r", TTL).await.unwrap();
    cluster.node(2).set_latency(Duration::ZERO);
    sleep(EPHEMERAL * 2).await;
    // Nobody took it, so it was passed on. Whoever asks now hears nothing of node 1.
    cluster.node(1).set_latency(Duration::from_millis(80));
    let guard = two.lock("r", TTL).await.unwrap();
    let mut second = two.enqueue("r", TTL).await.unwrap();
    cluster.node(1).set_latency(Duration::ZERO);
    assert!(first.acquire().now_or_never().is_none());
    sleep(Duration::from_secs(2)).await;
    guard.release().await.unwrap();
    tokio::select! {
        biased;
        guard = second.acquire() => panic!("the second was first: {guard:?}"),
        guard = first.acquire() => guard.unwrap().release().await.unwrap(),
    }
    second.acquire().await.unwrap().release().await.unwrap();
    assert_no_residue(&cluster, &[&one, &two]).await;
}

#[tokio::test(start_paused = true)]
async fn f1_a_ticket_is_out_only_when_a_quorum_has_its_number() {
    let cluster = MemoryCluster::new(3);
    let [holder, first, second] = [
        client(&cluster).await,
        client(&cluster).await,
        client(&cluster).await,
    ];
    let held = holder.lock("r", TTL).await.unwrap();
    settle().await;
    let_node_1_run_ahead(&cluster, &first).await;

    // The first hears of nodes 0 and 1 in time, the second of nodes 0 and 2, and overtakes on the way.
    cluster.node(0).set_latency(Duration::from_millis(40));
    cluster.node(2).set_latency(Duration::from_millis(80));
    let mut one = first.enqueue("r", TTL).await.unwrap();
    cluster.node(0).set_latency(Duration::ZERO);
    cluster.node(1).set_latency(Duration::from_millis(80));
    cluster.node(2).set_latency(Duration::ZERO);
    let mut two = second.enqueue("r", TTL).await.unwrap();
    cluster.node(1).set_latency(Duration::ZERO);
    sleep(Duration::from_secs(2)).await;
    held.release().await.unwrap();
    tokio::select! {
        biased;
        guard = two.acquire() => panic!("the second was first: {guard:?}"),
        guard = one.acquire() => guard.unwrap().release().await.unwrap(),
    }
    two.acquire().await.unwrap().release().await.unwrap();
    assert_no_residue(&cluster, &[&holder, &first, &second]).await;
}

#[tokio::test(start_paused = true)]
async fn c3_leaving_is_confirmed_also_just_after_the_turn_was_passed_on() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let ticket = redlock.enqueue("r", TTL).await.unwrap();
    settle().await;
    cluster
        .nodes()
        .for_each(|node| node.set_latency(Duration::from_millis(100)));
    // Nobody takes it: its votes are given up, but no node has heard of that when it leaves.
    sleep(EPHEMERAL + Duration::from_millis(1)).await;
    assert!(cluster.nodes().all(|node| node.get("r").is_some()));
    ticket.leave().await.unwrap();
    let has = |node: &MemoryNode| node.get("r").is_some();
    assert!(cluster.nodes().filter(|node| has(node)).count() < 2);
    assert_no_residue(&cluster, &[&redlock]).await;
}

/// Shuts its client down when it is woken, and notes whether there was anything to wait for.
struct ShutsDown {
    client: FifoRedlock,
    had_to_wait: AtomicBool,
}

impl Wake for ShutsDown {
    fn wake(self: Arc<Self>) {
        let waits = self.client.shutdown().now_or_never().is_none();
        self.had_to_wait.fetch_or(waits, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn c3_who_hears_of_a_loss_and_shuts_down_waits_for_the_release() {
    let cluster = MemoryCluster::new(3);
    let redlock = client(&cluster).await;
    let guard = redlock.lock("r", TTL).auto_extend(false).await.unwrap();
    let waker = Arc::new(ShutsDown {
        client: redlock.clone(),
        had_to_wait: AtomicBool::new(false),
    });
    let mut lost = guard.lost();
    let context = waker.clone().into();
    let polled = Pin::new(&mut lost).poll(&mut Context::from_waker(&context));
    assert!(polled.is_pending());
    sleep(TTL).await;
    assert!(waker.had_to_wait.load(Ordering::Relaxed));
    assert_no_residue(&cluster, &[&redlock]).await;
}
