//! S5: a node that restarted gives no vote that counts until every lease that it may have forgotten is over.
//!
//! When a guard is handed out, a quorum of nodes that were past their grace by then have voted for it. Nodes
//! that have been there from the beginning were started together, and are not in grace.

use std::collections::BTreeSet;

use super::broken;
use crate::simulation::history::{History, Ms, Note, Violation, What};

/// Uptime is counted in whole seconds; the grace ends no earlier than that.
const STARTED_TOGETHER: Ms = 5000;

pub(super) fn validate(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for Note { at, what } in &history.notes {
        let What::Had(call, _) = what else { continue };
        let grace = history.settings.grace;
        let counts = |note: &Note| match note.what {
            What::Votes { node, up_since, .. } if note.at <= *at => {
                let counts = up_since < STARTED_TOGETHER || up_since + grace <= *at;
                counts.then_some(node)
            }
            _ => None,
        };
        let voters: BTreeSet<usize> = history.of(*call).filter_map(counts).collect();
        if voters.len() < history.settings.quorum {
            let what = format!(
                "call {call} was served by the votes of {voters:?}; all others were in their grace"
            );
            found.push(broken("S5", *at, &[*call], what));
        }
    }
    found
}
