//! What a request is believed to have on a node.

use std::time::Duration;

use crate::{quorum::Vote, time::Time};

/// What a request is believed to have on a node.
#[derive(Clone, Debug, Default)]
pub(crate) enum Belief {
    /// Nothing, as far as is known.
    #[default]
    Nothing,
    /// There was no room in the line, where so many waited.
    NoRoom { waiting: u32 },
    /// A place in line.
    Waiting(Place),
    /// The vote.
    Vote(NodeVote),
    /// The node says that it has not got the holder's vote. A holder that is `in_line` there gets it once the
    /// request that has it gives it up.
    Gone { in_line: bool },
}

/// A node's vote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeVote {
    /// Until when it can be trusted.
    pub(crate) until: Time,
    /// The node's counter when it gave the vote, or what it was raised to since.
    pub(crate) seq: u64,
    /// When the command was sent that `until` counts from.
    pub(crate) sent: Time,
    /// The end of the waiter ttl that a pushed vote has grown from; 0 if an answer told of the vote.
    pub(super) pushed_end: u64,
    /// Whether the vote lasts for the ttl, and not just for what was left of a waiter ttl.
    pub(crate) full_ttl: bool,
    /// Whether it could not be trusted any more when the client heard of it.
    pub(crate) dead_on_arrival: bool,
    /// Whether another waiter on this node comes first, although the vote is ours.
    pub(crate) outranked: bool,
    /// The fencing token that the node is known to have, since it prolonged the vote last.
    pub(crate) fenced: Option<u64>,
    /// Whether it is to be confirmed before it counts: the connection is new, or another node's vote is gone.
    pub(crate) doubtful: bool,
}

/// A place in the line of a node.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) ahead: u64,
    /// When the holder's lease ends, at the latest.
    pub(crate) holder_until: Option<Time>,
    /// When our waiter ttl ends, by the node's clock; a push must name the same moment.
    pub(super) waiter_end: u64,
    pub(super) waiter_ttl: Duration,
    /// When the command was sent that the waiter ttl counts from.
    pub(super) sent: Time,
}

impl NodeVote {
    /// A vote that the client hears of `now`.
    pub(super) fn new(until: Time, seq: u64, sent: Time, now: Time) -> Self {
        Self {
            until,
            seq,
            sent,
            pushed_end: 0,
            full_ttl: false,
            dead_on_arrival: until <= now,
            outranked: false,
            fenced: None,
            doubtful: false,
        }
    }

    /// What counts in a majority.
    pub(crate) fn counted(&self) -> Vote {
        Vote {
            until: self.until,
            seq: self.seq,
        }
    }

    /// How long it can be trusted for, from the send that it counts from.
    pub(crate) fn span(&self) -> Duration {
        self.until.since(self.sent)
    }
}
