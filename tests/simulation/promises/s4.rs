//! S4: no request, however late or repeated, harms another's ticket or lease; and what comes after its
//! deadline, with all that the clocks may be apart, does nothing at all.

use super::broken;
use crate::simulation::history::{History, Note, Violation, What};

pub(super) fn validate(history: &History) -> Vec<Violation> {
    let harm = |Note { at, what }: &Note| match what {
        What::Harmed {
            call,
            node,
            whom,
            how,
        } => {
            let what = format!("a request of call {call} on node {node}: {how}, of call {whom}");
            Some(broken("S4", *at, &[*call, *whom], what))
        }
        What::LateDid { call, node, late } => {
            let what = format!(
                "a request on node {node} gave call {call} something {late} ms after its deadline"
            );
            Some(broken("S4", *at, &[*call], what))
        }
        _ => None,
    };
    history.notes.iter().filter_map(harm).collect()
}
