//! The same on five nodes of which one is hung, dead or slow.

use std::time::Duration;

use crate::{
    client, runtime, servers,
    stats::{Sample, micros, ratio, table},
    uncontended::by_crate,
};

const ROUNDS: usize = 20;
const CYCLES: usize = 100;

pub(crate) fn run() {
    let mut rows = Vec::new();
    for sickness in ["hung", "dead"] {
        let servers = servers(5);
        let (mut healthy, mut sick) = (Sample::default(), Sample::default());
        runtime().block_on(async {
            let redlock = client(&servers).await;
            by_crate(&redlock, "r", CYCLES).await;
            for _ in 0..ROUNDS {
                healthy.extend(by_crate(&redlock, "r", CYCLES).await);
            }
            match sickness {
                "hung" => servers[4].pause(),
                _ => servers[4].kill(),
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
