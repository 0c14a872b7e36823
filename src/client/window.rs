//! How many commands may be under way to one node: congestion control by delay, as TCP has it.

use std::time::Duration;

use crate::{error::NodeError, time::Time};

/// How many commands may be under way to one node in each window, a batch more or less: enough to keep a server busy
/// that is 50 ms away, few enough for it to answer well within a `node_timeout`.
pub(super) const MOST: usize = 3_200;

/// How many at first, and how many at least: a slow node must not be asked so much at once that it answers none of it
/// in time.
pub(super) const AT_FIRST: usize = 16;
pub(super) const LEAST: usize = 8;

/// The shortest answer of so long tells the round trip to the node. All answers take longer during a burst.
const LATELY: Duration = Duration::from_secs(10);

/// Which of a node's windows a call belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Commands that keep something.
    Keeping,
    /// Commands that ask for something, or give something up.
    Asking,
}

/// What a call tells about how much its node can do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// How many commands the call carried.
    pub(super) size: usize,
    /// How long the answer took; `None` if none came in time.
    pub(super) answer: Option<Duration>,
    /// How long it might have taken.
    pub(super) timeout: Duration,
    pub(super) at: Time,
}

impl Sample {
    /// What `outcome` tells, after the call `took` so long; `None` if it tells nothing about the node's capacity.
    pub(super) fn of<T>(
        outcome: &Result<T, NodeError>,
        size: usize,
        took: Duration,
        timeout: Duration,
        at: Time,
    ) -> Option<Self> {
        let answer = match outcome {
            Ok(_) => Some(took.min(timeout)),
            Err(NodeError::TimedOut) => None,
            Err(_) => return None,
        };
        Some(Self {
            size,
            answer,
            timeout,
            at,
        })
    }
}

/// A congestion window. It grows while answers come soon enough, and shrinks when they do not.
#[derive(Debug)]
pub(super) struct Window {
    lane: Lane,
    pub(super) size: usize,
    pub(super) under_way: usize,
    /// How many of the commands that were under way when the window shrank last are still to end. They tell the same
    /// once more.
    before_shrink: usize,
    /// When a call was not answered in time, although the node is near enough for that.
    unanswered: Option<Time>,
}

impl Window {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            size: AT_FIRST,
            under_way: 0,
            before_shrink: 0,
            unanswered: None,
        }
    }

    /// How many more commands may be sent, if at least `least` may be under way.
    pub(super) fn room(&self, least: usize) -> usize {
        let size = self.size.max(least.min(MOST));
        size.saturating_sub(self.under_way)
    }

    pub(super) fn unanswered(&self) -> Option<Time> {
        self.unanswered
    }

    /// So many commands have ended, with what that tells of a node whose shortest round trip is `rtt`.
    pub(super) fn end(&mut self, size: usize, sample: Option<Sample>, rtt: Duration) {
        let before_shrink = self.before_shrink > 0;
        self.under_way = self.under_way.saturating_sub(size);
        self.before_shrink = self.before_shrink.saturating_sub(size);
        let Some(sample) = sample else {
            return;
        };
        let (timeout, size) = (sample.timeout, sample.size);
        let Some(answer) = sample.answer else {
            // No node so far away could have answered within a shorter time.
            if timeout > rtt {
                self.unanswered = Some(sample.at);
                self.shrink(before_shrink);
            }
            return;
        };
        let late = answer > timeout * 3 / 4 && answer > rtt.saturating_add(timeout / 4);
        let soon = answer <= (timeout / 2).max(rtt.saturating_add(timeout / 8));
        match self.lane {
            Lane::Asking if late => self.shrink(before_shrink),
            // Half as much again in each round trip.
            _ if soon => self.size = (self.size + size.div_ceil(2)).min(MOST),
            _ => {}
        }
    }

    /// Halves the window, once for everything that was under way at the time.
    fn shrink(&mut self, before_shrink: bool) {
        if !before_shrink {
            self.before_shrink = self.under_way;
            self.size = (self.size / 2).max(LEAST);
        }
    }
}

/// The shortest round trip to a node, within the present span of [`LATELY`] and the one before.
#[derive(Debug)]
pub(super) struct MinRtt {
    since: Time,
    shortest: Option<Duration>,
    before: Option<Duration>,
}

impl MinRtt {
    pub(super) fn new() -> Self {
        Self {
            since: Time::ORIGIN,
            shortest: None,
            before: None,
        }
    }

    /// An answer came at `now`, after `took`.
    pub(super) fn learn(&mut self, took: Duration, now: Time) {
        if now.since(self.since) >= LATELY {
            self.since = now;
            self.before = self.shortest.take();
        }
        self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
    }

    /// The shortest round trip as far as is known; zero if nothing is.
    pub(super) fn get(&self) -> Duration {
        let known = self.shortest.into_iter().chain(self.before).min();
        known.unwrap_or(Duration::ZERO)
    }
}
