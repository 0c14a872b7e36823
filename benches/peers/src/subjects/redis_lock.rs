//! redis-lock: `lock_across`. Each cycle gets its own handles on the connections, or the tasks would wait for one
//! another's round trips.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use redis_027::{AsyncConnectionConfig, aio::MultiplexedConnection};
use redis_lock::{LockAcrossError, LockAcrossOptions, lock_across};
use tokio::sync::Mutex;

use crate::subject::{Cycle, NODE_TIMEOUT, Subject, TTL, clock, ended, hold};

pub(super) struct RedisLock {
    nodes: Vec<MultiplexedConnection>,
    poll: Duration,
}

impl RedisLock {
    pub(super) async fn connect(
        urls: &[String],
        poll: Duration,
    ) -> Result<Self, redis_027::RedisError> {
        let config = AsyncConnectionConfig::new().set_response_timeout(NODE_TIMEOUT);
        let mut nodes = Vec::new();
        for url in urls {
            let client = redis_027::Client::open(url.as_str())?;
            let node = client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            nodes.push(node);
        }
        Ok(Self { nodes, poll })
    }
}

impl Subject for RedisLock {
    fn cycle<'a>(
        &'a self,
        resource: &'a str,
        span: Duration,
        _until: u64,
    ) -> BoxFuture<'a, Result<Cycle, String>> {
        Box::pin(async move {
            let handle = |node: &MultiplexedConnection| Arc::new(Mutex::new(node.clone()));
            let nodes: Vec<_> = self.nodes.iter().map(handle).collect();
            let options = LockAcrossOptions {
                ttl: TTL,
                retry: self.poll,
                duration: Duration::MAX,
            };
            let asked = clock();
            match lock_across(&nodes, resource, hold(span), options).await {
                Ok(served) => ended::<String>(asked, served, Ok(())),
                Err(error @ LockAcrossError::Acquire(_)) => Err(error.to_string()),
                Err(error) => Err(format!("release: {error}")),
            }
        })
    }
}
