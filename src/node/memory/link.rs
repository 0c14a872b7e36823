//! A client's connection to a memory node: its requests on their way there and back.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{runtime::Handle, sync::oneshot};

use super::{Condition, Header, Server, State};
use crate::{
    error::NodeError,
    message::{Answer, Command, Incarnation, Reply, Report, Terms},
    node::{BATCH, Call, Context, Node, unless_overdue},
    resource::Resource,
    runtime::clock::Clock,
    runtime::task,
    telemetry::watched,
    time::Time,
};

/// One client's connection to a memory node.
#[derive(Debug)]
pub(super) struct MemoryLink {
    server: Arc<Server>,
    context: Context,
    /// The node's clock as this client has learnt it.
    offset: Arc<AtomicI64>,
    way: Arc<Way>,
}

/// The way to the node. What is sent arrives in order, whether anybody waits for the answer or not.
#[derive(Debug, Default)]
struct Way {
    /// Completes when the request that was sent last has arrived, over the connection with this number.
    last: Mutex<Option<(u64, oneshot::Receiver<()>)>>,
}

impl Way {
    /// Has `arrive` happen after `span`, and after all that was sent before over the same connection: at once if
    /// nothing is in the way.
    fn send(
        &self,
        clock: Clock,
        epoch: u64,
        span: Duration,
        arrive: impl FnOnce() + Send + 'static,
    ) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last
            .take()
            .filter(|(over, _)| *over == epoch)
            .map(|(_, before)| before)
            .filter(|before| before.is_empty() && !before.is_terminated());
        // Outside of a runtime nothing can wait.
        if span.is_zero() && before.is_none() || Handle::try_current().is_err() {
            return arrive();
        }
        let (arrived, arrival) = oneshot::channel();
        *last = Some((epoch, arrival));
        drop(last);
        let due = clock.now().plus(span);
        task::spawn(async move {
            clock.sleep_until(due).await;
            if let Some(before) = before {
                // The task before may have gone down with its runtime.
                let _ = before.await;
            }
            arrive();
            let _ = arrived.send(());
        });
    }
}

impl Node for MemoryLink {
    fn name(&self) -> &str {
        &self.server.name
    }

    fn call(&self, batch: &[Command], terms: Terms) -> Call<Vec<Reply>> {
        // A release is carried out at any time: it takes nothing.
        let harmless = matches!(batch, [Command::Release(_), ..]);
        let refused_after = (!harmless).then_some(terms.deadline);
        let batch = batch.to_vec();
        let all = move |state: &mut State, header| state.each(header, &batch);
        self.ask(Some(terms), terms.deadline, refused_after, all)
    }

    fn inspect(&self, resource: &Arc<Resource>, deadline: Time) -> Call<Report> {
        let resource = resource.clone();
        self.ask(None, deadline, None, move |state, header| {
            state.table.inspect(header, resource.lock_key())
        })
    }

    fn incarnation(&self) -> Result<Incarnation, NodeError> {
        let state = self.server.state();
        match state.condition {
            Condition::Stopped => Err(stopped()),
            _ => Ok(state.incarnation(self.offset.load(Ordering::Relaxed), self.lag())),
        }
    }

    fn batch_limit(&self) -> usize {
        BATCH
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.server.close(&self.context.channel);
    }
}

impl MemoryLink {
    pub(super) fn open(server: Arc<Server>, context: Context) -> Self {
        Self {
            offset: Arc::new(AtomicI64::new(server.open(&context))),
            way: Arc::default(),
            server,
            context,
        }
    }

    fn lag(&self) -> Duration {
        self.server.lag(self.context.clock)
    }

    fn ask<T: Send + 'static>(
        &self,
        terms: Option<Terms>,
        deadline: Time,
        refused_after: Option<Time>,
        act: impl Fn(&mut State, Header) -> T + Send + Sync + 'static,
    ) -> Call<T> {
        let clock = self.context.clock;
        let round = Round {
            server: self.server.clone(),
            offset: self.offset.clone(),
            way: self.way.clone(),
            clock,
            terms,
            refused_after,
            act: Arc::new(act),
        };
        let call = async move {
            let attempt = pin!(round.run());
            unless_overdue(clock, deadline, attempt).await
        };
        watched(self.server.name.clone(), call).boxed()
    }
}

/// One request on its way to the node and back.
struct Round<F> {
    server: Arc<Server>,
    offset: Arc<AtomicI64>,
    way: Arc<Way>,
    clock: Clock,
    terms: Option<Terms>,
    refused_after: Option<Time>,
    act: Arc<F>,
}

impl<T, F> Round<F>
where
    T: Send + 'static,
    F: Fn(&mut State, Header) -> T + Send + Sync + 'static,
{
    async fn run(&self) -> Result<Answer<T>, NodeError> {
        let sent = self.clock.now();
        let (epoch, latency) = {
            let state = self.server.state();
            (state.epoch, state.latency)
        };
        let (answer, answered) = oneshot::channel();
        let arrival = self.arrival(answer);
        self.way.send(self.clock, epoch, latency / 2, arrival);
        let (incarnation, clock, value) = answered.await.map_err(|_| NodeError::Broken)??;
        let back = latency / 2;
        if !back.is_zero() {
            self.clock.sleep_until(self.clock.now().plus(back)).await;
        }
        let offset = Incarnation::offset(clock, sent, self.clock.now());
        self.offset.store(offset, Ordering::Relaxed);
        let value = value.ok_or(NodeError::Late)?;
        Ok(Answer {
            sent,
            incarnation,
            value,
        })
    }

    /// What happens when the request arrives: it is carried out, or left with a paused node.
    fn arrival(
        &self,
        answer: oneshot::Sender<Result<Outcome<T>, NodeError>>,
    ) -> impl FnOnce() + Send + 'static {
        let offset = self.offset.load(Ordering::Relaxed);
        let (act, terms) = (self.act.clone(), self.terms);
        let (clock, lag) = (self.server.clock, self.server.lag(self.clock));
        let refused_after = self.refused_after;
        let job = move |state: &mut State| -> Outcome<T> {
            state.calls += 1;
            let incarnation = state.incarnation(offset, lag);
            let now = state.micros(clock) / 1000;
            let limit = refused_after.map(|time| incarnation.node_micros(time).div_ceil(1000));
            if limit.is_some_and(|limit| now > limit) {
                return (incarnation, now, None);
            }
            let header = state.header(clock, terms.as_ref(), lag);
            (incarnation, now, Some(act(state, header)))
        };
        let server = self.server.clone();
        move || {
            let mut state = server.state();
            let outcome = match state.condition {
                Condition::Stopped => Err(stopped()),
                Condition::Running => Ok(job(&mut state)),
                Condition::Paused => {
                    state.held_back.push(Box::new(move |state| {
                        let outcome = job(state);
                        Box::new(move || drop(answer.send(Ok(outcome))))
                    }));
                    return;
                }
            };
            // It wakes the caller, whose waker is user code. The caller may be gone by now, as with a real server.
            drop(state);
            drop(answer.send(outcome));
        }
    }
}

/// The connection, the node's clock in milliseconds, and the answer unless the request was late.
type Outcome<T> = (Incarnation, u64, Option<T>);

fn stopped() -> NodeError {
    NodeError::Down("stopped".into())
}
