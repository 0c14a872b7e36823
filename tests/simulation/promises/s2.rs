//! S2: fencing tokens rise strictly, in order of acquisition.
//!
//! Where S1 is void, two requests may have votes at the same time, and then the order in which they take them is
//! chance. What holds even so is looked at apart: whoever asks when a lease is over gets a higher token.

use std::collections::BTreeMap;

use super::broken;
use crate::simulation::history::{History, Note, Violation, What};

/// How that part is called in the table.
pub(super) const IN_SEQUENCE: &str = "S2 in sequence";

/// The first number that is not exact in JSON.
const TOO_HIGH: u64 = 1 << 53;

pub(super) fn validate(history: &History) -> Vec<Violation> {
    let mut last: BTreeMap<usize, (u64, u16)> = BTreeMap::new();
    let mut found = Vec::new();
    for Note { at, what } in &history.notes {
        let What::Had(call, token) = what else {
            continue;
        };
        let before = last.insert(history.call(*call).resource, (*token, *call));
        if let Some((earlier, other)) = before.filter(|(earlier, _)| earlier >= token) {
            let what = format!("call {call} got token {token} after call {other} got {earlier}");
            found.push(broken("S2", *at, &[other, *call], what));
        }
        if *token >= TOO_HIGH {
            found.push(broken(
                "S2",
                *at,
                &[*call],
                format!("token {token} is too high"),
            ));
        }
    }
    found
}

/// The part of S2 that needs no S1.
pub(super) fn in_sequence(history: &History) -> Vec<Violation> {
    let mut asked: BTreeMap<u16, Option<(u64, u16)>> = BTreeMap::new();
    let mut out: BTreeMap<u16, u64> = BTreeMap::new();
    // The highest token of the leases that are over, by resource.
    let mut over: BTreeMap<usize, (u64, u16)> = BTreeMap::new();
    let mut found = Vec::new();
    for Note { at, what } in &history.notes {
        match what {
            What::Asks(call) => {
                asked.insert(*call, over.get(&history.call(*call).resource).copied());
            }
            What::Had(call, token) => {
                let before = asked.get(call).copied().flatten();
                if let Some((earlier, other)) = before.filter(|(earlier, _)| earlier >= token) {
                    let what = format!(
                        "call {call} got token {token}, but asked when call {other} had had {earlier}"
                    );
                    found.push(broken(IN_SEQUENCE, *at, &[other, *call], what));
                }
                out.insert(*call, *token);
            }
            What::Over(call) | What::Releases(call) => {
                if let Some(token) = out.remove(call) {
                    let highest = over
                        .entry(history.call(*call).resource)
                        .or_insert((token, *call));
                    *highest = (*highest).max((token, *call));
                }
            }
            _ => {}
        }
    }
    found
}
