//! The roll: who the ticker keeps, and when each is due.
//!
//! Requests enrol before their first round, and are struck out when their handle is dropped. A lock that
//! is had at once costs an entry here and no message: the ticker is rung only if something is due earlier
//! than it would wake by itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    claim::{Claim, End, Phase},
    clock::Time,
    lease::Request,
    resource::Resource,
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
    /// Who waits for room in the line of a resource. Only the first of them asks, and the others follow
    /// one by one, so they get in in order.
    outside: HashMap<String, BTreeSet<u64>>,
    arrivals: u64,
    /// Until when the ticker sleeps; `None` while it is awake or has nothing to wait for.
    asleep_until: Option<Time>,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    request: Arc<Request>,
    resource: Arc<Resource>,
    /// Of the claim, when it was last looked at.
    revision: u64,
    due: Option<Time>,
    outside: bool,
}

/// What matters here of a claim at some moment.
struct Seen {
    uuid: Uuid,
    revision: u64,
    due: Option<Time>,
    outside: bool,
    settled: bool,
}

impl Seen {
    fn of(claim: &Claim, now: Time) -> Self {
        Self {
            uuid: claim.id().uuid(),
            revision: claim.revision(),
            due: claim.due(now),
            outside: claim.waits_for_room(),
            settled: claim.is_settled(),
        }
    }
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
        let (uuid, resource) = request.look(|claim| (claim.id().uuid(), claim.resource().clone()));
        let mut entries = self.entries();
        entries.arrivals += 1;
        let key = entries.arrivals;
        entries.keys.insert(uuid, key);
        entries.requests.insert(
            key,
            Entry {
                request: request.clone(),
                resource,
                revision: 0,
                due: None,
                outside: false,
            },
        );
        drop(entries);
        self.kick(request);
        Enrolment {
            roll: self.clone(),
            uuid,
        }
    }

    /// What a request has to ask has changed.
    pub(crate) fn kick(&self, request: &Arc<Request>) {
        if let Some(next) = self.schedule(request) {
            self.call_in(next);
        }
    }

    /// It is the turn of `request` to ask for room, or of those behind it if it needs none any more.
    fn call_in(&self, request: Arc<Request>) {
        let mut next = Some(request);
        while let Some(request) = next {
            request.update(|claim, now| claim.ask_all(now));
            next = self.schedule(&request);
        }
    }

    /// Whether a request of this client waits for room in the line of `resource`. Whoever comes now must
    /// not get in before it.
    pub(crate) fn is_crowded(&self, resource: &str) -> bool {
        self.entries().outside.contains_key(resource)
    }

    /// Nobody enrols any more; the ticker ends when nobody is left.
    pub(crate) fn close(&self) {
        self.entries().closed = true;
        self.changed.notify_one();
    }

    /// Ends whatever still waits; guards stay as they are.
    pub(crate) fn shut_down(&self) {
        for request in self.all() {
            request.update(|claim, now| {
                if claim.phase() != Phase::Held {
                    claim.end(End::ShutDown, now);
                }
            });
        }
    }

    /// Until when the ticker may sleep, if nothing rings; `None` if it is needed no more. Without anything
    /// that is due it is `never`.
    pub(crate) fn sleep_until(&self, never: Time) -> Option<Time> {
        let mut entries = self.entries();
        if entries.closed && entries.requests.is_empty() {
            return None;
        }
        let wake_at = entries.due.first().map_or(never, |(due, _)| *due);
        entries.asleep_until = Some(wake_at);
        Some(wake_at)
    }

    /// Completes when something is due earlier than the ticker knows.
    pub(crate) async fn rung(&self) {
        self.changed.notified().await;
    }

    /// The requests that are due, in order of arrival where they are due at once. Each has to be
    /// [kicked](Self::kick) afterwards.
    pub(crate) fn take_due(&self, now: Time) -> Vec<Arc<Request>> {
        let mut entries = self.entries();
        entries.asleep_until = None;
        let mut taken = Vec::new();
        while let Some((_, key)) = entries.due.first().copied().filter(|(due, _)| *due <= now) {
            entries.schedule(key, None);
            taken.extend(
                entries
                    .requests
                    .get(&key)
                    .map(|entry| entry.request.clone()),
            );
        }
        taken
    }

    /// The request with this uuid.
    pub(crate) fn find(&self, uuid: Uuid) -> Option<Arc<Request>> {
        let entries = self.entries();
        let entry = entries.requests.get(entries.keys.get(&uuid)?)?;
        Some(entry.request.clone())
    }

    /// All requests, in order of arrival.
    pub(crate) fn all(&self) -> Vec<Arc<Request>> {
        let entries = self.entries();
        let requests = entries.requests.values();
        requests.map(|entry| entry.request.clone()).collect()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes when a request is due. If it waited for room and has a place now, whoever is next may ask.
    fn schedule(&self, request: &Request) -> Option<Arc<Request>> {
        self.note(&request.look_now(Seen::of))
    }

    fn note(&self, seen: &Seen) -> Option<Arc<Request>> {
        let mut entries = self.entries();
        let key = *entries.keys.get(&seen.uuid)?;
        let entry = entries.requests.get_mut(&key)?;
        // What one thread has seen must not overwrite what another one saw later, or the ticker sleeps
        // through the end of a lease (S3). Looking at the claim under this lock would do, too, but then all
        // wait for whoever is slow with one claim.
        if seen.revision < entry.revision {
            return None;
        }
        entry.revision = seen.revision;
        let mut next = None;
        if seen.outside {
            entries.stand_outside(key);
        } else if seen.settled {
            next = entries.come_in(key);
        }
        let turn = !seen.outside || entries.is_first_outside(key);
        self.reschedule(entries, key, seen.due.filter(|_| turn));
        next
    }

    fn reschedule(&self, mut entries: MutexGuard<'_, Entries>, key: u64, due: Option<Time>) {
        entries.schedule(key, due);
        let early = due
            .zip(entries.asleep_until)
            .is_some_and(|(due, wake_at)| due < wake_at);
        drop(entries);
        if early {
            self.changed.notify_one();
        }
    }
}

impl Entries {
    fn schedule(&mut self, key: u64, due: Option<Time>) {
        let Some(entry) = self.requests.get_mut(&key) else {
            return;
        };
        let old = std::mem::replace(&mut entry.due, due);
        if old == due {
            // As after most answers: those of one round make the same due.
            return;
        }
        if let Some(old) = old {
            self.due.remove(&(old, key));
        }
        if let Some(due) = due {
            self.due.insert((due, key));
        }
    }
}

impl Entries {
    fn stand_outside(&mut self, key: u64) {
        let Some(entry) = self.requests.get_mut(&key) else {
            return;
        };
        if !std::mem::replace(&mut entry.outside, true) {
            let name = entry.resource.name().to_owned();
            self.outside.entry(name).or_default().insert(key);
        }
    }

    /// No longer waits for room, if it did. Returns whose turn to ask has come by that.
    fn come_in(&mut self, key: u64) -> Option<Arc<Request>> {
        let entry = self.requests.get_mut(&key)?;
        if !std::mem::replace(&mut entry.outside, false) {
            return None;
        }
        let name = entry.resource.name();
        let crowd = self.outside.get_mut(name)?;
        let was_first = crowd.first() == Some(&key);
        crowd.remove(&key);
        let Some(first) = crowd.first() else {
            self.outside.remove(name);
            return None;
        };
        let first = self.requests.get(first).filter(|_| was_first)?;
        Some(first.request.clone())
    }

    fn is_first_outside(&self, key: u64) -> bool {
        let crowd = || {
            let name = self.requests.get(&key)?.resource.name();
            self.outside.get(name)
        };
        crowd().is_some_and(|crowd| crowd.first() == Some(&key))
    }
}

impl Drop for Enrolment {
    fn drop(&mut self) {
        let mut entries = self.roll.entries();
        let mut next = None;
        if let Some(key) = entries.keys.remove(&self.uuid) {
            entries.schedule(key, None);
            next = entries.come_in(key);
            entries.requests.remove(&key);
        }
        let idle = entries.closed && entries.requests.is_empty();
        drop(entries);
        if idle {
            self.roll.changed.notify_one();
        }
        if let Some(next) = next {
            self.roll.call_in(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        clock::Clock,
        config::Config,
        holder::Signature,
        lease::Outbox,
        node::{Context, Events, memory::MemoryCluster},
        nodes::Nodes,
        rng::Rng,
    };

    #[tokio::test(start_paused = true)]
    async fn s3_what_was_seen_late_is_not_overwritten_by_what_was_seen_before() {
        let signature = Signature::new(Rng, "test", true);
        let context = Context {
            clock: Clock::tokio(),
            config: Config::default().into(),
            channel: signature.channel().into(),
            events: Events::new(0, mpsc::channel(1).0),
        };
        let (config, clock) = (context.config.clone(), context.clock);
        let list = MemoryCluster::new(1).link(0, context).into_iter().collect();
        let nodes = Nodes::new(list, config, clock, Rng, signature);
        let ttl = Duration::from_secs(10);
        let request = Request::new(&nodes.into(), &Outbox::new().0, "r", ttl, None);
        let request = request.expect("valid");
        let roll = Arc::new(Roll::default());
        let _enrolment = roll.enrol(&request);
        // A thread looks, and is overtaken by another that changes the claim and notes it.
        let before = request.look_now(Seen::of);
        request.update(|claim, _| claim.stand_outside());
        roll.kick(&request);
        let never = request.nodes.clock.now().plus(ttl);
        let due = roll.sleep_until(never);
        roll.note(&before);
        assert_eq!(roll.sleep_until(never), due);
        assert_ne!(due, Some(never));
    }
}
