//! F2: a live waiter is never evicted for waiting long.
//!
//! A ticket of a request that goes on may run out on a node only if its client could not reach that node, or
//! did not run, for some part of a waiter lease.

use super::broken;
use crate::simulation::history::{History, Note, Out, Violation, What};

pub(super) fn validate(history: &History) -> Vec<Violation> {
    let settings = &history.settings;
    let mut found = Vec::new();
    for (call, _) in history.numbered() {
        // A first round that nobody polls any more is not kept alive: it is no ticket yet.
        let recorded = history
            .of(call)
            .any(|note| matches!(note.what, What::Recorded(_)));
        let ended = |note: &Note| match note.what {
            What::Given(_) | What::Failed(..) | What::NotHad(_) | What::Had(..) => true,
            What::Forgotten(_) => !recorded,
            _ => false,
        };
        for note in history.of(call).take_while(|note| !ended(note)) {
            if let What::Out {
                node,
                why:
                    Out::Expired {
                        vote: false,
                        healthy,
                    },
                ..
            } = note.what
                && healthy > settings.ephemeral + settings.node_timeout + 4 * settings.delay
            {
                let what = format!(
                    "the ticket of call {call} ran out on node {node}, which its client could reach for {healthy} ms"
                );
                found.push(broken("F2", note.at, &[call], what));
            }
        }
    }
    found
}
