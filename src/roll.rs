//! The roll: who the ticker keeps, and when each is due.
//!
//! Requests enrol when their first round is over, and are struck out when their handle is dropped. A lock
//! that is had at once costs an entry here and no message: the ticker is rung only if something is due
//! earlier than it would wake by itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    claim::{End, Phase},
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
    /// How many requests wait for room in the line of a resource.
    outside: HashMap<String, usize>,
    arrivals: u64,
    /// Until when the ticker sleeps; `None` while it is awake or has nothing to wait for.
    asleep_until: Option<Time>,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    request: Arc<Request>,
    resource: Arc<Resource>,
    due: Option<Time>,
    outside: bool,
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
        let (uuid, resource) =
            request.look(|claim, _| (claim.id().uuid(), claim.resource().clone()));
        let mut entries = self.entries();
        entries.arrivals += 1;
        let key = entries.arrivals;
        entries.keys.insert(uuid, key);
        entries.requests.insert(
            key,
            Entry {
                request: request.clone(),
                resource,
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
    pub(crate) fn kick(&self, request: &Request) {
        let (uuid, due, outside) = request.look(|claim, now| {
            let outside = claim.phase() == Phase::Outside;
            (claim.id().uuid(), claim.due(now), outside)
        });
        let mut entries = self.entries();
        if let Some(&key) = entries.keys.get(&uuid) {
            entries.set_outside(key, outside);
            self.reschedule(entries, key, due);
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
        if let Some(old) = std::mem::replace(&mut entry.due, due) {
            self.due.remove(&(old, key));
        }
        if let Some(due) = due {
            self.due.insert((due, key));
        }
    }
}

impl Entries {
    fn set_outside(&mut self, key: u64, outside: bool) {
        let Some(entry) = self.requests.get_mut(&key) else {
            return;
        };
        if std::mem::replace(&mut entry.outside, outside) == outside {
            return;
        }
        let name = entry.resource.name();
        if outside {
            *self.outside.entry(name.to_owned()).or_default() += 1;
        } else if let Some(count) = self.outside.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.outside.remove(name);
            }
        }
    }
}

impl Drop for Enrolment {
    fn drop(&mut self) {
        let mut entries = self.roll.entries();
        if let Some(key) = entries.keys.remove(&self.uuid) {
            entries.schedule(key, None);
            entries.set_outside(key, false);
            entries.requests.remove(&key);
        }
        if entries.closed && entries.requests.is_empty() {
            drop(entries);
            self.roll.changed.notify_one();
        }
    }
}
