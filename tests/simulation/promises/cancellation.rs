//! C1 to C4: what is dropped, released or forgotten.

use std::collections::{BTreeMap, BTreeSet};

use super::{broken, liveness::scenarios};
use crate::simulation::history::{History, Ms, Note, Out, Settings, Violation, What};

/// C1: a dropped future leaves nothing behind. At once in scenarios; in the end always.
pub(super) fn c1(history: &History) -> Vec<Violation> {
    let residue = |Note { at, what }: &Note| match what {
        What::Residue(left, tasks) if !left.is_empty() || *tasks > 0 => {
            let calls: Vec<u16> = left.iter().map(|(_, call)| *call).collect();
            let what = format!("at the end (node, call) {left:?} and {tasks} tasks are left");
            Some(broken("C1", *at, &calls, what))
        }
        _ => None,
    };
    let mut found = scenarios(history, "C1");
    found.extend(history.notes.iter().filter_map(residue));
    found
}

/// C2: a ticket keeps its number as long as it lives, however often `acquire` is dropped.
pub(super) fn c2(history: &History) -> Vec<Violation> {
    let mut found = scenarios(history, "C2");
    for (call, _) in history.numbered() {
        let mut recorded = false;
        let mut agreed = None;
        let mut numbers: BTreeMap<usize, u64> = BTreeMap::new();
        let mut votes: BTreeSet<usize> = BTreeSet::new();
        for note in history.of(call) {
            match note.what {
                What::Recorded(_) => recorded = true,
                What::Votes { node, .. } => {
                    // What it proposed before is no ticket.
                    numbers.remove(&node);
                    votes.insert(node);
                }
                What::Had(..) | What::Given(_) | What::Failed(..) => break,
                // A first round that is tried again takes back what it had, and gets another number.
                What::Out {
                    node,
                    why: Out::Own,
                    ..
                } if !recorded => {
                    numbers.remove(&node);
                }
                What::Lines { node, number, .. } => {
                    let before = numbers.insert(node, number);
                    // The first question may reach a node after the ticket was agreed without it.
                    if before.is_some() && agreed.is_some_and(|agreed| number > agreed) {
                        let what =
                            format!("the ticket of call {call} went from {agreed:?} to {number}");
                        found.push(broken("C2", note.at, &[call], what));
                    }
                }
                What::Out { node, why, .. } => {
                    votes.remove(&node);
                    // What a node remembers after a restart may be from before the ticket was agreed.
                    if why == Out::Forgot {
                        numbers.remove(&node);
                    }
                }
                _ => {}
            }
            // One that was granted at once has no agreed number yet; the counter of a vote is a proposal, too.
            let tells = matches!(note.what, What::Recorded(_) | What::Lines { .. });
            if tells && recorded && agreed.is_none() && votes.is_empty() {
                let number = numbers.values().max().copied();
                let has = numbers.values().filter(|has| Some(**has) == number);
                agreed = number.filter(|_| has.count() >= history.settings.quorum);
            }
        }
    }
    found
}

/// C3: a guard that is dropped is released; `release` returns when a quorum has confirmed, `shutdown` when
/// everything that was dropped is gone.
pub(super) fn c3(history: &History) -> Vec<Violation> {
    let mut found = scenarios(history, "C3");
    let mut keys: BTreeMap<u16, BTreeSet<usize>> = BTreeMap::new();
    for Note { at, what } in &history.notes {
        match what {
            // A node that restarted without its last second may have forgotten a release.
            What::Votes { up_since, .. } if up_since == at => {}
            What::Votes { call, node, .. } => {
                keys.entry(*call).or_default().insert(*node);
            }
            What::Out { call, node, .. } => {
                keys.entry(*call).or_default().retain(|other| other != node);
            }
            What::Confirmed(call) => {
                let nodes = keys.get(call).cloned().unwrap_or_default();
                if history.settings.nodes - nodes.len() < history.settings.quorum {
                    let what = format!(
                        "the release of call {call} was confirmed, but nodes {nodes:?} have its key"
                    );
                    found.push(broken("C3", *at, &[*call], what));
                }
            }
            What::AfterRelease { call, node } => {
                let what = format!(
                    "a request of call {call} went to node {node} over the connection of its release, after it"
                );
                found.push(broken("C3", *at, &[*call], what));
            }
            What::ShutDown { client, left } if !left.is_empty() => {
                let what = format!("client {client} has shut down, and has left {left:?}");
                found.push(broken("C3", *at, left, what));
            }
            _ => {}
        }
    }
    found
}

/// C4: a grant that nobody polls is passed on within one waiter ttl.
///
/// A request that nobody polls has the votes of a quorum for no longer than that, as long as its client reaches
/// the nodes.
pub(super) fn c4(history: &History) -> Vec<Violation> {
    let mut found = scenarios(history, "C4");
    for (call, _) in history.numbered() {
        let settings = history.settings_of(call);
        // One that hears of no node in time does not know what it has.
        if !settings.waits_in_time(history.call(call).first) {
            continue;
        }
        let Settings {
            ephemeral,
            poll,
            node_timeout,
            delay,
            ..
        } = settings;
        let bound = ephemeral + poll + 2 * node_timeout + 6 * delay;
        let mut has: BTreeMap<usize, Ms> = BTreeMap::new();
        let mut polled = 0;
        for note in history.of(call) {
            match note.what {
                // Who polls and does not get it, as it has to be extended first, may come back.
                What::Polled(_) => polled = note.at,
                // To its client it counts when it is past its grace.
                What::Votes { node, up_since, .. } => {
                    let grace = settings.grace + settings.grace * settings.drift / 1000;
                    let counts = if up_since == 0 {
                        0
                    } else {
                        up_since + grace + 2000
                    };
                    has.entry(node).or_insert(note.at.max(counts));
                }
                What::Out { node, why, .. } => {
                    let since = quorum_since(&has, settings.quorum).map(|since| since.max(polled));
                    let forgot = why == Out::Forgot;
                    if let Some(since) =
                        since.filter(|since| !forgot && note.at.saturating_sub(*since) > bound)
                        && reached(history, call, since, note.at)
                    {
                        let took = note.at - since;
                        let what = format!(
                            "call {call} had a quorum of the votes for {took} ms, and nobody took them"
                        );
                        found.push(broken("C4", note.at, &[call], what));
                    }
                    has.remove(&node);
                }
                What::Had(..) | What::Works(_) | What::Given(_) | What::Failed(..) => break,
                _ => {}
            }
        }
    }
    found
}

/// Since when a quorum has voted.
fn quorum_since(has: &BTreeMap<usize, Ms>, quorum: usize) -> Option<Ms> {
    let mut since: Vec<Ms> = has.values().copied().collect();
    since.sort_unstable();
    since.get(quorum - 1).copied()
}

/// Whether no fault befell anything meanwhile.
fn reached(history: &History, call: u16, from: Ms, to: Ms) -> bool {
    let client = history.call(call).client;
    let from = from.saturating_sub(5000);
    let harm = |note: &Note| {
        (from..=to).contains(&note.at)
            && match note.what {
                What::Fault(..) => true,
                What::Paused(other) | What::Crashed(other) => other == client,
                _ => false,
            }
    };
    !history.notes.iter().any(harm)
}
