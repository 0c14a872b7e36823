//! rslock: `acquire`, which polls at random moments.

use std::time::Duration;

use futures::future::BoxFuture;
use rslock::LockManager;

use crate::subject::{Cycle, Subject, TTL, clock, ended, hold};

pub(super) struct Rslock(LockManager);

impl Rslock {
    pub(super) fn connect(urls: &[String], poll: Duration) -> Result<Self, redis::RedisError> {
        let clients: Result<Vec<_>, _> = urls.iter().map(|url| super::nodelay(url)).collect();
        let mut manager = LockManager::from_clients(clients?);
        // A delay comes only between the tries of one round of them: a round must not end.
        manager.set_retry(u32::MAX, poll);
        Ok(Self(manager))
    }
}

impl Subject for Rslock {
    fn cycle<'a>(
        &'a self,
        resource: &'a str,
        span: Duration,
        _until: u64,
    ) -> BoxFuture<'a, Result<Cycle, String>> {
        Box::pin(async move {
            let asked = clock();
            let guard = self.0.acquire(resource, TTL).await;
            let guard = guard.map_err(|error| error.to_string())?;
            let served = hold(span).await;
            guard.release().await;
            ended::<String>(asked, served, Ok(()))
        })
    }
}
