//! Every error the crate returns.
//!
//! Each kind of call has its own enum. No error holds a password, nor does its `Debug`: nodes are named by address, and
//! only the code of a server's error is kept.

use std::{fmt, time::Duration};

/// Why a [`FifoRedlock`](crate::FifoRedlock) could not be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No node was given.
    #[error("no nodes were given")]
    NoNodes,
    /// Two of the URLs lead to one address; a quorum needs independent servers.
    #[error("nodes {first} and {second} have the same address, {address}")]
    SameAddress {
        /// Index of the one in the list, from 0.
        first: usize,
        /// Index of the other in the list, from 0.
        second: usize,
        /// The address, without credentials.
        address: String,
    },
    /// A URL could not be read. The URL itself is left out, as it may hold a password.
    #[error("the url of node {node} is not usable: {reason}")]
    InvalidUrl {
        /// Index in the list, from 0.
        node: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Memory nodes stand beside real ones; they are timed by different clocks.
    #[error("memory nodes and real nodes cannot be mixed")]
    MixedNodes,
    /// A setting is out of its range or contradicts another.
    #[error("setting `{setting}` {reason}")]
    InvalidSetting {
        /// Its name, as in the builder.
        setting: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A server answered that can never be a node.
    #[error("node {node} cannot be used: {problem}")]
    WrongServer {
        /// Its address, without credentials.
        node: String,
        /// Why not.
        problem: WrongServer,
    },
    /// Fewer than a quorum of the nodes could be reached.
    #[error("not enough nodes could be reached: {0}")]
    NoQuorum(NoQuorum),
}

/// Why a server can never be a node, as long as it is set up as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WrongServer {
    /// It does not speak the Redis protocol.
    #[error("this is not a Redis server")]
    NotRedis,
    /// Its version is below 6.2.
    #[error("the server is too old: {version} (6.2 is needed)")]
    TooOld {
        /// The version it gave, or `unknown`.
        version: String,
    },
    /// The user lacks the right to a command or to the client's channel.
    #[error("the user lacks the right to `{right}`")]
    MissingRights {
        /// The command that was refused, or `channel redlock-fifo:*`.
        right: String,
    },
    /// It needs a password, or a different one.
    #[error("authentication is needed or failed")]
    NeedsAuthentication,
    /// The TLS handshake failed: the server's certificate is not of a trusted authority, not for this host or out of
    /// date, or the server refused the handshake. Only with the feature `tls`.
    #[error("the TLS handshake failed: {reason}")]
    Tls {
        /// What is wrong, in the words of rustls.
        reason: String,
    },
    /// It has no database of the number that the URL names.
    #[error("the server has no such database")]
    NoDatabase,
    /// It is a replica; a lock needs masters.
    #[error("the server is a read-only replica")]
    Replica,
    /// It is one node of a cluster; hand a cluster connection to the builder instead.
    #[error("the server is a node of a cluster")]
    ClusterNode,
    /// It is the same server as another node.
    #[error("the server is the same as node {other}, behind another address")]
    SameServer {
        /// The address of the other.
        other: String,
    },
}

/// Why one node gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// There is no connection; the cause of the last failed attempt is given.
    #[error("not connected ({0})")]
    Down(String),
    /// No answer within `node_timeout`.
    #[error("no answer in time")]
    TimedOut,
    /// The connection broke while the request was under way; it may have been carried out.
    #[error("the connection broke")]
    Broken,
    /// The server answered with an error.
    #[error("the server refused with {0}")]
    Refused(String),
    /// The answer is not one that the crate's scripts give.
    #[error("the answer was not understood")]
    Garbled,
    /// The server sent an answer of more than 1 MiB, which is more than any of our scripts gives. It was
    /// not read to its end, and the connection is closed; the request may have been carried out.
    #[error("an answer was too long")]
    TooLong,
    /// The request reached the node after its deadline and was not carried out.
    #[error("the request came too late")]
    Late,
    /// The node restarted less than `restart_grace` ago, so its vote does not count yet.
    #[error("restarted recently, votes again in {} ms", left.as_millis())]
    RestartGrace {
        /// How long it stays without a vote.
        left: Duration,
    },
    /// The server can never be a node.
    #[error(transparent)]
    WrongServer(#[from] WrongServer),
}

/// Fewer than a quorum of the nodes answered; holds what each of the others did instead.
#[derive(Debug, Clone, PartialEq)]
pub struct NoQuorum {
    needed: usize,
    answered: usize,
    failures: Vec<NodeFailure>,
}

impl NoQuorum {
    pub(crate) fn new(needed: usize, answered: usize, failures: Vec<NodeFailure>) -> Self {
        Self {
            needed,
            answered,
            failures,
        }
    }

    /// How many nodes make a quorum.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// How many nodes gave an answer that counts.
    pub fn answered(&self) -> usize {
        self.answered
    }

    /// The nodes that have failed so far, each with its cause. The other nodes were no longer waited for, since they
    /// could not have made a quorum.
    pub fn failures(&self) -> &[NodeFailure] {
        &self.failures
    }
}

impl fmt::Display for NoQuorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} needed", self.answered, self.needed)?;
        for failure in &self.failures {
            write!(f, "; {}: {}", failure.node, failure.error)?;
        }
        Ok(())
    }
}

/// One node that failed, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFailure {
    node: String,
    error: NodeError,
}

impl NodeFailure {
    pub(crate) fn new(node: impl Into<String>, error: NodeError) -> Self {
        Self {
            node: node.into(),
            error,
        }
    }

    /// Its address, without credentials.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// What went wrong.
    pub fn error(&self) -> &NodeError {
        &self.error
    }
}

/// An argument that was refused before anything was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// The name of the resource is empty.
    #[error("the resource has no name")]
    EmptyResource,
    /// The name of the resource is too long.
    #[error("the name of the resource has {length} bytes, more than {most}")]
    ResourceTooLong {
        /// Its length in bytes, `key_prefix` included.
        length: usize,
        /// The most that is allowed.
        most: usize,
    },
    /// The name has a brace, but no hash tag: its keys could not share a cluster slot.
    #[error("the name of the resource has a brace but no hash tag")]
    ResourceBraces,
    /// The name, prefix included, is in braces as a whole: its queue would be that of the name without them.
    #[error(
        "the name of the resource is a hash tag only; leave the braces out, or add text outside of them"
    )]
    ResourceBraced,
    /// The name ends like a key that the crate keeps for another resource.
    #[error(
        "the name of the resource ends in a suffix that the crate reserves, such as `:redlock-fifo:queue`"
    )]
    ResourceReserved,
    /// The ttl is too short: most leases would end before a node can have extended them.
    #[error("a ttl of {} ms is too short; the shortest is {} ms", ttl.as_millis(), least.as_millis())]
    TtlTooShort {
        /// The ttl that was asked for.
        ttl: Duration,
        /// The least that is allowed.
        least: Duration,
    },
    /// The ttl is more than a server can count.
    #[error("the ttl is longer than {} days", most.as_secs() / 86_400)]
    TtlTooLong {
        /// The most that is allowed.
        most: Duration,
    },
    /// An interval of zero.
    #[error("the interval is zero")]
    ZeroInterval,
    /// The interval is so long that the lease would end before a renewal could be answered.
    #[error("an interval of {every:?} is too long for this ttl; the longest is {most:?}")]
    IntervalTooLong {
        /// The interval that was asked for.
        every: Duration,
        /// The longest that is allowed: two thirds of what can be trusted of the ttl.
        most: Duration,
    },
    /// A `max_hold` of zero: the lease would be lost at once.
    #[error("max_hold is zero")]
    ZeroMaxHold,
}

/// Why a lock was not given.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The time to wait ended before the turn came. The place in line is lost.
    #[error("timed out with {position} waiters ahead")]
    TimedOut {
        /// How many waiters were still ahead, as last heard.
        position: u64,
        /// What was left of the holder's lease, as last heard; `None` if no node has told of a holder.
        holder_ttl: Option<Duration>,
    },
    /// There was no room in the line.
    #[error("the queue is full, {waiting} are waiting")]
    QueueFull {
        /// How many waiters were in line when a node was asked last.
        waiting: u64,
    },
    /// Too few nodes answered to tell.
    #[error("no quorum: {0}")]
    NoQuorum(NoQuorum),
    /// The lease ended while the work was under way.
    #[error("the lease was lost: {0}")]
    LeaseLost(LeaseLost),
    /// The ticket has served its purpose: it gave a guard, timed out or left the line.
    #[error("the ticket is spent")]
    TicketSpent,
    /// [`FifoRedlock::shutdown`](crate::FifoRedlock::shutdown) was called.
    #[error("the client is shut down")]
    ShutDown,
    /// The client's background task has ended, so nothing is sent or heard any more.
    #[error("the client can no longer be used: {0}")]
    Stopped(ClientStopped),
    /// An argument was refused.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
}

/// Why a lease was not extended.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ExtendError {
    /// The lease had ended. It does not come back.
    #[error("the lease was lost: {0}")]
    Lost(LeaseLost),
    /// Too few nodes answered to tell; the lease lives on for what is left of its validity.
    #[error("no quorum: {0}")]
    NoQuorum(NoQuorum),
    /// The client's background task has ended; the lease lives on for what is left of its validity.
    #[error("the client can no longer be used: {0}")]
    Stopped(ClientStopped),
    /// The guard extends itself already.
    #[error("auto-extension is already running")]
    AutoExtendRunning,
    /// An argument was refused.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
}

/// Why a release or a leave was not clean.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The lease had ended before: the work may have overlapped another holder's.
    #[error("the lease was lost before the release: {0}")]
    Lost(LeaseLost),
    /// No quorum confirmed. The clean-up goes on in the background.
    #[error("the release is not confirmed: {0}")]
    Unconfirmed(NoQuorum),
    /// The client's background task has ended: nothing is released, and everything runs out by itself.
    #[error("the client can no longer be used: {0}")]
    Stopped(ClientStopped),
}

/// Why a client no longer works. Connect a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ClientStopped {
    /// The runtime on which the client was connected has ended. A client lives on the runtime of its `connect`. A
    /// client that is used from several runtimes, as in a `static` of a test binary, needs a runtime that lasts.
    #[error("the runtime on which it was connected has ended")]
    RuntimeEnded,
    /// The client was made outside of any runtime and is used outside of one, so its background task cannot run.
    #[error("there is no Tokio runtime")]
    NoRuntime,
    /// Its background task has panicked.
    #[error("its background task has panicked")]
    Panicked,
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseLost {
    /// Its validity ran out before it was extended.
    #[error("its validity ran out")]
    Expired,
    /// A quorum of the nodes no longer has it: keys were deleted, or servers lost their memory.
    #[error("a quorum of the nodes no longer has it")]
    QuorumLost,
    /// It was held for `max_hold`.
    #[error("it was held for as long as max_hold allows")]
    MaxHold,
    /// Its guard was released or dropped.
    #[error("its guard was released")]
    Released,
}
