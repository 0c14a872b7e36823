//! One resource on a memory node: what the scripts do with its four keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    Header, Publish,
    ids::{channel, later, older, same_request, tell},
};
use crate::{
    holder::{HolderId, Parts},
    message::{
        Enqueue, Extend, Extended, MAX_REPORTED, Released, Report, Standing, Waiting, millis_up,
    },
};

/// The longest that a vote from the queue lasts, in milliseconds.
const LONGEST_VOTE: u64 = 3_600_000;

/// How many waiters are looked at in one call: dropped, skipped at the head of the line, or of a dead process.
const DEAD_AT_ONCE: usize = 1000;

/// How many processes are told to look, at most, when nobody hears of a vote.
const LOOKERS: usize = 16;

#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    /// Holder id and when it expires; `None` for a key without expiry.
    pub(super) lock: Option<(Arc<str>, Option<u64>)>,
    pub(super) queue: BTreeSet<(u64, Arc<str>)>,
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

impl Slot {
    pub(super) fn enqueue(
        &mut self,
        header: Header,
        ask: &Enqueue,
        publish: Publish<'_>,
    ) -> Standing {
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

    pub(super) fn extend(
        &mut self,
        header: Header,
        ask: &Extend,
        publish: Publish<'_>,
    ) -> Extended {
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

    pub(super) fn release(
        &mut self,
        header: Header,
        id: &HolderId,
        publish: Publish<'_>,
    ) -> Released {
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

    pub(super) fn report(&self, now: u64) -> Report {
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

    /// Gives a free vote to the head of the queue. If that is `caller`, the vote lasts for the given time, and the answer
    /// tells of it.
    pub(super) fn settle(
        &mut self,
        header: Header,
        caller: Option<(&Arc<str>, u64)>,
        publish: Publish<'_>,
    ) {
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

    /// Nobody heard of the vote of `head`, which lasts until `ends`: everything else that its process has in line ends
    /// then, too (F3). The first waiter of another process that hears is told to look then.
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
    pub(super) fn expire(&mut self, now: u64) -> bool {
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

    pub(super) fn is_empty(&self) -> bool {
        self.lock.is_none() && self.queue.is_empty() && self.seq.is_none()
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
