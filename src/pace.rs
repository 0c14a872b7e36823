//! How much is under way to each node at once.
//!
//! The renewals of very many leases fall due together. Sent together they would pile up at the server, and
//! the last be answered so late that the connection seems dead; a new one puts every lease in doubt, all are
//! asked about at once, and so on.

use std::collections::VecDeque;

/// How many questions may be under way to one node, a batch more or less: enough to keep a server busy that is
/// 50 ms away, few enough for it to answer well within a `node_timeout`.
const MOST: usize = 3_200;

/// Batches for each node, of which some are under way.
#[derive(Debug)]
pub(crate) struct Pace<B>(Vec<Line<B>>);

#[derive(Debug)]
struct Line<B> {
    /// Each with how many questions it has.
    waiting: VecDeque<(usize, B)>,
    under_way: usize,
}

impl<B> Pace<B> {
    pub(crate) fn of(nodes: usize) -> Self {
        let line = |_| Line {
            waiting: VecDeque::new(),
            under_way: 0,
        };
        Self((0..nodes).map(line).collect())
    }

    /// A batch of `size` questions for a node comes last.
    pub(crate) fn push(&mut self, place: usize, size: usize, batch: B) {
        if let Some(line) = self.0.get_mut(place) {
            line.waiting.push_back((size, batch));
        }
    }

    /// What may be sent now, and is under way with that.
    pub(crate) fn next(&mut self) -> Option<B> {
        self.0.iter_mut().find_map(|line| {
            if line.under_way >= MOST {
                return None;
            }
            let (size, batch) = line.waiting.pop_front()?;
            line.under_way += size;
            Some(batch)
        })
    }

    /// A batch of `size` that was under way to a node was answered, or will not be.
    pub(crate) fn over(&mut self, place: usize, size: usize) {
        if let Some(line) = self.0.get_mut(place) {
            line.under_way = line.under_way.saturating_sub(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_sent_as_it_is_answered_and_no_node_waits_for_another() {
        let size = MOST / 4;
        let mut pace = Pace::of(2);
        for batch in 0..6 {
            pace.push(0, size, (0, batch));
        }
        pace.push(1, size, (1, 0));
        let sent: Vec<_> = std::iter::from_fn(|| pace.next()).collect();
        assert_eq!(sent, [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]);
        pace.over(0, size);
        assert_eq!(pace.next(), Some((0, 4)));
        assert_eq!(pace.next(), None);
        pace.over(1, size);
        assert_eq!(pace.next(), None);
        pace.over(0, size);
        assert_eq!(pace.next(), Some((0, 5)));
    }
}
