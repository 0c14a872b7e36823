//! A node: one independent server that has one vote.
//!
//! Scripts carry its commands out, commands of one kind in one call. Two kinds of node implement the trait with the
//! same semantics: a Redis server ([`redis`]) and a table in this process ([`memory`]). The conformance tests run on
//! both. Commands go in batches, so that everything which one client keeps alive on a node costs a few calls per
//! interval.

pub(crate) mod address;
mod connection;
mod dial;
mod encode;
mod fault;
mod handshake;
mod health;
mod link;
pub(crate) mod memory;
mod node_clock;
pub(crate) mod redis;
mod reply;
pub(crate) mod roster;
mod session;
pub(crate) mod table;
#[cfg(feature = "tls")]
pub(crate) mod tls;

#[cfg(test)]
pub(crate) use node_clock::{NodeClock, READ_EVERY};

use std::{
    fmt,
    future::{self, Future},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::{
    config::Config,
    error::NodeError,
    message::{Answer, Command, Incarnation, Reply, Report, Terms},
    resource::Resource,
    runtime::clock::Clock,
    time::Time,
};

/// A call under way. Once dropped it sends nothing more; what it has sent may still be carried out.
///
/// A call has no timer: it notices that its deadline has passed only when it is polled. [`punctual`] polls it then.
pub(crate) type Call<T> = BoxFuture<'static, Result<Answer<T>, NodeError>>;

/// One independent server.
pub(crate) trait Node: fmt::Debug + Send + Sync {
    /// Its address, without credentials.
    fn name(&self) -> &str;

    /// Carries out commands of one kind, with the script of that name: `scripts/enqueue.lua`, `extend.lua` or
    /// `release.lua`.
    fn call(&self, batch: &[Command], terms: Terms) -> Call<Vec<Reply>>;

    /// Who holds and who waits; see `scripts/inspect.lua`.
    fn inspect(&self, resource: &Arc<Resource>, deadline: Time) -> Call<Report>;

    /// The connection as it stands, or why there is none.
    fn incarnation(&self) -> Result<Incarnation, NodeError>;

    /// How many commands one call may carry.
    fn batch_limit(&self) -> usize;
}

/// How many commands one call carries: enough to make batches pay, few enough for the server to serve others in
/// between.
pub(crate) const BATCH: usize = 128;

/// What a node tells of its own accord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeEvent {
    /// There is a new connection. It is looked up, as the event may be lost; the event only wakes the client.
    Up,
    /// A vote was given to one of our requests.
    Granted {
        /// The holder id as the node stores it.
        id: String,
        /// The end of the waiter ttl that the vote has grown from.
        waiter_end: u64,
        seq: u64,
    },
}

/// Where a node's events go. The channel is bounded, and an event is lost when it is full: state decides, not messages.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    node: usize,
    sender: mpsc::Sender<(usize, NodeEvent)>,
}

impl Events {
    /// The sender of the node `node`.
    pub(crate) fn new(node: usize, sender: mpsc::Sender<(usize, NodeEvent)>) -> Self {
        Self { node, sender }
    }

    /// Sends `event`, or drops it if the client does not keep up.
    pub(crate) fn tell(&self, event: NodeEvent) {
        // A full channel means that thousands of handoffs wait to be looked at; the next poll finds
        // this one. Waiting instead would block the connection that the polls need.
        let _ = self.sender.try_send((self.node, event));
    }
}

/// What a node needs to know of its client.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) clock: Clock,
    pub(crate) config: Arc<Config>,
    /// The channel on which the client hears of votes.
    pub(crate) channel: Arc<str>,
    pub(crate) events: Events,
}

/// The outcome of `call`, or a timeout if it has not come when this is polled after `deadline`.
pub(crate) fn unless_overdue<T>(
    clock: Clock,
    deadline: Time,
    mut call: Pin<&mut impl Future<Output = Result<T, NodeError>>>,
) -> impl Future<Output = Result<T, NodeError>> {
    future::poll_fn(move |cx| match call.as_mut().poll(cx) {
        Poll::Pending if clock.now() >= deadline => Poll::Ready(Err(NodeError::TimedOut)),
        outcome => outcome,
    })
}

/// The outcome of `call`, which is polled once more when its `deadline` has come.
pub(crate) async fn punctual<T>(
    clock: Clock,
    deadline: Time,
    mut call: Call<T>,
) -> Result<Answer<T>, NodeError> {
    loop {
        tokio::select! {
            biased;
            outcome = &mut call => return outcome,
            () = clock.sleep_until(deadline) => {}
        }
    }
}
