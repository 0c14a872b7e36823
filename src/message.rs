//! Commands to a node and its replies: plain data, the same for every kind of node.

use std::{sync::Arc, time::Duration};

use crate::{error::NodeError, holder::HolderId, resource::Resource, time::Time};

/// What all commands of a call have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// After this the node refuses to carry the call out (S4), and nobody waits for the answer. A release
    /// is carried out at any time; it is just not waited for.
    pub(crate) deadline: Time,
    /// How long a waiter's place lasts unless the waiter is heard of again.
    pub(crate) waiter_ttl: Duration,
    /// How long a vote lasts if its waiter did not hear of it.
    pub(crate) unheard: Duration,
    /// The clock by which counters start and are kept, in microseconds at `at`: the furthest of a majority of
    /// the nodes that agree, or of all if none do. 0 if none is known: then each node goes by its own.
    pub(crate) seed: u64,
    /// For how long a counter is kept once that clock has passed it: until no client's clock can be behind it.
    pub(crate) keep: Duration,
    /// When `seed` was read.
    pub(crate) at: Time,
    /// What a counter that starts gets on top, in microseconds.
    pub(crate) extra: u64,
    /// The most that a counter can be ahead of the clock when it starts, in microseconds.
    pub(crate) lead: i64,
}

impl Terms {
    /// The least value of a counter that was made in the present run of the server (S2). An earlier run may have lost
    /// what came after a snapshot, so a lower counter may have repeated itself.
    ///
    /// It is the value of a counter that is made as the server starts: the clock and half the grace.
    pub(crate) fn floor(&self, incarnation: &Incarnation) -> u64 {
        let start = if self.seed == 0 {
            incarnation.node_micros(incarnation.up_since)
        } else {
            let up = self.at.since(incarnation.up_since).as_micros();
            self.seed
                .saturating_sub(u64::try_from(up).unwrap_or(u64::MAX))
        };
        start.saturating_add_signed(self.lead)
    }
}

/// An answer, and the connection that it came over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<T> {
    /// When the command was sent.
    pub(crate) sent: Time,
    /// The connection that it came over.
    pub(crate) incarnation: Incarnation,
    /// What was answered.
    pub(crate) value: T,
}

/// One unbroken connection to one run of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incarnation {
    /// Rises with every connection; what was believed of the node before it is unknown.
    pub(crate) epoch: u64,
    /// Tells the run of the server from others: what an earlier one was asked died with it. 0 if unknown.
    pub(crate) run: u64,
    /// When the server started, as the client's clock has it; never earlier than it really was.
    pub(crate) up_since: Time,
    /// The same, and never later than it really was.
    pub(crate) up_before: Time,
    /// The server's clock, in microseconds, at the origin of the client's.
    pub(crate) clock_offset: i64,
    /// Whether the node tells this client of votes; else it must be polled.
    pub(crate) pushes: bool,
}

impl Incarnation {
    /// The server's clock at `now`, in microseconds.
    pub(crate) fn node_micros(&self, now: Time) -> u64 {
        let since = i64::try_from(now.since(Time::default()).as_micros()).unwrap_or(i64::MAX);
        u64::try_from(self.clock_offset.saturating_add(since)).unwrap_or_default()
    }

    /// The offset, if the server's clock read `millis` halfway between two moments.
    pub(crate) fn offset(millis: u64, sent: Time, received: Time) -> i64 {
        let halfway = sent.plus(received.since(sent) / 2).since(Time::default());
        let micros = i64::try_from(millis.saturating_mul(1000)).unwrap_or(i64::MAX);
        micros.saturating_sub(i64::try_from(halfway.as_micros()).unwrap_or(i64::MAX))
    }

    /// What is left of the node's restart grace (S5).
    pub(crate) fn grace_left(&self, now: Time, grace: Duration) -> Duration {
        grace.saturating_sub(now.since(self.up_since))
    }

    /// What a counter that starts now gets on top, in microseconds. Half of what is left of the grace:
    /// a counter of a node whose clock lags must not be low when its grace ends, and the start must
    /// still rise with time within the grace, so that a second loss of memory does not repeat it (S2).
    pub(crate) fn extra(&self, now: Time, grace: Duration) -> u64 {
        u64::try_from(self.grace_left(now, grace).as_micros() / 2).unwrap_or_default()
    }
}

#[cfg(test)]
impl Incarnation {
    /// A connection for tests, to a server that started long ago and has the client's clock.
    pub(crate) fn test(run: u64, epoch: u64) -> Self {
        Self {
            epoch,
            run,
            up_since: Time::ORIGIN,
            up_before: Time::ORIGIN,
            clock_offset: 0,
            pushes: true,
        }
    }
}

/// A request for a place in line, or for the vote if nobody is in the way.
#[derive(Clone, Debug)]
pub(crate) struct Enqueue {
    pub(crate) resource: Arc<Resource>,
    pub(crate) id: HolderId,
    /// The number of its ticket; `None` if it is new.
    pub(crate) number: Option<u64>,
    pub(crate) ttl: Duration,
    /// How many waiters there may be for a new one to get in line; `None`: any number.
    pub(crate) room: Option<u64>,
}

/// How a request stands on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has the vote.
    Granted {
        seq: u64,
        /// For how long.
        left: Duration,
        /// A waiter on this node comes before it.
        outranked: bool,
    },
    /// It is in line.
    Waiting {
        number: u64,
        ahead: u64,
        /// When its waiter ttl ends, in milliseconds of the node's clock.
        waiter_end: u64,
        /// What is left of the holder's lease; `None` if it has no end.
        holder_left: Option<Duration>,
    },
    /// There was no room.
    Full {
        waiting: u64,
        holder_left: Option<Duration>,
    },
    /// A newer generation of the request is there; it was late.
    Superseded,
}

impl Standing {
    /// The number or counter that it tells; 0 if none.
    pub(crate) fn counter(self) -> u64 {
        match self {
            Self::Granted { seq, .. } => seq,
            Self::Waiting { number, .. } => number,
            Self::Full { .. } | Self::Superseded => 0,
        }
    }

    /// Whether no correct node can say this to the newest generation of a request with the number `asked`. A request
    /// with a number keeps that number in line, whatever room there is, and a request without one comes last. A node
    /// that says otherwise would be asked again as fast as it answers.
    pub(crate) fn contradicts(&self, asked: Option<u64>) -> bool {
        match self {
            Self::Granted { outranked, .. } => *outranked && asked.is_none(),
            Self::Waiting { number, .. } => asked.is_some_and(|asked| asked != *number),
            Self::Full { .. } => asked.is_some(),
            Self::Superseded => true,
        }
    }
}

/// A request to prolong a lease.
#[derive(Clone, Debug)]
pub(crate) struct Extend {
    pub(crate) resource: Arc<Resource>,
    pub(crate) id: HolderId,
    /// Zero only asks whether the vote stands.
    pub(crate) ttl: Duration,
    /// The counter is raised to this fencing token.
    pub(crate) token: u64,
    /// Takes the vote again if the node forgot it.
    pub(crate) repair: bool,
}

/// What became of a lease on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extended {
    /// The vote stands.
    Stands { seq: u64 },
    /// Another has the vote; the holder is first in line for it.
    InLine,
    /// The vote is not here.
    Gone,
}

impl Extended {
    /// The counter it tells of; 0 if it tells of none.
    pub(crate) fn counter(self) -> u64 {
        match self {
            Self::Stands { seq } => seq,
            Self::InLine | Self::Gone => 0,
        }
    }

    /// Whether the counter is at `token` or past it, if it tells of one.
    pub(crate) fn is_at_least(self, token: u64) -> bool {
        !matches!(self, Self::Stands { seq } if seq < token)
    }
}

/// A request to give up whatever a request has.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) resource: Arc<Resource>,
    /// This generation and the older ones.
    pub(crate) id: HolderId,
}

/// What was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    Vote,
    Ticket,
    Nothing,
}

/// What a node is asked to do for a request.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Enqueue(Enqueue),
    Extend(Extend),
    Release(Release),
}

impl Command {
    pub(crate) fn resource(&self) -> &Resource {
        match self {
            Self::Enqueue(command) => &command.resource,
            Self::Extend(command) => &command.resource,
            Self::Release(command) => &command.resource,
        }
    }
}

/// What a node answers to a command, of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Standing(Standing),
    Extended(Extended),
    Released(Released),
}

impl Reply {
    pub(crate) fn standing(self) -> Option<Standing> {
        match self {
            Self::Standing(standing) => Some(standing),
            _ => None,
        }
    }

    pub(crate) fn extended(self) -> Option<Extended> {
        match self {
            Self::Extended(extended) => Some(extended),
            _ => None,
        }
    }

    pub(crate) fn released(self) -> Option<Released> {
        match self {
            Self::Released(released) => Some(released),
            _ => None,
        }
    }
}

impl<T> Answer<T> {
    /// The same answer with another value; an error if there is none.
    pub(crate) fn read<U>(self, read: impl FnOnce(T) -> Option<U>) -> Result<Answer<U>, NodeError> {
        let Self {
            sent,
            incarnation,
            value,
        } = self;
        let value = read(value).ok_or(NodeError::Garbled)?;
        Ok(Answer {
            sent,
            incarnation,
            value,
        })
    }
}

/// All that a node knows of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The node's clock, in milliseconds.
    pub(crate) clock: u64,
    /// The value of the lock key and what is left of it.
    pub(crate) holder: Option<(String, Option<Duration>)>,
    pub(crate) seq: Option<u64>,
    /// How many wait in all.
    pub(crate) waiting: u64,
    /// The first of them, in order.
    pub(crate) line: Vec<Waiting>,
}

/// A waiter as a node lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) id: String,
    pub(crate) number: u64,
    /// When its waiter ttl ends, in milliseconds of the node's clock.
    pub(crate) waiter_end: u64,
}

/// How many waiters a report lists at most.
pub(crate) const MAX_REPORTED: usize = 1000;

/// `span` in whole milliseconds, rounded up.
pub(crate) fn millis_up(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
