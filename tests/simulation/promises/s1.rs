//! S1: at most one guard of a resource is valid at any time.

use std::collections::BTreeMap;

use super::broken;
use crate::simulation::history::{History, Note, Violation, What};

pub(super) fn validate(history: &History) -> Vec<Violation> {
    let mut valid: BTreeMap<usize, Vec<u16>> = BTreeMap::new();
    let mut found = Vec::new();
    for Note { at, what } in &history.notes {
        match what {
            What::Had(call, _) => {
                let valid = valid.entry(history.call(*call).resource).or_default();
                if let Some(other) = valid.first() {
                    let what = format!("the guards of calls {other} and {call} are valid at once");
                    found.push(broken("S1", *at, &[*other, *call], what));
                }
                valid.push(*call);
            }
            What::Over(call) | What::Releases(call) => {
                let valid = valid.entry(history.call(*call).resource).or_default();
                valid.retain(|other| other != call);
            }
            What::Crashed(client) => {
                let alive = |call: &u16| history.call(*call).client != *client;
                valid.values_mut().for_each(|valid| valid.retain(alive));
            }
            _ => {}
        }
    }
    found
}
