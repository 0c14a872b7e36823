//! The crates that block their thread: redlock, redsync and rust_redlock. Each waiter has a thread.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use redlock::RedLock;
use redsync::{RedisInstance, Redsync, RedsyncBuilder};
use rust_redlock::{Config, Redlock};

use crate::subject::{Cycle, Subject, TTL, clock, ended, hold_thread, on_thread};

#[derive(Clone)]
pub(super) enum Blocking {
    Redlock(RedLock),
    Redsync(Arc<Redsync<RedisInstance>>),
    RustRedlock(Arc<Redlock>),
}

impl Blocking {
    pub(super) fn redlock(urls: &[String], poll: Duration) -> Self {
        let mut redlock = RedLock::new(urls.to_vec());
        redlock.set_retry(1, super::whole_millis(poll));
        Self::Redlock(redlock)
    }

    pub(super) fn redsync(urls: &[String], poll: Duration) -> Result<Self, String> {
        let open = |url: &String| RedisInstance::new(url.as_str());
        let nodes: Result<Vec<_>, _> = urls.iter().map(open).collect();
        let nodes = nodes.map_err(|error| error.to_string())?;
        let builder = RedsyncBuilder::new(nodes).retry_count(10).retry_delay(poll);
        Ok(Self::Redsync(Arc::new(builder.build())))
    }

    pub(super) fn rust_redlock(urls: &[String], poll: Duration) -> Result<Self, String> {
        let config = Config {
            addrs: urls.iter().map(String::as_str).collect::<Vec<_>>(),
            retry_count: 10,
            retry_delay: poll,
            // It waits for the delay, or for the delay less the jitter.
            retry_jitter: super::whole_millis(poll) - 1,
            drift_factor: 0.01,
        };
        let redlock = Redlock::new(config).map_err(|error| error.to_string())?;
        Ok(Self::RustRedlock(Arc::new(redlock)))
    }

    fn run(&self, resource: &str, span: Duration, until: u64) -> Result<Cycle, String> {
        let asked = clock();
        let mut last = "not reached".to_owned();
        while clock() < until {
            match self {
                Self::Redlock(redlock) => {
                    let ttl = super::whole_millis(TTL) as usize;
                    match redlock.lock(resource.as_bytes(), ttl) {
                        Ok(Some(lock)) => {
                            let served = hold_thread(span);
                            redlock.unlock(&lock);
                            return ended::<String>(asked, served, Ok(()));
                        }
                        Ok(None) => {}
                        Err(error) => return Err(error.to_string()),
                    }
                }
                Self::Redsync(redsync) => match redsync.lock(resource, TTL) {
                    Ok(lock) => {
                        let served = hold_thread(span);
                        return ended(asked, served, redsync.unlock(&lock));
                    }
                    Err(error) => last = error.to_string(),
                },
                Self::RustRedlock(redlock) => match redlock.lock(resource, TTL) {
                    Ok(lock) => {
                        let served = hold_thread(span);
                        return ended(asked, served, lock.unlock());
                    }
                    Err(error) => last = error.to_string(),
                },
            }
        }
        Err(last)
    }
}

impl Subject for Blocking {
    fn cycle<'a>(
        &'a self,
        resource: &'a str,
        span: Duration,
        until: u64,
    ) -> BoxFuture<'a, Result<Cycle, String>> {
        let (client, resource) = (self.clone(), resource.to_owned());
        on_thread(move || client.run(&resource, span, until))
    }
}
