//! The floor: `SET NX PX` and compare-and-delete to all nodes at once, and nothing else.
//!
//! It does not wait for a lock that is held, has no validity and cleans nothing up: nobody could use it as a lock.
//! With a FIFO mutex of the process in front it can be waited for, in order, but by one process only.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use redis::{AsyncConnectionConfig, Cmd, aio::MultiplexedConnection, cmd};
use tokio::sync::Mutex;

use crate::subject::{Cycle, NODE_TIMEOUT, Subject, TTL, clock, ended, hold};

const UNLOCK: &str =
    "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) end return 0";

/// Which answers a round waits for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    Majority,
    All,
}

pub(super) struct Floor {
    nodes: Vec<MultiplexedConnection>,
    unlock: String,
    verdict: Verdict,
    line: Option<Mutex<()>>,
}

impl Floor {
    pub(super) async fn connect(
        urls: &[String],
        verdict: Verdict,
        mutex: bool,
    ) -> Result<Self, redis::RedisError> {
        let mut nodes = Vec::new();
        let mut unlock = String::new();
        for url in urls {
            let config = AsyncConnectionConfig::new().set_response_timeout(Some(NODE_TIMEOUT));
            let client = super::nodelay(url)?;
            let mut node = client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            let mut load = cmd("SCRIPT");
            load.arg("LOAD").arg(UNLOCK);
            unlock = load.query_async(&mut node).await?;
            nodes.push(node);
        }
        let line = mutex.then(Mutex::default);
        Ok(Self {
            nodes,
            unlock,
            verdict,
            line,
        })
    }

    /// Sends a command to all nodes. What is not waited for comes in in the background.
    async fn round(&self, cmd: &Arc<Cmd>) -> Result<(), String> {
        let call = |node: &MultiplexedConnection| {
            let (mut node, cmd) = (node.clone(), cmd.clone());
            async move { node.send_packed_command(&cmd).await }
        };
        if self.verdict == Verdict::All {
            join_all(self.nodes.iter().map(call)).await;
            return Ok(());
        }
        let mut calls: FuturesUnordered<_> = self.nodes.iter().map(call).collect();
        for _ in 0..self.nodes.len() / 2 + 1 {
            let answer = calls.next().await.expect("a call");
            answer.map_err(|error| error.to_string())?;
        }
        if !calls.is_empty() {
            tokio::spawn(async move { while calls.next().await.is_some() {} });
        }
        Ok(())
    }
}

impl Subject for Floor {
    fn cycle<'a>(
        &'a self,
        resource: &'a str,
        span: Duration,
        _until: u64,
    ) -> BoxFuture<'a, Result<Cycle, String>> {
        Box::pin(async move {
            let id = "0123456789abcdef0123";
            let mut lock = cmd("SET");
            let ttl = u64::try_from(TTL.as_millis()).expect("short");
            lock.arg(resource).arg(id).arg("NX").arg("PX").arg(ttl);
            let mut unlock = cmd("EVALSHA");
            unlock.arg(&self.unlock).arg(1).arg(resource).arg(id);
            let (lock, unlock) = (Arc::new(lock), Arc::new(unlock));

            let asked = clock();
            let place = match &self.line {
                Some(line) => Some(line.lock().await),
                None => None,
            };
            self.round(&lock).await?;
            let served = hold(span).await;
            let released = self.round(&unlock).await;
            drop(place);
            ended(asked, served, released)
        })
    }
}
