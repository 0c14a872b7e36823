//! Counts, which do not wobble: script calls per node, allocations and processor time per cycle.

use std::time::Duration;

use crate::{
    TTL, client, level, runtime,
    server::Server,
    servers,
    stats::table,
    uncontended::Sides,
    usage::{Usage, server_cpu},
};

const CYCLES: u32 = 200;

fn scripts(servers: &[Server]) -> u64 {
    let calls = |server: &Server| server.commandstats().get("evalsha").copied().unwrap_or(0);
    servers.iter().map(calls).sum()
}

fn per_node(calls: u64, servers: &[Server]) -> String {
    format!(
        "{:.2}",
        calls as f64 / servers.len() as f64 / f64::from(CYCLES)
    )
}

pub(crate) fn run() {
    let mut rows = Vec::new();
    for nodes in [1, 3, 5] {
        let servers = servers(nodes);
        let (cycles, handoffs) = runtime().block_on(async {
            let redlock = client(&servers).await;
            level(&redlock, &servers, "r").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let before = scripts(&servers);
            for _ in 0..CYCLES {
                let guard = redlock.lock("r", TTL).await.expect("free");
                guard.release().await.expect("held");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let cycles = scripts(&servers) - before;

            let waiting = client(&servers).await;
            let mut guard = redlock.lock("r", TTL).await.expect("free");
            let mut line = Vec::new();
            for _ in 0..CYCLES {
                line.push(waiting.enqueue("r", TTL).await.expect("room"));
            }
            let before = scripts(&servers);
            for mut ticket in line {
                let (released, next) = tokio::join!(guard.release(), ticket.acquire());
                released.expect("held");
                guard = next.expect("its turn");
            }
            guard.release().await.expect("held");
            tokio::time::sleep(Duration::from_millis(100)).await;
            (cycles, scripts(&servers) - before)
        });
        rows.push(vec![
            nodes.to_string(),
            per_node(cycles, &servers),
            per_node(handoffs, &servers),
        ]);
    }
    let head = [
        "nodes",
        "per uncontended cycle",
        "per handoff in a line of 200",
    ];
    table("Script calls per node", &head, &rows);
    usage();
}

/// What cycles took, in sums of rounds.
#[derive(Default)]
struct Spent {
    allocations: f64,
    bytes: f64,
    cpu_micros: f64,
    node_micros: f64,
}

/// What a cycle takes of this process; that of the driver is in all of them.
fn usage() {
    const ROUNDS: usize = 20;
    const CYCLES: usize = 100;
    let mut rows = Vec::new();
    for nodes in [1, 3, 5] {
        let servers = servers(nodes);
        let mut spent = [Spent::default(), Spent::default(), Spent::default()];
        runtime().block_on(async {
            let sides = Sides::connect(&servers).await;
            // They take turns, as a machine is faster at times; the first rounds warm up.
            for round in 0..ROUNDS + 2 {
                for (side, spent) in spent.iter_mut().enumerate() {
                    let (busy, usage) = (server_cpu(&servers), Usage::now());
                    sides.block(side, CYCLES).await;
                    let (each, busy) = (usage.per(CYCLES), server_cpu(&servers) - busy);
                    if round >= 2 {
                        spent.allocations += each.allocations;
                        spent.bytes += each.bytes;
                        spent.cpu_micros += each.cpu_micros;
                        spent.node_micros += busy.as_secs_f64() * 1e6 / (CYCLES * nodes) as f64;
                    }
                }
            }
        });
        let names = ["the lock", "same scripts by hand", "bare"];
        for (name, spent) in names.iter().zip(spent) {
            let each = |sum: f64| sum / ROUNDS as f64;
            rows.push(vec![
                nodes.to_string(),
                (*name).to_owned(),
                format!("{:.1}", each(spent.allocations)),
                format!("{:.0}", each(spent.bytes)),
                format!("{:.0}", each(spent.cpu_micros)),
                format!("{:.0}", each(spent.node_micros)),
            ]);
        }
    }
    let head = [
        "nodes",
        "what",
        "allocations",
        "bytes allocated",
        "client CPU µs",
        "CPU µs of each node",
    ];
    table(
        "What an uncontended cycle takes of the client and of a node",
        &head,
        &rows,
    );
}
