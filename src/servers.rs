//! What is known of a client's servers at a moment: their connections, clocks and starts. Plain data, for the core.

use std::time::Duration;

use crate::{grace::Grace, message::Era, quorum::Quorum, time::Time};

/// Microseconds after 1970, as counters are: the middle of the year 2041, and a hundred years.
const SURELY_PLAUSIBLE: u64 = 1 << 51;
const CENTURY: u64 = 100 * 366 * 86_400 * 1_000_000;

/// How far apart the clocks of a majority may be for counters to go by them, in microseconds.
const AGREED_CLOCKS: u64 = 10_000_000;

/// The furthest of the `clocks`, in order, that a majority of the nodes agrees on, or else the furthest that can be
/// right. One node's clock alone must not rule for how long the others keep their counters.
pub(crate) fn agreed_clock(clocks: &[u64], quorum: Quorum) -> Option<u64> {
    let near = |group: &&[u64]| match group {
        [first, .., last] => last - first <= AGREED_CLOCKS,
        group => !group.is_empty(),
    };
    let agreed = clocks.windows(quorum.size()).rev().find(near);
    let agreed = agreed.and_then(|group| group.last());
    let first = clocks.first()?;
    let possible = |clock: &&u64| **clock - first <= CENTURY;
    agreed.or(clocks.iter().rev().find(possible)).copied()
}

/// The servers of a client, by the place of their node.
#[derive(Debug)]
pub(crate) struct Servers {
    eras: Vec<Option<Era>>,
    grace: Grace,
}

impl Servers {
    /// Servers that were not reached yet.
    pub(crate) fn new(nodes: usize, grace: Duration, cold_start_grace: bool) -> Self {
        Self {
            eras: vec![None; nodes],
            grace: Grace::new(nodes, grace, cold_start_grace),
        }
    }

    /// The connection to a node as it stands now, if there is one.
    pub(crate) fn see(&mut self, place: usize, era: Option<Era>) {
        if let Some(era) = &era {
            self.grace.learn(place, era);
        }
        if let Some(known) = self.eras.get_mut(place) {
            *known = era;
        }
    }

    pub(crate) fn era(&self, place: usize) -> Option<Era> {
        self.eras.get(place).copied().flatten()
    }

    /// Whether a quorum of the nodes tells this client of votes, so that it need not poll for them.
    pub(crate) fn pushes(&self, quorum: Quorum) -> bool {
        let telling = self.eras.iter().flatten().filter(|era| era.pushes);
        telling.count() >= quorum.size()
    }

    /// Whether a counter can be what an honest node tells: no more than a century ahead of the nodes' clocks,
    /// most of which are right. One that tells of the last numbers there are would use up all counters,
    /// since the highest is written to every node.
    pub(crate) fn is_plausible(&self, counter: u64, now: Time) -> bool {
        if counter < SURELY_PLAUSIBLE {
            return true;
        }
        counter <= self.clock(now).saturating_add(CENTURY)
    }

    /// The clock at `now` that counters go by, in microseconds; 0 if none is known.
    fn clock(&self, now: Time) -> u64 {
        let eras = self.eras.iter().flatten();
        let mut clocks: Vec<u64> = eras.map(|era| era.node_micros(now)).collect();
        clocks.sort_unstable();
        let quorum = Quorum::of(self.eras.len());
        agreed_clock(&clocks, quorum).unwrap_or(0)
    }

    /// The least fencing token that a vote may give of a node that is up since `up_since`: what it forgot was given
    /// before that, by a clock that was ahead by less than half a grace, and by half a grace more at most (S2). A node
    /// that has started together with the others has forgotten nothing.
    pub(crate) fn least_token(&self, up_since: Time) -> u64 {
        let votes_from = self.grace.votes_from(up_since);
        votes_from.map_or(0, |votes_from| self.clock(votes_from))
    }

    /// How long the vote of a node that is up since `up_since` still does not count.
    pub(crate) fn grace_left(&self, up_since: Time, now: Time) -> Duration {
        self.grace.left(up_since, now)
    }

    /// The nodes whose votes do not count yet, and for how long.
    pub(crate) fn in_grace(&self, now: Time) -> Vec<(usize, Duration)> {
        let left = |(place, era): (usize, &Option<Era>)| {
            let left = self.grace_left(era.as_ref()?.up_since, now);
            (!left.is_zero()).then_some((place, left))
        };
        self.eras.iter().enumerate().filter_map(left).collect()
    }
}
