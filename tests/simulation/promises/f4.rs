//! F4: nobody barges. No node gives its vote to a newcomer while a live waiter stands in its line.

use super::broken;
use crate::simulation::history::{History, Note, Violation, What};

pub(super) fn validate(history: &History) -> Vec<Violation> {
    let barged = |Note { at, what }: &Note| match what {
        What::Barged { call, node, past } => {
            let what =
                format!("node {node} gave its vote to the newcomer {call} past the waiter {past}");
            Some(broken("F4", *at, &[*call, *past], what))
        }
        _ => None,
    };
    history.notes.iter().filter_map(barged).collect()
}
