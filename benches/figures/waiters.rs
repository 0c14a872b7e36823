//! Long lines: what a handoff costs beside many waiters, and what a waiter and a guard cost.

use std::time::{Duration, Instant};

use redlock_fifo::{FifoRedlock, LockGuard, Ticket};

use crate::{
    TTL, builder, runtime,
    server::Server,
    servers,
    stats::{Sample, micros, ratio, table},
    usage::{Usage, cpu, server_cpu},
};

const HANDOFFS: usize = 300;

fn used_memory(server: &Server) -> i64 {
    let info = server.text(&["INFO", "memory"]);
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    line.and_then(|bytes| bytes.trim().parse().ok())
        .unwrap_or(0)
}

fn scripts(server: &Server) -> u64 {
    server.commandstats().get("evalsha").copied().unwrap_or(0)
}

/// Handoffs at the front of the line, from the call of release to the next guard.
async fn handoffs(line: &mut Vec<Ticket>, mut guard: LockGuard) -> (Sample, LockGuard) {
    let mut sample = Sample::default();
    line.reverse();
    for _ in 0..HANDOFFS.min(line.len()) {
        let Some(mut ticket) = line.pop() else { break };
        let start = Instant::now();
        let (released, next) = tokio::join!(guard.release(), ticket.acquire());
        sample.add(start.elapsed());
        released.expect("held");
        guard = next.expect("its turn");
    }
    (sample, guard)
}

pub(crate) fn run() {
    lines();
    idle();
}

fn lines() {
    let mut rows = Vec::new();
    let mut short = Duration::ZERO;
    for waiters in [10, 1_000, 10_000] {
        let servers = servers(5);
        let (sample, client_bytes, server_bytes) = runtime().block_on(async {
            let redlock: FifoRedlock = builder(&servers).connect().await.expect("nodes");
            let guard = redlock.lock("r", TTL).await.expect("free");
            let (before, served) = (Usage::now(), used_memory(&servers[0]));
            let mut line = Vec::new();
            for _ in 0..waiters {
                line.push(redlock.enqueue("r", TTL).await.expect("room"));
            }
            let bytes = before.kept() / waiters;
            let node = (used_memory(&servers[0]) - served) / waiters;
            let (mut sample, mut guard) = handoffs(&mut line, guard).await;
            while line.is_empty() && sample.len() < HANDOFFS {
                for _ in 0..waiters {
                    line.push(redlock.enqueue("r", TTL).await.expect("room"));
                }
                let more = handoffs(&mut line, guard).await;
                sample.extend(more.0);
                guard = more.1;
            }
            drop((guard, line));
            (sample, bytes, node)
        });
        if waiters == 10 {
            short = sample.median();
        }
        rows.push(vec![
            waiters.to_string(),
            micros(sample.median()),
            micros(sample.quantile(0.99)),
            format!("{:.2}", ratio(sample.median(), short)),
            client_bytes.to_string(),
            server_bytes.to_string(),
        ]);
    }
    let head = [
        "waiters",
        "handoff p50 µs",
        "p99 µs",
        "× that of 10",
        "client bytes a waiter",
        "node bytes a waiter",
    ];
    table(
        "Handoff at the front of a long line, five nodes",
        &head,
        &rows,
    );
}

fn idle() {
    let mut rows = Vec::new();
    // A hundred thousand at a ttl of 10 s are 150,000 renewals a second on five nodes: more than two cores can do.
    let minute = Duration::from_secs(60);
    for (name, count, waits, ttl) in [
        ("10,000 waiting", 10_000, true, TTL),
        ("10,000 held, ttl 10 s", 10_000, false, TTL),
        ("100,000 held, ttl 60 s", 100_000, false, minute),
    ] {
        let servers = servers(5);
        let row = runtime().block_on(async {
            let builder = builder(&servers).restart_grace(ttl.max(3 * TTL));
            let redlock = builder.connect().await.expect("nodes");
            let before = Usage::now();
            let (mut line, mut guards) = (Vec::new(), Vec::new());
            if waits {
                guards.push(redlock.lock("r", ttl).await.expect("free"));
            }
            for place in 0..count {
                if waits {
                    line.push(redlock.enqueue("r", ttl).await.expect("room"));
                } else {
                    let name = format!("r:{place}");
                    guards.push(redlock.lock(name, ttl).await.expect("free"));
                }
            }
            let bytes = before.kept() / count;
            tokio::time::sleep(ttl / 3).await;
            // A whole number of ticks, as most is done at once.
            let span = if ttl == TTL { TTL } else { ttl / 3 };
            let (calls, busy, node) = (scripts(&servers[0]), cpu(), server_cpu(&servers[..1]));
            tokio::time::sleep(span).await;
            let calls = scripts(&servers[0]) - calls;
            let (busy, node) = (cpu() - busy, server_cpu(&servers[..1]) - node);
            let lost = guards.iter().filter(|guard| !guard.is_held()).count();
            assert_eq!(lost, 0, "{name}");
            vec![
                name.to_owned(),
                bytes.to_string(),
                format!("{:.1}", calls as f64 / span.as_secs_f64()),
                format!("{:.1}", 100.0 * ratio(busy, span)),
                format!("{:.1}", 100.0 * ratio(node, span)),
            ]
        });
        rows.push(row);
    }
    let head = [
        "five nodes",
        "client bytes each",
        "script calls per node and second",
        "client CPU, % of a core",
        "CPU of each node, % of a core",
    ];
    table(
        "What waiting and holding cost while nothing happens",
        &head,
        &rows,
    );
}
