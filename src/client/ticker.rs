//! The ticker: sends everything that a client asks of its nodes, and hears everything that comes back.
//!
//! There is one task per client, whatever the number of requests. It asks the table which requests are due, sends
//! their commands in batches per node, each decided on at the moment of sending, and tells the requests what the
//! nodes answered and pushed. So nothing on a node depends on whether a caller polls its future (C4, L6), commands
//! are sent in the order in which they were decided on (C3), and a burst is paced (`in_flight`). The ticker never
//! waits for one node before it serves another. If it ends while it is needed, its client says so at every call.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    task::{unconstrained, yield_now},
};

use crate::{
    client::{
        batch::{self, Answered, Batch},
        in_flight::InFlight,
        nodes::Nodes,
        requests::Requests,
        window::Sample,
    },
    error::{ClientStopped, NodeError},
    holder::Parts,
    message::{Answer, Reply},
    node::{Node, NodeEvent},
    quorum::NodeIndex,
    request::{Cx, Outgoing, Request},
    telemetry,
    time::Time,
};

/// The farthest moment that the ticker sleeps to when nothing is due.
const NEVER: Duration = Duration::from_secs(86_400);

/// How often a call is sent again that came too late by the node's clock, or to a node that had forgotten the scripts.
/// Both may happen to one call, and in a cluster the second on several servers.
const MOST_LATE: u8 = 3;

/// How many events, and how many answers, are looked at before what follows from them is sent.
const EVENTS_AT_ONCE: usize = 256;
const ANSWERS_AT_ONCE: usize = 256;

/// How often the ticker goes on at once, as there is more to do, before other tasks have their turn.
const TURNS_AT_ONCE: u64 = 16;

/// What the nodes tell of their own accord.
pub(crate) type Events = mpsc::Receiver<(NodeIndex, NodeEvent)>;

/// Serves the table until it is closed and empty.
pub(crate) fn run(requests: Arc<Requests>, events: Events) -> impl Future<Output = ()> {
    // However this ends: also if its runtime does, before the first poll or after, or if it panics.
    let stop = StopOnDrop(requests.clone());
    async move {
        // With a budget that runs out half-way, calls would be sent in another order than they were made in, and a
        // release could overtake what it takes back (C3).
        let served = unconstrained(Ticker::new(requests.clone()).serve(events));
        let served = AssertUnwindSafe(served).catch_unwind().await;
        if let Err(panic) = served {
            requests.stop(ClientStopped::Panicked);
            resume_unwind(panic);
        }
        drop(stop);
    }
}

/// Tells the table that it is no longer served.
struct StopOnDrop(Arc<Requests>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop(ClientStopped::RuntimeEnded);
    }
}

struct Ticker {
    requests: Arc<Requests>,
    nodes: Arc<Nodes>,
    in_flight: InFlight,
    calls: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// By when everything that was sent is answered, or counts as unanswered.
    answered_by: Time,
    /// The last connection to each node that the requests were told of.
    epochs: Vec<u64>,
}

impl Ticker {
    fn new(requests: Arc<Requests>) -> Self {
        let nodes = requests.nodes().clone();
        let epoch = |node: &Arc<dyn Node>| node.incarnation().map_or(0, |now| now.epoch);
        Self {
            // Nothing was asked before.
            epochs: nodes.list.iter().map(epoch).collect(),
            in_flight: InFlight::of(nodes.list.len()),
            answered_by: Time::ORIGIN,
            requests,
            nodes,
            calls: FuturesUnordered::new(),
        }
    }

    async fn serve(mut self, mut events: Events) {
        let mut heard = Vec::with_capacity(EVENTS_AT_ONCE);
        let clock = self.nodes.clock;
        for turn in 1_u64.. {
            if turn.is_multiple_of(TURNS_AT_ONCE) {
                yield_now().await;
            }
            let by = (!self.calls.is_empty()).then_some(self.answered_by);
            let Some(wake_at) = self.requests.sleep_until(clock.now().plus(NEVER), by) else {
                return;
            };
            tokio::select! {
                biased;
                // Events come before answers, which may never run out: events are few, and each may be a handoff.
                _ = events.recv_many(&mut heard, EVENTS_AT_ONCE), if !events.is_closed() => {
                    self.note_reconnects();
                    heard.drain(..).for_each(|(node, event)| self.on_event(node, event));
                }
                Some(answered) = self.calls.next() => self.on_answered(answered),
                () = self.requests.changed() => {}
                () = clock.sleep_until(wake_at) => {}
            }
            for _ in 0..ANSWERS_AT_ONCE {
                let Some(Some(answered)) = self.calls.next().now_or_never() else {
                    break;
                };
                self.on_answered(answered);
            }
            self.queue_due();
            self.send_queued();
        }
    }

    /// Has the commands of all requests that are due wait for their turn.
    fn queue_due(&mut self) {
        loop {
            let due = self.requests.take_due();
            if due.is_empty() {
                return;
            }
            for (key, nodes) in due {
                for (node, urgency) in nodes {
                    self.in_flight.push(node, urgency, key);
                }
            }
        }
    }

    /// Sends what has its turn.
    fn send_queued(&mut self) {
        let clock = self.nodes.clock;
        let now = clock.now();
        let nodes = self.nodes.clone();
        let limit = |node: NodeIndex| nodes.list.get(node).map_or(1, |node| node.batch_limit());
        while let Some((node, lane, keys)) = self.in_flight.next(clock.now(), limit) {
            // Read before `ask`, which reads the clock again: so the deadline of a command is never after the one that
            // its request has noted.
            let sent = clock.now();
            for batch in batch::of(node, lane, self.requests.ask(&keys, node), sent) {
                self.send(batch, now);
            }
        }
    }

    fn send(&mut self, batch: Batch, now: Time) {
        self.answered_by = self.answered_by.max(batch.deadline);
        self.in_flight
            .sent(batch.node, batch.lane, batch.commands.len());
        self.calls.push(batch.send(&self.nodes, now));
    }

    /// Tells the requests the outcome of a batch. If the node did not run the batch, because the client misjudged its
    /// clock or it had lost the scripts, the batch is sent again. If the node refused the batch, one bad key may be the
    /// cause, so the commands are sent again one by one: that key must not cost the others their leases. Commands that
    /// are no longer wanted are left out, since their release may have been carried out already (C3).
    fn on_answered(&mut self, Answered { batch, outcome }: Answered) {
        let now = self.nodes.clock.now();
        let took = now.since(batch.sent);
        let size = batch.commands.len();
        let sample = Sample::of(&outcome, size, took, batch.timeout(), now);
        self.in_flight.over(batch.node, batch.lane, size, sample);
        let is_late = matches!(outcome, Err(NodeError::Late));
        let size = match &outcome {
            Err(NodeError::Late) if batch.late < MOST_LATE && now < batch.deadline => size,
            Err(NodeError::Refused(_) | NodeError::Garbled) if size > 1 => 1,
            _ => return self.deal_out(&batch, outcome),
        };
        let wanted = |request: &mut Request, cx: Cx<'_>, (key, sent): (u64, Outgoing)| {
            let wanted = request.ask_again(&sent, !is_late, cx);
            wanted.then_some((key, sent))
        };
        let timeout = batch.timeout();
        let items = batch
            .commands
            .into_iter()
            .map(|(key, sent)| (key, (key, sent)));
        let wanted = self.requests.each(items, wanted);
        let mut wanted = wanted.into_iter().flatten().flatten().peekable();
        while wanted.peek().is_some() {
            let batch = Batch {
                commands: wanted.by_ref().take(size).collect(),
                sent: now,
                deadline: now.plus(timeout),
                late: batch.late + u8::from(is_late),
                ..batch
            };
            self.send(batch, now);
        }
    }

    /// Gives each request its part of a batch's answer.
    fn deal_out(&self, batch: &Batch, outcome: Result<Answer<Vec<Reply>>, NodeError>) {
        if let Err(error @ NodeError::Late) = &outcome {
            telemetry::node_failed(self.nodes.name(batch.node), error);
        }
        let mut replies = outcome.map(|answer| {
            let (sent, incarnation) = (answer.sent, answer.incarnation);
            let replies = answer.value.into_iter();
            replies.map(move |value| Answer {
                sent,
                incarnation,
                value,
            })
        });
        let dealt = batch.commands.iter().map(|(key, sent)| {
            let outcome = match &mut replies {
                Ok(replies) => replies.next().ok_or(NodeError::Garbled),
                Err(error) => Err(error.clone()),
            };
            (*key, (sent, outcome))
        });
        self.requests.each(dealt, |request, cx, (sent, outcome)| {
            request.on_reply(sent, cx, outcome);
        });
    }

    /// Tells the requests of new connections. Which connection a node has is looked up, since events may be lost.
    fn note_reconnects(&mut self) {
        for (index, (known, node)) in self.epochs.iter_mut().zip(&self.nodes.list).enumerate() {
            let Ok(incarnation) = node.incarnation() else {
                continue;
            };
            if std::mem::replace(known, incarnation.epoch) != incarnation.epoch {
                let all = self.requests.all();
                self.requests
                    .each(all, |request, _, ()| request.on_reconnect(index));
            }
        }
    }

    fn on_event(&self, node: NodeIndex, event: NodeEvent) {
        let requests = &self.requests;
        match event {
            NodeEvent::Granted {
                id,
                waiter_end,
                seq,
            } => {
                let key = Parts::of(&id).and_then(|parts| requests.find(parts.uuid));
                if let Some(key) = key {
                    requests.update(key, |request, cx| {
                        request.on_push(node, &id, waiter_end, seq, cx);
                    });
                }
            }
            // Seen by `note_reconnects`.
            NodeEvent::Up => {}
        }
    }
}
