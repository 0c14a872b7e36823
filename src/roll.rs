//! The roll: all requests of a client, and when each is due.
//!
//! One table under one lock. A request is changed by [`Roll::update`] alone, which notes in the same step when
//! it is due next, so there is nothing to forget; what it wants to be told of (whoever waits for it, the log,
//! the metrics) is told when the lock is released. A request enrols before its first round. It stays here
//! until its handle is gone and nothing of it is left on any node, so who shuts down waits for the table.
//!
//! A lock that is had at once costs an entry here and no message: the ticker is rung only if something is due
//! earlier than it would wake by itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    claim::{Claim, Cx, End, Question, Urgency},
    clock::Clock,
    error::{ClientStopped, LeaseLost},
    event::{Heard, Tell},
    nodes::Nodes,
    servers::Servers,
    telemetry,
    time::Time,
};

/// How many requests are looked at before others get a turn at the table.
const AT_ONCE: usize = 128;

/// The least time before a request is looked at again.
const AGAIN: Duration = Duration::from_millis(1);

/// All requests of a client.
#[derive(Debug)]
pub(crate) struct Roll {
    nodes: Arc<Nodes>,
    entries: Mutex<Entries>,
    /// Rings when something is due earlier than the ticker knows, or the roll is closed.
    changed: Notify,
    /// Rings when a request that has ended is cleaned up, or as good as.
    cleaned: Notify,
    /// Why nobody serves the roll any more.
    stopped: OnceLock<ClientStopped>,
}

#[derive(Debug)]
struct Entries {
    /// What is known of the servers, as of the last time that the table was locked for a change.
    servers: Servers,
    /// In order of arrival, which is the order within a batch.
    requests: BTreeMap<u64, Box<Entry>>,
    keys: HashMap<Uuid, u64>,
    due: BTreeSet<(Time, u64)>,
    /// Who waits for room in the line of a resource. Only the first of them asks, and the others follow
    /// one by one, so they get in in order.
    outside: HashMap<String, BTreeSet<u64>>,
    arrivals: u64,
    /// Until when the ticker sleeps; `None` while it is awake or has nothing to wait for.
    asleep_until: Option<Time>,
    closed: bool,
    /// Whether requests end as they come.
    shut_down: bool,
}

#[derive(Debug)]
struct Entry {
    claim: Claim,
    bell: Arc<Bell>,
    due: Option<Time>,
    outside: bool,
    /// Whether its handle is still there.
    owned: bool,
    /// Whether nobody is there to clean up.
    abandoned: bool,
    /// As last told to the metrics.
    bare: bool,
}

/// What whoever waits for a request listens to.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// Rings when the request is worth a look.
    pub(crate) wake: Notify,
    /// Whether somebody follows how many are ahead.
    followed: AtomicBool,
    /// Why the lease ended: stays when the request is gone from the roll.
    lost: OnceLock<LeaseLost>,
}

impl Bell {
    /// Wakes whoever listens. Their wakers are a user's code, which may panic.
    fn ring(&self) {
        telemetry::guarded(|| self.wake.notify_waiters());
    }

    /// Why the lease ended, if it did.
    pub(crate) fn lost(&self) -> Option<LeaseLost> {
        self.lost.get().copied()
    }
}

/// What is to be done once the table is unlocked.
#[derive(Debug, Default)]
struct After {
    heard: Heard,
    bells: Vec<Arc<Bell>>,
    tells: Vec<Tell>,
    waiters: i32,
    bare: i32,
    ring: bool,
    cleaned: bool,
}

/// A handle on a request, its only owner. Its drop ends the request, and what it has on the nodes is taken back.
#[derive(Debug)]
pub(crate) struct Enrolment {
    roll: Arc<Roll>,
    key: u64,
    bell: Arc<Bell>,
}

impl Enrolment {
    /// Changes the request; nothing comes of it if that is gone, which it is not before its handle.
    pub(crate) fn update<T: Default>(&self, change: impl FnOnce(&mut Claim, Cx<'_>) -> T) -> T {
        self.roll.update(self.key, change).unwrap_or_default()
    }

    /// Looks at the request.
    pub(crate) fn look<T: Default>(&self, look: impl FnOnce(&Claim, Cx<'_>) -> T) -> T {
        self.roll.look(self.key, look).unwrap_or_default()
    }

    /// What whoever waits for it listens to.
    pub(crate) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Listens to how many are ahead, too.
    pub(crate) fn follow(&self) {
        self.bell.followed.store(true, Ordering::Relaxed);
    }

    /// What is to be seen of it without owning it.
    pub(crate) fn view(&self) -> View {
        View {
            roll: Arc::downgrade(&self.roll),
            clock: self.roll.nodes.clock,
            key: self.key,
            bell: self.bell.clone(),
        }
    }
}

impl Drop for Enrolment {
    fn drop(&mut self) {
        self.roll.disown(self.key);
    }
}

/// Sees a request without owning it, or keeping anything of its client.
#[derive(Clone, Debug)]
pub(crate) struct View {
    roll: Weak<Roll>,
    clock: Clock,
    key: u64,
    pub(crate) bell: Arc<Bell>,
}

impl View {
    /// Why the lease ended, as soon as it has: by the timer of whoever polls, whatever becomes of the ticker (S3).
    pub(crate) async fn lost(self) -> LeaseLost {
        loop {
            let mut rung = pin!(self.bell.wake.notified());
            rung.as_mut().enable();
            let look =
                |claim: &mut Claim, cx: Cx<'_>| (claim.check(cx.now), claim.valid_until(cx.now));
            let until = match self.update(look) {
                None => return self.bell.lost().unwrap_or(LeaseLost::Released),
                Some((Some(why), _)) => return why,
                Some((None, until)) => until,
            };
            tokio::select! {
                biased;
                () = rung => {}
                () = self.clock.sleep_until(until) => {}
            }
        }
    }

    /// Changes the request, if it is still there.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Claim, Cx<'_>) -> T) -> Option<T> {
        self.roll.upgrade()?.update(self.key, change)
    }

    /// Whether nobody serves the request any more.
    pub(crate) fn is_stopped(&self) -> bool {
        let roll = self.roll.upgrade();
        roll.is_none_or(|roll| roll.stopped().is_some())
    }
}

impl Roll {
    pub(crate) fn new(nodes: Arc<Nodes>) -> Self {
        Self {
            entries: Mutex::new(Entries::new(nodes.servers())),
            nodes,
            changed: Notify::new(),
            cleaned: Notify::new(),
            stopped: OnceLock::new(),
        }
    }

    pub(crate) fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    /// Enrols a request. It stands outside if others of this client wait for room in that line: whoever comes now
    /// must not get in before them.
    pub(crate) fn enrol(self: &Arc<Self>, claim: Claim) -> Enrolment {
        let bell: Arc<Bell> = Arc::default();
        let (mut entries, now, mut after) = self.changing();
        let crowded = entries.outside.contains_key(claim.resource().name());
        let shut_down = entries.shut_down;
        entries.arrivals += 1;
        let key = entries.arrivals;
        entries.keys.insert(claim.id().uuid(), key);
        let entry = Entry {
            claim,
            bell: bell.clone(),
            due: None,
            outside: false,
            owned: true,
            abandoned: false,
            bare: false,
        };
        entries.requests.insert(key, Box::new(entry));
        let start = |claim: &mut Claim, cx: Cx<'_>| {
            if shut_down {
                claim.shut_down(cx.now);
            } else if crowded {
                claim.find_no_room(cx.now);
            }
        };
        entries.change(key, now, start, &mut after);
        drop(entries);
        self.carry_out(after);
        Enrolment {
            roll: self.clone(),
            key,
            bell,
        }
    }

    /// Changes a request, and notes when it is due by that. `None` if it is gone.
    pub(crate) fn update<T>(
        &self,
        key: u64,
        change: impl FnOnce(&mut Claim, Cx<'_>) -> T,
    ) -> Option<T> {
        let (mut entries, now, mut after) = self.changing();
        let changed = entries.change(key, now, change, &mut after);
        drop(entries);
        self.carry_out(after);
        changed
    }

    /// Looks at a request without changing it.
    pub(crate) fn look<T>(&self, key: u64, look: impl FnOnce(&Claim, Cx<'_>) -> T) -> Option<T> {
        let (entries, now, _) = self.changing();
        let entry = entries.requests.get(&key)?;
        Some(look(&entry.claim, entries.cx(now)))
    }

    fn disown(&self, key: u64) {
        let (mut entries, now, mut after) = self.changing();
        // Without a ticker nothing is taken back any more; everything runs out by itself.
        let served = self.stopped().is_none();
        if let Some(entry) = entries.requests.get_mut(&key) {
            entry.owned = false;
            entry.abandoned = !served;
        }
        entries.change(
            key,
            now,
            |claim, cx| claim.end(End::Over, cx.now),
            &mut after,
        );
        drop(entries);
        self.carry_out(after);
    }

    /// Nobody enrols any more; the ticker ends when nobody is left.
    pub(crate) fn close(&self) {
        self.entries().closed = true;
        self.changed.notify_one();
    }

    /// Nobody serves the roll any more. Whoever waits is told.
    pub(crate) fn stop(&self, cause: ClientStopped) {
        if self.stopped.set(cause).is_err() {
            return;
        }
        let entries = self.entries();
        let bells: Vec<_> = entries
            .requests
            .values()
            .map(|entry| entry.bell.clone())
            .collect();
        let needed = !(entries.closed && entries.requests.is_empty());
        drop(entries);
        bells.iter().for_each(|bell| bell.ring());
        telemetry::guarded(|| self.cleaned.notify_waiters());
        if needed {
            telemetry::stopped(cause);
        }
    }

    /// Why nobody serves the roll any more, if that is so.
    pub(crate) fn stopped(&self) -> Option<ClientStopped> {
        self.stopped.get().copied()
    }

    /// Ends whatever still waits, and whatever comes from now on; guards stay as they are.
    pub(crate) fn shut_down(&self) {
        self.entries().shut_down = true;
        self.each(self.all(), |claim, cx, ()| {
            claim.shut_down(cx.now);
            claim.release_anew();
        });
    }

    /// Waits until everything that has ended is cleaned up, or is left on nodes only that fail again and again.
    pub(crate) async fn idle(&self) {
        loop {
            let mut rung = pin!(self.cleaned.notified());
            rung.as_mut().enable();
            let now = self.nodes.clock.now();
            let clean =
                |entry: &Entry| entry.claim.is_clean_enough() || entry.claim.is_expired(now);
            let idle = self.entries().requests.values().all(|entry| clean(entry));
            if idle || self.stopped().is_some() {
                return;
            }
            rung.await;
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

    /// Some of the requests that are due, with the nodes that are to be asked, in order of arrival where they are
    /// due at once; nothing when none is left.
    pub(crate) fn take_due(&self) -> Vec<(u64, Vec<(usize, Urgency)>)> {
        let (mut entries, now, mut after) = self.changing();
        entries.asleep_until = None;
        let mut taken = Vec::new();
        while taken.len() < AT_ONCE {
            let first = entries.due.first().copied();
            let Some((_, key)) = first.filter(|(due, _)| *due <= now) else {
                break;
            };
            let due = entries.change(key, now, Claim::take_due, &mut after);
            taken.push((key, due.unwrap_or_default()));
            // What is due without anything to ask would be due again at once.
            if entries.due.first().copied() == first {
                entries.schedule(key, Some(now.plus(AGAIN)));
            }
        }
        drop(entries);
        self.carry_out(after);
        taken
    }

    /// The questions of `keys` to the node `place`, whose turn has come.
    pub(crate) fn ask(&self, keys: &[u64], place: usize) -> Vec<(u64, Question)> {
        let items = keys.iter().map(|key| (*key, ()));
        let questions = self.each(items, |claim, cx, ()| claim.ask(place, cx));
        let asked = keys.iter().zip(questions);
        asked
            .filter_map(|(key, question)| Some((*key, question.flatten()?)))
            .collect()
    }

    /// Changes each of the requests, some at a time; `None` for one that is gone.
    pub(crate) fn each<I, T>(
        &self,
        items: impl IntoIterator<Item = (u64, I)>,
        mut change: impl FnMut(&mut Claim, Cx<'_>, I) -> T,
    ) -> Vec<Option<T>> {
        let mut items = items.into_iter().peekable();
        let mut changed = Vec::with_capacity(items.size_hint().0);
        while items.peek().is_some() {
            let (mut entries, now, mut after) = self.changing();
            for (key, item) in items.by_ref().take(AT_ONCE) {
                let change = |claim: &mut Claim, cx: Cx<'_>| change(claim, cx, item);
                changed.push(entries.change(key, now, change, &mut after));
            }
            drop(entries);
            self.carry_out(after);
        }
        changed
    }

    /// The request with this uuid.
    pub(crate) fn find(&self, uuid: Uuid) -> Option<u64> {
        self.entries().keys.get(&uuid).copied()
    }

    /// All requests, in order of arrival.
    pub(crate) fn all(&self) -> Vec<(u64, ())> {
        let entries = self.entries();
        entries.requests.keys().map(|key| (*key, ())).collect()
    }

    /// The table for a change, with what is known of the servers by now.
    fn changing(&self) -> (MutexGuard<'_, Entries>, Time, After) {
        let after = After {
            heard: telemetry::heard(),
            ..After::default()
        };
        let mut entries = self.entries();
        self.nodes.see(&mut entries.servers);
        let now = self.nodes.clock.now();
        (entries, now, after)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(&self, after: After) {
        if after.ring {
            self.changed.notify_one();
        }
        after.bells.iter().for_each(|bell| bell.ring());
        if after.cleaned {
            telemetry::guarded(|| self.cleaned.notify_waiters());
        }
        telemetry::waiters(after.waiters);
        telemetry::bare(after.bare);
        if !after.tells.is_empty() {
            after
                .tells
                .into_iter()
                .for_each(|tell| self.nodes.tell(tell));
        }
    }
}

impl Entries {
    fn new(servers: Servers) -> Self {
        Self {
            servers,
            requests: BTreeMap::new(),
            keys: HashMap::new(),
            due: BTreeSet::new(),
            outside: HashMap::new(),
            arrivals: 0,
            asleep_until: None,
            closed: false,
            shut_down: false,
        }
    }

    fn cx(&self, now: Time) -> Cx<'_> {
        let servers = &self.servers;
        Cx { now, servers }
    }

    /// Changes a request, and sees to all that follows from that.
    fn change<T>(
        &mut self,
        key: u64,
        now: Time,
        change: impl FnOnce(&mut Claim, Cx<'_>) -> T,
        after: &mut After,
    ) -> Option<T> {
        let changed = self.change_one(key, now, change, after)?;
        let mut key = key;
        // If it waited for room and has a place now, it is the turn of the next to ask.
        while let Some(next) = self.follow_up(key, now, after) {
            self.change_one(next, now, |claim, _| claim.ask_all(), after);
            key = next;
        }
        Some(changed)
    }

    fn change_one<T>(
        &mut self,
        key: u64,
        now: Time,
        change: impl FnOnce(&mut Claim, Cx<'_>) -> T,
        after: &mut After,
    ) -> Option<T> {
        let servers = &self.servers;
        let entry = self.requests.get_mut(&key)?;
        let claim = &mut entry.claim;
        let (was_in_line, before) = (claim.is_in_line(), claim.outlook());
        let changed = change(claim, Cx { now, servers });
        after.waiters += i32::from(claim.is_in_line()) - i32::from(was_in_line);
        let bare = claim.is_bare(now);
        after.bare += i32::from(bare) - i32::from(std::mem::replace(&mut entry.bare, bare));
        if let Some(why) = claim.ended() {
            let _ = entry.bell.lost.set(why);
            after.cleaned |= claim.is_clean_enough() || claim.is_expired(now);
        }
        let news = claim.take_news(after.heard);
        after.tells.extend(news.tells);
        let wakes = news.wake || claim.outlook() != before;
        if wakes || news.moved && entry.bell.followed.load(Ordering::Relaxed) {
            after.bells.push(entry.bell.clone());
        }
        Some(changed)
    }

    /// Notes when a request is due, or strikes it out. Returns whose turn it is to ask for room by that.
    fn follow_up(&mut self, key: u64, now: Time, after: &mut After) -> Option<u64> {
        let entry = self.requests.get(&key)?;
        let claim = &entry.claim;
        // One that hears of no quorum must not keep those behind it from asking.
        let outside = claim.waits_for_room() && !claim.is_cut_off();
        let settled = claim.is_settled();
        let over = entry.abandoned || claim.is_clean() || claim.is_expired(now);
        let over = over && !entry.owned;
        let due = claim.due(self.cx(now));
        let uuid = claim.id().uuid();
        let mut next = None;
        if outside {
            self.stand_outside(key);
        } else if settled {
            next = self.come_in(key);
        }
        if over {
            self.schedule(key, None);
            self.requests.remove(&key);
            self.keys.remove(&uuid);
            after.cleaned = true;
            after.ring |= self.closed && self.requests.is_empty();
            return next;
        }
        let turn = !outside || self.is_first_outside(key);
        let due = due.filter(|_| turn);
        self.schedule(key, due);
        after.ring |= due
            .zip(self.asleep_until)
            .is_some_and(|(due, wake_at)| due < wake_at);
        next
    }

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

    fn stand_outside(&mut self, key: u64) {
        let Some(entry) = self.requests.get_mut(&key) else {
            return;
        };
        if !std::mem::replace(&mut entry.outside, true) {
            let name = entry.claim.resource().name().to_owned();
            self.outside.entry(name).or_default().insert(key);
        }
    }

    /// No longer waits for room, if it did. Returns whose turn to ask has come by that.
    fn come_in(&mut self, key: u64) -> Option<u64> {
        let entry = self.requests.get_mut(&key)?;
        if !std::mem::replace(&mut entry.outside, false) {
            return None;
        }
        let name = entry.claim.resource().name();
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
            let name = self.requests.get(&key)?.claim.resource().name();
            self.outside.get(name)
        };
        crowd().is_some_and(|crowd| crowd.first() == Some(&key))
    }
}
