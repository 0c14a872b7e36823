//! Makes a client from nodes and settings: opens the nodes, and refuses those that cannot be a quorum.

use std::sync::Arc;

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;

#[cfg(feature = "tls")]
use crate::node::tls::Tls;
use crate::{
    client::Client,
    client::nodes::Nodes,
    config::Config,
    error::{BuildError, NoQuorum, NodeError, NodeFailure},
    holder::ClientId,
    node::{
        Context, Events, Node, address::Address, memory::MemoryCluster, redis::RedisNode,
        roster::Roster,
    },
    quorum::Quorum,
    runtime::clock::Clock,
    runtime::rng::Rng,
};

/// How many events of the nodes may wait; more are dropped, and found by polls.
const EVENTS: usize = 16 * 1024;

/// Where a node is.
pub(crate) enum Source {
    Url(String),
    Connection(Open),
    Memory(MemoryCluster),
}

/// Makes a node of a connection whose type only the builder's caller knows.
pub(crate) type Open = Box<dyn FnOnce(&str, Context, Arc<Roster>) -> Arc<RedisNode> + Send>;

/// Connects to `sources`, and returns once a quorum has shaken hands.
pub(crate) async fn connect(sources: Vec<Source>, config: Config) -> Result<Client, BuildError> {
    config.validate()?;
    let (memory, real): (Vec<_>, Vec<_>) = sources
        .into_iter()
        .partition(|source| matches!(source, Source::Memory(_)));
    match (memory.is_empty(), real.is_empty()) {
        (true, true) => Err(BuildError::NoNodes),
        (false, false) => Err(BuildError::MixedNodes),
        (false, true) => on_memory(memory, config),
        (true, false) => on_servers(real, config).await,
    }
}

/// A client on the nodes of the simulation.
#[cfg(test)]
pub(crate) fn to_nodes(
    config: Config,
    clock: Clock,
    nodes: usize,
    open: impl Fn(usize, Context) -> Arc<dyn Node>,
) -> Client {
    config.validate().expect("valid settings");
    let shared = Shared::new(config, clock, true);
    let list = (0..nodes).map(|index| open(index, shared.context(index)));
    let list = list.collect();
    shared.finish(list)
}

fn on_memory(sources: Vec<Source>, config: Config) -> Result<Client, BuildError> {
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
            .position(|other| other.is_same(cluster) && !other.is_empty());
        if let Some(first) = twin {
            let places = |end: usize| clusters[..end].iter().map(MemoryCluster::len).sum();
            return Err(BuildError::SameAddress {
                first: places(first),
                second: places(second),
                address: cluster.node(0).name().to_owned(),
            });
        }
    }
    Ok(to_memory(&clusters, config))
}

pub(crate) fn to_memory(clusters: &[MemoryCluster], config: Config) -> Client {
    // The one that began first: no node began before its origin.
    let clocks = clusters.iter().map(MemoryCluster::clock);
    let clock = clocks.reduce(Clock::earlier).unwrap_or_else(Clock::tokio);
    let shared = Shared::new(config, clock, true);
    let mut list: Vec<Arc<dyn Node>> = Vec::new();
    for cluster in clusters {
        for index in 0..cluster.len() {
            list.extend(cluster.link(index, shared.context(list.len())));
        }
    }
    shared.finish(list)
}

async fn on_servers(sources: Vec<Source>, config: Config) -> Result<Client, BuildError> {
    let mut targets = Vec::new();
    for (index, source) in sources.into_iter().enumerate() {
        match source {
            Source::Url(url) => {
                targets.push(Target::Address(Box::new(Address::parse(index, &url)?)))
            }
            Source::Connection(connection) => targets.push(Target::Connection(connection)),
            Source::Memory(_) => return Err(BuildError::MixedNodes),
        }
    }
    refuse_twins(&targets)?;
    #[cfg(feature = "tls")]
    let targets = encrypt(targets, &config)?;
    let listens = targets.iter().any(Target::listens);
    let shared = Shared::new(config, Clock::Boot, listens);
    let roster = Arc::new(Roster::default());
    let open = |(index, target): (usize, Target)| {
        let context = shared.context(index);
        match target {
            Target::Address(address) => RedisNode::open(address, context, roster.clone()),
            Target::Connection(connection) => {
                connection(&format!("connection {index}"), context, roster.clone())
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
    Address(Box<Address>),
    Connection(Open),
}

impl Target {
    fn listens(&self) -> bool {
        matches!(self, Self::Address(address) if address.pushes())
    }
}

/// Gives the `targets` with TLS URLs their TLS configuration.
#[cfg(feature = "tls")]
fn encrypt(targets: Vec<Target>, config: &Config) -> Result<Vec<Target>, BuildError> {
    let is_encrypted =
        |target: &&Target| matches!(target, Target::Address(address) if address.is_encrypted());
    let tls = Tls::prepare(&config.tls, targets.iter().filter(is_encrypted).count())?;
    let encrypt = |target| match target {
        Target::Address(address) => Target::Address(Box::new(address.with_tls(tls.as_ref()))),
        other => other,
    };
    Ok(targets.into_iter().map(encrypt).collect())
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
    let greeting = |(index, node): (usize, &Arc<RedisNode>)| {
        let node = node.clone();
        async move { (index, node.greeted().await) }
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
            Some((index, Err(error))) => {
                let node = nodes.get(index).map_or("?", |node| node.name());
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

/// What the nodes of a client share while the client is being made.
struct Shared {
    config: Arc<Config>,
    clock: Clock,
    id: ClientId,
    channel: Arc<str>,
    sender: mpsc::Sender<(usize, crate::node::NodeEvent)>,
    receiver: mpsc::Receiver<(usize, crate::node::NodeEvent)>,
}

impl Shared {
    fn new(config: Config, clock: Clock, listens: bool) -> Self {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let name = config.client_name.clone().unwrap_or_else(default_name);
        let id = ClientId::new(Rng.uuid(), &name, listens);
        Self {
            config: Arc::new(config),
            clock,
            channel: id.channel().into(),
            id,
            sender,
            receiver,
        }
    }

    fn context(&self, index: usize) -> Context {
        Context {
            clock: self.clock,
            config: self.config.clone(),
            channel: self.channel.clone(),
            events: Events::new(index, self.sender.clone()),
        }
    }

    fn finish(self, list: Vec<Arc<dyn Node>>) -> Client {
        let nodes = Nodes::new(list, self.config, self.clock, Rng, self.id);
        Client::new(Arc::new(nodes), self.receiver)
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
