//! How much is under way to each node at once, and what comes first.
//!
//! Everything that goes to a node passes through here: first requests, keep-alives, renewals, releases. Many
//! may fall due together: sent together they would pile up at the server, and the last be answered so late
//! that the connection seems dead; a new one puts every lease in doubt, all are asked about at once, and so
//! on. So a burst waits its turn, and its time counts from when it is sent. How much a node is asked at once
//! follows from how soon it answers, as in TCP's congestion control by delay. What keeps something that would
//! run out comes first, most of the time; what asks and what gives up take turns, so that nothing is shut out.

use std::{collections::VecDeque, time::Duration};

use crate::claim::Urgency;

/// How many questions may be under way to one node, a batch more or less: enough to keep a server busy that is
/// 50 ms away, few enough for it to answer well within a `node_timeout`.
const MOST: usize = 3_200;

/// How many at first, and how many at least: a node that is slow must not be asked so much at once that it
/// answers none of it in time.
const AT_FIRST: usize = 16;
const LEAST: usize = 8;

/// So many calls in a row may keep something while others wait.
const KEPT_IN_A_ROW: u8 = 7;

/// Who waits to ask each node, and how much is under way there.
#[derive(Debug)]
pub(crate) struct Pace(Vec<Lines>);

#[derive(Debug)]
struct Lines {
    keep: VecDeque<u64>,
    ask: VecDeque<u64>,
    release: VecDeque<u64>,
    /// Whether releases come next.
    release_next: bool,
    /// How many calls in a row have kept something.
    kept: u8,
    under_way: usize,
    /// How many may be. It grows while answers come soon, and shrinks when they do not.
    window: usize,
    /// How long an answer takes at the least, as far as is known.
    least: Duration,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            keep: VecDeque::new(),
            ask: VecDeque::new(),
            release: VecDeque::new(),
            release_next: false,
            kept: 0,
            under_way: 0,
            window: AT_FIRST,
            least: Duration::MAX,
        }
    }
}

impl Lines {
    fn is_idle(&self) -> bool {
        let waiting = [&self.keep, &self.ask, &self.release];
        self.under_way == 0 && waiting.iter().all(|line| line.is_empty())
    }

    fn pop(&mut self, most: usize) -> Vec<u64> {
        let others = !self.ask.is_empty() || !self.release.is_empty();
        let line = if !(self.keep.is_empty() || others && self.kept >= KEPT_IN_A_ROW) {
            self.kept = self.kept.saturating_add(1);
            &mut self.keep
        } else {
            self.kept = 0;
            let releases = self.ask.is_empty() || self.release_next && !self.release.is_empty();
            self.release_next = !releases;
            if releases {
                &mut self.release
            } else {
                &mut self.ask
            }
        };
        let most = most.min(line.len());
        line.drain(..most).collect()
    }
}

impl Pace {
    pub(crate) fn of(nodes: usize) -> Self {
        Self((0..nodes).map(|_| Lines::default()).collect())
    }

    /// A request wants to ask a node, and comes last among its like.
    pub(crate) fn push(&mut self, place: usize, urgency: Urgency, key: u64) {
        let Some(lines) = self.0.get_mut(place) else {
            return;
        };
        match urgency {
            Urgency::Keep => lines.keep.push_back(key),
            Urgency::Ask => lines.ask.push_back(key),
            Urgency::Release => lines.release.push_back(key),
        }
    }

    /// A node that may be asked something, and who asks: as many as go into one call of that node.
    pub(crate) fn next(&mut self, limit: impl Fn(usize) -> usize) -> Option<(usize, Vec<u64>)> {
        self.0.iter_mut().enumerate().find_map(|(place, lines)| {
            let room = lines.window.saturating_sub(lines.under_way);
            if room == 0 {
                return None;
            }
            let keys = lines.pop(limit(place).clamp(1, room));
            (!keys.is_empty()).then_some((place, keys))
        })
    }

    /// So many questions are under way to a node now.
    pub(crate) fn sent(&mut self, place: usize, size: usize) {
        if let Some(lines) = self.0.get_mut(place) {
            lines.under_way += size;
        }
    }

    /// So many that were under way to a node were answered, or will not be: that took so long of the time they had,
    /// if that says anything.
    pub(crate) fn over(&mut self, place: usize, size: usize, took: Option<Duration>, of: Duration) {
        let Some(lines) = self.0.get_mut(place) else {
            return;
        };
        lines.under_way = lines.under_way.saturating_sub(size);
        let Some(took) = took else {
            return;
        };
        if took < of {
            lines.least = lines.least.min(took);
            if lines.is_idle() {
                // Nothing else was in its way, so the way itself has become longer.
                lines.least += took.saturating_sub(lines.least) / 8;
            }
        }
        let late = took > of * 3 / 4 && took > lines.least.saturating_add(of / 4);
        if took >= of || late {
            lines.window = (lines.window / 2).max(LEAST);
        } else if took <= (of / 2).max(lines.least + of / 8) {
            lines.window = (lines.window + size.div_ceil(4)).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(100);

    fn next(pace: &mut Pace) -> Option<(usize, Vec<u64>)> {
        pace.next(|_| 2)
    }

    #[test]
    fn a_burst_is_sent_as_it_is_answered_and_no_node_waits_for_another() {
        let mut pace = Pace::of(2);
        (0..4).for_each(|key| pace.push(0, Urgency::Ask, key));
        pace.push(1, Urgency::Ask, 9);
        assert_eq!(next(&mut pace), Some((0, vec![0, 1])));
        pace.sent(0, AT_FIRST);
        assert_eq!(next(&mut pace), Some((1, vec![9])));
        assert_eq!(next(&mut pace), None);
        pace.over(0, 1, Some(TIMEOUT), TIMEOUT);
        pace.over(0, AT_FIRST - LEAST, None, TIMEOUT);
        assert_eq!(next(&mut pace), Some((0, vec![2])));
    }

    #[test]
    fn as_much_is_under_way_as_a_node_answers_in_time() {
        let mut pace = Pace::of(1);
        let mut asked = |took: Duration| {
            pace.sent(0, 64);
            pace.over(0, 64, Some(took), TIMEOUT);
            pace.0[0].window
        };
        // However long the way is.
        assert_eq!(asked(TIMEOUT / 2), AT_FIRST + 16);
        assert_eq!(asked(TIMEOUT * 7 / 10), AT_FIRST + 16);
        assert_eq!(asked(TIMEOUT), (AT_FIRST + 16) / 2);
        for _ in 0..10 {
            asked(TIMEOUT);
        }
        assert_eq!(asked(TIMEOUT), LEAST);
        for _ in 0..300 {
            asked(TIMEOUT / 10);
        }
        assert_eq!(asked(TIMEOUT / 10), MOST);
    }

    #[test]
    fn l6_what_would_run_out_comes_first_and_nothing_is_shut_out() {
        let mut pace = Pace::of(1);
        for key in 0..4 {
            pace.push(0, Urgency::Ask, key);
            pace.push(0, Urgency::Release, 10 + key);
        }
        pace.push(0, Urgency::Keep, 20);
        let order: Vec<_> = std::iter::from_fn(|| next(&mut pace)).collect();
        let keys: Vec<_> = order.into_iter().map(|(_, keys)| keys).collect();
        assert_eq!(
            keys,
            [vec![20], vec![0, 1], vec![10, 11], vec![2, 3], vec![12, 13]]
        );
    }
}
