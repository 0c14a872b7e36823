//! A connection, the crate's own or one that the user handed over.

use futures::{FutureExt, future::BoxFuture};
use redis::{
    Cmd, ErrorKind, Pipeline, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use std::{future::Future, panic::AssertUnwindSafe, sync::Arc};

use crate::runtime::task::Owned;

/// A connection that many calls share.
#[derive(Clone)]
pub(super) enum Connection {
    /// Made and watched by this crate.
    Own(Own),
    /// A connection of the user's, which may reconnect by itself, and lead to a cluster.
    Handed(Arc<dyn Handed>),
}

/// A connection whose task ends with its last handle. Otherwise the task would wait for all answers first.
#[derive(Clone)]
pub(super) struct Own {
    connection: MultiplexedConnection,
    _task: Arc<Owned>,
}

/// Any connection of the driver, behind one type.
pub(super) trait Handed: Send + Sync {
    fn request<'a>(&'a self, cmd: &'a Cmd) -> BoxFuture<'a, RedisResult<Value>>;
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Handed for C {
    fn request<'a>(&'a self, cmd: &'a Cmd) -> BoxFuture<'a, RedisResult<Value>> {
        let request = async {
            let mut connection = self.clone();
            connection.req_packed_command(cmd).await
        };
        // This is user code, and the task that carries everybody's calls must not go down with it.
        let request = AssertUnwindSafe(request).catch_unwind();
        let panicked = |_| Err((ErrorKind::Io, "the connection panicked").into());
        request
            .map(move |reply| reply.unwrap_or_else(panicked))
            .boxed()
    }
}

impl Own {
    /// Starts the task `driver`, which serves `connection`.
    pub(super) fn start(
        connection: MultiplexedConnection,
        driver: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            connection,
            _task: Arc::new(Owned::start(driver)),
        }
    }

    /// Subscribes to `channel` and awaits the confirmation.
    pub(super) async fn subscribe(&self, channel: &str) -> RedisResult<()> {
        self.connection.clone().subscribe(channel).await
    }
}

impl Connection {
    /// Whether it is the user's.
    pub(super) fn is_handed(&self) -> bool {
        matches!(self, Self::Handed(_))
    }

    /// Sends one command.
    pub(super) async fn request(&self, cmd: &Cmd) -> RedisResult<Value> {
        let reply = match self {
            Self::Own(own) => own.connection.clone().send_packed_command(cmd).await,
            Self::Handed(connection) => connection.request(cmd).await,
        };
        reply.and_then(refused)
    }

    /// Sends commands in one round trip, or one by one if they may be meant for different servers. A command that is
    /// refused does not hide the answers to the others.
    pub(super) async fn requests(&self, cmds: Vec<Cmd>) -> RedisResult<Vec<RedisResult<Value>>> {
        let mut replies = Vec::with_capacity(cmds.len());
        match self {
            Self::Own(own) => {
                let count = cmds.len();
                let mut pipeline = Pipeline::with_capacity(count);
                for cmd in cmds {
                    pipeline.add_command(cmd);
                }
                let mut connection = own.connection.clone();
                let values = connection.send_packed_commands(&pipeline, 0, count).await?;
                replies.extend(values.into_iter().map(refused));
            }
            Self::Handed(_) => {
                for cmd in cmds {
                    match self.request(&cmd).await {
                        Err(error) if error.code().is_none() => return Err(error),
                        reply => replies.push(reply),
                    }
                }
            }
        }
        Ok(replies)
    }
}

/// The driver gives an error reply as a value.
fn refused(value: Value) -> RedisResult<Value> {
    match value {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}
