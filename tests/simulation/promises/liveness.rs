//! F3 and L1 to L5: what is promised of time. Measured in drills, but for L1: that everyone who waits when all
//! faults have healed is served, or runs out of patience, is looked at in every run.

use super::broken;
use crate::simulation::history::{History, Note, Violation, What};

pub(super) fn f3(history: &History) -> Vec<Violation> {
    drills(history, "F3")
}

pub(super) fn l1(history: &History) -> Vec<Violation> {
    let starved = |Note { at, what }: &Note| match what {
        What::Starved(call) => {
            let what = format!("call {call} still waits minutes after everything has healed");
            Some(broken("L1", *at, &[*call], what))
        }
        _ => None,
    };
    let mut found = drills(history, "L1");
    found.extend(history.notes.iter().filter_map(starved));
    found
}

pub(super) fn l2(history: &History) -> Vec<Violation> {
    drills(history, "L2")
}

pub(super) fn l3(history: &History) -> Vec<Violation> {
    drills(history, "L3")
}

pub(super) fn l4(history: &History) -> Vec<Violation> {
    drills(history, "L4")
}

pub(super) fn l5(history: &History) -> Vec<Violation> {
    drills(history, "L5")
}

/// The drills of a promise that took too long.
pub(super) fn drills(history: &History, which: &'static str) -> Vec<Violation> {
    let late = |Note { at, what }: &Note| match what {
        What::Drill {
            promise,
            calls,
            took,
            bound,
            what,
        } if *promise == which && took > bound => {
            let what = format!("{what}: took {took} ms, may take {bound}");
            Some(broken(which, *at, calls, what))
        }
        _ => None,
    };
    history.notes.iter().filter_map(late).collect()
}
