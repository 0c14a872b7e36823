//! What the lock costs, each figure against the floor of the same run, as tables in Markdown.
//!
//! `cargo bench --bench figures` prints all of them, `cargo bench --bench figures -- handoff sick` those.
//! Ratios count, not times: floor and lock take turns, so that both see the same machine.

// A bench measures the time that the code it measures must not read.
#![allow(clippy::disallowed_methods)]

mod contention;
mod counts;
mod deaths;
mod floor;
mod handoff;
#[path = "../../tests/redis/chaos/proxy.rs"]
#[allow(dead_code)]
mod proxy;
#[path = "../../tests/common/server.rs"]
#[allow(dead_code)]
mod server;
mod sick;
mod stats;
mod throughput;
mod uncontended;
mod usage;
mod waiters;

use std::time::Duration;

use redlock_fifo::{FifoRedlock, FifoRedlockBuilder};
use server::Server;

const TTL: Duration = Duration::from_secs(10);

fn servers(nodes: usize) -> Vec<Server> {
    (0..nodes).map(|_| Server::start()).collect()
}

/// A builder with all `servers`, whose clients wait as long as it takes.
fn builder(servers: &[Server]) -> FifoRedlockBuilder {
    let builder = FifoRedlock::builder()
        .fifo_retry_count(None)
        .fifo_queue_length(None);
    let urls = servers.iter().map(Server::url);
    urls.fold(builder, FifoRedlockBuilder::node)
}

async fn client(servers: &[Server]) -> FifoRedlock {
    builder(servers).connect().await.expect("nodes")
}

/// Locks and releases until all nodes count alike: unequal counters cost a round of fencing.
async fn level(redlock: &FifoRedlock, servers: &[Server], resource: &str) {
    let key = format!("{{{resource}}}:redlock-fifo:seq");
    for _ in 0..50 {
        drop(redlock.lock(resource, TTL).await.expect("free"));
        let counters: Vec<String> = servers.iter().map(|s| s.text(&["GET", &key])).collect();
        if counters.windows(2).all(|pair| pair[0] == pair[1]) {
            return;
        }
    }
}

fn main() {
    if contention::is_worker() {
        return contention::work();
    }
    if deaths::is_victim() {
        return deaths::wait_for_death();
    }
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let figures: [(&str, fn()); 8] = [
        ("uncontended", uncontended::run),
        ("sick", sick::run),
        ("handoff", handoff::run),
        ("throughput", throughput::run),
        ("contention", contention::run),
        ("waiters", waiters::run),
        ("counts", counts::run),
        ("deaths", deaths::run),
    ];
    for (name, run) in figures {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            run();
        }
    }
}

/// A runtime as services have it.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}
