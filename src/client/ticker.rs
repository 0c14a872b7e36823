//! The ticker: carries everything that a client asks of its nodes, and hears everything that comes back.
//!
//! One task per client, whatever the number of requests. It asks the table which requests are due, sends their questions in
//! batches per node, each decided on at the moment of sending, and tells the requests what was answered and
//! pushed. So nothing on a node depends on whether somebody polls a future (C4, L6), what is sent is in the
//! order in which it was decided on (C3), and a burst is paced (`in_flight`). It never waits for one node before it
//! serves another. If it ends while it is needed, its client says so at every call.

use std::{
    collections::BTreeMap,
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
    client::in_flight::{InFlight, Lane, Took},
    client::nodes::Nodes,
    client::requests::Requests,
    error::{ClientStopped, NodeError},
    holder::Parts,
    message::{Answer, Command, Reply},
    node::{Event, punctual},
    request::{Cx, Question, Request},
    telemetry,
    time::Time,
};

/// The farthest moment the ticker sleeps to when nothing is due.
const NEVER: Duration = Duration::from_secs(86_400);

/// How often a call is sent again that came too late by the node's clock, or to a node that had forgotten the scripts.
/// Both may happen to one call, and in a cluster the second on several servers.
const MOST_LATE: u8 = 3;

/// How many events are looked at before what follows from them is sent.
const EVENTS_AT_ONCE: usize = 256;

/// How often it goes on at once, as there is more to do, before others have their turn.
const TURNS_AT_ONCE: u64 = 16;

/// How many answers, besides.
const ANSWERS_AT_ONCE: usize = 256;

/// Serves the table until it is closed and empty.
pub(crate) fn run(
    requests: Arc<Requests>,
    events: mpsc::Receiver<(usize, Event)>,
) -> impl Future<Output = ()> {
    // However this ends: also if its runtime does, before the first poll or after, or if it panics.
    let watch = Watch(requests.clone());
    async move {
        // With a budget that runs out in the midst of it, calls would be sent in another order than they were made
        // in, and a release overtake what it takes back (C3).
        let served = unconstrained(serve(&requests, events));
        let served = AssertUnwindSafe(served).catch_unwind().await;
        if let Err(panic) = served {
            requests.stop(ClientStopped::Panicked);
            resume_unwind(panic);
        }
        drop(watch);
    }
}

async fn serve(requests: &Arc<Requests>, mut events: mpsc::Receiver<(usize, Event)>) {
    let nodes = requests.nodes().clone();
    let mut calls = FuturesUnordered::new();
    let mut pace = InFlight::of(nodes.list.len());
    let mut heard = Vec::with_capacity(EVENTS_AT_ONCE);
    let mut answered_by = Time::ORIGIN;
    for turn in 1_u64.. {
        if turn.is_multiple_of(TURNS_AT_ONCE) {
            yield_now().await;
        }
        let by = (!calls.is_empty()).then_some(answered_by);
        let Some(wake_at) = requests.sleep_until(nodes.clock.now().plus(NEVER), by) else {
            return;
        };
        tokio::select! {
            biased;
            // Few, and a turn may hang on each: before the answers, which may come without end.
            _ = events.recv_many(&mut heard, EVENTS_AT_ONCE), if !events.is_closed() => {
                heard.drain(..).for_each(|(place, event)| heed_event(requests, place, event));
            }
            Some(answered) = calls.next() => heed(requests, answered, &mut pace, &calls),
            () = requests.rung() => {}
            () = nodes.clock.sleep_until(wake_at) => {}
        }
        for _ in 0..ANSWERS_AT_ONCE {
            let Some(Some(answered)) = calls.next().now_or_never() else {
                break;
            };
            heed(requests, answered, &mut pace, &calls);
        }
        collect(requests, &mut pace);
        let now = nodes.clock.now();
        let limit = |place: usize| nodes.list.get(place).map_or(1, |node| node.batch_limit());
        while let Some((place, lane, keys)) = pace.next(nodes.clock.now(), limit) {
            // Before it is decided what to ask: what that may do, and until when, follows from a later moment.
            let sent = nodes.clock.now();
            for batch in batches(place, lane, requests.ask(&keys, place), sent) {
                pace.sent(place, lane, batch.asked.len());
                answered_by = answered_by.max(batch.deadline);
                calls.push(send(&nodes, batch, now));
            }
        }
    }
}

/// Tells the table that nobody serves it any more.
struct Watch(Arc<Requests>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.stop(ClientStopped::RuntimeEnded);
    }
}

/// Questions of one kind to one node, for one call.
struct Batch {
    asked: Vec<(u64, Question)>,
    place: usize,
    lane: Lane,
    sent: Time,
    deadline: Time,
    /// How often it was sent, and not carried out.
    late: u8,
}

/// A batch, and what came of it.
struct Answered {
    batch: Batch,
    outcome: Result<Answer<Vec<Reply>>, NodeError>,
}

/// Who is due takes its place in line to ask.
fn collect(requests: &Requests, pace: &mut InFlight) {
    loop {
        let due = requests.take_due();
        if due.is_empty() {
            return;
        }
        for (key, places) in due {
            for (place, urgency) in places {
                pace.push(place, urgency, key);
            }
        }
    }
}

/// Puts together what goes into one call: questions of one kind, with the same time to be answered.
fn batches(
    place: usize,
    lane: Lane,
    asked: Vec<(u64, Question)>,
    sent: Time,
) -> impl Iterator<Item = Batch> {
    let mut batches: BTreeMap<(u8, Duration, Duration), Vec<(u64, Question)>> = BTreeMap::new();
    for (key, question) in asked {
        let (kind, lease) = match question.send {
            Command::Enqueue(_) => (0, question.lease),
            Command::Extend(_) => (1, Duration::ZERO),
            Command::Release(_) => (2, Duration::ZERO),
        };
        let batch = batches.entry((kind, question.timeout, lease));
        batch.or_default().push((key, question));
    }
    batches
        .into_iter()
        .map(move |((_, timeout, _), asked)| Batch {
            asked,
            place,
            lane,
            sent,
            deadline: sent.plus(timeout),
            late: 0,
        })
}

/// Sends a batch in one call, with the terms of `now`.
fn send(nodes: &Nodes, batch: Batch, now: Time) -> BoxFuture<'static, Answered> {
    let lease = batch.asked.first().map(|(_, question)| question.lease);
    let terms = nodes.terms(batch.deadline, lease.unwrap_or_default(), now);
    let Some(node) = nodes.list.get(batch.place) else {
        let outcome = Err(NodeError::Garbled);
        return futures::future::ready(Answered { batch, outcome }).boxed();
    };
    let commands = batch
        .asked
        .iter()
        .map(|(_, question)| question.send.clone());
    let commands: Vec<Command> = commands.collect();
    let call = punctual(nodes.clock, batch.deadline, node.call(&commands, terms));
    call.map(|outcome| Answered { batch, outcome }).boxed()
}

/// Tells the requests what was answered. A batch that was not carried out, as the node's clock was not what it
/// was taken for or its scripts were gone, is sent again. One that was refused as a whole may have one bad
/// key in it, somebody else's: it is sent again one by one, or that key would take everyone's lease. What is not
/// wanted any more by then is left out: its release may have been carried out (C3).
fn heed(
    requests: &Requests,
    answered: Answered,
    pace: &mut InFlight,
    calls: &FuturesUnordered<BoxFuture<'static, Answered>>,
) {
    let Answered { batch, outcome } = answered;
    let now = requests.nodes().clock.now();
    let (took, of) = (now.since(batch.sent), batch.deadline.since(batch.sent));
    let size = batch.asked.len();
    let answer = match &outcome {
        Ok(_) => Some(Some(took.min(of))),
        Err(NodeError::TimedOut) => Some(None),
        // It says nothing about how much a node can do.
        Err(_) => None,
    };
    let took = answer.map(|answer| Took {
        size,
        answer,
        of,
        at: now,
    });
    pace.over(batch.place, batch.lane, size, took);
    let size = match &outcome {
        Err(NodeError::Late) if batch.late < MOST_LATE && now < batch.deadline => batch.asked.len(),
        Err(NodeError::Refused(_) | NodeError::Garbled) if batch.asked.len() > 1 => 1,
        _ => return hear(requests, batch, outcome),
    };
    let Batch {
        asked,
        place,
        lane,
        late,
        ..
    } = batch;
    let is_late = matches!(outcome, Err(NodeError::Late));
    let items = asked
        .into_iter()
        .map(|(key, question)| (key, (key, question)));
    let wanted = |request: &mut Request, cx: Cx<'_>, (key, question): (u64, Question)| {
        let wanted = request.ask_again(&question, !is_late, cx);
        wanted.then_some((key, question))
    };
    let mut asked = requests
        .each(items, wanted)
        .into_iter()
        .flatten()
        .flatten()
        .peekable();
    while asked.peek().is_some() {
        let asked: Vec<_> = asked.by_ref().take(size).collect();
        pace.sent(place, lane, asked.len());
        let batch = Batch {
            asked,
            place,
            lane,
            sent: now,
            deadline: now.plus(of),
            late: late + u8::from(is_late),
        };
        calls.push(send(requests.nodes(), batch, now));
    }
}

/// Deals the answers of a batch out to those who asked.
fn hear(requests: &Requests, batch: Batch, outcome: Result<Answer<Vec<Reply>>, NodeError>) {
    if let Err(error @ NodeError::Late) = &outcome {
        let node = requests.nodes().list.get(batch.place);
        telemetry::node_failed(node.map_or("?", |node| node.name()), error);
    }
    let mut values = outcome.map(|Answer { sent, era, value }| {
        value
            .into_iter()
            .map(move |value| Answer { sent, era, value })
    });
    let dealt = batch.asked.iter().map(|(key, question)| {
        let outcome = match &mut values {
            Ok(values) => values.next().ok_or(NodeError::Garbled),
            Err(error) => Err(error.clone()),
        };
        (*key, (question, outcome))
    });
    requests.each(dealt, |request, cx, (question, outcome)| {
        request.on_reply(question, cx, outcome);
    });
}

fn heed_event(requests: &Requests, place: usize, event: Event) {
    match event {
        Event::Granted { id, lease_end, seq } => {
            let key = Parts::of(&id).and_then(|parts| requests.find(parts.uuid));
            if let Some(key) = key {
                requests.update(key, |request, cx| {
                    request.on_push(place, &id, lease_end, seq, cx);
                });
            }
        }
        Event::Up => {
            requests.each(requests.all(), |request, _, ()| request.on_reconnect(place));
        }
    }
}
