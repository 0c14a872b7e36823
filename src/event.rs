//! What happens to a request, for the log and the metrics. Events are plain data: they are made where the request
//! is changed, and emitted when nothing is locked any more, since subscribers and recorders are user code.

use std::{sync::Arc, time::Duration};

use crate::{
    error::{LeaseLost, NodeError},
    resource::Resource,
};

/// The request that an event is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) resource: Arc<Resource>,
    pub(crate) holder_id: Arc<str>,
    /// The number of its ticket; none if it never stood in line.
    pub(crate) ticket: Option<u64>,
}

/// An event about a request.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) subject: Subject,
    pub(crate) kind: EventKind,
}

/// What happened to a request.
#[derive(Clone, Debug)]
pub(crate) enum EventKind {
    /// A step of the protocol.
    Step(&'static str),
    /// A quorum agreed on the ticket.
    InLine { position: u64 },
    /// A guard is out.
    Acquired { token: u64, wait: Duration },
    /// It ended before its turn: its future or ticket was dropped, left, or timed out.
    Left { position: u64, wait: Duration },
    /// Its guard was released or dropped.
    Released { token: u64, held: Duration },
    /// Its lease ended under its guard; `faults` says what was wrong with which node, `overdue` how long after
    /// the end of the validity that was noticed.
    Lost {
        token: u64,
        held: Duration,
        why: LeaseLost,
        overdue: Duration,
        faults: Vec<Fault>,
    },
    /// A release found that a quorum did not have the lease any more.
    LostUnnoticed { token: u64 },
    /// A renewal got through to a quorum when `margin` of the lease was left; `usual` is what is left if it
    /// gets through at the first try.
    Renewed {
        token: u64,
        margin: Duration,
        usual: Duration,
        ttl: Duration,
    },
    /// It is held for longer than `long_hold`.
    HeldLong { token: u64, held: Duration },
    /// It gave its votes back, for the waiter that comes first.
    Split,
    /// Its grant was passed on, since nobody polled for it.
    Unpolled { granted: Duration },
    /// The same task has left the line of the resource again and again.
    KeepsLeaving { times: u32 },
    /// A quorum is missing because these nodes, by their index, restarted: their votes do not count for so long.
    InGrace { nodes: Vec<(usize, Duration)> },
    /// Nodes do not answer within the short time that a short lease leaves them.
    TooSlow {
        waited: Duration,
        waiter_ttl: Duration,
    },
}

/// What is wrong with a node, by its index: why it did not answer; `None` if it no longer has the lease.
pub(crate) type Fault = (usize, Option<NodeError>);

/// Which events a subscriber or a recorder may want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) steps: bool,
    pub(crate) any: bool,
}

impl Interest {
    pub(crate) fn covers(self, kind: &EventKind) -> bool {
        match kind {
            EventKind::Step(_) => self.steps,
            _ => self.any,
        }
    }
}
