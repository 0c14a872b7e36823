//! A client's end of the way to a node: the third implementation of the trait, beside the table in memory
//! and the Redis server. What a call comes to is the same as there: an answer, a refusal, or silence.

use std::{pin::pin, sync::Arc};

use futures::FutureExt;

use super::{
    server::{Ask, Reply},
    world::Sim,
};
use crate::{
    clock::Clock,
    error::NodeError,
    message::{Answer, Enqueue, Era, Extend, Extended, Release, Released, Report, Standing, Terms},
    node::{BATCH, Call, Node, unless_overdue},
    resource::Resource,
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

    fn enqueue(&self, batch: &[Enqueue], terms: Terms) -> Call<Vec<Standing>> {
        let ask = Ask::Enqueue(batch.to_vec(), terms);
        self.call(
            ask,
            terms.deadline,
            Some(terms.deadline),
            |reply| match reply {
                Reply::Standing(answers) => Some(answers),
                _ => None,
            },
        )
    }

    fn extend(&self, batch: &[Extend], terms: Terms) -> Call<Vec<Extended>> {
        let ask = Ask::Extend(batch.to_vec(), terms);
        self.call(
            ask,
            terms.deadline,
            Some(terms.deadline),
            |reply| match reply {
                Reply::Extended(answers) => Some(answers),
                _ => None,
            },
        )
    }

    fn release(&self, batch: &[Release], terms: Terms) -> Call<Vec<Released>> {
        let ask = Ask::Release(batch.to_vec(), terms);
        self.call(ask, terms.deadline, None, |reply| match reply {
            Reply::Released(answers) => Some(answers),
            _ => None,
        })
    }

    fn inspect(&self, resource: &Arc<Resource>, deadline: Time) -> Call<Report> {
        self.call(
            Ask::Inspect(resource.clone()),
            deadline,
            None,
            |reply| match reply {
                Reply::Report(report) => Some(report),
                _ => None,
            },
        )
    }

    fn era(&self) -> Result<Era, NodeError> {
        let era = self
            .sim
            .with(|world| world.ways[self.client][self.node].era());
        era.ok_or_else(|| NodeError::Down("not connected".into()))
    }

    fn batch_limit(&self) -> usize {
        BATCH
    }
}

impl Wire {
    fn call<T: Send + 'static>(
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
        let (era, clock, answer) = self
            .sim
            .with(|world| {
                let way = &world.ways[self.client][self.node];
                let (era, clock) = (way.era()?, way.clock()?);
                let (epoch, answer) =
                    world.send(self.client, self.node, ask.clone(), refused_after)?;
                *under_way = Some((epoch, world.requests));
                Some((era, clock, answer))
            })
            .ok_or_else(|| NodeError::Down("not connected".into()))?;
        let (millis, reply) = answer.await.map_err(|_| NodeError::Broken)?;
        let received = self.clock.now();
        clock.learn(millis, sent, received);
        if reply.is_none() {
            clock.correct(millis, sent, received);
        }
        let era = Era {
            clock_offset: clock.offset(),
            ..era
        };
        let value = read(reply.ok_or(NodeError::Late)?).ok_or(NodeError::Garbled)?;
        Ok(Answer { sent, era, value })
    }
}
