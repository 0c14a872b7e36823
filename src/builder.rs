//! The builder: nodes, settings, connect.

use std::{fmt, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;

use crate::{
    client::Client,
    clock::Clock,
    config::Config,
    error::{BuildError, NoQuorum, NodeError, NodeFailure},
    holder::Signature,
    node::{
        Context, Events, Node, address::Address, memory::MemoryCluster, redis::RedisNode,
        roster::Roster,
    },
    nodes::Nodes,
    quorum::Quorum,
    redlock::FifoRedlock,
    rng::Rng,
};

/// How many events of the nodes may wait to be looked at; beyond that they are dropped, and polled for.
const EVENTS: usize = 16 * 1024;

/// Builds a [`FifoRedlock`] from nodes and settings.
///
/// The settings have the names, defaults and meaning of the Python project `redlock-fifo` where that has
/// them.
///
/// # Examples
///
/// ```no_run
/// # use std::time::Duration;
/// # #[tokio::main]
/// # async fn main() -> Result<(), redlock_fifo::BuildError> {
/// let redlock = redlock_fifo::FifoRedlock::builder()
///     .node("redis://a")
///     .node("redis://b")
///     .node("redis://c")
///     .key_prefix("billing:")
///     .fifo_queue_length(1000)
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
#[must_use = "a builder does nothing until it connects"]
pub struct FifoRedlockBuilder {
    sources: Vec<Source>,
    config: Config,
}

enum Source {
    Url(String),
    Connection(Open),
    Memory(MemoryCluster),
}

/// Makes a node of a connection whose type only the builder's caller knows.
type Open = Box<dyn FnOnce(&str, Context, Arc<Roster>) -> Arc<RedisNode> + Send>;

impl FifoRedlockBuilder {
    /// Adds the server at `url` as a node: `redis://[user:password@]host[:port][/db]`, or
    /// `redis+unix:///path`. Connected by RESP3, unless the URL says `?protocol=resp2`; then the node is
    /// polled, as it cannot push.
    pub fn node(mut self, url: impl AsRef<str>) -> Self {
        self.sources.push(Source::Url(url.as_ref().to_owned()));
        self
    }

    /// Adds a node that is reached through a connection of yours: a `ConnectionManager`, a cluster or
    /// sentinel connection, or any other that can be cloned.
    ///
    /// Such a node is polled every `fifo_retry_delay`, as it cannot push. A restart of the server is seen
    /// only when it surfaces as an error, so S5 (no vote from a server that forgot) is weaker there; and
    /// behind a cluster or sentinel a failover may lose the lock, as replication there is asynchronous.
    pub fn connection<C>(mut self, connection: C) -> Self
    where
        C: redis::aio::ConnectionLike + Clone + Send + Sync + 'static,
    {
        self.sources
            .push(Source::Connection(Box::new(|name, context, roster| {
                RedisNode::over(name, connection, context, roster)
            })));
        self
    }

    /// Adds all nodes of `cluster`, which other clients can share. Cannot be mixed with real nodes.
    pub fn memory(mut self, cluster: &MemoryCluster) -> Self {
        self.sources.push(Source::Memory(cluster.clone()));
        self
    }

    /// How people will know this client in [`FifoRedlock::inspect`], 1 to 128 bytes.
    ///
    /// Defaults to host name and process id, because that is what an operator looks for.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.config.client_name = Some(name.into());
        self
    }

    /// How often the nodes are asked when too few of them answer.
    ///
    /// Defaults to 1, as in Python: whoever asks again soon anyway wants to know at once.
    pub fn retry_count(mut self, attempts: u32) -> Self {
        self.config.retry_count = attempts;
        self
    }

    /// The pause between such attempts.
    ///
    /// Defaults to 200 ms, as in Python.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.config.retry_delay = delay;
        self
    }

    /// After how many polls in a row without moving forward a waiter gives up; `None`: never. A poll
    /// counts as `retry_delay` plus `fifo_retry_delay`, as in Python.
    ///
    /// Defaults to 30, as in Python: 12 s. Behind a holder that works longer set `None` here, or
    /// [`Lock::wait_forever`](crate::Lock::wait_forever) on the request.
    pub fn fifo_retry_count(mut self, polls: impl Into<Option<u32>>) -> Self {
        self.config.fifo_retry_count = polls.into();
        self
    }

    /// How often the first in line asks, should the message of its turn be lost; zero is as often as
    /// possible.
    ///
    /// Defaults to 200 ms, as in Python. Where the servers push, the turn passes on at once whatever this
    /// is.
    pub fn fifo_retry_delay(mut self, delay: Duration) -> Self {
        self.config.fifo_retry_delay = delay;
        self
    }

    /// How many may wait for one resource, besides the holder; `None`: any number.
    ///
    /// Defaults to 64, as in Python. Beyond it a request keeps trying to get into the line until its
    /// patience ends; in order of arrival among those of one client, but not between clients.
    pub fn fifo_queue_length(mut self, waiters: impl Into<Option<u64>>) -> Self {
        self.config.fifo_queue_length = waiters.into();
        self
    }

    /// For how long the place of a waiter is kept when nothing is heard of it.
    ///
    /// Defaults to 5 s, as in Python. All dead waiters together delay the next living one by at most this;
    /// a client that is cut off for longer loses its places.
    pub fn fifo_ephemeral_ttl(mut self, ttl: Duration) -> Self {
        self.config.fifo_ephemeral_ttl = ttl;
        self
    }

    /// How long one node may take to answer; never more than a third of the ttl.
    ///
    /// Defaults to 500 ms: far above any healthy answer. A slow node is not waited for when the others
    /// make a quorum.
    pub fn node_timeout(mut self, timeout: Duration) -> Self {
        self.config.node_timeout = timeout;
        self
    }

    /// Which part of a ttl clocks may drift apart in that time, 0 to 0.5.
    ///
    /// Defaults to 0.01, as in every Redlock: far above any clock that is not broken.
    pub fn clock_drift_factor(mut self, factor: f64) -> Self {
        self.config.clock_drift_factor = factor;
        self
    }

    /// What all keys start with.
    ///
    /// Defaults to nothing, so that other Redlock clients exclude us and are excluded by us under the
    /// same names.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.config.key_prefix = prefix.into();
        self
    }

    /// For how long the vote of a server does not count after it restarted: the longest lease of *any*
    /// client that it may have forgotten. The same for all clients.
    ///
    /// Defaults to 30 s. A longer ttl is allowed, but then a restart may let in a second holder; zero
    /// turns the protection off, for servers that lose nothing (`appendfsync always`).
    pub fn restart_grace(mut self, grace: Duration) -> Self {
        self.config.restart_grace = grace;
        self
    }

    /// Whether servers that all started together are in their restart grace, too.
    ///
    /// Defaults to false, because that is what a new deployment looks like, and one wants to use it at
    /// once. After a power failure it is also what a loss of all leases looks like: who fears that more
    /// sets true.
    pub fn cold_start_grace(mut self, cold: bool) -> Self {
        self.config.cold_start_grace = cold;
        self
    }

    /// Whether guards extend themselves.
    ///
    /// Defaults to true, because work that takes longer than planned is the rule.
    pub fn auto_extend(mut self, auto_extend: bool) -> Self {
        self.config.auto_extend = auto_extend;
        self
    }

    /// The longest that one guard may hold; `None`: for as long as it lives.
    ///
    /// Defaults to none, because only the user knows how long the work may take. It bounds the harm of a
    /// guard that is forgotten, or of work that hangs.
    pub fn max_hold(mut self, max_hold: impl Into<Option<Duration>>) -> Self {
        self.config.max_hold = max_hold.into();
        self
    }

    /// Connects, and returns once a quorum of the nodes has shaken hands.
    ///
    /// A node that is down is no error. The others are waited for, so that a wrong one is found, but no
    /// longer than `node_timeout` after the quorum. To be called within a tokio runtime, on which the
    /// client then lives.
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, the connections are closed.
    ///
    /// # Errors
    ///
    /// [`BuildError`], before anything is sent where it can be told by then.
    pub async fn connect(self) -> Result<FifoRedlock, BuildError> {
        self.config.validate()?;
        let (memory, real): (Vec<_>, Vec<_>) = self
            .sources
            .into_iter()
            .partition(|source| matches!(source, Source::Memory(_)));
        match (memory.is_empty(), real.is_empty()) {
            (true, true) => Err(BuildError::NoNodes),
            (false, false) => Err(BuildError::MixedNodes),
            (false, true) => on_memory(memory, self.config),
            (true, false) => on_servers(real, self.config).await,
        }
    }

    /// A client on nodes of any kind: those of the simulation.
    #[cfg(test)]
    pub(crate) fn on_nodes(
        self,
        clock: Clock,
        nodes: usize,
        open: impl Fn(usize, Context) -> Arc<dyn Node>,
    ) -> FifoRedlock {
        self.config.validate().expect("valid settings");
        let shared = Shared::new(self.config, clock, true);
        let list = (0..nodes).map(|place| open(place, shared.context(place)));
        let list = list.collect();
        shared.finish(list)
    }

    /// A client on `cluster` with all settings at their defaults.
    pub(crate) fn on_memory(cluster: &MemoryCluster) -> FifoRedlock {
        join_memory(std::slice::from_ref(cluster), Config::default())
    }
}

impl fmt::Debug for FifoRedlockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URLs may hold passwords.
        f.debug_struct("FifoRedlockBuilder")
            .field("nodes", &self.sources.len())
            .field("config", &self.config)
            .finish()
    }
}

fn on_memory(sources: Vec<Source>, config: Config) -> Result<FifoRedlock, BuildError> {
    let clusters: Vec<MemoryCluster> = sources
        .into_iter()
        .filter_map(|source| match source {
            Source::Memory(cluster) => Some(cluster),
            Source::Url(_) | Source::Connection(_) => None,
        })
        .collect();
    if clusters.iter().all(MemoryCluster::is_empty) {
        return Err(BuildError::NoNodes);
    }
    for (second, cluster) in clusters.iter().enumerate() {
        let twin = clusters[..second]
            .iter()
            .position(|other| other.is_same(cluster));
        if let Some(first) = twin {
            let places = |end: usize| clusters[..end].iter().map(MemoryCluster::len).sum();
            return Err(BuildError::SameAddress {
                first: places(first),
                second: places(second),
                address: cluster.node(0).name().to_owned(),
            });
        }
    }
    Ok(join_memory(&clusters, config))
}

fn join_memory(clusters: &[MemoryCluster], config: Config) -> FifoRedlock {
    let clock = clusters
        .first()
        .map_or_else(Clock::tokio, MemoryCluster::clock);
    let shared = Shared::new(config, clock, true);
    let mut list: Vec<Arc<dyn Node>> = Vec::new();
    for cluster in clusters {
        for place in 0..cluster.len() {
            list.extend(cluster.link(place, shared.context(list.len())));
        }
    }
    shared.finish(list)
}

async fn on_servers(sources: Vec<Source>, config: Config) -> Result<FifoRedlock, BuildError> {
    let mut targets = Vec::new();
    for (place, source) in sources.into_iter().enumerate() {
        match source {
            Source::Url(url) => targets.push(Target::Address(Address::parse(place, &url)?)),
            Source::Connection(connection) => targets.push(Target::Connection(connection)),
            Source::Memory(_) => return Err(BuildError::MixedNodes),
        }
    }
    refuse_twins(&targets)?;
    let listens = targets.iter().any(Target::listens);
    let shared = Shared::new(config, Clock::Boot, listens);
    let roster = Arc::new(Roster::default());
    let open = |(place, target): (usize, Target)| {
        let context = shared.context(place);
        match target {
            Target::Address(address) => RedisNode::open(address, context, roster.clone()),
            Target::Connection(connection) => {
                connection(&format!("connection {place}"), context, roster.clone())
            }
        }
    };
    let nodes: Vec<Arc<RedisNode>> = targets.into_iter().enumerate().map(open).collect();
    greet(&nodes, &shared).await?;
    let list = nodes
        .into_iter()
        .map(|node| node as Arc<dyn Node>)
        .collect();
    Ok(shared.finish(list))
}

enum Target {
    Address(Address),
    Connection(Open),
}

impl Target {
    fn listens(&self) -> bool {
        matches!(self, Self::Address(address) if address.pushes())
    }
}

/// Two URLs of one address would be one server with two votes.
fn refuse_twins(targets: &[Target]) -> Result<(), BuildError> {
    for (second, target) in targets.iter().enumerate() {
        let Target::Address(address) = target else {
            continue;
        };
        let twin = targets[..second].iter().position(
            |other| matches!(other, Target::Address(other) if other.server() == address.server()),
        );
        if let Some(first) = twin {
            return Err(BuildError::SameAddress {
                first,
                second,
                address: address.server().to_owned(),
            });
        }
    }
    Ok(())
}

/// Waits until a quorum has shaken hands, and a little longer for the others.
async fn greet(nodes: &[Arc<RedisNode>], shared: &Shared) -> Result<(), BuildError> {
    let quorum = Quorum::of(nodes.len()).size();
    let clock = shared.clock;
    let greeting = |(place, node): (usize, &Arc<RedisNode>)| {
        let node = node.clone();
        async move { (place, node.greeted().await) }
    };
    let mut greetings: FuturesUnordered<_> = nodes.iter().enumerate().map(greeting).collect();
    let mut failures: Vec<NodeFailure> = Vec::new();
    let mut greeted = 0;
    let mut patience = None;
    loop {
        let outcome = tokio::select! {
            biased;
            outcome = greetings.next() => outcome,
            () = async {
                match patience {
                    Some(deadline) => clock.sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            } => return Ok(()),
        };
        match outcome {
            None => break,
            Some((_, Ok(()))) => greeted += 1,
            Some((place, Err(error))) => {
                let node = nodes.get(place).map_or("?", |node| node.name());
                if let NodeError::WrongServer(problem) = error {
                    return Err(BuildError::WrongServer {
                        node: node.to_owned(),
                        problem,
                    });
                }
                failures.push(NodeFailure::new(node, error));
            }
        }
        if greeted >= quorum && patience.is_none() {
            patience = Some(clock.now().plus(shared.config.node_timeout));
        }
    }
    if greeted >= quorum {
        return Ok(());
    }
    Err(BuildError::NoQuorum(NoQuorum::new(
        quorum, greeted, failures,
    )))
}

/// What the nodes of a client have in common before it is there.
struct Shared {
    config: Arc<Config>,
    clock: Clock,
    signature: Signature,
    channel: Arc<str>,
    sender: mpsc::Sender<(usize, crate::node::Event)>,
    receiver: mpsc::Receiver<(usize, crate::node::Event)>,
}

impl Shared {
    fn new(config: Config, clock: Clock, listens: bool) -> Self {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let name = config.client_name.clone().unwrap_or_else(default_name);
        let signature = Signature::new(Rng, &name, listens);
        Self {
            config: Arc::new(config),
            clock,
            channel: signature.channel().into(),
            signature,
            sender,
            receiver,
        }
    }

    fn context(&self, place: usize) -> Context {
        Context {
            clock: self.clock,
            config: self.config.clone(),
            channel: self.channel.clone(),
            events: Events::new(place, self.sender.clone()),
        }
    }

    fn finish(self, list: Vec<Arc<dyn Node>>) -> FifoRedlock {
        let nodes = Nodes::new(list, self.config, self.clock, Rng, self.signature);
        FifoRedlock::new(Client::new(Arc::new(nodes), self.receiver))
    }
}

/// Host name and process id.
fn default_name() -> String {
    #[cfg(unix)]
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    #[cfg(not(unix))]
    let host = std::env::var("COMPUTERNAME").unwrap_or_default();
    let host: String = host.chars().filter(|c| !c.is_control()).take(100).collect();
    format!("{host}:{}", std::process::id())
}
