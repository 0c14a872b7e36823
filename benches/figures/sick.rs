//! The same on five nodes of which one is hung, dead or slow.

use std::time::Duration;

use redlock_fifo::FifoRedlockBuilder;

use crate::{
    builder,
    proxy::{Link, Way},
    runtime,
    server::Server,
    servers,
    stats::{Sample, micros, ratio, table},
    uncontended::by_crate,
};

const ROUNDS: usize = 20;
const CYCLES: usize = 100;

pub(crate) fn run() {
    let mut rows = Vec::new();
    for sickness in ["hung", "dead", "20 ms slow"] {
        let servers = servers(5);
        // Only what is to be slow is behind a proxy.
        let (direct, slow) = servers.split_at(if sickness == "20 ms slow" { 4 } else { 5 });
        let beyond = runtime();
        let socket = |server: &Server| server.socket_url().replacen("redis+unix://", "", 1);
        let links = slow
            .iter()
            .map(|server| Link::start(&beyond, socket(server).into()));
        let links: Vec<Link> = links.collect();
        let (mut healthy, mut sick) = (Sample::default(), Sample::default());
        runtime().block_on(async {
            let builder = links
                .iter()
                .map(Link::url)
                .fold(builder(direct), FifoRedlockBuilder::node);
            let redlock = builder.connect().await.expect("nodes");
            by_crate(&redlock, "r", CYCLES).await;
            for _ in 0..ROUNDS {
                healthy.extend(by_crate(&redlock, "r", CYCLES).await);
            }
            match sickness {
                "hung" => servers[4].pause(),
                "dead" => servers[4].kill(),
                _ => links[0].set(Way::Slow(Duration::from_millis(10))),
            }
            for _ in 0..ROUNDS {
                sick.extend(by_crate(&redlock, "r", CYCLES).await);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if sickness == "hung" {
                servers[4].resume();
            }
        });
        rows.push(vec![
            sickness.to_owned(),
            micros(healthy.median()),
            micros(sick.median()),
            format!("{:.2}", ratio(sick.median(), healthy.median())),
            format!("{:.2}", ratio(sick.quantile(0.99), healthy.quantile(0.99))),
        ]);
    }
    let head = [
        "one of five is",
        "healthy p50 µs",
        "p50 µs",
        "× healthy p50",
        "p99 × healthy p99",
    ];
    table("Uncontended, one of five nodes sick", &head, &rows);
}
