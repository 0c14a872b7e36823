//! What the faults of a run excuse, as spans of time.

use std::time::Duration;

use super::{
    GRACE, NODES,
    faults::{Fault, Kind},
};

/// What a node that was out of reach may need until all stand there again: a new connection after its
/// back-off, and a keep-alive of everyone.
pub(crate) const RECOVERY: Duration = Duration::from_millis(1500);

pub(crate) type Span = (Duration, Duration);

/// When a process could not reach a quorum of nodes, or not for long enough.
pub(crate) fn cut_off(slot: usize, faults: &[Fault]) -> Vec<Span> {
    // At each moment that a node goes out of reach or comes back: which, and which way.
    let mut moments = Vec::new();
    for fault in faults
        .iter()
        .filter(|fault| fault.slot.is_none_or(|hit| hit == slot))
    {
        let after = match fault.kind {
            Kind::Kill | Kind::Eclipse => GRACE.max(RECOVERY),
            _ => RECOVERY,
        };
        for &node in &fault.nodes {
            moments.push((fault.from, node, true));
            moments.push((fault.to + after, node, false));
        }
    }
    moments.sort();
    let mut out = [0_usize; NODES];
    let mut since = None;
    let mut spans = Vec::new();
    for (at, node, goes) in moments {
        if goes {
            out[node] += 1;
        } else {
            out[node] -= 1;
        }
        let cut = out.iter().filter(|faults| **faults > 0).count() > (NODES - 1) / 2;
        match since {
            None if cut => since = Some(at),
            Some(from) if !cut => {
                spans.push((from, at));
                since = None;
            }
            _ => {}
        }
    }
    spans
}

pub(crate) fn length((from, to): Span) -> Duration {
    to.saturating_sub(from)
}

/// What of `spans` lies within `within`.
pub(crate) fn overlaps(spans: &[Span], within: Span) -> impl Iterator<Item = Span> {
    let parts = spans
        .iter()
        .filter(move |span| span.0 <= within.1 && span.1 >= within.0);
    parts.map(move |span| (span.0.max(within.0), span.1.min(within.1)))
}

/// How much time `spans` take together.
pub(crate) fn covered(spans: &mut [Span]) -> Duration {
    spans.sort();
    let mut end = Duration::ZERO;
    let new = spans.iter().map(|span| {
        let new = span.1.saturating_sub(end.max(span.0));
        end = end.max(span.1);
        new
    });
    new.sum()
}
