//! Servers that restart empty, hang or die.

use std::time::Duration;

use redlock_fifo::{FifoRedlock, LockGuard};
use tokio::sync::mpsc;

use crate::{
    process::{builder, client, now, residue, servers, until},
    server::Server,
};

const TTL: Duration = Duration::from_secs(3);

/// Who holds `r` on this server, by the name of its client.
fn holder(server: &Server) -> Option<String> {
    let id: Option<String> =
        redis::from_redis_value(server.command(&["GET", "r"])).expect("a text or nil");
    Some(id?.split(':').nth(2).expect("a name").to_owned())
}

async fn named(servers: &[Server], name: &str) -> FifoRedlock {
    // As long as the leases, so that the waiters are served soon after the restarts.
    let builder = builder(servers).client_name(name).restart_grace(TTL);
    builder.connect().await.expect("connected")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_a_held_lease_survives_a_restart_of_every_node() {
    let servers = servers(5);
    let holding = named(&servers, "holder").await;
    let guard = holding.lock("r", TTL).await.expect("free");

    let (sender, mut served) = mpsc::unbounded_channel::<(usize, LockGuard)>();
    let mut waiting = Vec::new();
    for place in 0..3 {
        let redlock = named(&servers, &format!("waiter {place}")).await;
        let mut ticket = redlock.enqueue("r", TTL).await.expect("enqueued");
        let sender = sender.clone();
        waiting.push((
            redlock,
            tokio::spawn(async move {
                let guard = ticket.acquire().await.expect("acquired");
                sender.send((place, guard)).expect("the test listens");
            }),
        ));
    }

    for server in &servers {
        server.restart();
        until("the lease stands again on the restarted node", || {
            assert!(guard.is_held());
            holder(server).as_deref() == Some("holder")
        })
        .await;
    }
    assert!(guard.is_valid().await.expect("all answer"));
    assert!(served.try_recv().is_err(), "nobody was served meanwhile");

    let mut token = guard.fencing_token();
    guard.release().await.expect("held until now");
    for place in 0..3 {
        let (who, guard) = served.recv().await.expect("served");
        assert_eq!(who, place, "in order of their tickets");
        assert!(guard.fencing_token() > token, "S2");
        token = guard.fencing_token();
        guard.release().await.expect("held");
    }
    for (redlock, task) in waiting {
        task.await.expect("no panic");
        redlock.shutdown().await;
    }
    holding.shutdown().await;
    assert_eq!(residue(&servers, "r"), [""; 0]);
}

/// The medians of 50 `lock`s and `release`s.
async fn medians(redlock: &FifoRedlock) -> (Duration, Duration) {
    let (mut locks, mut releases) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let asked = now();
        let guard = redlock
            .lock("r", Duration::from_secs(10))
            .await
            .expect("free");
        let acquired = now();
        guard.release().await.expect("held");
        releases.push(now() - acquired);
        locks.push(acquired - asked);
    }
    locks.sort();
    releases.sort();
    (locks[25], releases[25])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l4_a_hung_or_dead_minority_costs_no_latency() {
    let servers = servers(5);
    let redlock = client(&servers).await;
    let healthy = medians(&redlock).await;
    servers[1].pause();
    let hung = medians(&redlock).await;
    servers[3].pause();
    let two_hung = medians(&redlock).await;
    servers[1].resume();
    servers[3].resume();
    servers[1].kill();
    let dead = medians(&redlock).await;
    println!(
        "lock, release: healthy {healthy:?}, hung {hung:?}, two hung {two_hung:?}, dead {dead:?}"
    );
    // Far below the 500 ms that a node is waited for, and more than what a busy machine adds.
    let noise = Duration::from_millis(10);
    for (lock, release) in [hung, two_hung, dead] {
        assert!(lock < 5 * healthy.0 + noise, "lock: {lock:?}");
        assert!(release < 5 * healthy.1 + noise, "release: {release:?}");
    }
}
