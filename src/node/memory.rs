//! Memory nodes: servers that live in this process.
//!
//! This is the second, equal implementation of a node, for tests, examples and programs that want the lock within one
//! process. It has the semantics of the scripts (`table`), and can be made to fail as real servers do: a node can be
//! stopped, restarted empty, paused, slowed, flushed or made deaf, and its clock can be stepped.

mod link;
mod server;

use std::{fmt, sync::Arc, time::Duration};

use super::{Context, Node, table::Header};
use crate::{message::millis_up, runtime::clock::Clock};
use link::MemoryLink;
use server::{Condition, Server, State};

/// A set of servers in this process, which several clients can share.
///
/// The nodes are independent of one another, as a quorum asks for, and follow tokio's clock, so that a
/// test under `tokio::time::pause` runs in no time at all. Clones are handles on the same nodes.
///
/// # Examples
///
/// Two services share the nodes, one of which is down:
///
/// ```
/// # use std::time::Duration;
/// use redlock_fifo::{FifoRedlock, MemoryCluster};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = MemoryCluster::new(3);
/// let billing = FifoRedlock::builder().memory(&cluster).connect().await?;
/// let reports = FifoRedlock::builder().memory(&cluster).connect().await?;
/// cluster.node(0).stop();
///
/// let guard = billing.lock("month-end", Duration::from_secs(10)).await?;
/// assert!(reports.try_lock("month-end", Duration::from_secs(10)).await?.is_none());
/// # guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MemoryCluster {
    clock: Clock,
    servers: Arc<[Arc<Server>]>,
}

impl MemoryCluster {
    /// A cluster of `nodes` fresh nodes. Any odd number makes sense; 3 survives one failure, 5 two.
    pub fn new(nodes: usize) -> Self {
        let clock = Clock::tokio();
        let server = |index| Arc::new(Server::new(index, clock));
        Self {
            clock,
            servers: (0..nodes).map(server).collect(),
        }
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether there are no nodes at all.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// A handle on the node `index`, from 0.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    pub fn node(&self, index: usize) -> MemoryNode {
        MemoryNode(self.servers[index].clone())
    }

    /// Handles on all nodes.
    pub fn nodes(&self) -> impl Iterator<Item = MemoryNode> + '_ {
        self.servers.iter().cloned().map(MemoryNode)
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether these are the very nodes of `other`.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.servers, &other.servers)
    }

    /// A client's connection to the node `index`.
    pub(crate) fn link(&self, index: usize, context: Context) -> Option<Arc<dyn Node>> {
        let server = self.servers.get(index)?.clone();
        Some(Arc::new(MemoryLink::open(server, context)))
    }
}

/// A handle on one memory node, to make it fail.
///
/// # Examples
///
/// A lease that loses its nodes is reported lost:
///
/// ```
/// # use std::time::Duration;
/// use redlock_fifo::{FifoRedlock, LeaseLost, MemoryCluster};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = MemoryCluster::new(3);
/// let redlock = FifoRedlock::builder().memory(&cluster).connect().await?;
/// let guard = redlock.lock("report", Duration::from_secs(10)).await?;
/// cluster.nodes().for_each(|node| node.stop());
/// assert_eq!(guard.lost().await, LeaseLost::Expired);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryNode(Arc<Server>);

impl MemoryNode {
    /// What errors call the node.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Stops the node: every call fails at once, as on a refused connection.
    pub fn stop(&self) {
        let mut state = self.0.state();
        state.condition = Condition::Stopped;
        let held_back = std::mem::take(&mut state.held_back);
        drop(state);
        // This wakes the callers that wait for these, and their wakers are user code.
        drop(held_back);
    }

    /// Starts the node again, empty, whether it was stopped or not: a process that was killed and
    /// restarted without persistence.
    pub fn restart(&self) {
        let mut state = self.0.state();
        let held_back = std::mem::take(&mut state.held_back);
        state.table.clear();
        state.run += 1;
        state.started = self.0.clock.now();
        state.connect();
        drop(state);
        drop(held_back);
    }

    /// Answers on new connections, while what it was asked on the old ones hangs.
    #[cfg(test)]
    pub(crate) fn reconnect(&self) {
        self.0.state().connect();
    }

    /// Hangs the node, as SIGSTOP does: requests are kept and nothing is answered.
    pub fn pause(&self) {
        let mut state = self.0.state();
        if state.condition == Condition::Running {
            state.condition = Condition::Paused;
        }
    }

    /// Ends a [`pause`](Self::pause): what was kept is carried out now, in order.
    pub fn resume(&self) {
        let mut state = self.0.state();
        if state.condition == Condition::Paused {
            state.condition = Condition::Running;
            let jobs = std::mem::take(&mut state.held_back);
            let answers: Vec<_> = jobs.into_iter().map(|job| job(&mut state)).collect();
            drop(state);
            answers.into_iter().for_each(|answer| answer());
        }
    }

    /// Forgets all keys on a running node, as `FLUSHALL` does.
    pub fn flush(&self) {
        self.0.state().table.clear();
    }

    /// Makes each call take `latency`, half of it on the way to the node. Defaults to none.
    pub fn set_latency(&self, latency: Duration) {
        self.0.state().latency = latency;
    }

    /// Whether the node loses the messages that tell waiters of their turn. Defaults to false.
    pub fn lose_pushes(&self, lose: bool) {
        self.0.state().deaf = lose;
    }

    /// Moves the node's clock by `seconds`, back if negative.
    pub fn step_clock(&self, seconds: f64) {
        let mut state = self.0.state();
        state.step = state.step.saturating_add((seconds * 1e6) as i64);
    }

    /// `SET resource value NX PX ttl`, the bare command of other Redlock clients. True if it was set.
    pub fn set_nx(&self, resource: &str, value: &str, ttl: Duration) -> bool {
        let mut state = self.0.state();
        let header = state.header(self.0.clock, None, Duration::ZERO);
        state.table.set_nx(header, resource, value, millis_up(ttl))
    }

    /// The value of the key `resource`: the holder id of the request that has this node's vote.
    pub fn get(&self, resource: &str) -> Option<String> {
        let mut state = self.0.state();
        let header = state.header(self.0.clock, None, Duration::ZERO);
        let report = state.table.inspect(header, resource);
        report.holder.map(|(id, _)| id)
    }

    /// What is left until the key `resource` expires; `None` if there is no such key.
    pub fn ttl(&self, resource: &str) -> Option<Duration> {
        let mut state = self.0.state();
        let header = state.header(self.0.clock, None, Duration::ZERO);
        let report = state.table.inspect(header, resource);
        report.holder.and_then(|(_, left)| left)
    }

    /// `DEL resource`.
    pub fn delete(&self, resource: &str) {
        self.0.state().table.delete(resource);
    }

    /// The resources that are locked or waited for on this node.
    pub fn used(&self) -> Vec<String> {
        let mut state = self.0.state();
        let micros = state.micros(self.0.clock);
        state.table.residue(micros)
    }

    /// How many calls this node has carried out, late refusals included.
    pub fn calls(&self) -> u64 {
        self.0.state().calls
    }
}

impl fmt::Debug for MemoryNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryNode").field(&self.0.name).finish()
    }
}
