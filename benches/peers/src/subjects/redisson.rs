//! redisson (the Rust crate): its RedLock on any number of nodes, its FairLock on one.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use redisson::{AsyncRFairLock, AsyncRRedLock, AsyncRedisConnectionManager, RedissonConfig};

use crate::subject::{Cycle, NODE_TIMEOUT, Subject, TTL, clock, ended, hold};

/// A pool that 64 tasks need not wait for.
const POOL: u32 = 128;

pub(super) struct Redisson {
    nodes: Vec<Arc<AsyncRedisConnectionManager>>,
    poll: Duration,
    fair: bool,
}

impl Redisson {
    pub(super) async fn connect(
        urls: &[String],
        poll: Duration,
        fair: bool,
    ) -> Result<Self, String> {
        let mut nodes = Vec::new();
        for url in urls {
            let config = RedissonConfig::single_server(url)
                .with_pool_size(POOL)
                .with_response_timeout(NODE_TIMEOUT);
            let node = AsyncRedisConnectionManager::new(&config).await;
            nodes.push(Arc::new(node.map_err(|error| error.to_string())?));
        }
        Ok(Self { nodes, poll, fair })
    }

    async fn red_lock(&self, resource: &str, span: Duration) -> Result<Cycle, String> {
        let lock = AsyncRRedLock::new(self.nodes.clone(), resource.to_owned(), TTL);
        let asked = clock();
        // Not `lock`: that measures the network first, by forty commands.
        let locked = lock.lock_with_retries(u32::MAX, self.poll).await;
        locked.map_err(|error| error.to_string())?;
        let served = hold(span).await;
        let released = lock.unlock().await.map(drop);
        ended(asked, served, released)
    }

    async fn fair_lock(&self, resource: &str, span: Duration) -> Result<Cycle, String> {
        let lock = AsyncRFairLock::new(self.nodes[0].clone(), resource.to_owned(), TTL);
        let asked = clock();
        // It gives up when the lock is still held as it comes to the front, and after ten seconds.
        while lock.lock().await.is_err() {
            tokio::time::sleep(self.poll).await;
        }
        let served = hold(span).await;
        let released = lock.unlock().await.map(drop);
        ended(asked, served, released)
    }
}

impl Subject for Redisson {
    fn cycle<'a>(
        &'a self,
        resource: &'a str,
        span: Duration,
        _until: u64,
    ) -> BoxFuture<'a, Result<Cycle, String>> {
        match self.fair {
            true => Box::pin(self.fair_lock(resource, span)),
            false => Box::pin(self.red_lock(resource, span)),
        }
    }
}
