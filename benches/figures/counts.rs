//! Counts, which do not wobble: script calls per node, and what a killed process costs.

use std::time::{Duration, Instant};

use crate::{
    TTL, builder, client, level, runtime,
    server::Server,
    servers,
    stats::{millis, table},
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
    deaths();
}

/// A holder whose process is gone: its connections are open, nothing renews. `mem::forget` of a guard that
/// does not extend itself leaves the nodes the same way.
fn deaths() {
    let mut rows = Vec::new();
    for ttl in [1_000, 3_000] {
        let servers = servers(5);
        let ttl = Duration::from_millis(ttl);
        let late = runtime().block_on(async {
            let dies = builder(&servers).connect().await.expect("nodes");
            let lives = client(&servers).await;
            let start = Instant::now();
            let guard = dies.lock("r", ttl).auto_extend(false).await.expect("free");
            std::mem::forget(guard);
            let next = lives.lock("r", TTL).await.expect("its turn");
            drop(next);
            start.elapsed().saturating_sub(ttl)
        });
        rows.push(vec![format!("{} ms", ttl.as_millis()), millis(late)]);
    }
    table(
        "A dead holder",
        &["ttl", "next guard after the end of the ttl, ms"],
        &rows,
    );
}
