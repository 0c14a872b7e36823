//! A client's end of the way to a node: the third implementation of the trait, beside the table in memory
//! and the Redis server. What a call comes to is the same as there: an answer, a refusal, or silence.

use std::{pin::pin, sync::Arc};

use futures::FutureExt;

use super::{
    server::{Ask, Reply},
    world::Sim,
};
use crate::{
    error::NodeError,
    message::{self, Answer, Command, Enqueue, Extend, Incarnation, Release, Report, Terms},
    node::{BATCH, Call, Node, unless_overdue},
    resource::Resource,
    runtime::clock::Clock,
    time::Time,
};

#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) sim: Sim,
    pub(super) clock: Clock,
    pub(super) client: usize,
    pub(super) node: usize,
    pub(super) name: Arc<str>,
    pub(super) patience: std::time::Duration,
}

impl Node for Wire {
    fn name(&self) -> &str {
        &self.name
    }

    fn call(&self, batch: &[Command], terms: Terms) -> Call<Vec<message::Reply>> {
        let (ask, refused_after) = match batch {
            [Command::Release(_), ..] => (Ask::Release(of(batch, release), terms), None),
            [Command::Extend(_), ..] => {
                (Ask::Extend(of(batch, extend), terms), Some(terms.deadline))
            }
            _ => (
                Ask::Enqueue(of(batch, enqueue), terms),
                Some(terms.deadline),
            ),
        };
        self.ask(ask, terms.deadline, refused_after, |reply| {
            Some(match reply {
                Reply::Standing(all) => all.into_iter().map(message::Reply::Standing).collect(),
                Reply::Extended(all) => all.into_iter().map(message::Reply::Extended).collect(),
                Reply::Released(all) => all.into_iter().map(message::Reply::Released).collect(),
                Reply::Report(_) => return None,
            })
        })
    }

    fn inspect(&self, resource: &Arc<Resource>, deadline: Time) -> Call<Report> {
        self.ask(
            Ask::Inspect(resource.clone()),
            deadline,
            None,
            |reply| match reply {
                Reply::Report(report) => Some(report),
                _ => None,
            },
        )
    }

    fn incarnation(&self) -> Result<Incarnation, NodeError> {
        let incarnation = self
            .sim
            .with(|world| world.ways[self.client][self.node].incarnation());
        incarnation.ok_or_else(|| NodeError::Down("not connected".into()))
    }

    fn batch_limit(&self) -> usize {
        BATCH
    }
}

/// The commands of a batch of one kind.
fn of<T>(batch: &[Command], read: fn(&Command) -> Option<T>) -> Vec<T> {
    batch.iter().filter_map(read).collect()
}

fn enqueue(command: &Command) -> Option<Enqueue> {
    match command {
        Command::Enqueue(command) => Some(command.clone()),
        _ => None,
    }
}

fn extend(command: &Command) -> Option<Extend> {
    match command {
        Command::Extend(command) => Some(command.clone()),
        _ => None,
    }
}

fn release(command: &Command) -> Option<Release> {
    match command {
        Command::Release(command) => Some(command.clone()),
        _ => None,
    }
}

impl Wire {
    fn ask<T: Send + 'static>(
        &self,
        ask: Ask,
        deadline: Time,
        refused_after: Option<Time>,
        read: fn(Reply) -> Option<T>,
    ) -> Call<T> {
        let wire = self.clone();
        async move {
            let started = wire.clock.now();
            let began = wire.sim.with(|world| world.now());
            let mut sent = None;
            let outcome = {
                let attempt = pin!(wire.attempt(&ask, refused_after, read, &mut sent));
                unless_overdue(wire.clock, deadline, attempt).await
            };
            if let (Err(NodeError::TimedOut), Some((epoch, number))) = (&outcome, sent)
                && wire.clock.now().since(started) >= wire.patience / 2
            {
                wire.sim
                    .with(|world| world.unanswered(wire.client, wire.node, epoch, number, began));
            }
            outcome
        }
        .boxed()
    }

    async fn attempt<T>(
        &self,
        ask: &Ask,
        refused_after: Option<Time>,
        read: fn(Reply) -> Option<T>,
        under_way: &mut Option<(u64, u64)>,
    ) -> Result<Answer<T>, NodeError> {
        let sent = self.clock.now();
        let (incarnation, clock, answer) = self
            .sim
            .with(|world| {
                let way = &world.ways[self.client][self.node];
                let (incarnation, clock) = (way.incarnation()?, way.clock()?);
                let (epoch, answer) =
                    world.send(self.client, self.node, ask.clone(), refused_after)?;
                *under_way = Some((epoch, world.requests));
                Some((incarnation, clock, answer))
            })
            .ok_or_else(|| NodeError::Down("not connected".into()))?;
        let (millis, reply) = answer.await.map_err(|_| NodeError::Broken)?;
        let received = self.clock.now();
        clock.learn(millis, sent, received);
        if reply.is_none() {
            clock.correct(millis, sent, received);
        }
        let incarnation = Incarnation {
            clock_offset: clock.offset(),
            ..incarnation
        };
        let value = read(reply.ok_or(NodeError::Late)?).ok_or(NodeError::Garbled)?;
        Ok(Answer {
            sent,
            incarnation,
            value,
        })
    }
}
