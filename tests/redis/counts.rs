//! How many commands it costs, as the servers counted them.

use std::{collections::BTreeMap, time::Duration};

use redlock_fifo::{FifoRedlock, LockGuard};
use tokio::time::sleep;

use crate::{
    process::{client, residue, servers, until},
    server::Server,
};

/// What the scripts call; the servers count that too, and it is no round trip.
const WITHIN_SCRIPTS: [&str; 15] = [
    "get",
    "set",
    "del",
    "pttl",
    "pexpire",
    "zadd",
    "zrem",
    "zcard",
    "zrange",
    "zrank",
    "zrangebyscore",
    "zscore",
    "time",
    "publish",
    "incr",
];

/// Forgets what was sent so far.
fn reset(servers: &[Server]) {
    for server in servers {
        server.command(&["CONFIG", "RESETSTAT"]);
    }
}

/// What the server was sent since then: how many script calls, how many signs of life were asked for, and which other commands.
fn sent(server: &Server) -> (u64, u64, Vec<String>) {
    let mut calls: BTreeMap<String, u64> = server.commandstats();
    let scripts = calls.remove("evalsha").unwrap_or_default();
    let pings = match scripts {
        0 => calls.remove("time").unwrap_or_default(),
        // The scripts ask for it as well.
        _ => 0,
    };
    // Redis 6 does not name subcommands; the driver introduces itself where the server knows how.
    let own = [
        "config|resetstat",
        "config",
        "info",
        "client|setinfo",
        "client",
    ];
    let others = calls.into_keys();
    let others = others
        .filter(|name| !own.contains(&name.as_str()))
        .filter(|name| scripts == 0 || !WITHIN_SCRIPTS.contains(&name.as_str()));
    (scripts, pings, others.collect())
}

async fn cycle(redlock: &FifoRedlock) {
    let guard = lock(redlock, "r", Duration::from_secs(10)).await;
    guard.release().await.expect("held");
}

async fn lock(redlock: &FifoRedlock, resource: &str, ttl: Duration) -> LockGuard {
    redlock.lock(resource, ttl).await.expect("free")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uncontended_cycle_takes_two_calls_per_node() {
    for count in [1, 3, 5] {
        let servers = servers(count);
        // A counter from the very start of a server may not be told from one of the run before, and starts anew.
        sleep(Duration::from_secs(2)).await;
        let redlock = client(&servers).await;
        // With its first request a client takes note that its nodes are up, and asks again about what it has there.
        cycle(&redlock).await;
        until("released on all", || residue(&servers, "r").is_empty()).await;
        reset(&servers);
        for turn in 0..50 {
            // Names that no node has a counter of, too: all must start it alike.
            let name = if turn < 25 { "r" } else { &format!("r{turn}") };
            let guard = lock(&redlock, name, Duration::from_secs(10)).await;
            guard.release().await.expect("held");
        }
        // So that the slowest node has been sent all as well.
        redlock.shutdown().await;
        for server in &servers {
            let (scripts, _, others) = sent(server);
            assert_eq!(scripts, 100, "of {count} nodes");
            assert_eq!(others, [""; 0], "of {count} nodes");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_client_sends_nothing_but_pings() {
    let servers = servers(3);
    let redlock = client(&servers).await;
    cycle(&redlock).await;
    // The slowest node may still have the release before it.
    until("released on all", || residue(&servers, "r").is_empty()).await;
    reset(&servers);
    sleep(Duration::from_secs(10)).await;
    for server in &servers {
        let (scripts, pings, others) = sent(server);
        assert_eq!((scripts, others), (0, Vec::new()));
        assert!(pings <= 11, "{pings}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_three_times_per_ttl() {
    let ttl = Duration::from_secs(1);
    let servers = servers(3);
    let redlock = client(&servers).await;
    let guard = lock(&redlock, "r", ttl).await;
    reset(&servers);
    sleep(5 * ttl).await;
    assert!(guard.is_held());
    for server in &servers {
        let (scripts, _, others) = sent(server);
        println!("{scripts} renewals in 5 ttls");
        assert!((10..=16).contains(&scripts), "{scripts}");
        assert_eq!(others, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_leases_and_waiters_of_one_client_share_their_calls() {
    let ttl = Duration::from_secs(3);
    let servers = servers(3);
    let redlock = client(&servers).await;
    let mut guards = Vec::new();
    let mut tickets = Vec::new();
    for number in 0..100 {
        let resource = format!("r{number}");
        guards.push(lock(&redlock, &resource, ttl).await);
        tickets.push(redlock.enqueue(resource, ttl).await.expect("enqueued"));
    }
    reset(&servers);
    sleep(ttl).await;
    assert!(guards.iter().all(LockGuard::is_held));
    for server in &servers {
        let (scripts, _, others) = sent(server);
        println!("{scripts} calls in one ttl");
        // One for each would make 1800: a renewal each second, and a poll of each head every 200 ms.
        assert!(scripts <= 180, "{scripts}");
        assert_eq!(others, [""; 0]);
    }
}
