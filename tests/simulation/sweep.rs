//! Many runs, on all cores, and what they came to.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    panic::catch_unwind,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use super::{
    count::{Counts, LOGGED, NETWORK, SEEN},
    faults::FAULTS,
    history::{Note, Violation, What},
    promises::VALIDATORS,
    relations::RELATIONS,
    run::{self, Outcome, is_checked},
    work::{ALSO_MADE, MADE},
};

/// So many seeds are enough for every fault and every branch to occur.
const ENOUGH: u64 = 2000;

/// A run takes a fraction of a second. One that takes this long has a task that spins.
const STUCK: Duration = Duration::from_secs(60);

/// How many seeds are told in full, if `TOLD` does not say it.
const TOLD: usize = 3;

/// What is expected of the runs.
pub(super) enum Outlook {
    /// Every promise is kept, and everything that can happen has happened.
    Keeps,
    /// This promise is found broken.
    Breaks(String),
}

/// Runs all `seeds`, and panics if they did not come out as expected.
pub(super) fn sweep(seeds: Range<u64>, outlook: Outlook) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (sender, outcomes) = mpsc::sync_channel(threads);
    let (next, stop) = (
        Arc::new(AtomicU64::new(seeds.start)),
        Arc::new(AtomicBool::new(false)),
    );
    let under_way: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
    for _ in 0..threads {
        let (sender, next, stop) = (sender.clone(), next.clone(), stop.clone());
        let (under_way, end) = (under_way.clone(), seeds.end);
        // Not scoped: one that spins must not keep the test from failing.
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return;
                }
                under_way
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(seed);
                let outcome = catch_unwind(|| run::run(seed)).ok();
                under_way
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&seed);
                if sender.send((seed, outcome)).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut tally = Tally::default();
    loop {
        match outcomes.recv_timeout(STUCK) {
            Ok((seed, outcome)) => tally.add(seed, outcome),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let seeds = under_way.lock().unwrap_or_else(PoisonError::into_inner);
                tally.tell_violations();
                panic!("no end to seed {seeds:?}: a task spins, or waits for ever");
            }
        }
        if matches!(&outlook, Outlook::Breaks(promise) if tally.broken.contains_key(&**promise)) {
            stop.store(true, Ordering::Relaxed);
            break;
        }
    }
    match outlook {
        Outlook::Keeps => tally.expect_kept(&seeds),
        Outlook::Breaks(promise) => tally.expect_broken(&promise),
    }
}

/// What many runs came to.
#[derive(Default)]
struct Tally {
    runs: u64,
    counts: Counts,
    acquisitions: u64,
    calls: u64,
    /// What is wrong, by seed.
    bad: BTreeMap<u64, Vec<String>>,
    /// In which runs each promise was broken.
    broken: BTreeMap<&'static str, BTreeSet<u64>>,
}

impl Tally {
    fn add(&mut self, seed: u64, outcome: Option<Outcome>) {
        self.runs += 1;
        let Some(outcome) = outcome else {
            let told = format!("seed {seed} panicked\n");
            self.bad.entry(seed).or_default().push(told);
            return;
        };
        for (what, times) in &outcome.counts {
            *self.counts.entry(what).or_default() += times;
        }
        let had = |note: &&Note| matches!(note.what, What::Had(..));
        self.acquisitions += outcome.history.notes.iter().filter(had).count() as u64;
        self.calls += outcome.history.calls.len() as u64 - 1;
        // Names the promise that is looked at alone.
        let only = std::env::var("ONLY").ok();
        for (promise, validate) in VALIDATORS {
            let other = only.as_ref().is_some_and(|only| only != promise);
            if other || !is_checked(promise, &outcome) {
                continue;
            }
            let found = validate(&outcome.history);
            if let Some(first) = found.iter().min_by_key(|violation| violation.at) {
                self.broken.entry(promise).or_default().insert(seed);
                let told = tell(seed, &outcome, first, found.len());
                self.bad.entry(seed).or_default().push(told);
            }
        }
    }

    fn expect_kept(&self, seeds: &Range<u64>) {
        println!(
            "{} calls, {} acquisitions over seeds {seeds:?}",
            self.calls, self.acquisitions
        );
        for (what, times) in &self.counts {
            println!("{times:>9}  {what}");
        }
        self.tell_violations();
        let faults = FAULTS.iter().map(|fault| fault.name);
        let expected = faults.chain(NETWORK.iter().chain(SEEN).chain(LOGGED).copied());
        // One is not kept, but dropped or awaited.
        let also = ALSO_MADE
            .iter()
            .flat_map(|[made, _, _, beside]| [made, beside]);
        let made = MADE.iter().flatten().chain(also).chain(RELATIONS).copied();
        let never: Vec<_> = expected
            .chain(made)
            .filter(|what| !self.counts.contains_key(what))
            .collect();
        println!("never occurred: {never:?}");
        assert!(
            self.bad.is_empty(),
            "broken in {} seeds\n{}",
            self.bad.len(),
            self.which()
        );
        if self.runs >= ENOUGH {
            assert!(
                never.is_empty(),
                "never occurred, so nothing of it was tested: {never:#?}"
            );
        }
    }

    fn expect_broken(&self, promise: &str) {
        assert!(
            self.broken.contains_key(promise),
            "{promise} was not found broken in {} runs, but\n{}",
            self.runs,
            self.which()
        );
        println!(
            "CAUGHT by {promise} after {} runs; in all\n{}",
            self.runs,
            self.which()
        );
    }

    /// Which promises were broken, in how many runs, and the first of them.
    fn which(&self) -> String {
        let tell = |(promise, seeds): (&&str, &BTreeSet<u64>)| {
            let first: Vec<_> = seeds.iter().take(8).collect();
            format!("{promise}: {} runs, as {first:?}\n", seeds.len())
        };
        self.broken.iter().map(tell).collect()
    }

    fn tell_violations(&self) {
        let most = std::env::var("TOLD")
            .ok()
            .and_then(|most| most.parse().ok());
        for (_, told) in self.bad.iter().take(most.unwrap_or(TOLD)) {
            println!("{}", told.concat());
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
