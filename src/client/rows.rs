//! The rows of a client's table, and all that follows from a change of one: when it is due, whose turn it is to ask
//! for room, who is to be told. All of it is in one lock, which [`Requests`](super::requests::Requests) has.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    error::LeaseLost,
    event::{Heard, Tell},
    request::{Cx, Request},
    servers::Servers,
    telemetry,
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
    /// Who waits for room in the line of a resource. Only the first of them asks, and the others follow
    /// one by one, so they get in in order.
    pub(super) outside: HashMap<String, BTreeSet<u64>>,
    pub(super) arrivals: u64,
    /// When the ticker looked for what is due.
    pub(super) ticked: Time,
    /// Until when the ticker sleeps if nothing is heard; `None` while it is awake.
    pub(super) asleep_until: Option<Time>,
    /// By when it is to look again, as something is due, or was answered or rung for by then.
    pub(super) looks_by: Time,
    pub(super) closed: bool,
    /// Whether requests end as they come.
    pub(super) shut_down: bool,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) request: Request,
    pub(super) bell: Arc<Bell>,
    pub(super) due: Option<Time>,
    pub(super) outside: bool,
    /// Whether its handle is still there.
    pub(super) owned: bool,
    /// Whether nobody is there to clean up.
    pub(super) abandoned: bool,
    /// As last told to the metrics.
    pub(super) bare: bool,
}

/// What whoever waits for a request listens to.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// Rings when the request is worth a look.
    pub(crate) wake: Notify,
    /// Whether somebody follows how many are ahead.
    pub(super) followed: AtomicBool,
    /// Why the lease ended: stays when the request is gone from the table.
    lost: OnceLock<LeaseLost>,
}

impl Bell {
    /// Wakes whoever listens. Their wakers are a user's code, which may panic.
    pub(super) fn ring(&self) {
        telemetry::guarded(|| self.wake.notify_waiters());
    }

    /// Why the lease ended, if it did.
    pub(crate) fn lost(&self) -> Option<LeaseLost> {
        self.lost.get().copied()
    }
}

/// What is to be done once the table is unlocked.
#[derive(Debug, Default)]
pub(super) struct After {
    pub(super) heard: Heard,
    pub(super) bells: Vec<Arc<Bell>>,
    pub(super) tells: Vec<Tell>,
    pub(super) waiters: i32,
    pub(super) bare: i32,
    pub(super) ring: bool,
    pub(super) cleaned: bool,
}

impl Rows {
    pub(super) fn new(servers: Servers) -> Self {
        Self {
            servers,
            rows: BTreeMap::new(),
            keys: HashMap::new(),
            due: BTreeSet::new(),
            outside: HashMap::new(),
            arrivals: 0,
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
        after: &mut After,
    ) -> Option<T> {
        let changed = self.change_one(key, now, change, after)?;
        let mut key = key;
        // If it waited for room and has a place now, it is the turn of the next to ask.
        while let Some(next) = self.follow_up(key, now, after) {
            self.change_one(next, now, |request, _| request.ask_all(), after);
            key = next;
        }
        Some(changed)
    }

    fn change_one<T>(
        &mut self,
        key: u64,
        now: Time,
        change: impl FnOnce(&mut Request, Cx<'_>) -> T,
        after: &mut After,
    ) -> Option<T> {
        let servers = &self.servers;
        let row = self.rows.get_mut(&key)?;
        let request = &mut row.request;
        let (was_in_line, before) = (request.is_in_line(), request.outlook());
        let changed = change(request, Cx { now, servers });
        after.waiters += i32::from(request.is_in_line()) - i32::from(was_in_line);
        let bare = request.is_bare(now);
        after.bare += i32::from(bare) - i32::from(std::mem::replace(&mut row.bare, bare));
        if let Some(why) = request.ended() {
            let _ = row.bell.lost.set(why);
            after.cleaned |= request.is_clean_enough() || request.is_expired(now);
        }
        let news = request.take_news(after.heard);
        after.tells.extend(news.tells);
        let wakes = news.wake || request.outlook() != before;
        if wakes || news.moved && row.bell.followed.load(Ordering::Relaxed) {
            after.bells.push(row.bell.clone());
        }
        Some(changed)
    }

    /// Notes when a request is due, or strikes it out. Returns whose turn it is to ask for room by that.
    fn follow_up(&mut self, key: u64, now: Time, after: &mut After) -> Option<u64> {
        let row = self.rows.get(&key)?;
        let request = &row.request;
        // One that hears of no quorum must not keep those behind it from asking.
        let outside = request.waits_for_room() && !request.is_cut_off();
        let settled = request.is_settled();
        let over = row.abandoned || request.is_clean() || request.is_expired(now);
        let over = over && !row.owned;
        let due = request.due(self.cx(now));
        let uuid = request.id().uuid();
        let mut next = None;
        if outside {
            self.stand_outside(key);
        } else if settled {
            next = self.come_in(key);
        }
        if over {
            self.schedule(key, None);
            self.rows.remove(&key);
            self.keys.remove(&uuid);
            after.cleaned = true;
            after.ring |= self.closed && self.rows.is_empty();
            return next;
        }
        let turn = !outside || self.is_first_outside(key);
        let due = due.filter(|_| turn);
        self.schedule(key, due);
        let sooner = |wake_at: Time| due.is_some_and(|due| due < wake_at);
        if self.asleep_until.is_some_and(sooner) {
            self.looks_by = self.looks_by.min(now);
            after.ring = true;
        }
        next
    }

    pub(super) fn schedule(&mut self, key: u64, due: Option<Time>) {
        let Some(row) = self.rows.get_mut(&key) else {
            return;
        };
        let old = std::mem::replace(&mut row.due, due);
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

    fn stand_outside(&mut self, key: u64) {
        let Some(row) = self.rows.get_mut(&key) else {
            return;
        };
        if !std::mem::replace(&mut row.outside, true) {
            let name = row.request.resource().name().to_owned();
            self.outside.entry(name).or_default().insert(key);
        }
    }

    /// No longer waits for room, if it did. Returns whose turn to ask has come by that.
    fn come_in(&mut self, key: u64) -> Option<u64> {
        let row = self.rows.get_mut(&key)?;
        if !std::mem::replace(&mut row.outside, false) {
            return None;
        }
        let name = row.request.resource().name();
        let crowd = self.outside.get_mut(name)?;
        let was_first = crowd.first() == Some(&key);
        crowd.remove(&key);
        let Some(first) = crowd.first() else {
            self.outside.remove(name);
            return None;
        };
        was_first.then_some(*first)
    }

    fn is_first_outside(&self, key: u64) -> bool {
        let crowd = || {
            let name = self.rows.get(&key)?.request.resource().name();
            self.outside.get(name)
        };
        crowd().is_some_and(|crowd| crowd.first() == Some(&key))
    }
}
