//! redlock-async: `lock` and `unlock`; its guard would block the runtime to release.

use std::time::Duration;

use futures::future::BoxFuture;
use redlock_async::RedLock;

use crate::subject::{Cycle, Subject, TTL, clock, ended, hold};

pub(super) struct RedlockAsync(RedLock);

impl RedlockAsync {
    pub(super) fn connect(urls: &[String], poll: Duration) -> Self {
        let mut redlock = RedLock::new(urls.to_vec());
        redlock.set_retry(u32::MAX, super::whole_millis(poll));
        Self(redlock)
    }
}

impl Subject for RedlockAsync {
    fn cycle<'a>(
        &'a self,
        resource: &'a str,
        span: Duration,
        _until: u64,
    ) -> BoxFuture<'a, Result<Cycle, String>> {
        Box::pin(async move {
            let asked = clock();
            let ttl = super::whole_millis(TTL) as usize;
            let lock = self.0.lock(resource.as_bytes(), ttl).await;
            let lock = lock.map_err(|error| format!("{error:?}"))?;
            let served = hold(span).await;
            self.0.unlock(&lock).await;
            ended::<String>(asked, served, Ok(()))
        })
    }
}
