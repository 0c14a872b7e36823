//! On healthy servers a lease stands on all of them, for its full ttl, soon after the guard is out.

use std::time::Duration;

use redlock_fifo::LockGuard;
use tokio::{
    runtime::Runtime,
    time::{sleep, timeout},
};

use crate::{
    chaos::proxy::{Link, Way},
    links::{carrier, link, over},
    process::{PATIENCE, client, now, servers, until},
    server::Server,
};

/// How long the rest may take on a busy machine; far below a renewal interval of the ttls here.
const SOON: Duration = Duration::from_secs(3);

/// What is left of `r` on each server, in milliseconds.
fn left(servers: &[Server]) -> Vec<i64> {
    let left = |server: &Server| server.number(&["PTTL", "r"]);
    servers.iter().map(left).collect()
}

/// Waits until every server has at least that much of `r`.
async fn stands_everywhere(servers: &[Server], least: Duration, what: &str) {
    let least = i64::try_from(least.as_millis()).expect("short");
    let deadline = now() + SOON;
    while left(servers).iter().any(|left| *left < least) {
        assert!(now() < deadline, "{what}: {:?}", left(servers));
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_after_every_handoff_all_servers_have_the_lease_for_its_full_ttl() {
    let ttl = Duration::from_secs(30);
    let servers = servers(3);
    let clients = [client(&servers).await, client(&servers).await];
    let mut guard = clients[0].lock("r", ttl).await.expect("free");
    for turn in 1..=60 {
        let mut next = clients[turn % 2].enqueue("r", ttl).await.expect("enqueued");
        guard.release().await.expect("held");
        guard = next.acquire().await.expect("served");
        let what = format!("handoff {turn}");
        stands_everywhere(&servers, ttl - SOON - SOON, &what).await;
    }
}

/// Links to the servers, each of which takes so many milliseconds there and as many back.
fn links(carrier: &Runtime, servers: &[Server], delays: [u64; 3]) -> Vec<Link> {
    let links = servers.iter().zip(delays).map(|(server, delay)| {
        let link = link(carrier, server);
        if delay > 0 {
            link.set(Way::Slow(Duration::from_millis(delay)));
        }
        link
    });
    links.collect()
}

#[test]
fn s1_a_deletion_on_one_server_makes_no_second_holder_of_a_lease_that_began_on_a_bare_quorum() {
    let ttl = Duration::from_secs(10);
    let carrier = carrier();
    let servers = servers(3);
    let links = links(&carrier, &servers, [0, 0, 10]);
    carrier.block_on(async {
        let (far, near) = (
            over(&links).await.expect("connected"),
            client(&servers).await,
        );
        far.inspect("r").await.expect("all are connected");
        sleep(Duration::from_millis(200)).await;
        let first = tokio::spawn(far.lock("r", ttl));
        until("it has two of three votes", || {
            servers[..2]
                .iter()
                .all(|server| server.number(&["EXISTS", "r"]) == 1)
        })
        .await;
        let second = tokio::spawn(near.lock("r", ttl).wait_forever());
        let first = first.await.expect("no panic").expect("free");
        until("the second stands in line", || {
            servers[..2]
                .iter()
                .all(|server| server.number(&["ZCARD", "{r}:redlock-fifo:queue"]) == 1)
        })
        .await;
        // Many round trips, but only a small part of a third of the ttl.
        sleep(Duration::from_millis(600)).await;
        servers[0].command(&["DEL", "r"]);
        let two = async {
            while !(second.is_finished() && first.is_held()) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let two = timeout(ttl, two).await;
        assert!(two.is_err(), "S1: two holders at once");
        first.release().await.expect("held");
        let second = timeout(PATIENCE, second).await.expect("served");
        let guard: LockGuard = second.expect("no panic").expect("served");
        guard.release().await.expect("held");
    });
}

#[test]
fn l6_asking_whether_it_is_valid_in_a_loop_keeps_no_lease_from_being_renewed() {
    let ttl = Duration::from_secs(3);
    let carrier = carrier();
    let servers = servers(3);
    let links = links(&carrier, &servers, [15; 3]);
    carrier.block_on(async {
        let redlock = over(&links).await.expect("connected");
        let guard = redlock.lock("r", ttl).await.expect("free");
        let until = now() + 2 * ttl;
        while now() < until {
            let valid = guard.is_valid().await;
            assert_eq!(valid, Ok(true), "L6, with {:?} left", left(&servers));
            sleep(Duration::from_millis(8)).await;
        }
        guard.release().await.expect("held");
    });
}
