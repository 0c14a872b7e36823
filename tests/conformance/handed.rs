//! Nodes over connections that the user hands over.

use super::subject::Scripts;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future};
use redis::{
    Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, ConnectionManager, MultiplexedConnection},
};

use super::rig::{Rig, impatient};
use crate::{
    config::Config,
    error::NodeError,
    message::{Released, Standing},
    node::{Node, NodeEvent, redis::RedisNode},
    runtime::clock::Clock,
    server::Server,
};

async fn connection(server: &Server) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("a url");
    client
        .get_multiplexed_async_connection()
        .await
        .expect("a connection")
}

/// A user's connection that can be made to hang and to panic, and whose clock can be hidden.
#[derive(Clone)]
struct Odd {
    inner: MultiplexedConnection,
    hangs: Arc<AtomicBool>,
    panics: Arc<AtomicBool>,
    timeless: bool,
}

impl Odd {
    async fn new(server: &Server) -> Self {
        Self {
            inner: connection(server).await,
            hangs: Arc::default(),
            panics: Arc::default(),
            timeless: false,
        }
    }
}

impl ConnectionLike for Odd {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        if self.panics.load(Ordering::Relaxed) {
            // Unlike `panic!` this prints nothing.
            std::panic::resume_unwind(Box::new("the user's own code"));
        }
        if self.hangs.load(Ordering::Relaxed) {
            return future::pending().boxed();
        }
        if self.timeless && cmd.get_packed_command() == b"*1\r\n$4\r\nTIME\r\n" {
            return future::ready(Ok(Value::Nil)).boxed();
        }
        self.inner.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.inner.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        0
    }
}

#[tokio::test]
async fn a_deadline_that_was_wrong_by_the_servers_clock_is_put_right() {
    let server = Server::start();
    let odd = Odd {
        timeless: true,
        ..Odd::new(&server).await
    };
    // The wall clock of such a client stands in 2023, and the server does not say otherwise.
    let rig = Rig::new(0, Config::default(), Clock::tokio(), |context| {
        RedisNode::over("odd", odd, context, Arc::default())
    });
    let rig = rig.up().await;
    let before = server.commandstats()["evalsha"];
    let id = rig.id();
    // Not carried out; whoever asked asks again.
    assert_eq!(rig.enqueue("r", &id).await, Err(NodeError::Late));
    assert!(matches!(
        rig.enqueue("r", &id).await,
        Ok(Standing::Granted { .. })
    ));
    assert_eq!(server.commandstats()["evalsha"], before + 2);
    assert!(matches!(
        rig.enqueue("r", &rig.id()).await,
        Ok(Standing::Waiting { .. })
    ));
    assert_eq!(server.commandstats()["evalsha"], before + 3);
}

#[tokio::test]
async fn a_handed_connection_is_a_node_that_is_polled() {
    let server = Server::start();
    let connection = connection(&server).await;
    let rig = Rig::new(0, Config::default(), Clock::Boot, |context| {
        RedisNode::over("mine", connection, context, Arc::default())
    });
    let rig = rig.up().await;
    assert_eq!(rig.node.name(), "mine");
    assert_eq!(rig.node.batch_limit(), 1);
    let incarnation = rig.node.incarnation().expect("up");
    assert!(!incarnation.pushes);
    let id = rig.id();
    assert!(matches!(
        rig.enqueue("r", &id).await,
        Ok(Standing::Granted { .. })
    ));
    server.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(rig.release("r", &id).await, Err(NodeError::Late));
    assert_eq!(rig.release("r", &id).await, Ok(Released::Vote));
}

#[tokio::test]
async fn a_handed_manager_is_a_new_era_after_an_error() {
    let server = Server::start();
    let client = redis::Client::open(server.url()).expect("a url");
    let manager = ConnectionManager::new(client).await.expect("a connection");
    let mut rig = Rig::new(0, impatient(), Clock::Boot, |context| {
        RedisNode::over("manager", manager, context, Arc::default())
    });
    assert_eq!(rig.event().await, NodeEvent::Up);
    server.restart();
    assert_eq!(rig.enqueue("r", &rig.id()).await, Err(NodeError::Broken));
    assert_eq!(rig.event().await, NodeEvent::Up);
    assert_eq!(rig.node.incarnation().expect("up").epoch, 2);
    assert!(matches!(
        rig.enqueue("r", &rig.id()).await,
        Ok(Standing::Granted { .. })
    ));
}

#[tokio::test]
async fn what_piles_up_on_a_connection_is_bounded() {
    let server = Server::start();
    let odd = Odd::new(&server).await;
    let hangs = odd.hangs.clone();
    let rig = Rig::new(0, Config::default(), Clock::Boot, |context| {
        RedisNode::over("odd", odd, context, Arc::default())
    });
    let rig = rig.up().await;
    hangs.store(true, Ordering::Relaxed);
    let terms = rig.terms_until(Duration::from_secs(600));
    let ask = [rig.ask("r", &rig.id())];
    let call = || tokio_test::task::spawn(rig.node.enqueue(&ask, terms));
    let mut calls: Vec<_> = (0..16 * 1024).map(|_| call()).collect();
    assert!(calls.iter_mut().all(|call| call.poll().is_pending()));
    let refused = rig
        .node
        .enqueue(&ask, terms)
        .await
        .map(|answer| answer.value);
    let reason = "too many requests under way".to_owned();
    assert_eq!(refused, Err(NodeError::Down(reason)));
    calls.pop();
    assert!(call().poll().is_pending());
}

/// The task that makes the calls makes those of all other locks, too.
#[tokio::test]
async fn l6_a_connection_that_panics_fails_its_own_call_alone() {
    let server = Server::start();
    let odd = Odd::new(&server).await;
    let panics = odd.panics.clone();
    let mut rig = Rig::new(0, impatient(), Clock::Boot, |context| {
        RedisNode::over("odd", odd, context, Arc::default())
    });
    assert_eq!(rig.event().await, NodeEvent::Up);
    panics.store(true, Ordering::Relaxed);
    assert_eq!(rig.enqueue("r", &rig.id()).await, Err(NodeError::Broken));
    panics.store(false, Ordering::Relaxed);
    assert_eq!(rig.event().await, NodeEvent::Up);
    assert!(matches!(
        rig.enqueue("r", &rig.id()).await,
        Ok(Standing::Granted { .. })
    ));
}
