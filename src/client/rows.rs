//! The rows of a client's table, and everything that follows from a change of one: when the request is due, which
//! request asks for room next, and which callers are woken. [`Requests`](super::requests::Requests) holds the lock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use uuid::Uuid;

use crate::{
    client::notifier::Notifier,
    event::{Event, Interest},
    request::{Cx, Request},
    servers::Servers,
    time::Time,
};

/// Everything that is behind the lock.
#[derive(Debug)]
pub(super) struct Rows {
    /// What is known of the servers, as of the last time that the table was locked for a change.
    pub(super) servers: Servers,
    /// In order of arrival, which is the order within a batch.
    pub(super) rows: BTreeMap<u64, Box<Row>>,
    pub(super) keys: HashMap<Uuid, u64>,
    pub(super) due: BTreeSet<(Time, u64)>,
    /// The requests that wait for room in the line of a resource. Only the first of them asks, and the others follow
    /// one by one, so they get in in order.
    pub(super) overflow: HashMap<String, BTreeSet<u64>>,
    pub(super) arrivals: u64,
    /// The last moment at which the table was locked for a change. Time does not go back here, although a thread
    /// without a runtime does not see a clock that tests have paused.
    pub(super) now: Time,
    /// When the ticker looked for what is due.
    pub(super) ticked: Time,
    /// Until when the ticker sleeps if nothing is heard; `None` while it is awake.
    pub(super) asleep_until: Option<Time>,
    /// The latest moment at which a healthy ticker looks again: by then a request is due, a call has ended, or the ticker
    /// has been woken.
    pub(super) looks_by: Time,
    pub(super) closed: bool,
    /// Whether requests end as soon as they enter.
    pub(super) shut_down: bool,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) request: Request,
    pub(super) notifier: Arc<Notifier>,
    pub(super) due: Option<Time>,
    pub(super) overflow: bool,
    /// Whether its owner is still there.
    pub(super) owned: bool,
    /// Whether the table was no longer served when its owner dropped it: nobody cleans up.
    pub(super) abandoned: bool,
    /// As last told to the metrics.
    pub(super) bare: bool,
}

/// What is to be done once the table is unlocked.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) interest: Interest,
    pub(super) notifiers: Vec<Arc<Notifier>>,
    pub(super) events: Vec<Event>,
    pub(super) waiters: i32,
    pub(super) bare: i32,
    pub(super) wake_ticker: bool,
    pub(super) cleaned: bool,
}

impl Rows {
    pub(super) fn new(servers: Servers) -> Self {
        Self {
            servers,
            rows: BTreeMap::new(),
            keys: HashMap::new(),
            due: BTreeSet::new(),
            overflow: HashMap::new(),
            arrivals: 0,
            now: Time::ORIGIN,
            ticked: Time::ORIGIN,
            asleep_until: None,
            looks_by: Time::ORIGIN,
            closed: false,
            shut_down: false,
        }
    }

    pub(super) fn cx(&self, now: Time) -> Cx<'_> {
        let servers = &self.servers;
        Cx { now, servers }
    }

    /// Changes a request, and sees to all that follows from that.
    pub(super) fn change<T>(
        &mut self,
        key: u64,
        now: Time,
        change: impl FnOnce(&mut Request, Cx<'_>) -> T,
        effects: &mut Effects,
    ) -> Option<T> {
        let changed = self.change_one(key, now, change, effects)?;
        let mut key = key;
        // If it waited for room and has a place now, it is the turn of the next to ask.
        while let Some(next) = self.follow_up(key, now, effects) {
            self.change_one(next, now, |request, _| request.ask_all(), effects);
            key = next;
        }
        Some(changed)
    }

    fn change_one<T>(
        &mut self,
        key: u64,
        now: Time,
        change: impl FnOnce(&mut Request, Cx<'_>) -> T,
        effects: &mut Effects,
    ) -> Option<T> {
        let servers = &self.servers;
        let row = self.rows.get_mut(&key)?;
        let request = &mut row.request;
        let (was_in_line, before) = (request.is_in_line(), request.outlook());
        let changed = change(request, Cx { now, servers });
        effects.waiters += i32::from(request.is_in_line()) - i32::from(was_in_line);
        let bare = request.is_bare(now);
        effects.bare += i32::from(bare) - i32::from(std::mem::replace(&mut row.bare, bare));
        if let Some(why) = request.ended() {
            row.notifier.note_end(why);
            effects.cleaned |= request.is_clean_enough() || request.is_expired(now);
        }
        let news = request.take_news(effects.interest);
        effects.events.extend(news.events);
        let wakes = news.wake || request.outlook() != before;
        if wakes || news.moved && row.notifier.is_followed() {
            effects.notifiers.push(row.notifier.clone());
        }
        Some(changed)
    }

    /// Notes when a request is due, or strikes it out. Returns whose turn it is to ask for room by that.
    fn follow_up(&mut self, key: u64, now: Time, effects: &mut Effects) -> Option<u64> {
        let row = self.rows.get(&key)?;
        let request = &row.request;
        // One that hears of no quorum must not keep those behind it from asking.
        let overflows = request.waits_for_room() && !request.is_cut_off();
        let settled = request.is_settled();
        let over = row.abandoned || request.is_clean() || request.is_expired(now);
        let over = over && !row.owned;
        let due = request.due(self.cx(now));
        let uuid = request.id().uuid();
        // What it has on a node may be in the way of others, even if it is not its turn to ask for room.
        let binds = request.binds_a_node();
        let mut next = None;
        if overflows {
            self.join_overflow(key);
        } else if settled {
            next = self.leave_overflow(key);
        }
        if over {
            self.schedule(key, None);
            self.rows.remove(&key);
            self.keys.remove(&uuid);
            effects.cleaned = true;
            effects.wake_ticker |= self.closed && self.rows.is_empty();
            return next;
        }
        let turn = !overflows || binds || self.is_first_in_overflow(key);
        let due = due.filter(|_| turn);
        self.schedule(key, due);
        let sooner = |wake_at: Time| due.is_some_and(|due| due < wake_at);
        if self.asleep_until.is_some_and(sooner) {
            self.looks_by = self.looks_by.min(now);
            effects.wake_ticker = true;
        }
        next
    }

    pub(super) fn schedule(&mut self, key: u64, due: Option<Time>) {
        let Some(row) = self.rows.get_mut(&key) else {
            return;
        };
        let old = std::mem::replace(&mut row.due, due);
        if old == due {
            // The usual case: all answers of one round lead to the same due time.
            return;
        }
        if let Some(old) = old {
            self.due.remove(&(old, key));
        }
        if let Some(due) = due {
            self.due.insert((due, key));
        }
    }

    fn join_overflow(&mut self, key: u64) {
        let Some(row) = self.rows.get_mut(&key) else {
            return;
        };
        if !std::mem::replace(&mut row.overflow, true) {
            let name = row.request.resource().name().to_owned();
            self.overflow.entry(name).or_default().insert(key);
        }
    }

    /// No longer waits for room, if it did. Returns whose turn to ask has come by that.
    fn leave_overflow(&mut self, key: u64) -> Option<u64> {
        let row = self.rows.get_mut(&key)?;
        if !std::mem::replace(&mut row.overflow, false) {
            return None;
        }
        let name = row.request.resource().name();
        let waiting = self.overflow.get_mut(name)?;
        let was_first = waiting.first() == Some(&key);
        waiting.remove(&key);
        let Some(first) = waiting.first() else {
            self.overflow.remove(name);
            return None;
        };
        was_first.then_some(*first)
    }

    fn is_first_in_overflow(&self, key: u64) -> bool {
        let waiting = || {
            let name = self.rows.get(&key)?.request.resource().name();
            self.overflow.get(name)
        };
        waiting().is_some_and(|waiting| waiting.first() == Some(&key))
    }
}
