//! The table of a client: all its requests, and when each is due.
//!
//! One table under one lock. A request is changed by [`Requests::update`] alone, which notes in the same step when
//! it is due next, so there is nothing to forget; what it wants to be told of (whoever waits for it, the log,
//! the metrics) is told when the lock is released. A request enters before its first round. It stays here
//! until its handle is gone and nothing of it is left on any node, so a shutdown waits for the table.
//!
//! A lock that is had at once costs a row here and no message: the ticker is rung only if something is due
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
    client::nodes::Nodes,
    clock::Clock,
    error::{ClientStopped, LeaseLost},
    event::{Heard, Tell},
    request::{Cx, End, Question, Request, Urgency},
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
pub(crate) struct Requests {
    nodes: Arc<Nodes>,
    state: Mutex<State>,
    /// Rings when something is due earlier than the ticker knows, or the table is closed.
    changed: Notify,
    /// Rings when a request that has ended is cleaned up, or as good as.
    cleaned: Notify,
    /// Why nobody serves the table any more.
    stopped: OnceLock<ClientStopped>,
}

#[derive(Debug)]
struct State {
    /// What is known of the servers, as of the last time that the table was locked for a change.
    servers: Servers,
    /// In order of arrival, which is the order within a batch.
    rows: BTreeMap<u64, Box<Row>>,
    keys: HashMap<Uuid, u64>,
    due: BTreeSet<(Time, u64)>,
    /// Who waits for room in the line of a resource. Only the first of them asks, and the others follow
    /// one by one, so they get in in order.
    outside: HashMap<String, BTreeSet<u64>>,
    arrivals: u64,
    /// When the ticker looked for what is due.
    ticked: Time,
    /// Until when the ticker sleeps if nothing is heard; `None` while it is awake.
    asleep_until: Option<Time>,
    /// By when it is to look again, as something is due, or was answered or rung for by then.
    looks_by: Time,
    closed: bool,
    /// Whether requests end as they come.
    shut_down: bool,
}

#[derive(Debug)]
struct Row {
    request: Request,
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
    /// Why the lease ended: stays when the request is gone from the table.
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
pub(crate) struct Entry {
    requests: Arc<Requests>,
    key: u64,
    bell: Arc<Bell>,
}

impl Entry {
    /// Changes the request; nothing comes of it if that is gone, which it is not before its handle.
    pub(crate) fn update<T: Default>(&self, change: impl FnOnce(&mut Request, Cx<'_>) -> T) -> T {
        self.requests.update(self.key, change).unwrap_or_default()
    }

    /// Looks at the request.
    pub(crate) fn look<T: Default>(&self, look: impl FnOnce(&Request, Cx<'_>) -> T) -> T {
        self.requests.look(self.key, look).unwrap_or_default()
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
            requests: Arc::downgrade(&self.requests),
            clock: self.requests.nodes.clock,
            key: self.key,
            bell: self.bell.clone(),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.requests.disown(self.key);
    }
}

/// Sees a request without owning it, or keeping anything of its client.
#[derive(Clone, Debug)]
pub(crate) struct View {
    requests: Weak<Requests>,
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
            let look = |request: &mut Request, cx: Cx<'_>| {
                (request.check(cx.now), request.valid_until(cx.now))
            };
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
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Request, Cx<'_>) -> T) -> Option<T> {
        self.requests.upgrade()?.update(self.key, change)
    }

    /// Whether nobody serves the request any more.
    pub(crate) fn is_stopped(&self) -> bool {
        let requests = self.requests.upgrade();
        requests.is_none_or(|requests| requests.stopped().is_some())
    }
}

impl Requests {
    pub(crate) fn new(nodes: Arc<Nodes>) -> Self {
        Self {
            state: Mutex::new(State::new(nodes.servers())),
            nodes,
            changed: Notify::new(),
            cleaned: Notify::new(),
            stopped: OnceLock::new(),
        }
    }

    pub(crate) fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    /// Enters a request. It stands outside if others of this client wait for room in that line: whoever comes now
    /// must not get in before them.
    pub(crate) fn add(self: &Arc<Self>, request: Request) -> Entry {
        let bell: Arc<Bell> = Arc::default();
        let (mut state, now, mut after) = self.changing();
        let crowded = state.outside.contains_key(request.resource().name());
        let shut_down = state.shut_down;
        state.arrivals += 1;
        let key = state.arrivals;
        state.keys.insert(request.id().uuid(), key);
        let row = Row {
            request,
            bell: bell.clone(),
            due: None,
            outside: false,
            owned: true,
            abandoned: false,
            bare: false,
        };
        state.rows.insert(key, Box::new(row));
        let start = |request: &mut Request, cx: Cx<'_>| {
            if shut_down {
                request.shut_down(cx.now);
            } else if crowded {
                request.find_no_room(cx.now);
            }
        };
        state.change(key, now, start, &mut after);
        drop(state);
        self.carry_out(after);
        Entry {
            requests: self.clone(),
            key,
            bell,
        }
    }

    /// Changes a request, and notes when it is due by that. `None` if it is gone.
    pub(crate) fn update<T>(
        &self,
        key: u64,
        change: impl FnOnce(&mut Request, Cx<'_>) -> T,
    ) -> Option<T> {
        let (mut state, now, mut after) = self.changing();
        let changed = state.change(key, now, change, &mut after);
        drop(state);
        self.carry_out(after);
        changed
    }

    /// Looks at a request without changing it.
    pub(crate) fn look<T>(&self, key: u64, look: impl FnOnce(&Request, Cx<'_>) -> T) -> Option<T> {
        let (state, now, _) = self.changing();
        let row = state.rows.get(&key)?;
        Some(look(&row.request, state.cx(now)))
    }

    fn disown(&self, key: u64) {
        let (mut state, now, mut after) = self.changing();
        // Without a ticker nothing is taken back any more; everything runs out by itself.
        let served = self.stopped().is_none();
        if let Some(row) = state.rows.get_mut(&key) {
            row.owned = false;
            row.abandoned = !served;
        }
        state.change(
            key,
            now,
            |request, cx| request.end(End::Over, cx.now),
            &mut after,
        );
        drop(state);
        self.carry_out(after);
    }

    /// Nobody enters any more; the ticker ends when nobody is left.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// Nobody serves the table any more. Whoever waits is told.
    pub(crate) fn stop(&self, cause: ClientStopped) {
        if self.stopped.set(cause).is_err() {
            return;
        }
        let state = self.state();
        let bells: Vec<_> = state.rows.values().map(|row| row.bell.clone()).collect();
        let needed = !(state.closed && state.rows.is_empty());
        drop(state);
        bells.iter().for_each(|bell| bell.ring());
        telemetry::guarded(|| self.cleaned.notify_waiters());
        if needed {
            telemetry::stopped(cause);
        }
    }

    /// Why nobody serves the table any more, if that is so.
    pub(crate) fn stopped(&self) -> Option<ClientStopped> {
        self.stopped.get().copied()
    }

    /// Ends whatever still waits, and whatever comes from now on; guards stay as they are.
    pub(crate) fn shut_down(&self) {
        self.state().shut_down = true;
        self.each(self.all(), |request, cx, ()| {
            request.shut_down(cx.now);
            request.release_anew();
        });
    }

    /// Waits until everything that has ended is cleaned up, or is left on nodes only that fail again and again.
    pub(crate) async fn idle(&self) {
        loop {
            let mut rung = pin!(self.cleaned.notified());
            rung.as_mut().enable();
            let now = self.nodes.clock.now();
            let clean = |row: &Row| row.request.is_clean_enough() || row.request.is_expired(now);
            let expires = {
                let state = self.state();
                let open = state.rows.values().filter(|row| !clean(row));
                open.map(|row| row.request.expires()).max()
            };
            let Some(expires) = expires.filter(|_| self.stopped().is_none()) else {
                return;
            };
            tokio::select! {
                biased;
                () = rung => {}
                () = self.nodes.clock.sleep_until(expires) => {}
            }
        }
    }

    /// Until when the ticker may sleep, if nothing rings; `None` if it is needed no more. Without anything
    /// that is due it is `never`. All that was sent is answered `by`, or counts as unanswered then.
    pub(crate) fn sleep_until(&self, never: Time, by: Option<Time>) -> Option<Time> {
        let mut state = self.state();
        if state.closed && state.rows.is_empty() {
            return None;
        }
        let wake_at = state.due.first().map_or(never, |(due, _)| *due);
        state.asleep_until = Some(wake_at);
        state.looks_by = by.map_or(wake_at, |by| by.min(wake_at));
        Some(wake_at)
    }

    /// Completes when something is due earlier than the ticker knows.
    pub(crate) async fn rung(&self) {
        self.changed.notified().await;
    }

    /// Some of the requests that are due, with the nodes that are to be asked, in order of arrival where they are
    /// due at once; nothing when none is left.
    pub(crate) fn take_due(&self) -> Vec<(u64, Vec<(usize, Urgency)>)> {
        let (mut state, now, mut after) = self.changing();
        (state.ticked, state.asleep_until, state.looks_by) = (now, None, now);
        let mut taken = Vec::new();
        while taken.len() < AT_ONCE {
            let first = state.due.first().copied();
            let Some((_, key)) = first.filter(|(due, _)| *due <= now) else {
                break;
            };
            let due = state.change(key, now, Request::take_due, &mut after);
            taken.push((key, due.unwrap_or_default()));
            // What is due without anything to ask would be due again at once.
            if state.due.first().copied() == first {
                state.schedule(key, Some(now.plus(AGAIN)));
            }
        }
        drop(state);
        self.carry_out(after);
        taken
    }

    /// The questions of `keys` to the node `place`, whose turn has come.
    pub(crate) fn ask(&self, keys: &[u64], place: usize) -> Vec<(u64, Question)> {
        let items = keys.iter().map(|key| (*key, ()));
        let questions = self.each(items, |request, cx, ()| request.ask(place, cx));
        let asked = keys.iter().zip(questions);
        asked
            .filter_map(|(key, question)| Some((*key, question.flatten()?)))
            .collect()
    }

    /// Changes each of the requests, some at a time; `None` for one that is gone.
    pub(crate) fn each<I, T>(
        &self,
        items: impl IntoIterator<Item = (u64, I)>,
        mut change: impl FnMut(&mut Request, Cx<'_>, I) -> T,
    ) -> Vec<Option<T>> {
        let mut items = items.into_iter().peekable();
        let mut changed = Vec::with_capacity(items.size_hint().0);
        while items.peek().is_some() {
            let (mut state, now, mut after) = self.changing();
            for (key, item) in items.by_ref().take(AT_ONCE) {
                let change = |request: &mut Request, cx: Cx<'_>| change(request, cx, item);
                changed.push(state.change(key, now, change, &mut after));
            }
            drop(state);
            self.carry_out(after);
        }
        changed
    }

    /// Whether the ticker has looked for what is due since then, or had no reason to.
    pub(crate) fn is_served_since(&self, since: Time) -> bool {
        let state = self.state();
        state.ticked.max(state.looks_by) >= since
    }

    /// The first that waits for room in the line of a resource.
    pub(crate) fn first_outside(&self, name: &str) -> Option<u64> {
        self.state().outside.get(name)?.first().copied()
    }

    /// The request with this uuid.
    pub(crate) fn find(&self, uuid: Uuid) -> Option<u64> {
        self.state().keys.get(&uuid).copied()
    }

    /// All requests, in order of arrival.
    pub(crate) fn all(&self) -> Vec<(u64, ())> {
        let state = self.state();
        state.rows.keys().map(|key| (*key, ())).collect()
    }

    /// The table for a change, with what is known of the servers by now.
    fn changing(&self) -> (MutexGuard<'_, State>, Time, After) {
        let after = After {
            heard: telemetry::heard(),
            ..After::default()
        };
        let mut state = self.state();
        self.nodes.see(&mut state.servers);
        let now = self.nodes.clock.now();
        (state, now, after)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        for tell in after.tells {
            self.nodes.tell(tell);
        }
    }
}

impl State {
    fn new(servers: Servers) -> Self {
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

    fn cx(&self, now: Time) -> Cx<'_> {
        let servers = &self.servers;
        Cx { now, servers }
    }

    /// Changes a request, and sees to all that follows from that.
    fn change<T>(
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

    fn schedule(&mut self, key: u64, due: Option<Time>) {
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
