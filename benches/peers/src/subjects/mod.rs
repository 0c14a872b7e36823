//! Every Rust subject behind one trait.

mod blocking;
mod distributed_lock;
mod fifo;
mod floor;
mod one_node;
mod redis_lock;
mod redisson;
mod redlock_async;
mod rslock;

use std::{sync::Arc, time::Duration};

use floor::Verdict;
use redis::{Client, IntoConnectionInfo, RedisError, io::tcp::TcpSettings};

use crate::subject::Subject;

/// Connects the subject of that name in the catalog.
pub(crate) async fn connect(
    name: &str,
    urls: &[String],
    poll: Duration,
) -> Result<Arc<dyn Subject>, String> {
    let url = urls[0].as_str();
    let floor = |verdict, mutex| async move {
        let floor = floor::Floor::connect(urls, verdict, mutex).await;
        floor.map_err(|error| error.to_string())
    };
    Ok(match name {
        "redlock-fifo" => Arc::new(fifo::Fifo::connect(urls).await?),
        "floor" => Arc::new(floor(Verdict::Majority, false).await?),
        "floor (all answers)" => Arc::new(floor(Verdict::All, false).await?),
        "local mutex + floor" => Arc::new(floor(Verdict::Majority, true).await?),
        "local mutex + floor (all answers)" => Arc::new(floor(Verdict::All, true).await?),
        "rslock" => Arc::new(rslock::Rslock::connect(urls, poll).map_err(text)?),
        "redis-lock" => {
            let subject = redis_lock::RedisLock::connect(urls, poll).await;
            Arc::new(subject.map_err(text)?)
        }
        "distributed-lock" => Arc::new(distributed_lock::Distributed::connect(urls, poll).await?),
        "redisson RedLock" => Arc::new(redisson::Redisson::connect(urls, poll, false).await?),
        "redisson FairLock" => Arc::new(redisson::Redisson::connect(urls, poll, true).await?),
        "redlock-async" => Arc::new(redlock_async::RedlockAsync::connect(urls, poll)),
        "redlock" => Arc::new(blocking::Blocking::redlock(urls, poll)),
        "redsync" => Arc::new(blocking::Blocking::redsync(urls, poll)?),
        "rust_redlock" => Arc::new(blocking::Blocking::rust_redlock(urls, poll)?),
        "async-redis-lock" => Arc::new(one_node::OneNode::async_redis_lock(url, poll).await?),
        "distkit" => Arc::new(one_node::OneNode::distkit(url, poll).await?),
        "rdlock" => Arc::new(one_node::OneNode::rdlock(url).await?),
        "rds_lock" => Arc::new(one_node::OneNode::rds_lock(url, poll).await?),
        _ => return Err(format!("no subject is called {name}")),
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A client of the driver that most crates share, with TCP_NODELAY, which is not its default.
fn nodelay(url: &str) -> Result<Client, RedisError> {
    let settings = TcpSettings::default().set_nodelay(true);
    Client::open(url.into_connection_info()?.set_tcp_settings(settings))
}

fn whole_millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).expect("short")
}
