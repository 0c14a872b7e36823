//! Which commands wait to be sent to each node, and in which order they go out.
//!
//! Everything that goes to a node passes through here: first requests, keep-alives, renewals, releases. Many may
//! fall due together. Sent together they would pile up at the server, and the last be answered so late that the
//! connection seems dead; a new connection puts every lease in doubt, so all are asked about at once, and so on.
//! So a burst waits for its turn, and the timeout of a command counts from when it is sent. How much may be under way
//! follows from how soon the node answers ([`window`](super::window)).
//!
//! Commands that keep something have a window of their own and go first, in the order in which what they keep runs
//! out (EDF, the earliest deadline first). That window shrinks only if answers do not come at all, and is as large as
//! it takes to send everything in time: a longer way to the nodes must cost neither a lease nor a place (L6, F2).
//! Commands that ask and commands that give up share the other window and take turns, so that neither is shut out.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    client::window::{LEAST, Lane, MOST, MinRtt, Sample, Window},
    quorum::NodeIndex,
    request::Urgency,
    time::Time,
};

/// What waits for its turn at each node, and how much is under way there.
#[derive(Debug)]
pub(crate) struct InFlight(Vec<Queues>);

/// The queues of one node: keys of requests that want to ask it.
#[derive(Debug)]
struct Queues {
    /// In the order of the moment by which the command has to be sent, and then of arrival.
    keep: BTreeMap<(Time, u64), u64>,
    ask: VecDeque<u64>,
    release: VecDeque<u64>,
    arrivals: u64,
    /// Whether releases come next.
    release_next: bool,
    keeping: Window,
    asking: Window,
    rtt: MinRtt,
    /// The longest timeout of a call to this node so far.
    timeout: Duration,
}

impl Queues {
    fn new() -> Self {
        Self {
            keep: BTreeMap::new(),
            ask: VecDeque::new(),
            release: VecDeque::new(),
            arrivals: 0,
            release_next: false,
            keeping: Window::new(Lane::Keeping),
            asking: Window::new(Lane::Asking),
            rtt: MinRtt::new(),
            timeout: Duration::ZERO,
        }
    }

    /// How many commands that keep something have to be under way, so that all of them are sent in time even if each
    /// answer takes as long as it may. A node that has just left a call unanswered is not asked more than it can do.
    fn needed(&self, now: Time) -> usize {
        let recently = |at: Time| now.since(at) < 2 * self.timeout;
        if self.keeping.unanswered().is_some_and(recently) {
            return 0;
        }
        let needed = |(ahead, (by, _)): (usize, &(Time, u64))| {
            let left = by.since(now).max(self.timeout / 8).as_millis().max(1);
            (ahead as u128 + 1) * self.timeout.as_millis() / left
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

    /// The requests whose turn it is, as many as there is room for in their window.
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
        // Commands of both lanes are in each other's way at the node.
        let left = self.asking.room(0).saturating_sub(self.keeping.under_way);
        let room = left.max(LEAST.saturating_sub(self.asking.under_way));
        if room == 0 {
            return None;
        }
        let releases = self.ask.is_empty() || self.release_next && !self.release.is_empty();
        self.release_next = !releases;
        let queue = if releases {
            &mut self.release
        } else {
            &mut self.ask
        };
        let most = limit.clamp(1, room).min(queue.len());
        let keys: Vec<u64> = queue.drain(..most).collect();
        (!keys.is_empty()).then_some((Lane::Asking, keys))
    }
}

impl InFlight {
    pub(crate) fn of(nodes: usize) -> Self {
        Self((0..nodes).map(|_| Queues::new()).collect())
    }

    /// A request wants to ask a node, and comes last among its like.
    pub(crate) fn push(&mut self, node: NodeIndex, urgency: Urgency, key: u64) {
        let Some(queues) = self.0.get_mut(node) else {
            return;
        };
        match urgency {
            Urgency::Keep { by } => {
                queues.arrivals += 1;
                queues.keep.insert((by, queues.arrivals), key);
            }
            Urgency::Ask => queues.ask.push_back(key),
            Urgency::Release => queues.release.push_back(key),
        }
    }

    /// A node that may be sent something at `now`, and the requests whose turn it is: as many as go into one call.
    pub(crate) fn next(
        &mut self,
        now: Time,
        limit: impl Fn(NodeIndex) -> usize,
    ) -> Option<(NodeIndex, Lane, Vec<u64>)> {
        self.0.iter_mut().enumerate().find_map(|(node, queues)| {
            let (lane, keys) = queues.pop(limit(node), now)?;
            Some((node, lane, keys))
        })
    }

    /// So many commands are sent to a node.
    pub(crate) fn sent(&mut self, node: NodeIndex, lane: Lane, size: usize) {
        if let Some(queues) = self.0.get_mut(node) {
            queues.window(lane).under_way += size;
        }
    }

    /// A call to a node has ended, with what that tells of the node's capacity.
    pub(crate) fn over(
        &mut self,
        node: NodeIndex,
        lane: Lane,
        size: usize,
        sample: Option<Sample>,
    ) {
        let Some(queues) = self.0.get_mut(node) else {
            return;
        };
        if let Some(sample) = sample {
            queues.timeout = queues.timeout.max(sample.timeout);
            if let Some(answer) = sample.answer {
                queues.rtt.learn(answer, sample.at);
            }
        }
        let rtt = queues.rtt.get();
        queues.window(lane).end(size, sample, rtt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::window::AT_FIRST;

    const OF: Duration = Duration::from_millis(100);

    fn at(millis: u64) -> Time {
        Time::ORIGIN.plus(Duration::from_millis(millis))
    }

    fn keep(by: u64) -> Urgency {
        Urgency::Keep { by: at(by) }
    }

    fn next(in_flight: &mut InFlight) -> Option<(usize, Vec<u64>)> {
        let (index, _, keys) = in_flight.next(at(0), |_| 2)?;
        Some((index, keys))
    }

    /// A call of so many commands to node 0 was sent, and has come to this by `now`.
    fn took(
        in_flight: &mut InFlight,
        lane: Lane,
        size: usize,
        answer: Option<Duration>,
        now: Time,
    ) {
        in_flight.sent(0, lane, size);
        let (of, at) = (OF, now);
        let took = Sample {
            size,
            answer,
            timeout: of,
            at,
        };
        in_flight.over(0, lane, size, Some(took));
    }

    #[test]
    fn a_burst_is_sent_as_it_is_answered_and_no_node_waits_for_another() {
        let mut in_flight = InFlight::of(2);
        (0..4).for_each(|key| in_flight.push(0, Urgency::Ask, key));
        in_flight.push(1, Urgency::Ask, 9);
        assert_eq!(next(&mut in_flight), Some((0, vec![0, 1])));
        in_flight.sent(0, Lane::Asking, AT_FIRST);
        assert_eq!(next(&mut in_flight), Some((1, vec![9])));
        assert_eq!(next(&mut in_flight), None);
        in_flight.over(0, Lane::Asking, AT_FIRST, None);
        assert_eq!(next(&mut in_flight), Some((0, vec![2, 3])));
    }

    #[test]
    fn as_much_is_under_way_as_a_node_answers_in_time() {
        let mut in_flight = InFlight::of(1);
        let mut asked = |times, answer| {
            (0..times)
                .for_each(|turn| took(&mut in_flight, Lane::Asking, 64, answer, at(10 * turn)));
            in_flight.0[0].asking.size
        };
        assert_eq!(asked(1, Some(OF / 2)), AT_FIRST + 32);
        assert_eq!(asked(1, Some(OF * 7 / 10)), AT_FIRST + 32);
        assert_eq!(asked(1, None), (AT_FIRST + 32) / 2);
        assert_eq!(asked(10, None), LEAST);
        assert_eq!(asked(300, Some(OF / 10)), MOST);
    }

    #[test]
    fn a_longer_way_is_no_crowd() {
        let mut in_flight = InFlight::of(1);
        took(&mut in_flight, Lane::Asking, 64, Some(OF / 50), at(0));
        for turn in 0..10 {
            took(&mut in_flight, Lane::Asking, 64, Some(OF * 4 / 5), at(turn));
        }
        assert_eq!(in_flight.0[0].asking.size, LEAST);
        for turn in 0..30 {
            took(
                &mut in_flight,
                Lane::Asking,
                64,
                Some(OF * 4 / 5),
                at(1000 * turn),
            );
        }
        assert!(in_flight.0[0].asking.size > LEAST);
    }

    #[test]
    fn l6_a_call_that_no_node_could_have_answered_tells_nothing() {
        let mut in_flight = InFlight::of(1);
        took(&mut in_flight, Lane::Asking, 1, Some(OF * 4 / 5), at(0));
        let before = (in_flight.0[0].asking.size, in_flight.0[0].rtt.get());
        let (of, answer) = (OF / 2, None);
        let short = Sample {
            size: 1,
            answer,
            timeout: of,
            at: at(1),
        };
        in_flight.over(0, Lane::Asking, 0, Some(short));
        assert_eq!(
            (in_flight.0[0].asking.size, in_flight.0[0].rtt.get()),
            before
        );
    }

    #[test]
    fn answers_of_one_round_shrink_it_once() {
        let mut in_flight = InFlight::of(1);
        in_flight.0[0].asking.size = 64;
        in_flight.sent(0, Lane::Asking, 64);
        for _ in 0..8 {
            let (size, answer, of, at) = (8, None, OF, at(1));
            let took = Sample {
                size,
                answer,
                timeout: of,
                at,
            };
            in_flight.over(0, Lane::Asking, 8, Some(took));
        }
        assert_eq!(in_flight.0[0].asking.size, 32);
    }

    #[test]
    fn l6_all_that_would_run_out_is_sent_before_it_does_however_late_the_answers() {
        let mut in_flight = InFlight::of(1);
        took(&mut in_flight, Lane::Keeping, 1, Some(OF / 50), at(0));
        for turn in 0..100 {
            took(
                &mut in_flight,
                Lane::Keeping,
                64,
                Some(OF * 19 / 20),
                at(turn),
            );
        }
        // A second of time, and so ten answers one after the other.
        (0..1000).for_each(|key| in_flight.push(0, keep(1000), key));
        let (_, _, keys) = in_flight.next(at(0), |_| usize::MAX).expect("some");
        assert_eq!(keys.len(), 100);
        let (_, _, keys) = in_flight.next(at(900), |_| usize::MAX).expect("some");
        assert_eq!(keys.len(), 900);
    }

    #[test]
    fn l6_f2_what_would_run_out_comes_first_and_nothing_is_shut_out() {
        let mut in_flight = InFlight::of(1);
        for key in 0..4 {
            in_flight.push(0, Urgency::Ask, key);
            in_flight.push(0, Urgency::Release, 10 + key);
        }
        for (key, by) in [(22, 9000), (20, 700), (21, 800), (19, 300)] {
            in_flight.push(0, keep(by), key);
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut in_flight)).collect();
        let keys: Vec<_> = order.into_iter().flat_map(|(_, keys)| keys).collect();
        assert_eq!(keys, [19, 20, 21, 22, 0, 1, 10, 11, 2, 3, 12, 13]);
        // However much of the one is under way.
        in_flight.sent(0, Lane::Asking, MOST);
        in_flight.push(0, keep(1), 21);
        assert_eq!(next(&mut in_flight), Some((0, vec![21])));
        in_flight.over(0, Lane::Asking, MOST, None);
        in_flight.sent(0, Lane::Keeping, MOST);
        in_flight.push(0, keep(1), 22);
        in_flight.push(0, Urgency::Release, 23);
        assert_eq!(next(&mut in_flight), Some((0, vec![23])));
    }
}
