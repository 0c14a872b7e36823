//! How much is under way to each node at once, and what comes first.
//!
//! Everything that goes to a node passes through here: first requests, keep-alives, renewals, releases. Many
//! may fall due together: sent together they would pile up at the server, and the last be answered so late
//! that the connection seems dead; a new one puts every lease in doubt, all are asked about at once, and so
//! on. So a burst waits its turn, and its time counts from when it is sent. How much a node is asked at once
//! follows from how soon it answers, as in TCP's congestion control by delay.
//!
//! What keeps something has a window of its own, and goes first: whatever would run out earliest before the others
//! (EDF, the earliest deadline first). That window shrinks only if answers do not come at all, and is as large as it
//! takes to send all that waits before it would run out: a longer way to the nodes must cost neither lease nor place
//! (L6, F2). What asks and what gives up share the other window, and take turns, so that nothing is shut out.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{request::Urgency, time::Time};

/// How many questions may be under way to one node in each window, a batch more or less: enough to keep a server
/// busy that is 50 ms away, few enough for it to answer well within a `node_timeout`.
const MOST: usize = 3_200;

/// How many at first, and how many at least: a node that is slow must not be asked so much at once that it
/// answers none of it in time.
const AT_FIRST: usize = 16;
const LEAST: usize = 8;

/// The shortest answer of so long tells how long the way is. While a burst is under way all answers take longer.
const LATELY: Duration = Duration::from_secs(10);

/// Which requests wait to ask each node, and how much is under way there.
#[derive(Debug)]
pub(crate) struct InFlight(Vec<Lines>);

#[derive(Debug)]
struct Lines {
    /// By the moment by which it has to be sent, and then in order of arrival.
    keep: BTreeMap<(Time, u64), u64>,
    ask: VecDeque<u64>,
    release: VecDeque<u64>,
    arrivals: u64,
    /// Whether releases come next.
    release_next: bool,
    keeping: Window,
    asking: Window,
    way: Way,
    /// How long the calls to this node may take at most, as far as is known.
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
    lane: Lane,
    size: usize,
    under_way: usize,
    /// How many of those that were under way when it shrank last are still to come: they tell the same once more.
    before: usize,
    /// When a call was not answered in time that could have been.
    unanswered: Option<Time>,
}

/// What a call to a node has come to, for the pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    /// How many questions it carried.
    pub(crate) size: usize,
    /// How long the answer took; `None` if none came in time.
    pub(crate) answer: Option<Duration>,
    /// How long it may have taken.
    pub(crate) of: Duration,
    /// When that was known.
    pub(crate) at: Time,
}

impl Window {
    fn new(lane: Lane) -> Self {
        Self {
            lane,
            size: AT_FIRST,
            under_way: 0,
            before: 0,
            unanswered: None,
        }
    }

    fn room(&self, least: usize) -> usize {
        let size = self.size.max(least.min(MOST));
        size.saturating_sub(self.under_way)
    }

    /// So many that were under way are so no more. Whether they were under way when it shrank last.
    fn over(&mut self, size: usize) -> bool {
        let before = self.before > 0;
        self.under_way = self.under_way.saturating_sub(size);
        self.before = self.before.saturating_sub(size);
        before
    }

    /// What a call has come to that says something about the node, which is `way` away.
    fn learn(&mut self, took: Took, way: Duration, before: bool) {
        let (of, size) = (took.of, took.size);
        let Some(answer) = took.answer else {
            // No node could have answered that.
            if of > way {
                self.unanswered = Some(took.at);
                self.shrink(before);
            }
            return;
        };
        let late = answer > of * 3 / 4 && answer > way.saturating_add(of / 4);
        let soon = answer <= (of / 2).max(way.saturating_add(of / 8));
        match self.lane {
            Lane::Asking if late => self.shrink(before),
            // Half as much again in each round trip.
            _ if soon => self.size = (self.size + size.div_ceil(2)).min(MOST),
            _ => {}
        }
    }

    /// Once for all that was under way at the time.
    fn shrink(&mut self, before: bool) {
        if !before {
            self.before = self.under_way;
            self.size = (self.size / 2).max(LEAST);
        }
    }
}

/// How long an answer of a node takes at the least: the shortest of a span that has begun, and of the one before.
#[derive(Debug)]
struct Way {
    since: Time,
    shortest: Option<Duration>,
    before: Option<Duration>,
}

impl Way {
    fn new() -> Self {
        Self {
            since: Time::ORIGIN,
            shortest: None,
            before: None,
        }
    }

    /// An answer came at `now`, after `took`.
    fn learn(&mut self, took: Duration, now: Time) {
        if now.since(self.since) >= LATELY {
            self.since = now;
            self.before = self.shortest.take();
        }
        self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
    }

    /// How long the way is, as far as is known.
    fn length(&self) -> Duration {
        let known = self.shortest.into_iter().chain(self.before).min();
        known.unwrap_or(Duration::ZERO)
    }
}

impl Lines {
    fn new() -> Self {
        Self {
            keep: BTreeMap::new(),
            ask: VecDeque::new(),
            release: VecDeque::new(),
            arrivals: 0,
            release_next: false,
            keeping: Window::new(Lane::Keeping),
            asking: Window::new(Lane::Asking),
            way: Way::new(),
            of: Duration::ZERO,
        }
    }

    /// How much that keeps something has to be under way, so that all of it is sent in time even if each answer takes
    /// as long as it may. A node that has just left something unanswered is not asked more than it can do.
    fn needed(&self, now: Time) -> usize {
        let recently = |at: Time| now.since(at) < 2 * self.of;
        if self.keeping.unanswered.is_some_and(recently) {
            return 0;
        }
        let needed = |(ahead, (by, _)): (usize, &(Time, u64))| {
            let left = by.since(now).max(self.of / 8).as_millis().max(1);
            (ahead as u128 + 1) * self.of.as_millis() / left
        };
        let needed = self.keep.keys().take(MOST).enumerate().map(needed).max();
        usize::try_from(needed.unwrap_or(0)).unwrap_or(MOST)
    }

    fn window(&mut self, lane: Lane) -> &mut Window {
        match lane {
            Lane::Keeping => &mut self.keeping,
            Lane::Asking => &mut self.asking,
        }
    }

    /// Those whose turn it is, as many as there is room for in their window.
    fn pop(&mut self, limit: usize, now: Time) -> Option<(Lane, Vec<u64>)> {
        if !self.keep.is_empty() {
            let room = self.keeping.room(self.needed(now));
            let most = limit.max(1).min(room);
            let first = std::iter::from_fn(|| self.keep.pop_first());
            let keys: Vec<u64> = first.take(most).map(|(_, key)| key).collect();
            if !keys.is_empty() {
                return Some((Lane::Keeping, keys));
            }
        }
        // Both kinds are in each other's way at the node.
        let left = self.asking.room(0).saturating_sub(self.keeping.under_way);
        let room = left.max(LEAST.saturating_sub(self.asking.under_way));
        if room == 0 {
            return None;
        }
        let releases = self.ask.is_empty() || self.release_next && !self.release.is_empty();
        self.release_next = !releases;
        let line = if releases {
            &mut self.release
        } else {
            &mut self.ask
        };
        let most = limit.clamp(1, room).min(line.len());
        let keys: Vec<u64> = line.drain(..most).collect();
        (!keys.is_empty()).then_some((Lane::Asking, keys))
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
            Urgency::Keep { by } => {
                lines.arrivals += 1;
                lines.keep.insert((by, lines.arrivals), key);
            }
            Urgency::Ask => lines.ask.push_back(key),
            Urgency::Release => lines.release.push_back(key),
        }
    }

    /// A node that may be asked something at `now`, and who asks: as many as go into one call of that node.
    pub(crate) fn next(
        &mut self,
        now: Time,
        limit: impl Fn(usize) -> usize,
    ) -> Option<(usize, Lane, Vec<u64>)> {
        self.0.iter_mut().enumerate().find_map(|(place, lines)| {
            let (lane, keys) = lines.pop(limit(place), now)?;
            Some((place, lane, keys))
        })
    }

    /// So many questions are under way to a node now.
    pub(crate) fn sent(&mut self, place: usize, lane: Lane, size: usize) {
        if let Some(lines) = self.0.get_mut(place) {
            lines.window(lane).under_way += size;
        }
    }

    /// What a call to a node has come to, if that says something about how much the node can do.
    pub(crate) fn over(&mut self, place: usize, lane: Lane, size: usize, took: Option<Took>) {
        let Some(lines) = self.0.get_mut(place) else {
            return;
        };
        let before = lines.window(lane).over(size);
        let Some(took) = took else {
            return;
        };
        lines.of = lines.of.max(took.of);
        if let Some(answer) = took.answer {
            lines.way.learn(answer, took.at);
        }
        let way = lines.way.length();
        lines.window(lane).learn(took, way, before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF: Duration = Duration::from_millis(100);

    fn at(millis: u64) -> Time {
        Time::ORIGIN.plus(Duration::from_millis(millis))
    }

    fn keep(by: u64) -> Urgency {
        Urgency::Keep { by: at(by) }
    }

    fn next(pace: &mut InFlight) -> Option<(usize, Vec<u64>)> {
        let (place, _, keys) = pace.next(at(0), |_| 2)?;
        Some((place, keys))
    }

    /// A call of so many questions to node 0 was sent, and has come to this by `now`.
    fn took(pace: &mut InFlight, lane: Lane, size: usize, answer: Option<Duration>, now: Time) {
        pace.sent(0, lane, size);
        let (of, at) = (OF, now);
        let took = Took {
            size,
            answer,
            of,
            at,
        };
        pace.over(0, lane, size, Some(took));
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
        pace.over(0, Lane::Asking, AT_FIRST, None);
        assert_eq!(next(&mut pace), Some((0, vec![2, 3])));
    }

    #[test]
    fn as_much_is_under_way_as_a_node_answers_in_time() {
        let mut pace = InFlight::of(1);
        let mut asked = |times, answer| {
            (0..times).for_each(|turn| took(&mut pace, Lane::Asking, 64, answer, at(10 * turn)));
            pace.0[0].asking.size
        };
        assert_eq!(asked(1, Some(OF / 2)), AT_FIRST + 32);
        assert_eq!(asked(1, Some(OF * 7 / 10)), AT_FIRST + 32);
        assert_eq!(asked(1, None), (AT_FIRST + 32) / 2);
        assert_eq!(asked(10, None), LEAST);
        assert_eq!(asked(300, Some(OF / 10)), MOST);
    }

    #[test]
    fn a_longer_way_is_no_crowd() {
        let mut pace = InFlight::of(1);
        took(&mut pace, Lane::Asking, 64, Some(OF / 50), at(0));
        for turn in 0..10 {
            took(&mut pace, Lane::Asking, 64, Some(OF * 4 / 5), at(turn));
        }
        assert_eq!(pace.0[0].asking.size, LEAST);
        for turn in 0..30 {
            took(
                &mut pace,
                Lane::Asking,
                64,
                Some(OF * 4 / 5),
                at(1000 * turn),
            );
        }
        assert!(pace.0[0].asking.size > LEAST);
    }

    #[test]
    fn l6_a_call_that_no_node_could_have_answered_tells_nothing() {
        let mut pace = InFlight::of(1);
        took(&mut pace, Lane::Asking, 1, Some(OF * 4 / 5), at(0));
        let before = (pace.0[0].asking.size, pace.0[0].way.length());
        let (of, answer) = (OF / 2, None);
        let short = Took {
            size: 1,
            answer,
            of,
            at: at(1),
        };
        pace.over(0, Lane::Asking, 0, Some(short));
        assert_eq!((pace.0[0].asking.size, pace.0[0].way.length()), before);
    }

    #[test]
    fn answers_of_one_round_shrink_it_once() {
        let mut pace = InFlight::of(1);
        pace.0[0].asking.size = 64;
        pace.sent(0, Lane::Asking, 64);
        for _ in 0..8 {
            let (size, answer, of, at) = (8, None, OF, at(1));
            let took = Took {
                size,
                answer,
                of,
                at,
            };
            pace.over(0, Lane::Asking, 8, Some(took));
        }
        assert_eq!(pace.0[0].asking.size, 32);
    }

    #[test]
    fn l6_all_that_would_run_out_is_sent_before_it_does_however_late_the_answers() {
        let mut pace = InFlight::of(1);
        took(&mut pace, Lane::Keeping, 1, Some(OF / 50), at(0));
        for turn in 0..100 {
            took(&mut pace, Lane::Keeping, 64, Some(OF * 19 / 20), at(turn));
        }
        // A second of time, and so ten answers one after the other.
        (0..1000).for_each(|key| pace.push(0, keep(1000), key));
        let (_, _, keys) = pace.next(at(0), |_| usize::MAX).expect("some");
        assert_eq!(keys.len(), 100);
        let (_, _, keys) = pace.next(at(900), |_| usize::MAX).expect("some");
        assert_eq!(keys.len(), 900);
    }

    #[test]
    fn l6_f2_what_would_run_out_comes_first_and_nothing_is_shut_out() {
        let mut pace = InFlight::of(1);
        for key in 0..4 {
            pace.push(0, Urgency::Ask, key);
            pace.push(0, Urgency::Release, 10 + key);
        }
        for (key, by) in [(22, 9000), (20, 700), (21, 800), (19, 300)] {
            pace.push(0, keep(by), key);
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut pace)).collect();
        let keys: Vec<_> = order.into_iter().flat_map(|(_, keys)| keys).collect();
        assert_eq!(keys, [19, 20, 21, 22, 0, 1, 10, 11, 2, 3, 12, 13]);
        // However much of the one is under way.
        pace.sent(0, Lane::Asking, MOST);
        pace.push(0, keep(1), 21);
        assert_eq!(next(&mut pace), Some((0, vec![21])));
        pace.over(0, Lane::Asking, MOST, None);
        pace.sent(0, Lane::Keeping, MOST);
        pace.push(0, keep(1), 22);
        pace.push(0, Urgency::Release, 23);
        assert_eq!(next(&mut pace), Some((0, vec![23])));
    }
}
