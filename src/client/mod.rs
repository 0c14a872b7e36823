//! What all handles of one client share: its nodes, its requests, and its one background task.
//!
//! The task starts on the runtime where the client is made, and lives there. A client that is made outside of any
//! runtime starts it with the first request. The task ends when the last handle is gone and nothing is left to release.

mod batch;
pub(crate) mod entry;
pub(crate) mod in_flight;
pub(crate) mod nodes;
pub(crate) mod notifier;
pub(crate) mod requests;
pub(crate) mod requeue;
pub(crate) mod rows;
pub(crate) mod ticker;
mod window;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    client::nodes::Nodes,
    client::requests::Requests,
    client::requeue::RequeueDetector,
    client::{entry::Entry, notifier::Look},
    error::{ClientStopped, LockError, NodeError, ReleaseError},
    message::Report,
    node::{Node, punctual},
    request::{Cx, End, Request, Tally},
    resource::{Resource, Ttl},
    runtime::task,
    telemetry,
};

/// One client. It lives as long as any handle, ticket or guard of it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) requeues: RequeueDetector,
    /// The events of the nodes, until the task takes them.
    unheard: Mutex<Option<ticker::Events>>,
}

impl Client {
    pub(crate) fn new(nodes: Arc<Nodes>, events: ticker::Events) -> Self {
        telemetry::guarded(telemetry::meter::describe);
        let client = Self {
            requests: Arc::new(Requests::new(nodes.clone())),
            nodes,
            requeues: RequeueDetector::default(),
            unheard: Mutex::new(Some(events)),
        };
        // Without a runtime it starts with the first request.
        let _ = client.start();
        client
    }

    /// A new request; nothing is sent yet.
    pub(crate) fn request(
        &self,
        resource: &str,
        ttl: Duration,
        room: Option<u64>,
    ) -> Result<Request, LockError> {
        if self.nodes.is_closed() {
            return Err(LockError::ShutDown);
        }
        let config = &self.nodes.config;
        let ttl = Ttl::new(ttl)?;
        self.nodes.warn_of_ttl(ttl);
        let resource = Arc::new(Resource::new(&config.key_prefix, resource)?);
        self.start().map_err(LockError::Stopped)?;
        let now = self.nodes.clock.now();
        let (id, quorum) = (self.nodes.holder_id(), self.nodes.quorum);
        let config = config.clone();
        Ok(Request::new(config, quorum, resource, id, ttl, room, now))
    }

    /// Releases what a request has, and waits until it is certain what the nodes say to that.
    ///
    /// If this is dropped, the release goes on.
    pub(crate) async fn release(&self, entry: &Entry) -> Result<Tally, ReleaseError> {
        entry.update(|request, cx| request.end(End::Over, cx.now));
        let tally = |request: &mut Request, cx: Cx<'_>| match request.tally(cx.now) {
            Some(tally) => Look::Done(tally),
            None => Look::Again(Some(request.expires())),
        };
        entry.wait(tally).await.map_err(ReleaseError::Stopped)
    }

    /// Whether a quorum confirmed a release.
    pub(crate) fn confirmed(&self, tally: Tally) -> Result<(), ReleaseError> {
        if tally.is_quorum(self.nodes.quorum) {
            return Ok(());
        }
        let open = tally.open;
        let failed = tally.failed.into_iter();
        Err(ReleaseError::Unconfirmed(
            self.nodes.no_quorum(failed, open),
        ))
    }

    /// What each node knows of a resource; an error if fewer than a quorum answer.
    pub(crate) async fn inspect(
        &self,
        resource: &str,
    ) -> Result<Vec<Result<Report, NodeError>>, LockError> {
        self.start().map_err(LockError::Stopped)?;
        let nodes = &self.nodes;
        let resource = Arc::new(Resource::new(&nodes.config.key_prefix, resource)?);
        let clock = nodes.clock;
        let deadline = clock.now().plus(nodes.config.node_timeout);
        let ask = |node: &Arc<dyn Node>| {
            let (node, resource) = (node.clone(), resource.clone());
            async move {
                let inspect = || punctual(clock, deadline, node.inspect(&resource, deadline));
                let report = match inspect().await {
                    // The node had forgotten the script, and learns it now.
                    Err(NodeError::Late) => inspect().await,
                    report => report,
                };
                report.map(|answer| answer.value)
            }
        };
        let asks: Vec<_> = nodes.list.iter().map(ask).collect();
        let reports = apart(join_all(asks)).await;
        let reports = reports.ok_or(LockError::Stopped(ClientStopped::RuntimeEnded))?;
        let failure = |(index, report): (usize, &Result<Report, NodeError>)| {
            Some((index, report.as_ref().err()?.clone()))
        };
        let failures: Vec<_> = reports.iter().enumerate().filter_map(failure).collect();
        if nodes.quorum.possible_without(failures.len()) {
            return Ok(reports);
        }
        let failures = failures.into_iter();
        Err(LockError::NoQuorum(nodes.no_quorum(failures, 0)))
    }

    /// Ends all waiting requests, and returns when everything that they had is released.
    pub(crate) async fn shut_down(&self) {
        self.nodes.close();
        self.requests.shut_down();
        self.requests.idle().await;
    }

    /// Makes sure that the task runs; starts it if it has not begun yet.
    pub(crate) fn start(&self) -> Result<(), ClientStopped> {
        if let Some(cause) = self.requests.stopped() {
            return Err(cause);
        }
        let mut unheard = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        if unheard.is_some() && Handle::try_current().is_err() {
            return Err(ClientStopped::NoRuntime);
        }
        if let Some(events) = unheard.take() {
            task::spawn(ticker::run(self.requests.clone(), events));
        }
        Ok(())
    }
}

/// Runs `calls` in a task of their own if there is a runtime: the caller may not be polled for long, and that must not
/// let calls run into their deadlines. `None` if the runtime ends meanwhile.
async fn apart<T: Send + 'static>(calls: impl Future<Output = T> + Send + 'static) -> Option<T> {
    if Handle::try_current().is_err() {
        return Some(calls.await);
    }
    let (tell, told) = oneshot::channel();
    task::spawn(async move {
        let _ = tell.send(calls.await);
    });
    told.await.ok()
}

impl Drop for Client {
    fn drop(&mut self) {
        self.requests.close();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::{FifoRedlock, LockGuard, MemoryCluster};

    const TTL: Duration = Duration::from_secs(10);

    /// How long what was asked may yet be carried out: a `node_timeout`, by a clock that is known to within one.
    const QUIET: Duration = Duration::from_secs(1);

    async fn held(cluster: &MemoryCluster) -> LockGuard {
        let redlock = FifoRedlock::builder().memory(cluster).connect().await;
        redlock.unwrap().lock("r", TTL).await.unwrap()
    }

    /// What hung on the old connection is carried out.
    fn carry_out(cluster: &MemoryCluster) {
        cluster.node(0).pause();
        cluster.node(0).resume();
    }

    #[tokio::test(start_paused = true)]
    async fn c3_a_node_that_may_take_the_vote_again_has_not_confirmed() {
        let cluster = MemoryCluster::new(3);
        let guard = held(&cluster).await;
        sleep(TTL / 10).await;
        // The others take their time to say that the lease stands: the repair waits for that.
        (1..3).for_each(|node| cluster.node(node).set_latency(QUIET / 10));
        cluster.node(0).delete("r");
        let check = guard.is_valid();
        assert!(tokio::time::timeout(QUIET / 20, check).await.is_err());
        cluster.node(0).pause();
        sleep(QUIET / 5).await;
        cluster.node(0).reconnect();
        (1..3).for_each(|node| cluster.node(node).set_latency(Duration::ZERO));
        cluster.node(2).stop();
        let release = tokio::spawn(guard.release());
        sleep(QUIET / 5).await;
        assert!(!release.is_finished(), "the repair is still under way");
        carry_out(&cluster);
        assert!(cluster.node(0).get("r").is_some(), "it was a repair");
        release.await.unwrap().unwrap();
        assert_eq!(cluster.node(0).get("r"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn c3_a_node_that_may_yet_give_the_vote_has_not_confirmed() {
        let cluster = MemoryCluster::new(3);
        cluster.node(0).pause();
        let guard = held(&cluster).await;
        // The first request is under way on the old connection.
        cluster.node(0).reconnect();
        cluster.node(2).stop();
        let release = tokio::spawn(guard.release());
        sleep(QUIET / 4).await;
        assert_eq!(cluster.node(0).get("r"), None);
        // It is carried out, now that the lock is free there.
        carry_out(&cluster);
        assert!(cluster.node(0).get("r").is_some());
        release.await.unwrap().unwrap();
        assert_eq!(cluster.node(0).get("r"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn c3_what_waits_its_turn_is_decided_on_when_it_is_sent() {
        let client = FifoRedlock::in_memory(1).client;
        let request = client.request("r", TTL, None).unwrap();
        let requests = Arc::new(Requests::new(client.nodes.clone()));
        let entry = Entry::new(&requests, request);
        let due = requests.take_due();
        let key = due.first().map(|(key, _)| *key).unwrap();
        entry.update(|request, cx| request.end(End::Over, cx.now));
        assert!(requests.ask(&[key], 0).is_empty(), "nothing was ever sent");
    }

    #[test]
    fn a_client_without_a_runtime_says_so_and_works_once_there_is_one() {
        let redlock = FifoRedlock::in_memory(3);
        let refused = futures::executor::block_on(redlock.lock("r", TTL));
        let stopped = crate::LockError::Stopped(ClientStopped::NoRuntime);
        assert_eq!(refused.unwrap_err(), stopped);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        drop(runtime.block_on(redlock.lock("r", TTL)).unwrap());
    }
}
