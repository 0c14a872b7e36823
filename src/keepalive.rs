//! The ticker: keeps tickets and leases, or declares a lease lost.
//!
//! One task per client, whatever the number of requests. It asks each claim on the roll what is due, sends
//! that in batches per node, and tells the claims what was answered and pushed. It never waits for one
//! node before it serves another.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{self, BoxFuture},
    stream::FuturesUnordered,
};
use tokio::sync::mpsc;

use crate::{
    claim::{Question, Send},
    clock::Time,
    error::NodeError,
    holder::Parts,
    lease::Request,
    node::{Answer, Event, Extended, Standing, punctual},
    nodes::Nodes,
    pace::Pace,
    roll::Roll,
};

/// The farthest moment the ticker sleeps to when nothing is due.
const NEVER: Duration = Duration::from_secs(86_400);

/// How many events are looked at before what follows from them is sent.
const EVENTS_AT_ONCE: usize = 256;

/// Serves the roll until it is closed and empty.
pub(crate) async fn run(
    nodes: Arc<Nodes>,
    roll: Arc<Roll>,
    mut events: mpsc::Receiver<(usize, Event)>,
) {
    let mut calls = FuturesUnordered::new();
    let mut pace = Pace::of(nodes.list.len());
    let mut heard = Vec::with_capacity(EVENTS_AT_ONCE);
    while let Some(wake_at) = roll.sleep_until(nodes.clock.now().plus(NEVER)) {
        tokio::select! {
            biased;
            Some(answered) = calls.next() => {
                let mut next = Some(answered);
                while let Some(answered) = next {
                    heed(&roll, answered, &mut pace);
                    next = calls.next().now_or_never().flatten();
                }
            }
            _ = events.recv_many(&mut heard, EVENTS_AT_ONCE), if !events.is_closed() => {
                heard.drain(..).for_each(|(place, event)| heed_event(&roll, place, event));
            }
            () = roll.rung() => {}
            () = nodes.clock.sleep_until(wake_at) => {}
        }
        ask(&nodes, &roll, &mut pace);
        calls.extend(std::iter::from_fn(|| pace.next()).map(|batch| send(&nodes, batch)));
    }
}

/// A question and whose it is.
struct Asked {
    request: Arc<Request>,
    question: Question,
}

/// Questions of one kind to one node, for one call.
struct Batch {
    asked: Vec<Asked>,
    /// How many these were when they were to be sent.
    size: usize,
    place: usize,
    deadline: Time,
}

/// A batch, and what came of it.
struct Answered {
    batch: Batch,
    outcome: Outcome,
}

enum Outcome {
    Standing(Result<Answer<Vec<Standing>>, NodeError>),
    Extended(Result<Answer<Vec<Extended>>, NodeError>),
}

/// Collects what the claims that are due have to ask, in batches.
fn ask(nodes: &Nodes, roll: &Roll, pace: &mut Pace<Batch>) {
    let now = nodes.clock.now();
    let mut batches: BTreeMap<(usize, bool, Duration), Vec<Asked>> = BTreeMap::new();
    for request in roll.take_due(now) {
        for question in request.update(|claim, now| claim.questions(now)) {
            let extends = matches!(question.send, Send::Extend(_));
            let batch = batches.entry((question.place, extends, question.timeout));
            let request = request.clone();
            batch.or_default().push(Asked { request, question });
        }
        roll.kick(&request);
    }
    for ((place, _, timeout), asked) in batches {
        let limit = nodes
            .list
            .get(place)
            .map_or(1, |node| node.batch_limit().max(1));
        let mut asked = asked.into_iter().peekable();
        while asked.peek().is_some() {
            let asked: Vec<_> = asked.by_ref().take(limit).collect();
            let batch = Batch {
                size: asked.len(),
                asked,
                place,
                deadline: now.plus(timeout),
            };
            pace.push(place, batch.size, batch);
        }
    }
}

/// Sends a batch in one call, if there is still time.
fn send(nodes: &Nodes, mut batch: Batch) -> BoxFuture<'static, Answered> {
    batch.asked.retain(still_wanted);
    let left = batch.deadline.since(nodes.clock.now());
    let sent = !left.is_zero() && !batch.asked.is_empty();
    let node = nodes.list.get(batch.place).filter(|_| sent);
    let (mut enqueues, mut extends) = (Vec::new(), Vec::new());
    for Asked { question, .. } in &batch.asked {
        match &question.send {
            Send::Enqueue(send) => enqueues.push(send.clone()),
            Send::Extend(send) => extends.push(send.clone()),
        }
    }
    let late = NodeError::TimedOut;
    let call = match (node, extends.is_empty()) {
        (None, true) => future::ready(Outcome::Standing(Err(late))).boxed(),
        (None, false) => future::ready(Outcome::Extended(Err(late))).boxed(),
        (Some(node), true) => {
            let call = node.enqueue(&enqueues, nodes.terms_until(batch.deadline));
            let call = punctual(nodes.clock, batch.deadline, call);
            call.map(Outcome::Standing).boxed()
        }
        (Some(node), false) => {
            let call = node.extend(&extends, nodes.terms_until(batch.deadline));
            let call = punctual(nodes.clock, batch.deadline, call);
            call.map(Outcome::Extended).boxed()
        }
    };
    call.map(|outcome| Answered { batch, outcome }).boxed()
}

/// Whether a question that waited for its turn may be sent: its claim may have ended since, and have been released
/// on that node. Such a one was never sent.
fn still_wanted(asked: &Asked) -> bool {
    let Asked { request, question } = asked;
    let wanted = request.look(|claim| claim.asks(question));
    if !wanted {
        let never_sent = NodeError::Down("not asked any more".into());
        request.update(|claim, now| match question.send {
            Send::Enqueue(_) => claim.hear_standing(question, now, Err(never_sent)),
            Send::Extend(_) => claim.hear_extended(question, now, Err(never_sent)),
        });
    }
    wanted
}

/// Tells the claims what was answered. A batch that was refused as a whole may have one bad key in it,
/// somebody else's: it is sent again one by one, or that key would take everyone's lease.
fn heed(roll: &Roll, answered: Answered, pace: &mut Pace<Batch>) {
    let Answered { batch, outcome } = answered;
    pace.over(batch.place, batch.size);
    let refused = match &outcome {
        Outcome::Standing(outcome) => outcome.as_ref().err(),
        Outcome::Extended(outcome) => outcome.as_ref().err(),
    };
    if batch.asked.len() > 1 && matches!(refused, Some(NodeError::Refused(_) | NodeError::Garbled))
    {
        for one in batch.asked {
            let (asked, size) = (vec![one], 1);
            let place = batch.place;
            pace.push(
                place,
                size,
                Batch {
                    asked,
                    size,
                    ..batch
                },
            );
        }
        return;
    }
    match outcome {
        Outcome::Standing(outcome) => {
            deal(roll, &batch.asked, outcome, |request, question, outcome| {
                request.update(|claim, now| claim.hear_standing(question, now, outcome));
            });
        }
        Outcome::Extended(outcome) => {
            deal(roll, &batch.asked, outcome, |request, question, outcome| {
                request.update(|claim, now| claim.hear_extended(question, now, outcome));
            });
        }
    }
}

/// Deals the answers of a batch out to those who asked.
fn deal<T>(
    roll: &Roll,
    asked: &[Asked],
    outcome: Result<Answer<Vec<T>>, NodeError>,
    tell: impl Fn(&Arc<Request>, &Question, Result<Answer<T>, NodeError>),
) {
    let mut values = outcome.map(|Answer { sent, era, value }| {
        value
            .into_iter()
            .map(move |value| Answer { sent, era, value })
    });
    for Asked { request, question } in asked {
        let outcome = match &mut values {
            Ok(values) => values.next().ok_or(NodeError::Garbled),
            Err(error) => Err(error.clone()),
        };
        tell(request, question, outcome);
        roll.kick(request);
    }
}

fn heed_event(roll: &Roll, place: usize, event: Event) {
    match event {
        Event::Granted { id, lease_end, seq } => {
            let request = Parts::of(&id).and_then(|parts| roll.find(parts.uuid));
            if let Some(request) = request {
                request.update(|claim, now| claim.hear_push(place, &id, lease_end, seq, now));
                roll.kick(&request);
            }
        }
        Event::Up => {
            for request in roll.all() {
                request.update(|claim, now| claim.hear_up(place, now));
                roll.kick(&request);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FifoRedlock, MemoryCluster};

    #[tokio::test(start_paused = true)]
    async fn c3_what_waited_to_be_sent_is_not_sent_once_its_request_has_ended() {
        let cluster = MemoryCluster::new(1);
        let redlock = FifoRedlock::builder().memory(&cluster).connect().await;
        let client = redlock.unwrap().client;
        for ends in [false, true] {
            let request = client.request("r", Duration::from_secs(10), None).unwrap();
            let mut questions = request.update(|claim, now| claim.questions(now));
            let question = questions.pop().unwrap();
            let asked = vec![Asked {
                request: request.clone(),
                question,
            }];
            let batch = Batch {
                asked,
                size: 1,
                place: 0,
                deadline: client.nodes.clock.now().plus(Duration::from_secs(1)),
            };
            let leftover = ends.then(|| request.take_back());
            let answered = send(&client.nodes, batch).await;
            assert_eq!(answered.batch.size, 1);
            assert_eq!(cluster.node(0).get("r").is_some(), !ends);
            assert!(!ends || request.look(|claim| !claim.is_asking()));
            drop(leftover);
            cluster.node(0).delete("r");
        }
    }
}
