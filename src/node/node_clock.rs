//! What is known of a server's clock.
//!
//! The shorter the round trip of a reading, the better the reading. So a reading with a longer round trip does not
//! replace a better one, or the deadlines that follow from it (S4) would shift with every delay. The exception are two
//! readings that contradict each other: then the clock was set.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{message::Incarnation, time::Time};

/// The most that the two clocks are taken to have drifted apart, in microseconds.
const MOST_DRIFT: i64 = 50_000;

/// How old a reading may become before the server is asked for another: the clocks drift apart by less than
/// `MOST_DRIFT` meanwhile.
pub(crate) const READ_EVERY: Duration = Duration::from_secs(5);

/// A server's clock, as read so far.
#[derive(Debug)]
pub(crate) struct NodeClock(Mutex<Reading>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    /// Microseconds, as in [`Incarnation`].
    offset: i64,
    /// How far off that may be, in microseconds.
    doubt: i64,
    at: Time,
    /// When the clock was read last, whether that was a better reading or not.
    last: Time,
}

impl NodeClock {
    /// The clock read `millis` between two moments.
    pub(crate) fn read(millis: u64, sent: Time, received: Time) -> Self {
        Self(Mutex::new(Reading::of(millis, sent, received)))
    }

    /// Nothing is known of the clock yet. The wall clock `millis` is a guess, and no deadline relies on it.
    pub(crate) fn guess(millis: u64, now: Time) -> Self {
        let guess = Reading {
            doubt: i64::MAX,
            ..Reading::of(millis, now, now)
        };
        Self(Mutex::new(guess))
    }

    /// The server's clock, in microseconds, at the origin of the client's.
    pub(crate) fn offset(&self) -> i64 {
        self.reading().offset
    }

    /// When the clock was read last.
    pub(crate) fn last_read(&self) -> Time {
        self.reading().last
    }

    /// How far this clock is ahead of `other`, and how far off that may be, in microseconds.
    pub(crate) fn ahead_of(&self, other: &Self, now: Time) -> (i64, i64) {
        let (own, other) = (*self.reading(), *other.reading());
        let doubt = own.doubt_at(now).saturating_add(other.doubt_at(now));
        (own.offset.saturating_sub(other.offset), doubt)
    }

    /// `deadline` in milliseconds of the server's clock, and no later than `margin` after it however uncertain the
    /// reading is: a command that is refused too early is sent again, one that runs too late does harm, and a release
    /// that has to come after it waits for as long. Never zero, which stands for no deadline.
    pub(crate) fn deadline(&self, deadline: Time, margin: Duration, now: Time) -> u64 {
        let known = *self.reading();
        let since = micros(deadline.since(Time::default()));
        let doubt = known.doubt_at(now).saturating_sub(micros(margin)).max(0);
        let earliest = known.offset.saturating_sub(doubt);
        let at = earliest.saturating_add(since) / 1000;
        u64::try_from(at).unwrap_or_default().max(1)
    }

    /// The server refused a deadline that had not passed: the reading that came with the refusal is the better one.
    pub(crate) fn correct(&self, millis: u64, sent: Time, received: Time) {
        *self.reading() = Reading::of(millis, sent, received);
    }

    /// Takes another reading into account.
    pub(crate) fn learn(&self, millis: u64, sent: Time, received: Time) {
        let new = Reading::of(millis, sent, received);
        let mut known = self.reading();
        let doubt = known.doubt_at(received);
        let apart = new.offset.saturating_sub(known.offset).saturating_abs();
        if new.doubt <= doubt || apart > doubt.saturating_add(new.doubt) {
            *known = new;
        }
        known.last = received;
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    fn of(millis: u64, sent: Time, received: Time) -> Self {
        // Half the way there and back, and the millisecond that the reading is rounded down to.
        let doubt = micros(received.since(sent) / 2).saturating_add(1000);
        Self {
            offset: Incarnation::offset(millis, sent, received),
            doubt,
            at: received,
            last: received,
        }
    }

    /// Clocks drift apart, by no more than a hundredth (S1). However long nothing was heard, a deadline keeps
    /// most of its time: what is left of the doubt is covered by the pause before a release is repeated.
    fn doubt_at(&self, now: Time) -> i64 {
        let drift = micros(now.since(self.at) / 100).min(MOST_DRIFT);
        self.doubt.saturating_add(drift)
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::default().plus(Duration::from_millis(millis))
    }

    /// Milliseconds that the server is ahead, by a clock that knows of the given readings.
    fn ahead(clock: &NodeClock) -> i64 {
        clock.offset() / 1000
    }

    #[test]
    fn the_shortest_way_gives_the_best_reading() {
        let clock = NodeClock::read(1_000, at(0), at(10));
        assert_eq!(ahead(&clock), 995);
        // All of the delay was on the way back; the first reading was better.
        clock.learn(1_100, at(100), at(400));
        assert_eq!(ahead(&clock), 995);
        clock.learn(1_499, at(500), at(502));
        assert_eq!(ahead(&clock), 998);
    }

    #[test]
    fn an_old_reading_gives_way() {
        let clock = NodeClock::read(1_000, at(0), at(0));
        clock.learn(101_010, at(100_000), at(100_020));
        assert_eq!(ahead(&clock), 1_000);
        clock.learn(1_001_014, at(1_000_000), at(1_000_020));
        assert_eq!(ahead(&clock), 1_004);
    }

    #[test]
    fn a_clock_that_was_set_is_followed_at_once() {
        let clock = NodeClock::read(10_000, at(0), at(0));
        clock.learn(3_000, at(100), at(300));
        assert_eq!(ahead(&clock), 2_800);
    }

    #[test]
    fn l6_a_deadline_that_was_refused_corrects_the_clock() {
        let clock = NodeClock::read(1_000, at(0), at(0));
        // It has run ahead by less than what could be seen in a reading.
        clock.learn(2_015, at(995), at(1_025));
        assert_eq!(ahead(&clock), 1_000);
        clock.correct(2_015, at(995), at(1_025));
        assert_eq!(ahead(&clock), 1_005);
    }

    #[test]
    fn a_deadline_is_later_than_meant_by_its_margin_at_most() {
        // Read somewhere between 100 and 140: the server is ahead by 880, or by 860 at least.
        let clock = NodeClock::read(1_000, at(100), at(140));
        let cases = [
            (0, 140, 1_060),
            (0, 10_140, 1_010),
            (10, 140, 1_070),
            (500, 140, 1_082),
        ];
        for (margin, now, latest) in cases {
            let deadline = clock.deadline(at(200), Duration::from_millis(margin), at(now));
            assert!((latest - 2..=latest).contains(&deadline), "{deadline}");
        }
        let guess = NodeClock::guess(1_000, at(100));
        assert_eq!(guess.deadline(at(200), Duration::from_secs(1), at(100)), 1);
    }

    #[test]
    fn clocks_are_as_far_apart_as_both_readings_leave_open() {
        let own = NodeClock::read(5_000, at(0), at(10));
        let other = NodeClock::read(2_000, at(0), at(4));
        assert_eq!(own.ahead_of(&other, at(0)), (2_997_000, 9_000));
        assert_eq!(other.ahead_of(&own, at(0)), (-2_997_000, 9_000));
        let guess = NodeClock::guess(9_000_000, at(0));
        assert_eq!(own.ahead_of(&guess, at(0)).1, i64::MAX);
    }

    #[test]
    fn a_guess_gives_way_to_any_reading() {
        let clock = NodeClock::guess(10_000, at(0));
        assert_eq!(ahead(&clock), 10_000);
        clock.learn(10_300, at(100), at(300));
        assert_eq!(ahead(&clock), 10_100);
    }
}
