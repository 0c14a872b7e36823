//! Releasing what a request has asked for, once it has ended or is parked.
//!
//! Each node that may have been reached is released, again and again where that fails, until it has confirmed or
//! everything has expired by itself (C1, C3). A command that was never answered may still be carried out until its
//! deadline, so the release is repeated after that (S4).

use crate::{
    error::NodeError,
    message::Released,
    quorum::{NodeIndex, Quorum},
    request::{End, Request, node_state::Outcome},
    time::Time,
};

/// After so many failures in a row to confirm a release, a shutdown no longer waits for a node.
const FAILURES: u32 = 5;

/// What the nodes have answered to a release.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    votes: usize,
    pub(crate) nothing: usize,
    others: usize,
    /// How many have not answered, or were never asked for anything.
    pub(crate) open: usize,
    pub(crate) failed: Vec<(NodeIndex, NodeError)>,
}

impl Tally {
    fn count(&mut self, had: Option<Released>) {
        match had {
            Some(Released::Vote) => self.votes += 1,
            Some(Released::Nothing) => self.nothing += 1,
            Some(Released::Ticket) | None => self.others += 1,
        }
    }

    /// Whether a quorum confirmed, whatever it was that they gave up.
    pub(crate) fn is_quorum(&self, quorum: Quorum) -> bool {
        self.votes + self.nothing + self.others >= quorum.size()
    }
}

impl Request {
    /// What the release has come to, once that is certain.
    pub(crate) fn tally(&self, now: Time) -> Option<Tally> {
        let quorum = self.quorum;
        let (mut tally, mut open, mut shaky) = (Tally::default(), false, false);
        for (index, node) in self.nodes.iter().enumerate() {
            if !node.touched() {
                tally.open += 1;
                continue;
            }
            match node.release_outcome(now) {
                Outcome::Open => (open, tally.open) = (true, tally.open + 1),
                Outcome::Shaky => (shaky, tally.open) = (true, tally.open + 1),
                Outcome::Confirmed(had) => tally.count(had),
                Outcome::Failed(error) => tally.failed.push((index, error)),
            }
        }
        let certain = tally.votes.max(tally.others) >= quorum.size()
            || !quorum.possible_without(tally.nothing)
            || !open && (tally.is_quorum(quorum) || !shaky)
            || now >= self.expires;
        certain.then_some(tally)
    }

    /// Whether nothing is left of it on any node.
    pub(crate) fn is_clean(&self) -> bool {
        self.has_ended() && self.nodes.iter().all(|node| node.is_released())
    }

    /// When everything of it has expired by itself.
    pub(crate) fn expires(&self) -> Time {
        self.expires
    }

    /// Whether everything of it has expired by itself.
    pub(crate) fn is_expired(&self, now: Time) -> bool {
        self.has_ended() && now >= self.expires
    }

    /// Whether a shutdown need not wait for it: a quorum has confirmed, and what is left is on nodes that fail again
    /// and again.
    pub(crate) fn is_clean_enough(&self) -> bool {
        if !self.has_ended() {
            return true;
        }
        let clean = self.nodes.iter().filter(|node| node.is_released()).count();
        let mut left = self.nodes.iter().filter(|node| !node.is_released());
        clean >= self.quorum.size() && left.all(|node| node.release_fails(FAILURES))
    }

    /// A caller awaits the release: nodes that have failed are asked again at once.
    pub(crate) fn release_anew(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.release_anew());
    }

    pub(super) fn start_cleanup(&mut self, now: Time) {
        let config = &self.config;
        let longest = self.longest.max(self.waiter_ttl());
        let lasts = config.by_a_slow_clock(longest);
        self.expires = now.plus(lasts).plus(config.node_timeout);
    }

    /// Ends a request that waits; a request that is held goes on.
    pub(crate) fn shut_down(&mut self, now: Time) {
        if self.lease().is_none() {
            self.end(End::ShutDown, now);
        }
    }
}
