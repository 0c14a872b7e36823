//! Hours compressed: many leases of many resources while servers fail, and then all is as it was.
//!
//!     cargo test --release --test redis soak::                 # 5,000 leases of 500 resources
//!     SOAK=full cargo test --release --test redis soak::       # 100,000 of 10,000

use std::{
    env, fs,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::future::join_all;
use redlock_fifo::FifoRedlock;
use tokio::{runtime::Handle, time::timeout};

use crate::{
    process::{builder, now, servers, until},
    server::Server,
};

const TTL: Duration = Duration::from_secs(3);
const LOCKERS: usize = 40;
/// How many faults befall the servers, each while the next part of the leases is had.
const FAULTS: usize = 20;
/// What an allocator may keep of what was used meanwhile, in bytes.
const KEPT: u64 = 8 << 20;

/// Says to a child that it is the one who soaks.
const ORDER: &str = "REDLOCK_FIFO_SOAK";

/// In a process of its own, whose memory and tasks nobody else uses.
#[test]
fn nothing_piles_up_over_many_leases() {
    let status = Command::new(env::current_exe().unwrap())
        .args(["soak::soaking_process", "--exact", "--nocapture"])
        .env(ORDER, "soak")
        .status();
    assert!(status.unwrap().success(), "see above");
}

/// What the child runs; nothing where there is no order.
#[test]
fn soaking_process() {
    if env::var(ORDER).is_err() {
        return;
    }
    let full = env::var("SOAK").is_ok_and(|how| how == "full");
    let (leases, resources) = if full {
        (100_000, 10_000)
    } else {
        (5_000, 500)
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(soak(leases, resources));
}

async fn soak(leases: usize, resources: usize) {
    let servers = servers(3);
    let redlock = builder(&servers)
        .restart_grace(Duration::ZERO)
        .fifo_ephemeral_ttl(TTL)
        .connect()
        .await
        .unwrap();
    // The first use takes what is then kept for all others; so does the first fault.
    for fault in 0..5 {
        befall(&servers, fault, &redlock, leases / 100, resources).await;
    }
    settle(&redlock, &servers).await;
    let before = Use::now(&servers);

    let start = now();
    for fault in 0..FAULTS {
        befall(&servers, fault, &redlock, leases / FAULTS, resources).await;
    }
    println!(
        "{leases} leases of {resources} resources in {:?}",
        now() - start
    );
    settle(&redlock, &servers).await;

    until("tasks and connections are as they were", || {
        let after = Use::now(&servers);
        after.tasks <= before.tasks && after.connections == before.connections
    })
    .await;
    let after = Use::now(&servers);
    println!("before: {before:?}\nafter:  {after:?}");
    assert!(after.memory < before.memory + KEPT, "{before:?} {after:?}");
    redlock.shutdown().await;
    drop(redlock);
    until("no connection is left", || {
        servers.iter().all(|server| connections(server) == 1)
    })
    .await;
}

/// One fault, and meanwhile so many leases.
async fn befall(
    servers: &[Server],
    fault: usize,
    redlock: &FifoRedlock,
    leases: usize,
    resources: usize,
) {
    let server = &servers[fault % servers.len()];
    match fault % 5 {
        0 => server.pause(),
        1 => drop(server.command(&["CLIENT", "KILL", "TYPE", "normal"])),
        2 => server.kill(),
        3 => drop(server.command(&["SCRIPT", "FLUSH"])),
        _ => drop(server.command(&["FLUSHALL"])),
    }
    let next = AtomicUsize::new(fault * leases);
    let end = (fault + 1) * leases;
    let locker = async || {
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if turn >= end {
                return;
            }
            // Spread, but so that some meet.
            let resource = format!("r{}", turn / 3 * 7919 % resources);
            let lock = redlock.lock(resource, TTL);
            match turn % 5 {
                // Given up, in the middle of things.
                0 => drop(timeout(Duration::from_micros(turn as u64 % 7 * 100), lock).await),
                1 => drop(lock.await.unwrap()),
                _ => lock.await.unwrap().release().await.unwrap(),
            }
        }
    };
    join_all((0..LOCKERS).map(|_| locker())).await;
    match fault % 5 {
        0 => server.resume(),
        2 => server.restart(),
        _ => {}
    }
}

/// Waits until all nodes answer, and until nothing is left on them but counters, which expire.
async fn settle(redlock: &FifoRedlock, servers: &[Server]) {
    let all_answer = async || {
        let inspection = redlock.inspect("nobody's").await;
        inspection.is_ok_and(|all| all.nodes().iter().all(|node| node.error().is_none()))
    };
    while !all_answer().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("only counters are left", || {
        let mut keys = servers.iter().flat_map(Server::keys);
        keys.all(|key| key.ends_with(":redlock-fifo:seq"))
    })
    .await;
    for server in servers {
        let info = server.text(&["INFO", "keyspace"]);
        let Some(db) = info.lines().find_map(|line| line.strip_prefix("db0:")) else {
            continue;
        };
        let count = |name: &str| db.split(',').find_map(|field| field.strip_prefix(name));
        assert_eq!(count("keys="), count("expires="), "every counter expires");
    }
}

/// What is used on both sides.
#[derive(Debug)]
struct Use {
    memory: u64,
    tasks: usize,
    connections: Vec<u64>,
}

impl Use {
    fn now(servers: &[Server]) -> Self {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            memory: pages * 4096,
            tasks: Handle::current().metrics().num_alive_tasks(),
            connections: servers.iter().map(connections).collect(),
        }
    }
}

/// How many are connected, whoever asks among them.
fn connections(server: &Server) -> u64 {
    let info = server.text(&["INFO", "clients"]);
    let mut lines = info.lines();
    let count = lines.find_map(|line| line.strip_prefix("connected_clients:"));
    count.unwrap().parse().unwrap()
}
