//! Batches: commands of one kind to one node, which go out in one call.

use std::{collections::BTreeMap, time::Duration};

use futures::{FutureExt, future::BoxFuture};

use crate::{
    client::{nodes::Nodes, window::Lane},
    error::NodeError,
    message::{Answer, Command, Reply},
    node::punctual,
    quorum::NodeIndex,
    request::Outgoing,
    time::Time,
};

/// Commands of one kind to one node, each with the key of its request.
pub(super) struct Batch {
    pub(super) commands: Vec<(u64, Outgoing)>,
    pub(super) node: NodeIndex,
    pub(super) lane: Lane,
    pub(super) sent: Time,
    pub(super) deadline: Time,
    /// How often it was sent and came too late.
    pub(super) late: u8,
}

/// A batch, and what it has come to.
pub(super) struct Answered {
    pub(super) batch: Batch,
    pub(super) outcome: Result<Answer<Vec<Reply>>, NodeError>,
}

/// The batches of these commands: those of one kind that have the same time to be answered go together.
pub(super) fn of(
    node: NodeIndex,
    lane: Lane,
    commands: Vec<(u64, Outgoing)>,
    sent: Time,
) -> impl Iterator<Item = Batch> {
    let mut batches: BTreeMap<_, Vec<(u64, Outgoing)>> = BTreeMap::new();
    for (key, outgoing) in commands {
        let kind = match outgoing.command {
            Command::Enqueue(_) => (0, outgoing.waiter_ttl),
            Command::Extend(_) => (1, Duration::ZERO),
            Command::Release(_) => (2, Duration::ZERO),
        };
        let batch = batches.entry((kind, outgoing.timeout));
        batch.or_default().push((key, outgoing));
    }
    batches
        .into_iter()
        .map(move |((_, timeout), commands)| Batch {
            commands,
            node,
            lane,
            sent,
            deadline: sent.plus(timeout),
            late: 0,
        })
}

impl Batch {
    /// How long the batch may take.
    pub(super) fn timeout(&self) -> Duration {
        self.deadline.since(self.sent)
    }

    /// Sends the batch in one call, with the terms of `now`.
    pub(super) fn send(self, nodes: &Nodes, now: Time) -> BoxFuture<'static, Answered> {
        let first = self.commands.first();
        let waiter_ttl = first.map(|(_, outgoing)| outgoing.waiter_ttl);
        let terms = nodes.terms(self.deadline, waiter_ttl.unwrap_or_default(), now);
        let Some(node) = nodes.list.get(self.node) else {
            let outcome = Err(NodeError::Garbled);
            return futures::future::ready(Answered {
                batch: self,
                outcome,
            })
            .boxed();
        };
        let commands = self.commands.iter();
        let commands: Vec<Command> = commands
            .map(|(_, outgoing)| outgoing.command.clone())
            .collect();
        let call = punctual(nodes.clock, self.deadline, node.call(&commands, terms));
        call.map(|outcome| Answered {
            batch: self,
            outcome,
        })
        .boxed()
    }
}
