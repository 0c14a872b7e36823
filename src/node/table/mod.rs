//! What a memory node stores, and the scripts' semantics over it.
//!
//! Each method does what the script of its name does, step by step. The differential test feeds both the same
//! operations, so a change of one needs the same change of the other.

mod ids;
mod slot;

use std::{collections::HashMap, sync::Arc};

use crate::message::{
    Command, Enqueue, Extend, Extended, Incarnation, Release, Released, Reply, Report, Standing,
    Terms, millis_up,
};
use slot::Slot;

/// Everything on one node, by lock key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    slots: HashMap<String, Slot>,
}

/// What each call carries besides its commands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Header {
    /// The node's clock, in microseconds.
    pub(crate) micros: u64,
    /// As in [`Terms`], as are the next two.
    pub(crate) seed: u64,
    pub(crate) extra: u64,
    pub(crate) floor: u64,
    /// In milliseconds, as are the next.
    pub(crate) keep: u64,
    pub(crate) unheard: u64,
    pub(crate) waiter_ttl: u64,
}

impl Header {
    /// The header of a call on these terms over this connection, at `micros` of the node's clock.
    pub(crate) fn of(micros: u64, terms: &Terms, incarnation: &Incarnation) -> Self {
        Self {
            micros,
            seed: terms.seed,
            extra: terms.extra,
            floor: terms.floor(incarnation),
            keep: millis_up(terms.keep),
            unheard: millis_up(terms.unheard),
            waiter_ttl: millis_up(terms.waiter_ttl),
        }
    }

    fn now(&self) -> u64 {
        self.micros / 1000
    }

    /// The clock by which counters are kept.
    fn seed(&self) -> u64 {
        if self.seed == 0 {
            self.micros
        } else {
            self.seed
        }
    }
}

/// Sends a push, and tells whether anybody heard; `None` if that is unknown.
pub(crate) type Publish<'a> = &'a mut dyn FnMut(&Push) -> Option<bool>;

/// What a waiter is told of a handoff; with zeros that it should look.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) channel: String,
    pub(crate) id: Arc<str>,
    pub(crate) waiter_end: u64,
    pub(crate) seq: u64,
}

impl Table {
    pub(crate) fn carry_out(
        &mut self,
        header: Header,
        command: &Command,
        publish: Publish<'_>,
    ) -> Reply {
        match command {
            Command::Enqueue(ask) => Reply::Standing(self.enqueue(header, ask, publish)),
            Command::Extend(ask) => Reply::Extended(self.extend(header, ask, publish)),
            Command::Release(ask) => Reply::Released(self.release(header, ask, publish)),
        }
    }

    pub(crate) fn enqueue(
        &mut self,
        header: Header,
        ask: &Enqueue,
        publish: Publish<'_>,
    ) -> Standing {
        self.with(ask.resource.lock_key(), header, |slot| {
            slot.enqueue(header, ask, publish)
        })
    }

    pub(crate) fn extend(
        &mut self,
        header: Header,
        ask: &Extend,
        publish: Publish<'_>,
    ) -> Extended {
        self.with(ask.resource.lock_key(), header, |slot| {
            slot.extend(header, ask, publish)
        })
    }

    pub(crate) fn release(
        &mut self,
        header: Header,
        ask: &Release,
        publish: Publish<'_>,
    ) -> Released {
        self.with(ask.resource.lock_key(), header, |slot| {
            slot.release(header, &ask.id, publish)
        })
    }

    pub(crate) fn inspect(&mut self, header: Header, lock: &str) -> Report {
        self.with(lock, header, |slot| slot.report(header.now()))
    }

    /// The bare command `SET key value NX PX ttl` of other Redlock clients; true if it was set.
    pub(crate) fn set_nx(&mut self, header: Header, lock: &str, value: &str, ttl: u64) -> bool {
        self.with(lock, header, |slot| {
            let free = slot.lock.is_none();
            if free {
                slot.lock = Some((value.into(), Some(header.now().saturating_add(ttl))));
            }
            free
        })
    }

    /// The bare `DEL key` of a person or of another client.
    pub(crate) fn delete(&mut self, lock: &str) {
        if let Some(slot) = self.slots.get_mut(lock) {
            slot.lock = None;
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
    }

    /// The resources that are locked or waited for, without their counters: what must be gone when nobody uses them any
    /// more.
    pub(crate) fn residue(&mut self, micros: u64) -> Vec<String> {
        self.slots.retain(|_, slot| !slot.expire(micros / 1000));
        let used = |slot: &Slot| slot.lock.is_some() || !slot.queue.is_empty();
        let mut keys: Vec<String> = self
            .slots
            .iter()
            .filter(|(_, slot)| used(slot))
            .map(|(key, _)| key.clone())
            .collect();
        keys.sort();
        keys
    }

    fn with<T>(&mut self, lock: &str, header: Header, act: impl FnOnce(&mut Slot) -> T) -> T {
        let slot = self.slots.entry(lock.to_owned()).or_default();
        slot.expire(header.now());
        let answer = act(slot);
        if slot.is_empty() {
            self.slots.remove(lock);
        }
        answer
    }
}
