//! One Redis node and what it takes to call it.

use super::subject::Scripts;
use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{
    config::Config,
    error::{NodeError, WrongServer},
    holder::{ClientId, HolderId},
    message::{Enqueue, Extend, Extended, Release, Released, Standing, Terms},
    node::{
        Call, Context, Events, Node, NodeEvent, address::Address, punctual, redis::RedisNode,
        roster::Roster,
    },
    resource::Resource,
    runtime::clock::Clock,
    runtime::rng::Rng,
    time::Time,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const TTL: Duration = Duration::from_secs(10);
pub(super) const LEASE: Duration = Duration::from_secs(5);

/// Settings under which a node is given up soon.
pub(super) fn impatient() -> Config {
    Config {
        node_timeout: Duration::from_millis(100),
        ..Config::default()
    }
}

/// A client with one node.
pub(super) struct Rig {
    pub(super) node: Arc<RedisNode>,
    pub(super) context: Context,
    signature: ClientId,
    events: mpsc::Receiver<(usize, NodeEvent)>,
}

impl Rig {
    pub(super) fn open(url: &str) -> Self {
        Self::open_as(0, url, Config::default(), Arc::default())
    }

    pub(super) fn open_with(url: &str, config: Config) -> Self {
        Self::open_as(0, url, config, Arc::default())
    }

    pub(super) fn open_as(place: usize, url: &str, config: Config, roster: Arc<Roster>) -> Self {
        Self::new(place, config, Clock::Boot, |context| {
            let address = Address::parse(place, url).expect("a url");
            RedisNode::open(Box::new(address), context, roster)
        })
    }

    pub(super) fn new(
        place: usize,
        config: Config,
        clock: Clock,
        start: impl FnOnce(Context) -> Arc<RedisNode>,
    ) -> Self {
        let (sender, events) = mpsc::channel(100);
        let signature = ClientId::new(Rng.uuid(), "rig", true);
        let context = Context {
            clock,
            config: Arc::new(config),
            channel: signature.channel().into(),
            events: Events::new(place, sender),
        };
        let node = start(context.clone());
        Self {
            node,
            context,
            signature,
            events,
        }
    }

    /// The same, once connected.
    pub(super) async fn up(self) -> Self {
        self.node.greeted().await.expect("a node");
        self
    }

    /// Why the server behind `url` is no node.
    pub(super) async fn problem(url: &str) -> WrongServer {
        match Self::open(url).node.greeted().await {
            Err(NodeError::WrongServer(problem)) => problem,
            other => panic!("not a wrong server: {other:?}"),
        }
    }

    pub(super) fn id(&self) -> HolderId {
        HolderId::new(Rng.uuid(), &self.signature, 1_700_000_000_000)
    }

    pub(super) fn terms(&self) -> Terms {
        self.terms_until(self.context.config.node_timeout)
    }

    pub(super) fn terms_until(&self, after: Duration) -> Terms {
        Terms {
            deadline: self.context.clock.now().plus(after),
            waiter_ttl: LEASE,
            unheard: Duration::from_millis(400),
            seed: 0,
            keep: Duration::from_secs(60),
            at: Time::default(),
            extra: 0,
            lead: 0,
        }
    }

    pub(super) fn ask(&self, name: &str, id: &HolderId) -> Enqueue {
        Enqueue {
            resource: resource(name),
            id: id.clone(),
            number: None,
            ttl: TTL,
            room: Some(64),
        }
    }

    pub(super) async fn enqueue(&self, name: &str, id: &HolderId) -> Result<Standing, NodeError> {
        self.enqueue_by(self.terms(), name, id).await
    }

    pub(super) async fn enqueue_by(
        &self,
        terms: Terms,
        name: &str,
        id: &HolderId,
    ) -> Result<Standing, NodeError> {
        let call = self.node.enqueue(&[self.ask(name, id)], terms);
        self.only(terms, call).await
    }

    pub(super) async fn extend(
        &self,
        name: &str,
        id: &HolderId,
        ttl: Duration,
    ) -> Result<Extended, NodeError> {
        let request = Extend {
            resource: resource(name),
            id: id.clone(),
            ttl,
            token: 0,
            repair: false,
        };
        let terms = self.terms();
        self.only(terms, self.node.extend(&[request], terms)).await
    }

    pub(super) async fn release(&self, name: &str, id: &HolderId) -> Result<Released, NodeError> {
        self.release_by(self.terms(), name, id).await
    }

    pub(super) async fn release_by(
        &self,
        terms: Terms,
        name: &str,
        id: &HolderId,
    ) -> Result<Released, NodeError> {
        let request = Release {
            resource: resource(name),
            id: id.clone(),
        };
        self.only(terms, self.node.release(&[request], terms)).await
    }

    async fn only<T: Copy>(&self, terms: Terms, call: Call<Vec<T>>) -> Result<T, NodeError> {
        let answer = punctual(self.context.clock, terms.deadline, call).await?;
        Ok(answer.value[0])
    }

    pub(super) async fn event(&mut self) -> NodeEvent {
        let event = timeout(PATIENCE, self.events.recv())
            .await
            .expect("an event in time");
        event.expect("an open channel").1
    }

    /// Waits until the node is connected again, in a later epoch.
    pub(super) async fn back_after(&self, epoch: u64) {
        until(|| async {
            self.node
                .incarnation()
                .is_ok_and(|incarnation| incarnation.epoch > epoch)
        })
        .await;
    }
}

pub(super) fn resource(name: &str) -> Arc<Resource> {
    Arc::new(Resource::new("", name).expect("a name"))
}

/// Waits until `condition` holds.
pub(super) async fn until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    let wait = async {
        while !condition().await {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("in time");
}
