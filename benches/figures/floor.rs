//! The floor: what the servers and the driver cost by themselves, written out by hand.
//!
//! Two kinds: the scripts of this protocol, and the bare `SET NX PX` and compare-and-delete of any Redlock.
//! Both go to all nodes at once, and the verdict falls at the majority. No validity, no queue of the
//! client's, no clean-up: nobody could use it as a lock.

use std::sync::Arc;

use futures::{StreamExt, stream::FuturesUnordered};
use redis::{
    AsyncConnectionConfig, Client, Cmd, PushInfo, PushKind, aio::MultiplexedConnection, cmd,
};
use tokio::sync::{Mutex, mpsc};

use crate::server::Server;

const SETTLE: &str = include_str!("../../src/scripts/settle.lua");
const ENQUEUE: &str = include_str!("../../src/scripts/enqueue.lua");
const RELEASE: &str = include_str!("../../src/scripts/release.lua");
const UNLOCK: &str =
    "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) end return 0";
const TTL: u64 = 10_000;
const LEASE: u64 = 5_000;

/// A client by hand.
pub(crate) struct Floor {
    nodes: Vec<MultiplexedConnection>,
    enqueue: String,
    release: String,
    channel: String,
    told: Mutex<mpsc::UnboundedReceiver<()>>,
}

/// One resource's commands.
pub(crate) struct Commands {
    pub(crate) lock: Arc<Cmd>,
    pub(crate) unlock: Arc<Cmd>,
}

impl Floor {
    pub(crate) async fn connect(servers: &[Server], number: u32) -> Self {
        let channel = format!("redlock-fifo:{number:012x}");
        let (sender, told) = mpsc::unbounded_channel();
        let mut nodes = Vec::new();
        let mut shas = [String::new(), String::new()];
        for server in servers {
            let sender = sender.clone();
            let listen = move |push: PushInfo| {
                if push.kind == PushKind::Message {
                    let _ = sender.send(());
                }
                Ok::<(), redis::aio::SendError>(())
            };
            let url = server.url();
            let client = Client::open(format!("{url}?protocol=resp3")).expect("a url");
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(None)
                .set_response_timeout(None)
                .set_push_sender(listen);
            let opened = client.get_multiplexed_async_connection_with_config(&config);
            let mut node = opened.await.expect("a node");
            node.subscribe(&channel).await.expect("a channel");
            for (sha, script) in shas.iter_mut().zip([ENQUEUE, RELEASE]) {
                let mut load = cmd("SCRIPT");
                load.arg("LOAD").arg(format!("{SETTLE}{script}"));
                *sha = load.query_async(&mut node).await.expect("loaded");
            }
            nodes.push(node);
        }
        let [enqueue, release] = shas;
        let told = Mutex::new(told);
        Self {
            nodes,
            enqueue,
            release,
            channel,
            told,
        }
    }

    /// The scripts of this protocol for `resource`.
    pub(crate) fn scripts(&self, resource: &str) -> Commands {
        let client = self.channel.rsplit(':').next().expect("twelve digits");
        let id = format!("01234567-89ab-8cde-8f01-{client}:0:floor:1700000000000");
        let start = |sha: &str| {
            let mut run = cmd("EVALSHA");
            run.arg(sha).arg(4).arg(resource);
            for suffix in ["queue", "waiters", "seq"] {
                run.arg(format!("{{{resource}}}:redlock-fifo:{suffix}"));
            }
            run.arg(0).arg(0).arg(0).arg(400);
            run
        };
        let mut lock = start(&self.enqueue);
        lock.arg(LEASE).arg(&id).arg("").arg(TTL).arg("");
        let mut unlock = start(&self.release);
        unlock.arg(&id);
        Commands {
            lock: lock.into(),
            unlock: unlock.into(),
        }
    }

    /// The bare commands of any Redlock.
    pub(crate) fn bare(&self, resource: &str) -> Commands {
        let id = "0123456789abcdef0123";
        let mut lock = cmd("SET");
        lock.arg(resource).arg(id).arg("NX").arg("PX").arg(TTL);
        let mut unlock = cmd("EVAL");
        unlock.arg(UNLOCK).arg(1).arg(resource).arg(id);
        Commands {
            lock: lock.into(),
            unlock: unlock.into(),
        }
    }

    /// Locks and releases.
    pub(crate) async fn cycle(&self, commands: &Commands) {
        self.round(&commands.lock).await;
        self.round(&commands.unlock).await;
    }

    /// Sends a command to all nodes and waits for a majority. The rest comes in in the background.
    pub(crate) async fn round(&self, cmd: &Arc<Cmd>) {
        let quorum = self.nodes.len() / 2 + 1;
        let call = |node: &MultiplexedConnection| {
            let (mut node, cmd) = (node.clone(), cmd.clone());
            async move { node.send_packed_command(&cmd).await }
        };
        let mut calls: FuturesUnordered<_> = self.nodes.iter().map(call).collect();
        for _ in 0..quorum {
            calls.next().await.expect("a call").expect("answered");
        }
        if !calls.is_empty() {
            tokio::spawn(async move { while calls.next().await.is_some() {} });
        }
    }

    /// The same, and waits for all.
    pub(crate) async fn full_round(&self, cmd: &Arc<Cmd>) {
        let call = |node: &MultiplexedConnection| {
            let (mut node, cmd) = (node.clone(), cmd.clone());
            async move { node.send_packed_command(&cmd).await.expect("answered") }
        };
        futures::future::join_all(self.nodes.iter().map(call)).await;
    }

    /// Waits until a majority of the nodes has told of a vote.
    pub(crate) async fn told(&self) {
        let mut told = self.told.lock().await;
        for _ in 0..self.nodes.len() / 2 + 1 {
            told.recv().await.expect("connected");
        }
    }

    /// Takes what has been told meanwhile, `rest` messages.
    pub(crate) async fn drain(&self, rest: usize) {
        let mut told = self.told.lock().await;
        for _ in 0..rest {
            told.recv().await.expect("connected");
        }
    }
}
