//! What happens to a request, for the log and the metrics. Plain data: it is made where the request is changed, and told
//! when nothing is locked any more, since subscribers and recorders are a user's code.

use std::{sync::Arc, time::Duration};

use crate::{
    error::{LeaseLost, NodeError},
    resource::Resource,
};

/// Whom an event is about.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) resource: Arc<Resource>,
    pub(crate) holder_id: Arc<str>,
    /// The number of its ticket; none if it never stood in line.
    pub(crate) ticket: Option<u64>,
}

/// An event about a request. It is made where the request is locked, and told when it is not: subscribers and
/// recorders are a user's code.
#[derive(Clone, Debug)]
pub(crate) struct Tell {
    pub(crate) who: Who,
    pub(crate) what: What,
}

/// What happened to a request.
#[derive(Clone, Debug)]
pub(crate) enum What {
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
    /// It gave votes back to whoever comes first.
    Split,
    /// Its grant was passed on, since nobody polled for it.
    Unpolled { granted: Duration },
    /// The same task has left the line of the resource again and again.
    KeepsLeaving { times: u32 },
    /// A quorum is missing because these nodes restarted, whose votes do not count yet for so long.
    InGrace { nodes: Vec<(usize, Duration)> },
    /// Nodes do not answer within the short time that a short lease leaves them.
    TooSlow { waited: Duration, lease: Duration },
}

/// What is wrong with a node: why it did not answer; `None` if it has the lease no more.
pub(crate) type Fault = (usize, Option<NodeError>);

/// What of this anybody may hear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) steps: bool,
    pub(crate) any: bool,
}

impl Heard {
    pub(crate) fn of(self, what: &What) -> bool {
        match what {
            What::Step(_) => self.steps,
            _ => self.any,
        }
    }
}
