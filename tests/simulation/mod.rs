//! The simulation: the real client on simulated nodes, a simulated network and virtual time.
//!
//! One seed decides everything that happens. `SEED=n` replays one, `SEEDS=n` runs so many; a violation names
//! the promise and the seed, and tells how it came about. `ONLY=promise` looks at one promise, `FULL=1` tells all
//! that happened in a run, `TOLD=n` tells of so many runs. What is simulated: `world` (what is under way),
//! `way` (network), `server` (nodes), `life` (clients that stop), `chaos` (faults), `work` (what the clients
//! do), `scenarios` (what is promised of time). What is checked: `promises`, by the table in `faults`, and of leases
//! that are out in `whole`. How far it reaches: `count` and `relations`.

// A test may fail by panicking.
#![allow(clippy::unwrap_used)]

mod chance;
mod chaos;
mod count;
mod faults;
mod history;
mod life;
mod promises;
mod relations;
mod run;
mod scenarios;
mod server;
mod sweep;
mod way;
mod whole;
mod wire;
mod work;
mod world;

use self::sweep::{Outlook, sweep};

/// How many seeds a run has if nothing else is asked for.
const SEEDS: u64 = 3000;

#[test]
fn simulation_keeps_every_promise() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|number| number.parse().unwrap())
    };
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    // Names the promise that a deliberate bug must be found to break; see tests/mutants.
    let outlook = match std::env::var("BROKEN") {
        Ok(promise) => Outlook::Breaks(promise),
        Err(_) => Outlook::Keeps,
    };
    sweep(seeds, outlook);
}

#[test]
fn simulation_replays_a_seed_exactly() {
    for seed in 0..24 {
        let history = || format!("{:#?}", run::run(seed).history);
        assert!(
            history() == history(),
            "seed {seed} ran differently the second time"
        );
    }
}

#[test]
fn simulation_and_the_page_of_failures_tell_the_same() {
    let page = include_str!("../../src/docs/failures.md");
    assert!(
        page.contains(&faults::table()),
        "src/docs/failures.md should have this table:\n\n{}",
        faults::table()
    );
}
