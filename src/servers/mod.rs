//! What is known of a client's servers at a moment: their connections, clocks and starts. Plain data, for the core.

pub(crate) mod grace;

use std::time::Duration;

use crate::{
    config::Config,
    message::{Incarnation, Terms},
    quorum::{NodeIndex, Quorum},
    servers::grace::Grace,
    time::Time,
};

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

/// The shortest time that a vote lasts if its waiter did not hear of it.
const SHORTEST_UNHEARD: Duration = Duration::from_millis(20);

/// How far the start of a counter is ahead of the clock, in microseconds: as long as a request may be under way. A
/// counter must start above any that was started meanwhile.
const SEED_LEAD: u64 = 100_000;

/// How long counters are kept when the clock has passed them.
const KEEP: Duration = Duration::from_secs(60);

/// The terms of calls that have until `deadline`, with this waiter ttl, by what is known of the servers. All commands
/// of one round share one `now`, so that counters which start from it start equal.
pub(crate) fn terms(
    incarnations: impl Iterator<Item = Incarnation>,
    quorum: Quorum,
    config: &Config,
    deadline: Time,
    waiter_ttl: Duration,
    now: Time,
) -> Terms {
    // The same for all nodes: numbers pass from a node in its grace to the others, and must not fall behind when
    // those lose their memory, too.
    let mut extra = 0;
    let mut clocks = Vec::with_capacity(quorum.nodes());
    for incarnation in incarnations {
        clocks.push(incarnation.node_micros(now));
        extra = extra.max(incarnation.extra(now, config.restart_grace));
    }
    clocks.sort_unstable();
    let clock = agreed_clock(&clocks, quorum);
    // Another client may know of other clocks. No clock that it starts counters from is behind this one.
    let last = clocks.len().saturating_sub(quorum.size());
    let behind = clock
        .zip(clocks.get(last))
        .map(|(clock, last)| clock.saturating_sub(*last));
    let grace = i64::try_from(config.restart_grace.as_micros()).unwrap_or(i64::MAX);
    let unheard = config.fifo_retry_delay.saturating_mul(2);
    Terms {
        deadline,
        waiter_ttl,
        unheard: unheard.max(SHORTEST_UNHEARD),
        seed: clock.map_or(0, |clock| clock + SEED_LEAD),
        keep: KEEP.saturating_add(Duration::from_micros(behind.unwrap_or(0))),
        at: now,
        extra,
        lead: grace / 2,
    }
}

/// The servers of a client, by the index of their node.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    incarnations: Vec<Option<Incarnation>>,
    grace: Grace,
}

impl Servers {
    /// Servers that were not reached yet.
    pub(crate) fn new(nodes: usize, grace: Duration, cold_start_grace: bool) -> Self {
        Self {
            incarnations: vec![None; nodes],
            grace: Grace::new(nodes, grace, cold_start_grace),
        }
    }

    /// The connection to a node as it stands now, if there is one.
    pub(crate) fn see(&mut self, index: NodeIndex, incarnation: Option<Incarnation>) {
        if let Some(incarnation) = &incarnation {
            self.grace.learn(index, incarnation);
        }
        if let Some(known) = self.incarnations.get_mut(index) {
            *known = incarnation;
        }
    }

    pub(crate) fn incarnation(&self, index: NodeIndex) -> Option<Incarnation> {
        self.incarnations.get(index).copied().flatten()
    }

    /// Whether a quorum of the nodes tells this client of votes, so that it need not poll for them.
    pub(crate) fn pushes(&self, quorum: Quorum) -> bool {
        let telling = self
            .incarnations
            .iter()
            .flatten()
            .filter(|incarnation| incarnation.pushes);
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
        let incarnations = self.incarnations.iter().flatten();
        let mut clocks: Vec<u64> = incarnations
            .map(|incarnation| incarnation.node_micros(now))
            .collect();
        clocks.sort_unstable();
        let quorum = Quorum::of(self.incarnations.len());
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
    pub(crate) fn in_grace(&self, now: Time) -> Vec<(NodeIndex, Duration)> {
        let left = |(index, incarnation): (NodeIndex, &Option<Incarnation>)| {
            let left = self.grace_left(incarnation.as_ref()?.up_since, now);
            (!left.is_zero()).then_some((index, left))
        };
        self.incarnations
            .iter()
            .enumerate()
            .filter_map(left)
            .collect()
    }
}
