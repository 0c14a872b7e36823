//! The crates for one server: async-redis-lock, distkit, rdlock and rds_lock.

use std::time::Duration;

use async_redis_lock::{Locker, Options};
use distkit::{
    DistkitRedisKey,
    lock::{LockOptions, Mutex},
};
use futures::future::BoxFuture;
use rdlock::RdLockConnectionManager;
use redis::aio::ConnectionManager;

use crate::subject::{Cycle, Subject, TTL, clock, ended, hold};

pub(super) enum OneNode {
    AsyncRedisLock(Locker, Options),
    Distkit(ConnectionManager, Duration),
    Rdlock(RdLockConnectionManager),
    RdsLock(redis_032::aio::MultiplexedConnection, Duration),
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl OneNode {
    pub(super) async fn async_redis_lock(url: &str, poll: Duration) -> Result<Self, String> {
        let client = super::nodelay(url).map_err(text)?;
        let options = Options::new()
            .retry(poll)
            .timeout(None)
            .ttl(TTL)
            .extend(TTL / 3);
        let locker = Locker::from_client(client).await.map_err(text)?;
        Ok(Self::AsyncRedisLock(locker, options))
    }

    pub(super) async fn distkit(url: &str, poll: Duration) -> Result<Self, String> {
        let client = super::nodelay(url).map_err(text)?;
        let manager = ConnectionManager::new(client).await.map_err(text)?;
        Ok(Self::Distkit(manager, poll))
    }

    pub(super) async fn rdlock(url: &str) -> Result<Self, String> {
        let manager = RdLockConnectionManager::new(url).await;
        manager.map(Self::Rdlock).map_err(|e| format!("{e:?}"))
    }

    pub(super) async fn rds_lock(url: &str, poll: Duration) -> Result<Self, String> {
        let client = redis_032::Client::open(url).map_err(text)?;
        let connection = client.get_multiplexed_async_connection().await;
        Ok(Self::RdsLock(connection.map_err(text)?, poll))
    }

    async fn run(&self, resource: &str, span: Duration) -> Result<Cycle, String> {
        let asked = clock();
        match self {
            Self::AsyncRedisLock(locker, options) => {
                let lock = locker.acquire_with_options(options, resource).await;
                let lock = lock.map_err(text)?;
                let served = hold(span).await;
                ended(asked, served, lock.release().await)
            }
            Self::Distkit(manager, poll) => {
                let key = DistkitRedisKey::new_or_panic(resource.replace(':', "-"));
                let options = LockOptions::builder(key, manager.clone());
                let mutex = Mutex::new(options.ttl(TTL).retry_interval(*poll).build());
                let guard = mutex.lock().await.map_err(text)?;
                let served = hold(span).await;
                ended(asked, served, guard.release().await.map(drop))
            }
            Self::Rdlock(manager) => {
                let mut lock = manager.new_basic_lock(resource, TTL.as_secs());
                // Not `lock`, whose endless wait overflows a timer.
                let locked = lock.lock_timeout(Duration::from_secs(3600)).await;
                locked.map_err(|error| format!("{error:?}"))?;
                let served = hold(span).await;
                let released = lock.release().await;
                ended(asked, served, released.map_err(|e| format!("{e:?}")))
            }
            Self::RdsLock(connection, poll) => {
                let ttl = u64::from(super::whole_millis(TTL));
                let locker = rds_lock::Locker::new(connection.clone())
                    .to(ttl)
                    .ext_int(ttl / 3)
                    .rty_int(super::whole_millis(*poll).into())
                    .rty_to(-1);
                let unlock = locker.lock(resource.to_owned()).await.map_err(text)?;
                let served = hold(span).await;
                ended(asked, served, unlock.await)
            }
        }
    }
}

impl Subject for OneNode {
    fn cycle<'a>(
        &'a self,
        resource: &'a str,
        span: Duration,
        _until: u64,
    ) -> BoxFuture<'a, Result<Cycle, String>> {
        Box::pin(self.run(resource, span))
    }
}
