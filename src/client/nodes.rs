//! The nodes of one client, and what all its requests share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{
    config::Config,
    error::{LockError, NoQuorum, NodeError, NodeFailure},
    event::Event,
    holder::{ClientId, HolderId},
    message::Terms,
    node::Node,
    quorum::{NodeIndex, Quorum},
    resource::Ttl,
    runtime::clock::Clock,
    runtime::rng::Rng,
    servers::{self, Servers},
    telemetry::{self, Limits},
    time::Time,
};

/// The nodes, the settings, and where time and chance come from.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) list: Vec<Arc<dyn Node>>,
    pub(crate) quorum: Quorum,
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    rng: Rng,
    id: ClientId,
    pub(crate) limits: Limits,
    warned_of_ttl: AtomicBool,
    closed: AtomicBool,
}

impl Nodes {
    pub(crate) fn new(
        list: Vec<Arc<dyn Node>>,
        config: Arc<Config>,
        clock: Clock,
        rng: Rng,
        id: ClientId,
    ) -> Self {
        Self {
            quorum: Quorum::of(list.len()),
            list,
            config,
            clock,
            rng,
            id,
            limits: Limits::default(),
            warned_of_ttl: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// A fresh holder id.
    pub(crate) fn holder_id(&self) -> HolderId {
        HolderId::new(self.rng.uuid(), &self.id, self.clock.unix_millis())
    }

    /// The terms of calls that have until `deadline`, with this waiter ttl.
    pub(crate) fn terms(&self, deadline: Time, waiter_ttl: Duration, now: Time) -> Terms {
        let incarnations = self.list.iter().filter_map(|node| node.incarnation().ok());
        servers::terms(
            incarnations,
            self.quorum,
            &self.config,
            deadline,
            waiter_ttl,
            now,
        )
    }

    /// What is known of the servers at this moment.
    pub(crate) fn see(&self, servers: &mut Servers) {
        for (index, node) in self.list.iter().enumerate() {
            servers.see(index, node.incarnation().ok());
        }
    }

    /// What is known of the servers before any was reached.
    pub(crate) fn servers(&self) -> Servers {
        let config = &self.config;
        Servers::new(self.list.len(), config.grace(), config.cold_start_grace)
    }

    /// The name of a node, for people.
    pub(crate) fn name(&self, index: NodeIndex) -> &str {
        self.list.get(index).map_or("?", |node| node.name())
    }

    /// The error of a command that too few nodes answered; so many nodes were not waited for.
    pub(crate) fn no_quorum(
        &self,
        failures: impl Iterator<Item = (NodeIndex, NodeError)>,
        open: usize,
    ) -> NoQuorum {
        let failures: Vec<NodeFailure> = failures
            .map(|(index, error)| NodeFailure::new(self.name(index), error))
            .collect();
        let answered = self.list.len().saturating_sub(failures.len() + open);
        NoQuorum::new(self.quorum.size(), answered, failures)
    }

    /// Emits what happened to a request.
    pub(crate) fn emit(&self, event: Event) {
        telemetry::emit(
            event,
            |node| self.name(node),
            &self.limits,
            self.clock.now(),
        );
    }

    /// Warns, once, of a ttl so long that a restarted node may vote again while the lease still stands.
    pub(crate) fn warn_of_ttl(&self, ttl: Ttl) {
        let ttl = ttl.get();
        let grace = self.config.restart_grace;
        if ttl > grace && !grace.is_zero() && !self.warned_of_ttl.swap(true, Ordering::Relaxed) {
            telemetry::ttl_above_grace(ttl, grace);
        }
    }

    /// Takes no new requests from here on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Carries a call out that may wait, and tells how it ends; see [`telemetry::within`].
    pub(crate) fn telling<T>(
        &self,
        call: &'static str,
        resource: &str,
        carry_out: impl Future<Output = Result<T, LockError>>,
        token: impl Fn(&T) -> Option<u64>,
    ) -> impl Future<Output = Result<T, LockError>> {
        telemetry::within(
            call,
            resource,
            &self.limits.unanswered,
            self.clock,
            carry_out,
            token,
        )
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::MemoryCluster;

    /// One clock is far ahead, and which nodes can be reached changes. Nothing is forgotten.
    #[tokio::test(start_paused = true)]
    async fn s2_tokens_rise_over_idle_times_beside_a_clock_that_is_ahead() {
        let ttl = Duration::from_secs(10);
        for ahead in [70, 300, 3600] {
            for idle in [1, 30, 59, 61, 65, 100, 200, 3700] {
                let cluster = MemoryCluster::new(3);
                cluster.node(2).step_clock(f64::from(ahead));
                sleep(Duration::from_secs(100)).await;
                let builder = crate::FifoRedlock::builder().memory(&cluster);
                let redlock = builder.connect().await.unwrap();
                // Cut off for a while; it keeps its memory.
                cluster.node(0).stop();
                let guard = redlock.lock("r", ttl).await.unwrap();
                let first = guard.fencing_token();
                guard.release().await.unwrap();
                cluster.node(0).reconnect();
                sleep(Duration::from_secs(idle)).await;
                // A minority hangs.
                cluster.node(1).pause();
                let guard = redlock.lock("r", ttl).await.unwrap();
                assert!(
                    guard.fencing_token() > first,
                    "{ahead} s ahead, idle for {idle} s"
                );
            }
        }
    }
}
