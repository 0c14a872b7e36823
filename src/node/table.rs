//! What a memory node stores, and the scripts' semantics over it.
//!
//! Each method does what the script of its name does, step by step; the differential test feeds both the
//! same operations. A change here is a change there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::holder::{HolderId, Parts};
use crate::message::{
    Command, Enqueue, Extend, Extended, Incarnation, MAX_REPORTED, Release, Released, Reply,
    Report, Standing, Terms, Waiting, millis_up,
};

/// How many older generations a newer one takes the place of.
const OLDER: u32 = 8;

/// The longest that a vote from the queue lasts, in milliseconds.
const LONGEST_VOTE: u64 = 3_600_000;

/// How many waiters are looked at in one call: dropped, skipped at the head of the line, or of a dead process.
const DEAD_AT_ONCE: usize = 1000;

/// How many processes are told to look, at most, when nobody hears of a vote.
const LOOKERS: usize = 16;

/// Everything on one node, by lock key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    slots: HashMap<String, Slot>,
}

/// What each call carries besides its requests.
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

/// A message to a waiter. Answers whether anybody heard; `None` if that is unknown.
pub(crate) type Publish<'a> = &'a mut dyn FnMut(&Told) -> Option<bool>;

/// The message of a handoff; with zeros it tells a waiter to look.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) channel: String,
    pub(crate) id: Arc<str>,
    pub(crate) waiter_end: u64,
    pub(crate) seq: u64,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    /// Holder id and when it expires; `None` for a key without expiry.
    lock: Option<(Arc<str>, Option<u64>)>,
    queue: BTreeSet<(u64, Arc<str>)>,
    waiters: BTreeMap<Arc<str>, Place>,
    waiter_ends: BTreeSet<(u64, Arc<str>)>,
    /// When queue and waiters expire as keys.
    line_ends: u64,
    seq: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    waiter_end: u64,
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

    /// The locks that stand or are waited for, with their counters left out: what must be gone when
    /// nobody uses them any more.
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

impl Slot {
    fn enqueue(&mut self, header: Header, ask: &Enqueue, publish: Publish<'_>) -> Standing {
        let id = ask.id.text();
        let (ttl, own) = (
            millis_up(ask.ttl),
            millis_up(ask.ttl).min(header.waiter_ttl),
        );
        self.drop_dead(header.now());
        let mine = self.waiters.get(id).map(|place| place.number);
        if !self.holds(id) && mine.is_none() {
            if self.newer_is_here(&ask.id, ask.number) {
                return Standing::Superseded;
            }
            if self
                .lock
                .as_ref()
                .is_some_and(|(held, _)| same_request(held, &ask.id))
            {
                self.lock = None;
            }
            for old in older(&ask.id) {
                self.forget(&old);
            }
        }
        if self.holds(id) {
            let left = self.prolong(header.now(), own);
            let outranked = match (ask.number, self.queue.first()) {
                (Some(number), Some((first, head))) => (first, head) < (&number, id),
                _ => false,
            };
            let seq = self.count(header, Some(ask.number.unwrap_or(0)), false);
            return Standing::Granted {
                seq,
                left: millis(left),
                outranked,
            };
        }
        let number = match ask.number.or(mine) {
            Some(number) => {
                self.count(header, Some(number), false);
                number
            }
            None => {
                self.settle(header, None, publish);
                // Behind more dead waiters than one call drops there may be a live one (F4).
                if self.lock.is_none() && self.queue.is_empty() {
                    self.lock = Some((id.clone(), Some(header.now() + ttl)));
                    let seq = self.count(header, None, false);
                    return Standing::Granted {
                        seq,
                        left: millis(ttl),
                        outranked: false,
                    };
                }
                let waiting = self.queue.len() as u64;
                if ask.room.is_some_and(|room| waiting >= room) {
                    return Standing::Full {
                        waiting,
                        holder_left: self.holder_left(header.now()),
                    };
                }
                self.count(header, None, false)
            }
        };
        self.record(header.now(), id, number, header.waiter_ttl);
        self.settle(header, Some((id, own)), publish);
        if self.holds(id) {
            let seq = self.count(header, Some(0), false);
            return Standing::Granted {
                seq,
                left: millis(own),
                outranked: false,
            };
        }
        Standing::Waiting {
            number,
            ahead: self
                .queue
                .iter()
                .take_while(|(_, waiter)| waiter != id)
                .count() as u64,
            waiter_end: header.now() + header.waiter_ttl,
            holder_left: self.holder_left(header.now()),
        }
    }

    fn extend(&mut self, header: Header, ask: &Extend, publish: Publish<'_>) -> Extended {
        let id = ask.id.text();
        let ttl = millis_up(ask.ttl);
        if self.holds(id) {
            self.prolong(header.now(), ttl);
            return Extended::Stands {
                seq: self.count(header, Some(ask.token), ttl > 0),
            };
        }
        self.drop_dead(header.now());
        if !ask.repair {
            self.settle(header, None, publish);
            return Extended::Gone;
        }
        let held = self.lock.as_ref().map(|(held, _)| held.clone());
        if let Some(other) = held.filter(|held| !same_request(held, &ask.id)) {
            self.record(header.now(), id, 0, ttl);
            tell(&other, 0, 0, publish);
            return Extended::InLine;
        }
        self.forget(id);
        self.lock = Some((id.clone(), Some(header.now() + ttl)));
        Extended::Stands {
            seq: self.count(header, Some(ask.token), false),
        }
    }

    fn release(&mut self, header: Header, id: &HolderId, publish: Publish<'_>) -> Released {
        let mut had = Released::Nothing;
        let ours = |held: &str| {
            Parts::of(held)
                .is_some_and(|held| held.uuid == id.uuid() && held.generation <= id.generation())
        };
        if self.lock.as_ref().is_some_and(|(held, _)| ours(held)) {
            self.lock = None;
            had = Released::Vote;
        }
        for old in older(id).chain([id.text().clone()]) {
            if self.forget(&old) && had == Released::Nothing {
                had = Released::Ticket;
            }
        }
        self.drop_dead(header.now());
        self.settle(header, None, publish);
        had
    }

    fn report(&self, now: u64) -> Report {
        let line = self
            .queue
            .iter()
            .take(MAX_REPORTED)
            .map(|(number, id)| Waiting {
                id: id.to_string(),
                number: *number,
                waiter_end: self.waiters.get(id).map_or(0, |place| place.waiter_end),
            });
        Report {
            clock: now,
            holder: self
                .lock
                .as_ref()
                .map(|(id, _)| (id.to_string(), self.holder_left(now))),
            seq: self.seq.map(|(seq, _)| seq),
            waiting: self.queue.len() as u64,
            line: line.collect(),
        }
    }

    /// Gives a free vote to the head of the queue. To `caller` it goes for the given time, and the
    /// answer tells it.
    fn settle(&mut self, header: Header, caller: Option<(&Arc<str>, u64)>, publish: Publish<'_>) {
        if self.lock.is_some() {
            return;
        }
        for _ in 0..DEAD_AT_ONCE {
            let Some((_, head)) = self.queue.first().cloned() else {
                return;
            };
            let waiter_end = self.waiters.get(&head).map_or(0, |place| place.waiter_end);
            self.forget(&head);
            if waiter_end <= header.now() {
                continue;
            }
            let seq = self.count(header, None, false);
            if let Some((_, own)) = caller.filter(|(id, _)| **id == head) {
                self.lock = Some((head, Some(header.now() + own)));
                return;
            }
            let mut ends = waiter_end.min(header.now() + LONGEST_VOTE);
            if tell(&head, waiter_end, seq, publish) == Some(false) {
                ends = ends.min(header.now() + header.unheard);
                self.cut_short(header.now() + header.unheard, &head, publish);
            }
            self.lock = Some((head, Some(ends)));
            return;
        }
    }

    /// Nobody heard of the vote of `head`, which lasts until `ends`: what else its process has in line ends with
    /// it (F3). The first of another process that hears is told to look then.
    fn cut_short(&mut self, ends: u64, head: &str, publish: Publish<'_>) {
        let gone = channel(head);
        let (mut deaf, mut looking) = (Vec::new(), true);
        let line = self.queue.iter().take(DEAD_AT_ONCE);
        for (_, id) in line {
            let on = channel(id);
            if on != gone {
                if looking && on.is_some() && !deaf.contains(&on) {
                    looking = tell(id, 0, 0, publish) == Some(false);
                    deaf.push(on);
                    looking &= deaf.len() < LOOKERS;
                }
                continue;
            }
            if let Some(place) = self.waiters.get_mut(id).filter(|it| it.waiter_end > ends) {
                self.waiter_ends.remove(&(place.waiter_end, id.clone()));
                self.waiter_ends.insert((ends, id.clone()));
                place.waiter_end = ends;
            }
        }
    }

    /// Raises the counter to `least`, or by one if that is `None`; `rearm` says that it is still in use.
    fn count(&mut self, header: Header, least: Option<u64>, rearm: bool) -> u64 {
        let start = header.seed() + header.extra;
        let known = self.seq.map(|(seq, _)| seq);
        let next = known.map(|seq| if least.is_none() { seq + 1 } else { seq });
        let trusted = next.filter(|next| *next >= header.floor);
        let value = trusted.unwrap_or_else(|| start.max(next.unwrap_or(0)));
        let value = value.max(least.unwrap_or(0));
        if rearm || known != Some(value) {
            let ahead = value.saturating_sub(header.seed()).div_ceil(1000);
            self.seq = Some((value, header.now() + header.keep + ahead));
        }
        value
    }

    fn newer_is_here(&self, id: &HolderId, number: Option<u64>) -> bool {
        let newer = |other: &str| {
            Parts::of(other)
                .is_some_and(|other| other.uuid == id.uuid() && other.generation > id.generation())
        };
        if let Some((held, _)) = self
            .lock
            .as_ref()
            .filter(|(held, _)| same_request(held, id))
        {
            return newer(held);
        }
        let Some(number) = number else {
            return later(id).any(|id| self.waiters.contains_key(&id));
        };
        let same = (number, Arc::from(""))..(number + 1, Arc::from(""));
        self.queue.range(same).any(|(_, other)| newer(other))
    }

    fn record(&mut self, now: u64, id: &Arc<str>, number: u64, waiter_ttl: u64) {
        let (ends, waiter_end) = (self.line_ends, now + waiter_ttl);
        self.forget(id);
        self.queue.insert((number, id.clone()));
        self.waiter_ends.insert((waiter_end, id.clone()));
        self.waiters
            .insert(id.clone(), Place { number, waiter_end });
        self.line_ends = ends.max(waiter_end);
    }

    fn forget(&mut self, id: &Arc<str>) -> bool {
        let Some(place) = self.waiters.remove(id) else {
            return false;
        };
        self.queue.remove(&(place.number, id.clone()));
        self.waiter_ends.remove(&(place.waiter_end, id.clone()));
        if self.queue.is_empty() {
            self.line_ends = 0;
        }
        true
    }

    fn drop_dead(&mut self, now: u64) {
        for _ in 0..DEAD_AT_ONCE {
            let dead = self.waiter_ends.first().filter(|(end, _)| *end <= now);
            let Some((_, id)) = dead.cloned() else {
                return;
            };
            self.forget(&id);
        }
    }

    fn prolong(&mut self, now: u64, span: u64) -> u64 {
        let Some((_, Some(ends))) = &mut self.lock else {
            return span;
        };
        *ends = (*ends).max(now + span);
        *ends - now
    }

    fn holds(&self, id: &str) -> bool {
        self.lock.as_ref().is_some_and(|(held, _)| **held == *id)
    }

    fn holder_left(&self, now: u64) -> Option<Duration> {
        let Some((_, ends)) = &self.lock else {
            return Some(Duration::ZERO);
        };
        ends.map(|ends| millis(ends.saturating_sub(now)))
    }

    /// Drops what has expired as a key; true if nothing is left.
    fn expire(&mut self, now: u64) -> bool {
        if self
            .lock
            .as_ref()
            .is_some_and(|(_, ends)| ends.is_some_and(|ends| ends <= now))
        {
            self.lock = None;
        }
        if self.seq.is_some_and(|(_, ends)| ends <= now) {
            self.seq = None;
        }
        if self.line_ends <= now || self.queue.is_empty() {
            self.queue.clear();
            self.waiters.clear();
            self.waiter_ends.clear();
            self.line_ends = 0;
        }
        self.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.lock.is_none() && self.queue.is_empty() && self.seq.is_none()
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Tells a waiter of its vote, or with zeros that it should look. Answers whether it heard; `None` if that is
/// unknown, or if it polls.
fn tell(id: &Arc<str>, waiter_end: u64, seq: u64, publish: Publish<'_>) -> Option<bool> {
    publish(&Told {
        channel: channel(id)?,
        id: id.clone(),
        waiter_end,
        seq,
    })
}

/// Where the process of a waiter listens; `None` if it polls.
fn channel(id: &str) -> Option<String> {
    Parts::of(id)?.channel()
}

/// Whether a stored value belongs to the request of `id`, in whatever generation.
fn same_request(stored: &str, id: &HolderId) -> bool {
    Parts::of(stored).is_some_and(|stored| stored.uuid == id.uuid())
}

/// The ids under which the same request may stand from before it gave a vote back.
fn older(id: &HolderId) -> impl Iterator<Item = Arc<str>> {
    let first = id.generation().saturating_sub(OLDER);
    (first..id.generation()).map(|generation| id.at(generation))
}

/// The same from after that, where a call comes late.
fn later(id: &HolderId) -> impl Iterator<Item = Arc<str>> {
    (1..=OLDER).map(|more| id.at(id.generation().saturating_add(more)))
}
