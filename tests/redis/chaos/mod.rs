//! Processes contend for a few locks while nodes, connections and the processes themselves fail.
//!
//! Faults are drawn from a seed, which is printed; `REDLOCK_FIFO_CHAOS_SEED=n` draws the same again (what
//! the processes make of them depends on the machine). `REDLOCK_FIFO_CHAOS_SECONDS=1800` goes on for half
//! an hour instead of some seconds:
//!
//! ```text
//! REDLOCK_FIFO_CHAOS_SECONDS=1800 cargo test --test redis chaos -- --nocapture
//! ```
//!
//! All processes report what they do, on the one clock that they share. What [`promises`] are checked in
//! the merged history, and what the [`faults`] excuse, is said there.

use std::{
    collections::BTreeMap,
    env, thread,
    time::{Duration, SystemTime},
};

use crate::{
    chance::Chance,
    process::{PATIENCE, now, patient},
};

mod contender;
mod excuses;
mod faults;
mod history;
mod promises;
pub(crate) mod proxy;
mod rig;
mod validators;

pub(crate) use contender::contend;
use faults::{Fault, Kind, ailing, forgetting, mortality, network};
use history::History;
use promises::{Findings, Trial};
use proxy::Way;
use rig::{Contestant, Rig, lock, pass};

const NODES: usize = 5;

/// Processes, and requests of each at a time.
const SLOTS: usize = 4;
const TASKS: u64 = 4;
const RESOURCES: u64 = 4;

/// Above the longest ttl, as S5 asks for.
const GRACE: Duration = Duration::from_secs(3);
const LONGEST_TTL: Duration = Duration::from_secs(2);
const EPHEMERAL: Duration = Duration::from_secs(1);
const NODE_TIMEOUT: Duration = Duration::from_millis(200);

#[test]
fn promises_hold_while_nodes_connections_and_processes_fail() {
    let run = Run::new(6);
    let findings = run.go(&[Kind::Kill, Kind::Eclipse], |trial| {
        trial.s1().s2().s3().f1().l1()
    });
    assert!(findings.ordered > 0, "no ticket was ever ahead of another");
    assert!(findings.lost > 0, "no lease was ever lost");
}

/// What forgets without a restart has no grace: the next one may hold before the last one is told, and a
/// ticket may be passed. Tokens rise all the same.
#[test]
fn s2_c1_c3_l1_hold_while_live_nodes_forget() {
    Run::new(5).go(&[Kind::Forget], |trial| {
        trial.s2_of_overlapping_leases().l1()
    });
}

/// One run.
#[derive(Debug)]
struct Run {
    seed: u64,
    time: Duration,
}

impl Run {
    /// For that many seconds, if not told otherwise.
    fn new(seconds: u64) -> Self {
        let setting = |name| env::var(name).ok().map(|value| value.parse().expect(name));
        let clock = || SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
        let drawn = || u64::from(clock().subsec_nanos());
        let seed = setting("REDLOCK_FIFO_CHAOS_SEED").unwrap_or_else(drawn);
        println!("REDLOCK_FIFO_CHAOS_SEED={seed}");
        let seconds = setting("REDLOCK_FIFO_CHAOS_SECONDS").unwrap_or(seconds);
        Self {
            seed,
            time: Duration::from_secs(seconds),
        }
    }

    fn chance(&self, user: u64) -> Chance {
        Chance::new(self.seed, user)
    }

    /// Lets nodes forget in the ways of `forget`, and has the outcome tried.
    fn go(&self, forget: &[Kind], trial: impl FnOnce(Trial<'_>) -> Trial<'_>) -> Findings {
        let rig = Rig::start();
        let mut seeds = self.chance(0);
        let contestants: Vec<Contestant> = (0..SLOTS)
            .map(|slot| Contestant::start(&rig, slot, seeds.below(u64::MAX)))
            .collect();
        // Until the grace of the start is over nobody holds anything that could be lost. Uptime is in whole
        // seconds, of which one is taken off.
        pass(GRACE + Duration::from_secs(1));
        let ready = now();
        let until = ready + self.time;
        let contestants = thread::scope(|scope| {
            scope.spawn(|| forgetting(&rig, self.chance(1), forget, until));
            scope.spawn(|| ailing(&rig, self.chance(2), until));
            scope.spawn(|| network(&rig, self.chance(3), until));
            let mortal = scope.spawn(|| mortality(&rig, self.chance(4), contestants, until));
            mortal.join().expect("no panic")
        });
        let left = stop(&rig, contestants, &mut self.chance(5));
        let (faults, history) = (rig.faults(), lock(&rig.history));
        let findings = trial(Trial::new(&history, &faults, ready)).findings();
        self.tell(&history, &faults, &findings);
        let mut violations = findings.violations.clone();
        violations.extend(
            left.into_iter()
                .map(|left| format!("C1, C3: left behind: {left}")),
        );
        assert!(
            violations.is_empty(),
            "REDLOCK_FIFO_CHAOS_SEED={}: {} violations\n{}",
            self.seed,
            violations.len(),
            violations[..violations.len().min(10)].join("\n")
        );
        drop(history);
        serve(&rig);
        assert!(findings.acquisitions > 0, "nothing was ever locked");
        findings
    }

    fn tell(&self, history: &History, faults: &[Fault], findings: &Findings) {
        let mut kinds = BTreeMap::<String, usize>::new();
        for fault in faults {
            *kinds.entry(fault.kind.to_string()).or_default() += 1;
        }
        let mut errors = BTreeMap::<&str, usize>::new();
        for (error, times) in history.lives.iter().flat_map(|life| &life.errors) {
            *errors.entry(error).or_default() += times;
        }
        let seed = self.seed;
        println!("seed {seed}: {findings:?}\nfaults {kinds:?}\nerrors {errors:?}");
    }
}

/// All processes come to an end in order, while each is cut off from one node for some time yet. They
/// are to leave nothing behind (C1, C3); returns what they leave.
fn stop(rig: &Rig, mut contestants: Vec<Contestant>, chance: &mut Chance) -> Vec<String> {
    let mut cut = Vec::new();
    for contestant in &mut contestants {
        let link = &rig.links[contestant.slot][chance.place(NODES)];
        link.set(Way::Cut);
        cut.push(link);
        contestant.stop();
    }
    pass(NODE_TIMEOUT * 2);
    cut.iter().for_each(|link| link.set(Way::Open));
    contestants.into_iter().for_each(Contestant::join);
    rig.forgotten()
}

/// As soon as the leases of the dead are over nothing is left but counters, and the next one is served
/// (L1, L2).
fn serve(rig: &Rig) {
    let most = now() + LONGEST_TTL + EPHEMERAL + Duration::from_secs(1);
    while !rig.residue().is_empty() {
        assert!(now() < most, "L2: left of the dead: {:?}", rig.residue());
        pass(Duration::from_millis(20));
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut builder = patient().restart_grace(GRACE).cold_start_grace(true);
        for server in &rig.servers {
            builder = builder.node(server.url());
        }
        let redlock = builder.connect().await.expect("connected");
        for resource in 0..RESOURCES {
            let lock = redlock.lock(format!("r{resource}"), LONGEST_TTL);
            let guard = tokio::time::timeout(PATIENCE, lock)
                .await
                .expect("L1: it is free");
            guard.expect("locked").release().await.expect("released");
        }
        redlock.shutdown().await;
    });
    assert_eq!(rig.residue(), [""; 0], "C3");
}
