//! F3, L1 to L6 and what goes with them: what is promised of time. Measured in scenarios, but for L1: that everyone who waits when all
//! faults have healed is served, or runs out of patience, is looked at in every run.

use std::collections::{BTreeMap, BTreeSet};

use super::broken;
use crate::simulation::history::{History, Note, Violation, What};

pub(super) fn f3(history: &History) -> Vec<Violation> {
    scenarios(history, "F3")
}

pub(super) fn l1(history: &History) -> Vec<Violation> {
    let starved = |Note { at, what }: &Note| match what {
        What::Starved(call) => {
            let what = format!("call {call} still waits minutes after everything has healed");
            Some(broken("L1", *at, &[*call], what))
        }
        _ => None,
    };
    let mut found = scenarios(history, "L1");
    found.extend(history.notes.iter().filter_map(starved));
    found
}

/// A dead holder costs what is left of its lease: no vote outlives the ttl of its request, however it came about.
pub(super) fn l2(history: &History) -> Vec<Violation> {
    let long = |Note { at, what }: &Note| match what {
        What::LongVote {
            call,
            node,
            left,
            ttl,
        } => {
            let what = format!(
                "node {node} gave call {call} its vote for {left} ms, and {ttl} is all that it asked for"
            );
            Some(broken("L2", *at, &[*call], what))
        }
        _ => None,
    };
    let mut found = scenarios(history, "L2");
    found.extend(history.notes.iter().filter_map(long));
    found
}

/// L6: while a quorum answers in time, a lease that is renewed is not lost.
pub(super) fn l6(history: &History) -> Vec<Violation> {
    let lost = |Note { at, what }: &Note| match what {
        What::LostBeside {
            call,
            healthy,
            span,
        } => {
            let what = format!(
                "the lease of call {call} was lost, but {healthy} nodes that had voted for it were well for {span} ms"
            );
            Some(broken("L6", *at, &[*call], what))
        }
        _ => None,
    };
    let mut found = scenarios(history, "L6");
    found.extend(history.notes.iter().filter_map(lost));
    found
}

/// On healthy nodes whoever waits is served, whatever the settings of those in front.
pub(super) fn nobody_stuck(history: &History) -> Vec<Violation> {
    scenarios(history, "nobody stuck")
}

/// Verdicts are true: there is no quorum only where none could have answered, and `try_lock` finds a lock held
/// only where it is held or asked for.
pub(super) fn verdicts(history: &History) -> Vec<Violation> {
    let mut found = scenarios(history, "verdicts");
    // By resource: the calls that stand anywhere, each on how many nodes.
    let mut standing: BTreeMap<usize, BTreeMap<u16, BTreeSet<usize>>> = BTreeMap::new();
    // Those that have asked and are not served or gone: they may wait for room, and stand nowhere.
    let mut asking: BTreeSet<u16> = BTreeSet::new();
    // Those that try, and whether anybody else has been there meanwhile.
    let mut trying: BTreeMap<u16, bool> = BTreeMap::new();
    for Note { at, what } in &history.notes {
        match what {
            What::NoQuorumBeside { call, healthy } => {
                let what = format!(
                    "call {call} was told that there is no quorum, but {healthy} nodes could be reached all the time"
                );
                found.push(broken("verdicts", *at, &[*call], what));
            }
            What::Asks(call) => {
                let resource = history.call(*call).resource;
                let others = standing.entry(resource).or_default();
                let asked = |other: &u16| history.call(*other).resource == resource;
                let met = asking.iter().any(asked) || others.keys().any(|other| other != call);
                trying.insert(*call, met);
                for (other, met) in &mut trying {
                    *met |= other != call && asked(other);
                }
                asking.insert(*call);
            }
            What::Had(call, _) | What::Failed(call, _) | What::Given(call) => {
                asking.remove(call);
            }
            What::Votes { call, node, .. } | What::Lines { call, node, .. } => {
                let resource = history.call(*call).resource;
                let others = standing.entry(resource).or_default();
                others.entry(*call).or_default().insert(*node);
                for (other, met) in &mut trying {
                    *met |= other != call && history.call(*other).resource == resource;
                }
            }
            What::Out { call, node, .. } => {
                let others = standing.entry(history.call(*call).resource).or_default();
                if let Some(nodes) = others.get_mut(call) {
                    nodes.remove(node);
                    if nodes.is_empty() {
                        others.remove(call);
                    }
                }
            }
            What::NotHad(call) if asking.remove(call) && trying.get(call) == Some(&false) => {
                let what = format!(
                    "call {call} was told that the lock is held, and nobody held it or asked for it"
                );
                found.push(broken("verdicts", *at, &[*call], what));
            }
            _ => {}
        }
    }
    found
}

pub(super) fn l3(history: &History) -> Vec<Violation> {
    scenarios(history, "L3")
}

pub(super) fn l4(history: &History) -> Vec<Violation> {
    scenarios(history, "L4")
}

pub(super) fn l5(history: &History) -> Vec<Violation> {
    scenarios(history, "L5")
}

/// The scenarios of a promise that took too long.
pub(super) fn scenarios(history: &History, which: &'static str) -> Vec<Violation> {
    let late = |Note { at, what }: &Note| match what {
        What::Scenario {
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
