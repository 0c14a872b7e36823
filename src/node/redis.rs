//! A Redis server as a node.
//!
//! A batch becomes one `EVALSHA` ([`encode`](super::encode)) on the present session ([`session`](super::session)),
//! which the supervisor ([`link`](super::link)) provides.

use std::{fmt, sync::Arc};

use futures::{FutureExt, future};
use redis::aio::ConnectionLike;

use super::{
    BATCH, Call, Context, Node, address::Address, dial::Source, encode::Encoded, link::Link,
    roster::Roster,
};
use crate::message::{Command, Incarnation, Reply, Report, Terms};
use crate::{error::NodeError, resource::Resource, telemetry, time::Time};

/// One Redis server.
pub(crate) struct RedisNode {
    name: Arc<str>,
    batch_limit: usize,
    link: Link,
}

impl RedisNode {
    /// Connects to `address` and stays connected. Needs a runtime.
    pub(crate) fn open(address: Box<Address>, context: Context, roster: Arc<Roster>) -> Arc<Self> {
        let name = address.name().into();
        Self::start(name, Source::Address(address), BATCH, context, roster)
    }

    /// Uses a connection of the user's, which reconnects by itself or not at all. It is polled instead of
    /// pushed, and a restart shows only when it surfaces as an error (S5 is weaker there). Needs a runtime.
    pub(crate) fn over<C>(
        name: &str,
        connection: C,
        context: Context,
        roster: Arc<Roster>,
    ) -> Arc<Self>
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        // It may lead to a cluster, where the keys of two resources are in different slots.
        Self::start(
            name.into(),
            Source::Handed(Arc::new(connection)),
            1,
            context,
            roster,
        )
    }

    /// Waits until the first handshake has succeeded or failed, and tells how the node stands then. While
    /// that is under way it is pending, at most for a second or `node_timeout`, whichever is longer.
    ///
    /// # Cancel safety
    ///
    /// It only watches.
    pub(crate) async fn greeted(&self) -> Result<(), NodeError> {
        self.link.greeted().await
    }

    fn start(
        name: Arc<str>,
        source: Source,
        batch_limit: usize,
        context: Context,
        roster: Arc<Roster>,
    ) -> Arc<Self> {
        let link = Link::start(source, name.clone(), context, roster);
        Arc::new(Self {
            name,
            batch_limit,
            link,
        })
    }

    fn down<T: Send + 'static>(&self, error: NodeError) -> Call<T> {
        telemetry::node_failed(&self.name, &error);
        future::ready(Err(error)).boxed()
    }
}

impl Node for RedisNode {
    fn name(&self) -> &str {
        &self.name
    }

    fn call(&self, batch: &[Command], terms: Terms) -> Call<Vec<Reply>> {
        match self.link.session() {
            Err(error) => self.down(error),
            Ok(session) => {
                let request = Encoded::call(session.shas(), session.header(&terms), batch);
                let call = session.call(request, terms.deadline);
                telemetry::watched(self.name.clone(), call).boxed()
            }
        }
    }

    fn inspect(&self, resource: &Arc<Resource>, deadline: Time) -> Call<Report> {
        match self.link.session() {
            Err(error) => self.down(error),
            Ok(session) => {
                let request = Encoded::inspect(session.shas(), resource);
                telemetry::watched(self.name.clone(), session.call(request, deadline)).boxed()
            }
        }
    }

    fn incarnation(&self) -> Result<Incarnation, NodeError> {
        self.link.look(|session| session.incarnation())
    }

    fn batch_limit(&self) -> usize {
        self.batch_limit
    }
}

impl fmt::Debug for RedisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisNode").field(&self.name).finish()
    }
}
