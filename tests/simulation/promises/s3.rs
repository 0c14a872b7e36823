//! S3: a guard reports *lost* before any node may give the lease away.
//!
//! While a guard says that it is valid, a quorum of the nodes has its key, but for those that lost it by a
//! restart: of these the grace takes care (S5). A node whose clock was moved while the lease stood has lost it as
//! well, and the validity, which is that of the weakest vote of a quorum, may rest on it in its last moments. And `lost()` completes by the end of the validity, whatever task of
//! the client stands still meanwhile.

use super::broken;
use crate::simulation::history::{History, Ms, Note, Violation, What};

pub(super) fn validate(history: &History) -> Vec<Violation> {
    let moved = |call: u16, to: Ms| {
        let asked = history.call(call).asked;
        let moved = |note: &Note| matches!(note.what, What::ClockMoved(_)) && note.at >= asked;
        history
            .notes
            .iter()
            .any(|note| moved(note) && note.at <= to)
    };
    let unbacked = |Note { at, what }: &Note| match what {
        What::Unbacked { call, .. } if moved(*call, *at) => None,
        What::Unbacked { call, has, lost } => {
            let what = format!(
                "the guard of call {call} is valid, but {has} nodes have its key, and {lost} forgot it"
            );
            Some(broken("S3", *at, &[*call], what))
        }
        What::Untold(call) => {
            let what =
                format!("`lost()` of call {call} was polled, and did not tell of the end in time");
            Some(broken("S3", *at, &[*call], what))
        }
        _ => None,
    };
    history.notes.iter().filter_map(unbacked).collect()
}
