//! The simulation: the real client on simulated nodes, a simulated network and virtual time.
//!
//! One seed decides everything that happens. `SEED=n` replays one, `SEEDS=n` runs so many; a violation names
//! the promise and the seed, and tells how it came about. What is simulated: `world` (what is under way),
//! `way` (network), `server` (nodes), `life` (clients that stop), `chaos` (faults), `work` (what the clients
//! do), `drills` (what is promised of time). What is checked: `promises`, by the table in `faults`.

// A test may fail by panicking.
#![allow(clippy::unwrap_used)]

mod chance;
mod chaos;
mod count;
mod drills;
mod faults;
mod history;
mod life;
mod promises;
mod run;
mod server;
mod way;
mod wire;
mod work;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use self::{
    count::{Counts, LOGGED, NETWORK, SEEN},
    faults::FAULTS,
    history::{Violation, What},
    promises::VALIDATORS,
    run::{Outcome, is_checked},
};

/// How many seeds a run has if nothing else is asked for.
const SEEDS: u64 = 300;

/// So many seeds are enough for every fault and every branch to occur.
const ENOUGH: u64 = 200;

/// What many runs came to.
#[derive(Default)]
struct Tally {
    counts: Counts,
    acquisitions: u64,
    calls: u64,
    bad: BTreeMap<u64, Vec<String>>,
    promises: BTreeSet<&'static str>,
}

#[test]
fn simulation_keeps_every_promise() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).unwrap(),
        Err(_) => 0..std::env::var("SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap()),
    };
    let next = AtomicU64::new(seeds.start);
    let tally = Mutex::new(Tally::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run::run(seed);
                    tally
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(seed, &outcome);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.report(&seeds);
}

#[test]
fn simulation_replays_a_seed_exactly() {
    for seed in 0..8 {
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

impl Tally {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        for (what, times) in &outcome.counts {
            *self.counts.entry(what).or_default() += times;
        }
        let had = |note: &&history::Note| matches!(note.what, What::Had(..));
        self.acquisitions += outcome.history.notes.iter().filter(had).count() as u64;
        self.calls += outcome.history.calls.len() as u64 - 1;
        for (promise, validate) in VALIDATORS {
            if !is_checked(promise, outcome) {
                continue;
            }
            let found = validate(&outcome.history);
            if let Some(first) = found.iter().min_by_key(|violation| violation.at) {
                self.promises.insert(promise);
                let told = tell(seed, outcome, first, found.len());
                self.bad.entry(seed).or_default().push(told);
            }
        }
    }

    fn report(&self, seeds: &std::ops::Range<u64>) {
        println!(
            "{} calls, {} acquisitions over seeds {seeds:?}",
            self.calls, self.acquisitions
        );
        for (what, times) in &self.counts {
            println!("{times:>9}  {what}");
        }
        if self.bad.is_empty() && seeds.end - seeds.start >= ENOUGH {
            let faults = FAULTS.iter().map(|fault| fault.name);
            let expected = faults.chain(NETWORK.iter().chain(SEEN).chain(LOGGED).copied());
            let never: Vec<_> = expected
                .filter(|what| !self.counts.contains_key(what))
                .collect();
            assert!(
                never.is_empty(),
                "never occurred, so nothing of it was tested: {never:#?}"
            );
        }
        if let Some((seed, told)) = self.bad.first_key_value() {
            println!(
                "VIOLATED: {:?}, in {} seeds, first in {seed}",
                self.promises,
                self.bad.len()
            );
            panic!("{}", told.concat());
        }
    }
}

fn tell(seed: u64, outcome: &Outcome, violation: &Violation, times: usize) -> String {
    let Violation {
        promise, at, what, ..
    } = violation;
    let beside = outcome
        .beyond
        .map(|fault| format!(", beside: {fault}"))
        .unwrap_or_default();
    let account = outcome.history.account(violation);
    format!(
        "\n{promise} broken in seed {seed} at {at} ms ({times} times{beside}): {what}\n{account}"
    )
}
