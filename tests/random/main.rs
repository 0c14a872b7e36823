//! Random programs over the public API, on memory nodes under virtual time.
//!
//! Where `tests/simulation` drives the inside of the client, this knows only what a user can call and what the
//! pages promise: settings, requests, guards and faults are drawn from a seed, and `world` judges what comes of it.
//!
//! | what | command |
//! |---|---|
//! | many seeds | `SEEDS=10000 cargo test --test random -- --nocapture` |
//! | from some seed on | `FROM=500 SEEDS=100 ...` |
//! | one seed, with its account | `SEED=42 cargo test --test random -- --nocapture` |
//! | without some promises, or some behaviours | `SKIP=L6,C4 WITHOUT=keep,late ...` |
//! | all failures, not only the first of each kind | `ALL=1 ...` |
//!
//! The seed decides all that is drawn here. The crate draws its request ids from the operating system, and ties are
//! broken by them: a failure that needs a tie comes back only in some of the runs of its seed (`TIMES=20`).

// A test may fail by panicking, and measures the time that the code under test must not read.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod actor;
#[path = "../common/chance.rs"]
mod chance;
mod drive;
mod faults;
mod run;
mod scenarios;
mod settings;
mod world;

use std::{collections::BTreeMap, env, str::FromStr};

/// How many seeds a plain `cargo test` runs.
const SEEDS: u64 = 150;

fn number<T: FromStr>(name: &str) -> Option<T> {
    env::var(name).ok()?.parse().ok()
}

fn list(name: &str) -> Vec<String> {
    let list = env::var(name).unwrap_or_default();
    list.split(',')
        .map(str::to_owned)
        .filter(|item| !item.is_empty())
        .collect()
}

#[test]
fn promises_hold_whatever_is_called() {
    let terms = settings::Terms {
        skip: list("SKIP"),
        without: list("WITHOUT"),
        loud: env::var("LOUD").is_ok(),
    };
    let (first, seeds) = match number::<u64>("SEED") {
        Some(seed) => (seed, 1),
        None => (
            number("FROM").unwrap_or(0),
            number("SEEDS").unwrap_or(SEEDS),
        ),
    };
    let all = env::var("ALL").is_ok();
    let mut kinds: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in first..first + seeds {
        for _ in 0..number("TIMES").unwrap_or(1u32) {
            let outcome = run::run(seed, &terms);
            for (what, times) in outcome.counts {
                *counts.entry(what).or_default() += times;
            }
            if let Some(failure) = outcome.failure {
                let seen = kinds.entry(failure.promise.clone()).or_default();
                seen.push(seed);
                if seen.len() == 1 || all {
                    eprintln!("{}\n", failure.account);
                }
            }
        }
    }
    eprintln!("{seeds} seeds: {counts:?}");
    for (kind, seeds) in &kinds {
        let some: Vec<_> = seeds.iter().take(12).collect();
        eprintln!("{kind}: {} failures, seeds {some:?}", seeds.len());
    }
    assert!(kinds.is_empty(), "promises were broken: {:?}", kinds.keys());
}
