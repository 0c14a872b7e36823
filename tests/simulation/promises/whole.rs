//! Whole lease: on nodes that are well a lease stands on all of them, for its full ttl, within a few round trips of
//! the guard, and again of the moment when its client could know that a node has lost it.

use super::{broken, liveness::scenarios};
use crate::simulation::history::{History, Note, Violation, What};

pub(super) fn validate(history: &History) -> Vec<Violation> {
    let part = |Note { at, what }: &Note| match what {
        What::Part {
            call,
            node,
            left,
            least,
        } => {
            let what = format!(
                "node {node} is well and has the lease of call {call} for {left} ms, and should for {least}"
            );
            Some(broken("whole lease", *at, &[*call], what))
        }
        _ => None,
    };
    let mut found = scenarios(history, "whole lease");
    found.extend(history.notes.iter().filter_map(part));
    found
}
