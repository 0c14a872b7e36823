//! A node of either kind under test, and its time.
//!
//! Time is moved, not waited for: the memory node's clock is stepped, and on the server everything is made
//! older by as much.

use std::{sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::sync::mpsc;

use crate::{
    config::Config,
    error::NodeError,
    holder::{ClientId, HolderId},
    message::{
        Answer, Command, Enqueue, Extend, Extended, Release, Released, Reply, Report, Standing,
        Terms,
    },
    node::{
        Call, Context, Events, Node, NodeEvent,
        address::Address,
        memory::{MemoryCluster, MemoryNode},
        redis::RedisNode,
        roster::Roster,
    },
    resource::Resource,
    runtime::clock::Clock,
    runtime::rng::Rng,
    server::Server,
    time::Time,
};

pub(super) const TTL: Duration = Duration::from_secs(10);
pub(super) const LEASE: Duration = Duration::from_secs(5);

/// The commands of each kind by themselves.
pub(super) trait Scripts {
    fn enqueue(&self, batch: &[Enqueue], terms: Terms) -> Call<Vec<Standing>>;
    fn extend(&self, batch: &[Extend], terms: Terms) -> Call<Vec<Extended>>;
    fn release(&self, batch: &[Release], terms: Terms) -> Call<Vec<Released>>;
}

impl<N: Node + ?Sized> Scripts for N {
    fn enqueue(&self, batch: &[Enqueue], terms: Terms) -> Call<Vec<Standing>> {
        let batch: Vec<_> = batch.iter().cloned().map(Command::Enqueue).collect();
        read(self.call(&batch, terms), Reply::standing)
    }

    fn extend(&self, batch: &[Extend], terms: Terms) -> Call<Vec<Extended>> {
        let batch: Vec<_> = batch.iter().cloned().map(Command::Extend).collect();
        read(self.call(&batch, terms), Reply::extended)
    }

    fn release(&self, batch: &[Release], terms: Terms) -> Call<Vec<Released>> {
        let batch: Vec<_> = batch.iter().cloned().map(Command::Release).collect();
        read(self.call(&batch, terms), Reply::released)
    }
}

/// A call whose answers are all of one kind.
fn read<T: 'static>(call: Call<Vec<Reply>>, read: fn(Reply) -> Option<T>) -> Call<Vec<T>> {
    let all = move |replies: Vec<Reply>| replies.into_iter().map(read).collect::<Option<_>>();
    call.map(move |outcome| outcome.and_then(|answer| answer.read(all)))
        .boxed()
}

/// One node and one client of it.
pub(super) struct Subject {
    pub(super) node: Arc<dyn Node>,
    kind: Kind,
    clock: Clock,
    signature: ClientId,
    events: mpsc::Receiver<(usize, NodeEvent)>,
}

enum Kind {
    Memory(MemoryNode),
    Redis(Server),
}

impl Subject {
    pub(super) fn memory() -> Self {
        Self::memory_as(ClientId::new(Rng.uuid(), "subject", true))
    }

    pub(super) async fn redis() -> Self {
        Self::redis_as(ClientId::new(Rng.uuid(), "subject", true)).await
    }

    pub(super) fn memory_as(signature: ClientId) -> Self {
        let cluster = MemoryCluster::new(1);
        let (context, events) = context(cluster.clock(), &signature);
        Self {
            node: cluster.link(0, context).expect("a node"),
            kind: Kind::Memory(cluster.node(0)),
            clock: cluster.clock(),
            signature,
            events,
        }
    }

    pub(super) async fn redis_as(signature: ClientId) -> Self {
        let server = Server::start();
        let (context, events) = context(Clock::Boot, &signature);
        let address = Address::parse(0, &server.url()).expect("a url");
        let node = RedisNode::open(Box::new(address), context, Arc::<Roster>::default());
        node.greeted().await.expect("a node");
        Self {
            node,
            kind: Kind::Redis(server),
            clock: Clock::Boot,
            signature,
            events,
        }
    }

    pub(super) fn id(&self) -> HolderId {
        HolderId::new(Rng.uuid(), &self.signature, 1_700_000_000_000)
    }

    /// Terms by the node's own clock, under which every counter is trusted.
    pub(super) fn terms(&self) -> Terms {
        Terms {
            deadline: self.clock.now().plus(Duration::from_secs(5)),
            waiter_ttl: LEASE,
            unheard: Duration::from_millis(500),
            seed: 0,
            keep: Duration::from_secs(60),
            at: Time::default(),
            extra: 0,
            lead: i64::MIN,
        }
    }

    /// A first request.
    pub(super) fn ask(&self, id: &HolderId) -> Enqueue {
        Enqueue {
            resource: resource("r"),
            id: id.clone(),
            number: None,
            ttl: TTL,
            room: None,
        }
    }

    pub(super) async fn enqueue(&self, ask: &Enqueue) -> Standing {
        let enqueue = || self.node.enqueue(std::slice::from_ref(ask), self.terms());
        only(again_if_late(enqueue).await)
    }

    /// A first request, and the number that came of it.
    pub(super) async fn join(&self, id: &HolderId) -> u64 {
        match self.enqueue(&self.ask(id)).await {
            Standing::Granted { seq, .. } => seq,
            Standing::Waiting { number, .. } => number,
            other => panic!("not in: {other:?}"),
        }
    }

    pub(super) async fn extend(
        &self,
        id: &HolderId,
        ttl: Duration,
        token: u64,
        repair: bool,
    ) -> Extended {
        let ask = Extend {
            resource: resource("r"),
            id: id.clone(),
            ttl,
            token,
            repair,
        };
        let extend = || self.node.extend(std::slice::from_ref(&ask), self.terms());
        only(again_if_late(extend).await)
    }

    pub(super) async fn release(&self, id: &HolderId) -> Released {
        let ask = Release {
            resource: resource("r"),
            id: id.clone(),
        };
        let release = || self.node.release(std::slice::from_ref(&ask), self.terms());
        only(again_if_late(release).await)
    }

    pub(super) async fn inspect(&self) -> Report {
        self.report("r").await
    }

    pub(super) async fn report(&self, name: &str) -> Report {
        self.node
            .inspect(&resource(name), self.terms().deadline)
            .await
            .expect("carried out")
            .value
    }

    /// Who has the vote.
    pub(super) async fn holder(&self) -> Option<String> {
        self.inspect().await.holder.map(|(id, _)| id)
    }

    /// Who waits, in order.
    pub(super) async fn line(&self) -> Vec<String> {
        self.inspect()
            .await
            .line
            .into_iter()
            .map(|waiting| waiting.id)
            .collect()
    }

    /// The next vote that the node tells of.
    pub(super) async fn told(&mut self) -> (String, u64, u64) {
        loop {
            if let NodeEvent::Granted {
                id,
                waiter_end,
                seq,
            } = self.event().await
            {
                return (id, waiter_end, seq);
            }
        }
    }

    /// What was told so far.
    pub(super) fn told_so_far(&mut self) -> Vec<NodeEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok().map(|(_, event)| event)).collect()
    }

    /// Lets time pass.
    pub(super) fn later(&self, millis: u64) {
        match &self.kind {
            Kind::Memory(node) => node.step_clock(millis as f64 / 1000.0),
            Kind::Redis(server) => age(server, millis),
        }
    }

    /// The bare command of another client; true if the key was set.
    pub(super) fn set_nx(&self, name: &str, value: &str, ttl: Duration) -> bool {
        match &self.kind {
            Kind::Memory(node) => node.set_nx(name, value, ttl),
            Kind::Redis(server) => {
                let millis = ttl.as_millis().to_string();
                let reply = server.command(&["SET", name, value, "NX", "PX", &millis]);
                reply != redis::Value::Nil
            }
        }
    }

    /// The bare `DEL` of a person.
    pub(super) fn delete(&self, name: &str) {
        match &self.kind {
            Kind::Memory(node) => node.delete(name),
            Kind::Redis(server) => {
                server.command(&["DEL", name]);
            }
        }
    }

    /// Forgets everything, without a restart.
    pub(super) fn flush(&self) {
        match &self.kind {
            Kind::Memory(node) => node.flush(),
            Kind::Redis(server) => {
                server.command(&["FLUSHALL"]);
            }
        }
    }

    async fn event(&mut self) -> NodeEvent {
        let patience = Duration::from_secs(20);
        let event = tokio::time::timeout(patience, self.events.recv()).await;
        event.expect("told in time").expect("a living node").1
    }
}

fn context(clock: Clock, signature: &ClientId) -> (Context, mpsc::Receiver<(usize, NodeEvent)>) {
    let (sender, events) = mpsc::channel(1000);
    let context = Context {
        clock,
        config: Arc::new(Config::default()),
        channel: signature.channel().into(),
        events: Events::new(0, sender),
    };
    (context, events)
}

pub(super) fn resource(name: &str) -> Arc<Resource> {
    Arc::new(Resource::new("", name).expect("a name"))
}

/// A call, and once more if the node refused it by its clock, which is known by then.
async fn again_if_late<T>(call: impl Fn() -> Call<T>) -> Result<Answer<T>, NodeError> {
    match call().await {
        Err(NodeError::Late) => call().await,
        outcome => outcome,
    }
}

/// The one answer of a batch of one.
pub(super) fn only<T>(answer: Result<Answer<Vec<T>>, NodeError>) -> T {
    let mut value = answer.expect("carried out").value;
    assert_eq!(value.len(), 1);
    value.remove(0)
}

fn age(server: &Server, millis: u64) {
    const OLDER: &str = "
        for i, key in ipairs(KEYS) do
          local left = redis.call('PTTL', key)
          if left >= 0 and left <= tonumber(ARGV[1]) then redis.call('DEL', key)
          elseif left > 0 then
            if string.sub(key, -7) == 'waiters' then
              for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do
                redis.call('ZINCRBY', key, -ARGV[1], id)
              end
            end
            redis.call('PEXPIRE', key, left - ARGV[1])
          end
        end";
    let keys = server.keys();
    let (count, millis) = (keys.len().to_string(), millis.to_string());
    let mut command = vec!["EVAL", OLDER, &count];
    command.extend(keys.iter().map(String::as_str));
    command.push(&millis);
    server.command(&command);
}

/// Makes each behaviour a test on a memory node and one on a real server.
macro_rules! on_both {
    ($($behaviour:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(super::Subject::memory()).await;
            })+
        }
        mod redis {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(super::Subject::redis().await).await;
            })+
        }
    };
}
pub(super) use on_both;
