//! The table of a client: all its requests, and when each is due.
//!
//! There is one table under one lock. Only [`Rows::change`] changes a request, and notes in the same step when the
//! request is due next, so there is nothing to forget. Waiting callers, the log and the metrics are told when the
//! lock is released. A request enters the table before its first round. It stays until its handle is gone and nothing
//! of it is left on any node, so a shutdown waits for the table.
//!
//! A lock that is granted at once costs a row here and no message: the ticker is woken only if something is due
//! earlier than the ticker would wake by itself.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    client::{
        nodes::Nodes,
        notifier::Notifier,
        rows::{Effects, Row, Rows},
    },
    error::ClientStopped,
    quorum::NodeIndex,
    request::{Cx, End, Outgoing, Request, Urgency},
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
    state: Mutex<Rows>,
    /// Wakes the ticker when something is due earlier than it knows, or when the table is closed.
    changed: Notify,
    /// Wakes a shutdown when a request that has ended is cleaned up, or as good as.
    cleaned: Notify,
    /// Why the table is no longer served.
    stopped: OnceLock<ClientStopped>,
}

impl Requests {
    pub(crate) fn new(nodes: Arc<Nodes>) -> Self {
        Self {
            state: Mutex::new(Rows::new(nodes.servers())),
            nodes,
            changed: Notify::new(),
            cleaned: Notify::new(),
            stopped: OnceLock::new(),
        }
    }

    pub(crate) fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    /// Enters a request. It joins the overflow if others of this client wait for room in that line: a request that
    /// comes now must not get in before them.
    pub(super) fn add(&self, request: Request) -> (u64, Arc<Notifier>) {
        let notifier: Arc<Notifier> = Arc::default();
        let (mut state, now, mut effects) = self.changing();
        let has_overflow = state.overflow.contains_key(request.resource().name());
        let shut_down = state.shut_down;
        state.arrivals += 1;
        let key = state.arrivals;
        state.keys.insert(request.id().uuid(), key);
        let row = Row {
            request,
            notifier: notifier.clone(),
            due: None,
            overflow: false,
            owned: true,
            abandoned: false,
            bare: false,
        };
        state.rows.insert(key, Box::new(row));
        let start = |request: &mut Request, cx: Cx<'_>| {
            if shut_down {
                request.shut_down(cx.now);
            } else if has_overflow {
                request.find_no_room(cx.now);
            }
        };
        state.change(key, now, start, &mut effects);
        drop(state);
        self.carry_out(effects);
        (key, notifier)
    }

    /// Changes a request, and notes when it is due by that. `None` if it is gone.
    pub(crate) fn update<T>(
        &self,
        key: u64,
        change: impl FnOnce(&mut Request, Cx<'_>) -> T,
    ) -> Option<T> {
        let (mut state, now, mut effects) = self.changing();
        let changed = state.change(key, now, change, &mut effects);
        drop(state);
        self.carry_out(effects);
        changed
    }

    /// Looks at a request without changing it.
    pub(crate) fn look<T>(&self, key: u64, look: impl FnOnce(&Request, Cx<'_>) -> T) -> Option<T> {
        let (state, now, _) = self.changing();
        let row = state.rows.get(&key)?;
        Some(look(&row.request, state.cx(now)))
    }

    pub(super) fn disown(&self, key: u64) {
        let (mut state, now, mut effects) = self.changing();
        // Without a ticker nothing is taken back any more; everything runs out by itself.
        let served = self.stopped().is_none();
        if let Some(row) = state.rows.get_mut(&key) {
            row.owned = false;
            row.abandoned = !served;
        }
        state.change(
            key,
            now,
            |request, cx| {
                // A lease that had run out before was lost, and not released.
                request.check(cx.now);
                request.end(End::Over, cx.now);
            },
            &mut effects,
        );
        drop(state);
        self.carry_out(effects);
    }

    /// Nobody enters any more; the ticker ends when nobody is left.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// The table is no longer served. Those who wait are told.
    pub(crate) fn stop(&self, cause: ClientStopped) {
        if self.stopped.set(cause).is_err() {
            return;
        }
        let state = self.state();
        let notifiers: Vec<_> = state
            .rows
            .values()
            .map(|row| row.notifier.clone())
            .collect();
        let needed = !(state.closed && state.rows.is_empty());
        drop(state);
        notifiers.iter().for_each(|notifier| notifier.notify());
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

    /// Until when the ticker may sleep unless it is woken: the next due time, or `never` if nothing is due. `None` if the
    /// ticker is no longer needed. `by` is when the last open call is answered or times out.
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
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Some of the requests that are due, with the nodes that are to be asked, in order of arrival where they are
    /// due at once; nothing when none is left.
    pub(crate) fn take_due(&self) -> Vec<(u64, Vec<(NodeIndex, Urgency)>)> {
        let (mut state, now, mut effects) = self.changing();
        (state.ticked, state.asleep_until, state.looks_by) = (now, None, now);
        let mut taken = Vec::new();
        while taken.len() < AT_ONCE {
            let first = state.due.first().copied();
            let Some((_, key)) = first.filter(|(due, _)| *due <= now) else {
                break;
            };
            let due = state.change(key, now, Request::take_due, &mut effects);
            taken.push((key, due.unwrap_or_default()));
            // What is due without anything to ask would be due again at once. Any other due time is later than now.
            if state.due.first().copied() == first {
                state.schedule(key, Some(now.plus(AGAIN)));
            }
        }
        drop(state);
        self.carry_out(effects);
        taken
    }

    /// The commands of `keys` to the node `index`, as their turn has come.
    pub(crate) fn ask(&self, keys: &[u64], index: NodeIndex) -> Vec<(u64, Outgoing)> {
        let items = keys.iter().map(|key| (*key, ()));
        let questions = self.each(items, |request, cx, ()| request.ask(index, cx));
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
            let (mut state, now, mut effects) = self.changing();
            for (key, item) in items.by_ref().take(AT_ONCE) {
                let change = |request: &mut Request, cx: Cx<'_>| change(request, cx, item);
                changed.push(state.change(key, now, change, &mut effects));
            }
            drop(state);
            self.carry_out(effects);
        }
        changed
    }

    /// Whether the ticker has looked for what is due since then, or had no reason to.
    pub(crate) fn is_served_since(&self, since: Time) -> bool {
        let state = self.state();
        state.ticked.max(state.looks_by) >= since
    }

    /// The first that waits for room in the line of a resource.
    pub(crate) fn first_in_overflow(&self, name: &str) -> Option<u64> {
        self.state().overflow.get(name)?.first().copied()
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
    fn changing(&self) -> (MutexGuard<'_, Rows>, Time, Effects) {
        let effects = Effects {
            interest: telemetry::interest(),
            ..Effects::default()
        };
        let mut state = self.state();
        self.nodes.see(&mut state.servers);
        state.now = state.now.max(self.nodes.clock.now());
        let now = state.now;
        (state, now, effects)
    }

    fn state(&self) -> MutexGuard<'_, Rows> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(&self, effects: Effects) {
        if effects.wake_ticker {
            self.changed.notify_one();
        }
        effects
            .notifiers
            .iter()
            .for_each(|notifier| notifier.notify());
        if effects.cleaned {
            telemetry::guarded(|| self.cleaned.notify_waiters());
        }
        telemetry::waiters(effects.waiters);
        telemetry::bare(effects.bare);
        for event in effects.events {
            self.nodes.emit(event);
        }
    }
}
