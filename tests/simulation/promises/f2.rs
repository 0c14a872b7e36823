//! F2: a live waiter is never evicted for waiting long.
//!
//! A ticket of a request that goes on may run out on a node only if its client could not reach that node, or
//! did not run, for some part of a waiter ttl. It is a ticket once a quorum has had it.

use std::collections::BTreeSet;

use super::{broken, liveness::scenarios};
use crate::simulation::history::{History, Note, Out, Violation, What};

pub(super) fn validate(history: &History) -> Vec<Violation> {
    // A clock that is stepped ends places on its node.
    let moved = |note: &Note| match note.what {
        What::ClockMoved(node) => Some(node),
        _ => None,
    };
    let moved: BTreeSet<usize> = history.notes.iter().filter_map(moved).collect();
    let mut found = scenarios(history, "F2");
    for (call, _) in history.numbered() {
        let settings = history.settings_of(call);
        let bound = settings.ephemeral + settings.node_timeout + 4 * settings.delay;
        // Keep-alives that are answered too late keep nothing alive, or hardly.
        let first = history.call(call).first;
        let lease = settings.ephemeral.min(first);
        if !settings.waits_in_time(first) || lease < 10 * settings.round_trip() {
            continue;
        }
        // A first round that nobody polls any more is not kept alive: it is no ticket yet.
        let mut recorded = false;
        let asked = history.call(call).asked;
        // What it has, and what it may have been granted since it was last polled.
        let (mut has, mut votes) = (BTreeSet::new(), BTreeSet::new());
        let mut stood = BTreeSet::new();
        for Note { at, what } in history.of(call) {
            if let What::Lines { node, .. } | What::Votes { node, .. } = what {
                stood.insert(*node);
            }
            match what {
                What::Votes { node, .. } => drop(has.insert(*node)),
                What::Out { node, .. } => drop(has.remove(node)),
                _ => {}
            }
            recorded |= matches!(what, What::Recorded(_));
            match what {
                What::Given(_) | What::Failed(..) | What::NotHad(_) | What::Had(..) => break,
                What::Forgotten(_) | What::Unpolled(_) if !recorded => break,
                // Granted once, it waits no more until it is polled (C4).
                What::Votes { node, .. } => {
                    votes.insert(*node);
                }
                What::Polled(_) => votes.clear(),
                What::Unpolled(_) => votes.clone_from(&has),
                What::Out { node, why, .. }
                    if !moved.contains(node)
                        && votes.len() < settings.quorum
                        // It was granted, and may have to be extended before it is had.
                        && has.len() < settings.quorum
                        && stood.len() >= settings.quorum =>
                {
                    votes.remove(node);
                    if let Out::Expired {
                        vote: false,
                        healthy,
                    } = why
                        // Before, the first round may still be under way.
                        && (*healthy).min(at - asked).saturating_sub(settings.node_timeout) > bound
                    {
                        let what = format!(
                            "the ticket of call {call} ran out on node {node}, which its client could reach for {healthy} ms"
                        );
                        found.push(broken("F2", *at, &[call], what));
                    }
                }
                _ => {}
            }
        }
    }
    found
}
