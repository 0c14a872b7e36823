//! distributed-lock with its Redis backend: `try_acquire` in a loop, since `acquire` tries once as well.

use std::time::Duration;

use distributed_lock_core::traits::{DistributedLock, LockHandle, LockProvider};
use distributed_lock_redis::RedisLockProvider;
use fred::prelude::{ClientLike, ConnectionConfig, PerformanceConfig, RedisClient, RedisConfig};
use fred::types::TcpConfig;
use futures::future::BoxFuture;

use crate::subject::{Cycle, NODE_TIMEOUT, Subject, TTL, clock, ended, hold};

pub(super) struct Distributed {
    provider: RedisLockProvider,
    poll: Duration,
}

impl Distributed {
    pub(super) async fn connect(urls: &[String], poll: Duration) -> Result<Self, String> {
        let mut builder = RedisLockProvider::builder()
            .expiry(TTL)
            .extension_cadence(TTL / 3)
            .min_validity(TTL * 9 / 10);
        for url in urls {
            let config = RedisConfig::from_url(url).map_err(|error| error.to_string())?;
            let speed = PerformanceConfig {
                default_command_timeout: NODE_TIMEOUT,
                ..PerformanceConfig::default()
            };
            let connection = ConnectionConfig {
                tcp: TcpConfig {
                    nodelay: Some(true),
                    ..TcpConfig::default()
                },
                ..ConnectionConfig::default()
            };
            let client = RedisClient::new(config, Some(speed), Some(connection), None);
            let _running = client.connect();
            let connected = client.wait_for_connect().await;
            connected.map_err(|error| error.to_string())?;
            builder = builder.client(client);
        }
        let provider = builder.build().await.map_err(|error| error.to_string())?;
        Ok(Self { provider, poll })
    }
}

impl Subject for Distributed {
    fn cycle<'a>(
        &'a self,
        resource: &'a str,
        span: Duration,
        _until: u64,
    ) -> BoxFuture<'a, Result<Cycle, String>> {
        Box::pin(async move {
            let asked = clock();
            let handle = loop {
                let lock = self.provider.create_lock(resource);
                let tried = lock.try_acquire().await;
                if let Some(handle) = tried.map_err(|error| error.to_string())? {
                    break handle;
                }
                tokio::time::sleep(self.poll).await;
            };
            let served = hold(span).await;
            ended(asked, served, handle.release().await)
        })
    }
}
