//! redlock-fifo, with its defaults, except that waiters wait as long as it takes.

use std::time::Duration;

use futures::future::BoxFuture;
use redlock_fifo::{FifoRedlock, FifoRedlockBuilder};

use crate::subject::{Cycle, Subject, TTL, clock, ended, hold};

pub(super) struct Fifo(FifoRedlock);

impl Fifo {
    pub(super) async fn connect(urls: &[String]) -> Result<Self, String> {
        let builder = FifoRedlock::builder()
            .fifo_retry_count(None)
            .fifo_queue_length(None);
        let builder = urls.iter().fold(builder, FifoRedlockBuilder::node);
        let redlock = builder.connect().await;
        redlock.map(Self).map_err(|error| error.to_string())
    }
}

impl Subject for Fifo {
    fn cycle<'a>(
        &'a self,
        resource: &'a str,
        span: Duration,
        _until: u64,
    ) -> BoxFuture<'a, Result<Cycle, String>> {
        Box::pin(async move {
            let asked = clock();
            let guard = self.0.lock(resource, TTL).await;
            let guard = guard.map_err(|error| error.to_string())?;
            let served = hold(span).await;
            ended(asked, served, guard.release().await)
        })
    }
}
