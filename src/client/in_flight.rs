//! How much is under way to each node at once, and what comes first.
//!
//! Everything that goes to a node passes through here: first requests, keep-alives, renewals, releases. Many
//! may fall due together: sent together they would pile up at the server, and the last be answered so late
//! that the connection seems dead; a new one puts every lease in doubt, all are asked about at once, and so
//! on. So a burst waits its turn, and its time counts from when it is sent. How much a node is asked at once
//! follows from how soon it answers, as in TCP's congestion control by delay.
//!
//! What keeps something that would run out has a window of its own and comes first, leases before places. However
//! late the answers come, as many are sent as it takes to get through all that wait within a few seconds: a longer way
//! to the nodes must cost no lease (L6). What asks and what gives up share the other window, and take turns, so that
//! nothing is shut out.

use std::{collections::VecDeque, time::Duration};

use crate::{request::Urgency, time::Time};

/// How many questions may be under way to one node in each window, a batch more or less: enough to keep a server
/// busy that is 50 ms away, few enough for it to answer well within a `node_timeout`.
const MOST: usize = 3_200;

/// How many at first, and how many at least: a node that is slow must not be asked so much at once that it
/// answers none of it in time.
const AT_FIRST: usize = 16;
const LEAST: usize = 8;

/// The same of what keeps something, and within how long all of that is to be sent.
const LEAST_KEPT: usize = 32;
const KEPT_WITHIN: Duration = Duration::from_secs(3);

/// The shortest answer of so long tells how long the way is. While a burst is under way all answers take longer.
const LATELY: Duration = Duration::from_secs(10);

/// Who waits to ask each node, and how much is under way there.
#[derive(Debug)]
pub(crate) struct InFlight(Vec<Lines>);

#[derive(Debug)]
struct Lines {
    hold: VecDeque<u64>,
    keep: VecDeque<u64>,
    ask: VecDeque<u64>,
    release: VecDeque<u64>,
    /// Whether releases come next.
    release_next: bool,
    keeping: Window,
    asking: Window,
    way: Way,
    /// How long the last call had.
    of: Duration,
}

/// Which of a node's windows a call belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Keeping,
    Asking,
}

/// How many questions may be under way. It grows while answers come soon enough, and shrinks when they do not.
#[derive(Debug)]
struct Window {
    least: usize,
    size: usize,
    under_way: usize,
    /// How many of those that were under way when it shrank last are still to come: they tell the same once more.
    before: usize,
}

impl Window {
    fn new(least: usize, size: usize) -> Self {
        Self {
            least,
            size,
            under_way: 0,
            before: 0,
        }
    }

    fn room(&self, least: usize) -> usize {
        self.size
            .max(least.min(MOST))
            .saturating_sub(self.under_way)
    }

    /// So many were answered, or will not be: that took so long of the time they had, if that says anything.
    fn over(&mut self, size: usize, took: Option<Duration>, of: Duration, way: Duration) {
        self.under_way = self.under_way.saturating_sub(size);
        let before = self.before > 0;
        self.before = self.before.saturating_sub(size);
        let Some(took) = took else {
            return;
        };
        let late = took > of * 3 / 4 && took > way.saturating_add(of / 4);
        if took >= of || late {
            if !before {
                self.before = self.under_way;
                self.size = (self.size / 2).max(self.least);
            }
        } else if took <= (of / 2).max(way.saturating_add(of / 8)) {
            self.size = (self.size + size.div_ceil(4)).min(MOST);
        }
    }
}

/// How long an answer of a node takes at the least: the shortest of a span that has begun, and of the one before.
#[derive(Debug)]
struct Way {
    since: Time,
    shortest: Duration,
    before: Duration,
}

impl Way {
    fn new() -> Self {
        Self {
            since: Time::ORIGIN,
            shortest: Duration::MAX,
            before: Duration::MAX,
        }
    }

    /// An answer came at `now`, after `took`. How long the way is by that.
    fn learn(&mut self, took: Duration, now: Time) -> Duration {
        if now.since(self.since) >= LATELY {
            self.since = now;
            self.before = std::mem::replace(&mut self.shortest, Duration::MAX);
        }
        self.shortest = self.shortest.min(took);
        self.shortest.min(self.before)
    }
}

impl Lines {
    fn new() -> Self {
        Self {
            hold: VecDeque::new(),
            keep: VecDeque::new(),
            ask: VecDeque::new(),
            release: VecDeque::new(),
            release_next: false,
            keeping: Window::new(LEAST_KEPT, LEAST_KEPT),
            asking: Window::new(LEAST, AT_FIRST),
            way: Way::new(),
            of: Duration::ZERO,
        }
    }

    /// How much that keeps something has to be under way, so that all of it is sent in time even if each answer takes
    /// as long as it may.
    fn needed(&self) -> usize {
        let waiting = u32::try_from(self.hold.len() + self.keep.len()).unwrap_or(u32::MAX);
        let rounds = self.of.saturating_mul(waiting).as_millis() / KEPT_WITHIN.as_millis();
        usize::try_from(rounds).unwrap_or(MOST)
    }

    fn window(&mut self, lane: Lane) -> &mut Window {
        match lane {
            Lane::Keeping => &mut self.keeping,
            Lane::Asking => &mut self.asking,
        }
    }

    /// Those whose turn it is, as many as there is room for in their window.
    fn pop(&mut self, limit: usize) -> Option<(Lane, Vec<u64>)> {
        let keep_room = self.keeping.room(self.needed());
        // Both kinds are in each other's way at the node.
        let left = self.asking.room(0).saturating_sub(self.keeping.under_way);
        let ask_room = left.max(LEAST.saturating_sub(self.asking.under_way));
        let keeping = match (self.hold.is_empty(), self.keep.is_empty()) {
            (false, _) => Some(&mut self.hold),
            (true, false) => Some(&mut self.keep),
            (true, true) => None,
        };
        let (lane, room, line) = if let Some(line) = keeping.filter(|_| keep_room > 0) {
            (Lane::Keeping, keep_room, line)
        } else if ask_room > 0 {
            let releases = self.ask.is_empty() || self.release_next && !self.release.is_empty();
            self.release_next = !releases;
            let line = if releases {
                &mut self.release
            } else {
                &mut self.ask
            };
            (Lane::Asking, ask_room, line)
        } else {
            return None;
        };
        let most = limit.clamp(1, room).min(line.len());
        let keys: Vec<u64> = line.drain(..most).collect();
        (!keys.is_empty()).then_some((lane, keys))
    }
}

impl InFlight {
    pub(crate) fn of(nodes: usize) -> Self {
        Self((0..nodes).map(|_| Lines::new()).collect())
    }

    /// A request wants to ask a node, and comes last among its like.
    pub(crate) fn push(&mut self, place: usize, urgency: Urgency, key: u64) {
        let Some(lines) = self.0.get_mut(place) else {
            return;
        };
        match urgency {
            Urgency::Hold => lines.hold.push_back(key),
            Urgency::Keep => lines.keep.push_back(key),
            Urgency::Ask => lines.ask.push_back(key),
            Urgency::Release => lines.release.push_back(key),
        }
    }

    /// A node that may be asked something, and who asks: as many as go into one call of that node.
    pub(crate) fn next(
        &mut self,
        limit: impl Fn(usize) -> usize,
    ) -> Option<(usize, Lane, Vec<u64>)> {
        self.0.iter_mut().enumerate().find_map(|(place, lines)| {
            let (lane, keys) = lines.pop(limit(place))?;
            Some((place, lane, keys))
        })
    }

    /// So many questions are under way to a node now.
    pub(crate) fn sent(&mut self, place: usize, lane: Lane, size: usize) {
        if let Some(lines) = self.0.get_mut(place) {
            lines.window(lane).under_way += size;
        }
    }

    /// So many that were under way to a node were answered, or will not be: that took so long of the time they had,
    /// if that says anything.
    pub(crate) fn over(
        &mut self,
        place: usize,
        lane: Lane,
        size: usize,
        took: Option<Duration>,
        of: Duration,
        now: Time,
    ) {
        if let Some(lines) = self.0.get_mut(place) {
            lines.of = of;
            let way = lines.way.learn(took.unwrap_or(Duration::MAX), now);
            lines.window(lane).over(size, took, of, way);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(100);
    const NOW: Time = Time::ORIGIN;

    fn next(pace: &mut InFlight) -> Option<(usize, Vec<u64>)> {
        let (place, _, keys) = pace.next(|_| 2)?;
        Some((place, keys))
    }

    #[test]
    fn a_burst_is_sent_as_it_is_answered_and_no_node_waits_for_another() {
        let mut pace = InFlight::of(2);
        (0..4).for_each(|key| pace.push(0, Urgency::Ask, key));
        pace.push(1, Urgency::Ask, 9);
        assert_eq!(next(&mut pace), Some((0, vec![0, 1])));
        pace.sent(0, Lane::Asking, AT_FIRST);
        assert_eq!(next(&mut pace), Some((1, vec![9])));
        assert_eq!(next(&mut pace), None);
        pace.over(0, Lane::Asking, 1, Some(TIMEOUT), TIMEOUT, NOW);
        pace.over(0, Lane::Asking, AT_FIRST - LEAST, None, TIMEOUT, NOW);
        assert_eq!(next(&mut pace), Some((0, vec![2])));
    }

    /// The size of a window when so many answers have come, each after so long; one every 10 ms.
    fn grown(window: &mut Window, way: &mut Way, answers: u64, took: Duration) -> usize {
        for _ in 0..answers {
            window.under_way += 64;
            let now = way.since.plus(Duration::from_millis(10));
            window.over(64, Some(took), TIMEOUT, way.learn(took, now));
        }
        window.size
    }

    #[test]
    fn as_much_is_under_way_as_a_node_answers_in_time() {
        let (mut window, mut way) = (Window::new(LEAST, AT_FIRST), Way::new());
        let mut asked = |answers, took| grown(&mut window, &mut way, answers, took);
        // However long the way is.
        assert_eq!(asked(1, TIMEOUT / 2), AT_FIRST + 16);
        assert_eq!(asked(1, TIMEOUT * 7 / 10), AT_FIRST + 16);
        assert_eq!(asked(1, TIMEOUT), (AT_FIRST + 16) / 2);
        assert_eq!(asked(10, TIMEOUT), LEAST);
        assert_eq!(asked(300, TIMEOUT / 10), MOST);
    }

    #[test]
    fn a_longer_way_is_no_crowd() {
        let (mut window, mut way) = (Window::new(LEAST, AT_FIRST), Way::new());
        grown(&mut window, &mut way, 1, TIMEOUT / 50);
        assert_eq!(grown(&mut window, &mut way, 10, TIMEOUT * 4 / 5), LEAST);
        for _ in 0..2 {
            way.since = Time::ORIGIN;
            let now = Time::ORIGIN.plus(LATELY);
            way.learn(TIMEOUT * 4 / 5, now);
        }
        assert!(grown(&mut window, &mut way, 10, TIMEOUT * 4 / 5) > LEAST);
    }

    #[test]
    fn answers_of_one_round_shrink_it_once() {
        let mut window = Window::new(LEAST, 64);
        window.under_way = 64;
        (0..8).for_each(|_| window.over(8, Some(TIMEOUT), TIMEOUT, TIMEOUT));
        assert_eq!(window.size, 32);
    }

    #[test]
    fn l6_all_that_would_run_out_is_sent_within_seconds_however_late_the_answers() {
        const OF: Duration = Duration::from_millis(500);
        let mut pace = InFlight::of(1);
        // Now and then one comes soon, so the others are not taken for a longer way.
        for turn in 0..100 {
            pace.sent(0, Lane::Keeping, 1);
            let took = if turn % 3 == 0 { OF / 50 } else { OF * 19 / 20 };
            pace.over(0, Lane::Keeping, 1, Some(took), OF, NOW);
        }
        assert!(pace.0[0].keeping.size < 100);
        (0..1200).for_each(|key| pace.push(0, Urgency::Hold, key));
        let (_, _, keys) = pace.next(|_| usize::MAX).expect("some");
        assert_eq!(keys.len(), 200);
    }

    #[test]
    fn l6_what_would_run_out_comes_first_and_nothing_is_shut_out() {
        let mut pace = InFlight::of(1);
        for key in 0..4 {
            pace.push(0, Urgency::Ask, key);
            pace.push(0, Urgency::Release, 10 + key);
        }
        pace.push(0, Urgency::Keep, 20);
        pace.push(0, Urgency::Hold, 19);
        let order: Vec<_> = std::iter::from_fn(|| next(&mut pace)).collect();
        let keys: Vec<_> = order.into_iter().map(|(_, keys)| keys).collect();
        assert_eq!(
            keys,
            [
                vec![19],
                vec![20],
                vec![0, 1],
                vec![10, 11],
                vec![2, 3],
                vec![12, 13]
            ]
        );
        // However much of the one is under way.
        pace.sent(0, Lane::Asking, MOST);
        pace.push(0, Urgency::Keep, 21);
        assert_eq!(next(&mut pace), Some((0, vec![21])));
        pace.over(0, Lane::Asking, MOST, None, TIMEOUT, NOW);
        pace.sent(0, Lane::Keeping, MOST);
        pace.push(0, Urgency::Keep, 22);
        pace.push(0, Urgency::Release, 23);
        assert_eq!(next(&mut pace), Some((0, vec![23])));
    }
}
