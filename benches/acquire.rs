//! Uncontended lock and release on 1, 3 and 5 real servers, against the floor of the same run: the bare
//! `SET NX PX` and compare-and-delete of any Redlock, sent to all nodes at once, verdict at the majority.
//!
//! `cargo bench --bench acquire`; the ratios count, not the times.

#[path = "../tests/common/server.rs"]
#[allow(dead_code)]
mod server;

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::{StreamExt, stream::FuturesUnordered};
use redis::{Cmd, aio::MultiplexedConnection};
use redlock_fifo::FifoRedlock;
use server::Server;
use tokio::runtime::Runtime;

const TTL: Duration = Duration::from_secs(10);
const UNLOCK: &str =
    "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) end return 0";

fn acquire(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    for nodes in [1, 3, 5] {
        let servers: Vec<Server> = (0..nodes).map(|_| Server::start()).collect();
        let mut group = c.benchmark_group(format!("lock and release on {nodes}"));

        let floor = runtime.block_on(Floor::connect(&servers));
        group.bench_function("floor", |b| {
            b.to_async(&runtime).iter(|| async { floor.cycle().await });
        });

        let urls: Vec<String> = servers.iter().map(Server::url).collect();
        let redlock = runtime.block_on(FifoRedlock::connect(urls)).expect("nodes");
        group.bench_function("redlock-fifo", |b| {
            b.to_async(&runtime).iter(|| async {
                let guard = redlock.lock("bench", TTL).await.expect("free");
                black_box(guard.fencing_token());
                guard.release().await.expect("released");
            });
        });
        group.finish();
    }
}

/// The same round trips, by hand.
struct Floor {
    nodes: Vec<MultiplexedConnection>,
    lock: Cmd,
    unlock: Cmd,
}

impl Floor {
    async fn connect(servers: &[Server]) -> Self {
        let mut nodes = Vec::new();
        for server in servers {
            let client = redis::Client::open(server.url()).expect("a url");
            nodes.push(
                client
                    .get_multiplexed_async_connection()
                    .await
                    .expect("a node"),
            );
        }
        let mut lock = redis::cmd("SET");
        lock.arg("floor")
            .arg("0123456789abcdef0123")
            .arg("NX")
            .arg("PX")
            .arg(10_000);
        let mut unlock = redis::cmd("EVAL");
        unlock
            .arg(UNLOCK)
            .arg(1)
            .arg("floor")
            .arg("0123456789abcdef0123");
        Self {
            nodes,
            lock,
            unlock,
        }
    }

    async fn cycle(&self) {
        self.round(&self.lock).await;
        self.round(&self.unlock).await;
    }

    async fn round(&self, cmd: &Cmd) {
        let quorum = self.nodes.len() / 2 + 1;
        let call = |node: &MultiplexedConnection| {
            let (mut node, cmd) = (node.clone(), cmd.clone());
            async move { node.send_packed_command(&cmd).await }
        };
        let mut calls: FuturesUnordered<_> = self.nodes.iter().map(call).collect();
        for _ in 0..quorum {
            calls.next().await.expect("a call").expect("answered");
        }
        if !calls.is_empty() {
            tokio::spawn(async move { while calls.next().await.is_some() {} });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = acquire
}
criterion_main!(benches);
