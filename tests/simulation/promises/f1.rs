//! F1: if A's ticket was recorded by a quorum before B's request began, A is served before B.
//!
//! Recorded: `enqueue` returned. A may be passed if it left, died, or was cut off: that is when its ticket did
//! not stand on the same quorum all the time, or only since so recently that a vote given meanwhile may not
//! have been given back. Standing aside (C4) takes a ticket off the nodes, too. Why a ticket is missing on
//! a node is not asked here, but by F2 and S4.

use std::collections::{BTreeMap, BTreeSet};

use super::broken;
use crate::simulation::history::{History, Ms, Note, Violation, What};

pub(super) fn validate(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let asked: BTreeMap<u16, Ms> = times(history, |what| match what {
        What::Asks(call) => Some(*call),
        _ => None,
    });
    let had: BTreeMap<u16, Ms> = times(history, |what| match what {
        What::Had(call, _) => Some(*call),
        _ => None,
    });
    for Note { at: recorded, what } in &history.notes {
        let What::Recorded(first) = what else {
            continue;
        };
        let resource = history.call(*first).resource;
        let end = end_of(history, *first);
        for (later, served) in &had {
            let passed = history.call(*later).resource == resource
                && asked.get(later).is_some_and(|asked| asked > recorded)
                && *served < end
                && had.get(first).is_none_or(|own| served < own);
            if passed
                && !stood_aside(history, *first, *served)
                && stood(history, *first, *recorded, *served)
            {
                let what = format!(
                    "call {later} asked after the ticket of call {first} was recorded, and was served before it"
                );
                found.push(broken("F1", *served, &[*first, *later], what));
            }
        }
    }
    found
}

fn times(history: &History, pick: impl Fn(&What) -> Option<u16>) -> BTreeMap<u16, Ms> {
    let mut times = BTreeMap::new();
    for note in &history.notes {
        if let Some(call) = pick(&note.what) {
            times.entry(call).or_insert(note.at);
        }
    }
    times
}

/// When a request came to its end without a guard.
fn end_of(history: &History, call: u16) -> Ms {
    let client = history.call(call).client;
    let ends = |note: &&Note| match &note.what {
        What::Given(other) | What::Failed(other, _) => *other == call,
        What::Crashed(other) => *other == client,
        _ => false,
    };
    history
        .notes
        .iter()
        .find(ends)
        .map_or(Ms::MAX, |note| note.at)
}

/// Whether a request had the votes of a quorum while nobody polled it, before `to` (C4).
fn stood_aside(history: &History, call: u16, to: Ms) -> bool {
    let mut votes = BTreeSet::new();
    let mut polled = false;
    for note in history.of(call).filter(|note| note.at <= to) {
        match note.what {
            What::Polled(_) => polled = true,
            What::Unpolled(_) | What::Forgotten(_) => polled = false,
            What::Votes { node, .. } => {
                votes.insert(node);
            }
            What::Out { node, .. } => {
                votes.remove(&node);
            }
            _ => {}
        }
        if !polled && votes.len() >= history.settings.quorum {
            return true;
        }
    }
    false
}

/// Whether a ticket stood on a quorum from `from` to `to`, on each node of it long enough.
fn stood(history: &History, call: u16, from: Ms, to: Ms) -> bool {
    let settings = &history.settings;
    // On each node: since when it stands there.
    let mut since: BTreeMap<usize, Ms> = BTreeMap::new();
    let firm = |since: &BTreeMap<usize, Ms>, now: Ms| {
        let firm = |start: &&Ms| **start <= from || now.saturating_sub(**start) >= settings.slack();
        since.values().filter(firm).count() >= settings.quorum
    };
    let mut started = false;
    for note in history.of(call).filter(|note| note.at <= to) {
        if note.at > from && !started {
            started = true;
            if !firm(&since, from) {
                return false;
            }
        }
        match note.what {
            What::Votes { node, .. } | What::Lines { node, .. } => {
                since.entry(node).or_insert(note.at);
            }
            What::Out { node, .. } => {
                since.remove(&node);
                if note.at > from && !firm(&since, note.at) {
                    return false;
                }
            }
            _ => {}
        }
    }
    firm(&since, if started { to } else { from })
}
