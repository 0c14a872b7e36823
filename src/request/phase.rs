//! Where a request stands, and what its steps take and give.

use std::time::Duration;

use crate::{
    error::LeaseLost, event::Event, message::Command, quorum::NodeIndex, request::Lease,
    servers::Servers, time::Time,
};

/// What a step is taken with: the time, and what is known of the servers. No step reads a clock or asks a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cx<'a> {
    pub(crate) now: Time,
    pub(crate) servers: &'a Servers,
}

/// Where a request stands.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// The first round is under way.
    Asking,
    /// The line was full. The request asks again until there is room.
    NoRoom,
    /// In line, with an agreed ticket.
    Waiting,
    /// A quorum has voted for it, and nobody has taken the lease yet.
    Granted { since: Time },
    /// The fencing token and the full ttl are being written to a quorum, before a guard is handed out.
    Fencing {
        since: Time,
        token: u64,
        /// Whether a quorum has them.
        done: bool,
    },
    /// It has nothing on any node for now: nobody took its grant in time, its first round failed, or it lets others go
    /// first. If it has a number, it keeps that (C4).
    Parked,
    /// A guard is out.
    Held(Box<Lease>),
    /// Nothing more happens.
    Ended(End),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Lost(LeaseLost),
    /// It was released, left, or dropped.
    Over,
    /// An attempt without waiting found the lock held or waited for.
    NotFree,
    /// An attempt without waiting was not answered, or not soon enough, by enough nodes that may vote.
    Unanswered,
    ShutDown,
}

/// What became of a request since it was last looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    /// Whether those who await it should look.
    pub(crate) wake: bool,
    /// Whether the number of waiters ahead has changed.
    pub(crate) moved: bool,
    pub(crate) events: Vec<Event>,
}

/// A command to one node, and how long it may take.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) node: NodeIndex,
    pub(crate) stamp: u32,
    pub(crate) timeout: Duration,
    pub(crate) waiter_ttl: Duration,
    pub(crate) command: Command,
}

/// In which order commands are sent that wait for their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// It keeps something that would run out; sent after `by`, it may be answered too late.
    Keep { by: Time },
    /// It asks for something.
    Ask,
    /// It gives something up.
    Release,
}

impl Urgency {
    /// Whether commands of both wait in the same line.
    pub(crate) fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}
