//! A validator per promise. Each reads the history and names what is wrong with it.

mod cancellation;
mod f1;
mod f2;
mod f4;
mod liveness;
mod s1;
mod s2;
mod s3;
mod s4;
mod s5;
mod whole;

use super::history::{History, Ms, Violation};

type Validator = fn(&History) -> Vec<Violation>;

/// The promises and what shows that they are kept.
pub(super) const VALIDATORS: &[(&str, Validator)] = &[
    ("S1", s1::validate),
    ("S2", s2::validate),
    (s2::IN_SEQUENCE, s2::in_sequence),
    ("S3", s3::validate),
    ("S4", s4::validate),
    ("S5", s5::validate),
    ("F1", f1::validate),
    ("F2", f2::validate),
    ("F3", liveness::f3),
    ("F4", f4::validate),
    ("L1", liveness::l1),
    ("L2", liveness::l2),
    ("L3", liveness::l3),
    ("L4", liveness::l4),
    ("L5", liveness::l5),
    ("L6", liveness::l6),
    ("whole lease", whole::validate),
    ("nobody stuck", liveness::nobody_stuck),
    ("verdicts", liveness::verdicts),
    ("C1", cancellation::c1),
    ("C2", cancellation::c2),
    ("C3", cancellation::c3),
    ("C4", cancellation::c4),
];

fn broken(promise: &'static str, at: Ms, calls: &[u16], what: String) -> Violation {
    Violation {
        promise,
        at,
        what,
        calls: calls.to_vec(),
    }
}
