//! The ticker: keeps tickets and leases, or declares a lease lost.
//!
//! One task per client, whatever the number of requests. It asks each enrolled claim what is due, sends
//! that in batches per node, and tells the claims what was answered and pushed. It never waits for one
//! node before it serves another. Requests enrol when their first round is over and strike themselves
//! out when their handle is dropped.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use crate::{
    claim::{End, Phase, Question, Send},
    clock::Time,
    error::NodeError,
    holder::Parts,
    lease::Request,
    node::{Answer, Enqueue, Event, Extend, Extended, Standing},
    nodes::Nodes,
};

/// Who is enrolled, and when each is due.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    entries: Mutex<Entries>,
    /// Rings when something is due earlier than the ticker knows, or the roll is closed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    /// In order of arrival, which is the order within a batch.
    requests: BTreeMap<u64, Entry>,
    keys: HashMap<Uuid, u64>,
    due: BTreeSet<(Time, u64)>,
    arrivals: u64,
    /// Until when the ticker sleeps; `None` while it is awake or has nothing to wait for.
    asleep_until: Option<Time>,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    request: Arc<Request>,
    due: Option<Time>,
}

/// A request's place on the roll; it is struck out when this is dropped.
#[derive(Debug)]
pub(crate) struct Enrolment {
    roll: Arc<Roll>,
    uuid: Uuid,
}

impl Roll {
    /// Enrols a request.
    pub(crate) fn enrol(self: &Arc<Self>, request: &Arc<Request>) -> Enrolment {
        let (uuid, due) = request.look(|claim, now| (claim.id().uuid(), claim.due(now)));
        let mut entries = self.entries();
        entries.arrivals += 1;
        let key = entries.arrivals;
        entries.keys.insert(uuid, key);
        entries.requests.insert(
            key,
            Entry {
                request: request.clone(),
                due: None,
            },
        );
        self.reschedule(entries, key, due);
        Enrolment {
            roll: self.clone(),
            uuid,
        }
    }

    /// What a request has to ask has changed.
    pub(crate) fn kick(&self, request: &Request) {
        let (uuid, due) = request.look(|claim, now| (claim.id().uuid(), claim.due(now)));
        let entries = self.entries();
        if let Some(&key) = entries.keys.get(&uuid) {
            self.reschedule(entries, key, due);
        }
    }

    /// Nobody enrols any more; the ticker ends when nobody is left.
    pub(crate) fn close(&self) {
        self.entries().closed = true;
        self.changed.notify_one();
    }

    /// Ends whatever still waits; guards stay as they are.
    pub(crate) fn shut_down(&self) {
        let requests: Vec<Arc<Request>> = {
            let entries = self.entries();
            entries
                .requests
                .values()
                .map(|entry| entry.request.clone())
                .collect()
        };
        for request in requests {
            request.update(|claim, now| {
                if claim.phase() != Phase::Held {
                    claim.end(End::ShutDown, now);
                }
            });
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reschedule(&self, mut entries: MutexGuard<'_, Entries>, key: u64, due: Option<Time>) {
        entries.schedule(key, due);
        if let (Some(due), Some(asleep_until)) = (due, entries.asleep_until) {
            if due < asleep_until {
                drop(entries);
                self.changed.notify_one();
            }
        }
    }
}

impl Entries {
    fn schedule(&mut self, key: u64, due: Option<Time>) {
        let Some(entry) = self.requests.get_mut(&key) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut entry.due, due) {
            self.due.remove(&(old, key));
        }
        if let Some(due) = due {
            self.due.insert((due, key));
        }
    }

    fn take_due(&mut self, now: Time) -> Vec<(u64, Arc<Request>)> {
        let mut taken = Vec::new();
        while let Some((_, key)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.schedule(key, None);
            if let Some(entry) = self.requests.get(&key) {
                taken.push((key, entry.request.clone()));
            }
        }
        taken
    }
}

impl Drop for Enrolment {
    fn drop(&mut self) {
        let mut entries = self.roll.entries();
        if let Some(key) = entries.keys.remove(&self.uuid) {
            entries.schedule(key, None);
            entries.requests.remove(&key);
        }
        if entries.closed && entries.requests.is_empty() {
            drop(entries);
            self.roll.changed.notify_one();
        }
    }
}

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
    let mut calls: FuturesUnordered<BoxFuture<'static, Batch>> = FuturesUnordered::new();
    let mut heard = Vec::with_capacity(EVENTS_AT_ONCE);
    loop {
        let now = nodes.clock.now();
        let wake_at = {
            let mut entries = roll.entries();
            if entries.closed && entries.requests.is_empty() {
                return;
            }
            let next = entries.due.first().map(|(due, _)| *due);
            let wake_at = next.unwrap_or_else(|| now.plus(NEVER));
            entries.asleep_until = Some(wake_at);
            wake_at
        };
        tokio::select! {
            biased;
            Some(batch) = calls.next() => {
                batch.tell(&roll);
                while let Some(Some(batch)) = calls.next().now_or_never() {
                    batch.tell(&roll);
                }
            }
            count = events.recv_many(&mut heard, EVENTS_AT_ONCE), if !events.is_closed() => {
                if count > 0 {
                    tell_events(&roll, heard.drain(..));
                }
            }
            () = roll.changed.notified() => {}
            () = nodes.clock.sleep_until(wake_at) => {}
        }
        let due = {
            let mut entries = roll.entries();
            entries.asleep_until = None;
            entries.take_due(nodes.clock.now())
        };
        for call in ask(&nodes, &roll, due) {
            calls.push(call);
        }
    }
}

/// Questions of one kind to one node, answered together.
enum Batch {
    Standing(Vec<Asked>, Result<Answer<Vec<Standing>>, NodeError>),
    Extended(Vec<Asked>, Result<Answer<Vec<Extended>>, NodeError>),
}

type Asked = (Arc<Request>, Question);

impl Batch {
    fn tell(self, roll: &Roll) {
        match self {
            Self::Standing(asked, outcome) => each(asked, outcome, |request, question, outcome| {
                request.update(|claim, now| claim.hear_standing(question, now, outcome));
                roll.kick(request);
            }),
            Self::Extended(asked, outcome) => each(asked, outcome, |request, question, outcome| {
                request.update(|claim, now| claim.hear_extended(question, now, outcome));
                roll.kick(request);
            }),
        }
    }
}

/// Deals the answers of a batch out to those who asked.
fn each<T>(
    asked: Vec<Asked>,
    outcome: Result<Answer<Vec<T>>, NodeError>,
    tell: impl Fn(&Arc<Request>, &Question, Result<Answer<T>, NodeError>),
) {
    match outcome {
        Ok(Answer { sent, era, value }) => {
            let mut values = value.into_iter();
            for (request, question) in &asked {
                let value = values.next().map(|value| Answer { sent, era, value });
                tell(request, question, value.ok_or(NodeError::Garbled));
            }
        }
        Err(error) => {
            for (request, question) in &asked {
                tell(request, question, Err(error.clone()));
            }
        }
    }
}

fn tell_events(roll: &Roll, events: impl Iterator<Item = (usize, Event)>) {
    for (place, event) in events {
        match event {
            Event::Granted { id, lease_end, seq } => {
                let request = Parts::of(&id).and_then(|parts| {
                    let entries = roll.entries();
                    let key = entries.keys.get(&parts.uuid)?;
                    entries.requests.get(key).map(|entry| entry.request.clone())
                });
                if let Some(request) = request {
                    request.update(|claim, now| claim.hear_push(place, &id, lease_end, seq, now));
                    roll.kick(&request);
                }
            }
            Event::Up => {
                let requests: Vec<Arc<Request>> = {
                    let entries = roll.entries();
                    entries
                        .requests
                        .values()
                        .map(|entry| entry.request.clone())
                        .collect()
                };
                for request in requests {
                    request.update(|claim, now| claim.hear_up(place, now));
                    roll.kick(&request);
                }
            }
        }
    }
}

/// Sends what the claims that are due have to ask, in batches.
fn ask(
    nodes: &Arc<Nodes>,
    roll: &Roll,
    due: Vec<(u64, Arc<Request>)>,
) -> Vec<BoxFuture<'static, Batch>> {
    let mut enqueues: BTreeMap<(usize, Duration), Vec<(Asked, Enqueue)>> = BTreeMap::new();
    let mut extends: BTreeMap<(usize, Duration), Vec<(Asked, Extend)>> = BTreeMap::new();
    for (key, request) in due {
        for question in request.update(|claim, now| claim.questions(now)) {
            let to = (question.place, question.timeout);
            match question.send.clone() {
                Send::Enqueue(send) => {
                    enqueues
                        .entry(to)
                        .or_default()
                        .push(((request.clone(), question), send));
                }
                Send::Extend(send) => {
                    extends
                        .entry(to)
                        .or_default()
                        .push(((request.clone(), question), send));
                }
            }
        }
        let due = request.look(|claim, now| claim.due(now));
        roll.entries().schedule(key, due);
    }
    let mut calls = Vec::new();
    for ((place, timeout), asks) in enqueues {
        calls.extend(batches(nodes, place, asks).map(|(asked, sends)| {
            let call = nodes.list[place].enqueue(&sends, nodes.terms(timeout));
            call.map(|outcome| Batch::Standing(asked, outcome)).boxed()
        }));
    }
    for ((place, timeout), asks) in extends {
        calls.extend(batches(nodes, place, asks).map(|(asked, sends)| {
            let call = nodes.list[place].extend(&sends, nodes.terms(timeout));
            call.map(|outcome| Batch::Extended(asked, outcome)).boxed()
        }));
    }
    calls
}

fn batches<T>(
    nodes: &Nodes,
    place: usize,
    asks: Vec<(Asked, T)>,
) -> impl Iterator<Item = (Vec<Asked>, Vec<T>)> + use<T> {
    let limit = nodes.list[place].batch_limit().max(1);
    let mut asks = asks.into_iter();
    std::iter::from_fn(move || {
        let batch: (Vec<Asked>, Vec<T>) = asks.by_ref().take(limit).unzip();
        (!batch.0.is_empty()).then_some(batch)
    })
}
