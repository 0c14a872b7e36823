//! What has happened in a run, and what the promises say of it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::{Rc, Weak},
    time::Duration,
};

use futures::FutureExt;
use redlock_fifo::{FifoRedlock, LeaseLost, LockGuard, MemoryCluster, NoQuorum};
use tokio::{sync::Notify, time::Instant};

use crate::{
    chance::Chance,
    settings::{Plan, Terms, Weather},
};

/// Timers go by whole milliseconds.
const TIMER: Duration = Duration::from_millis(3);

pub(crate) struct Failure {
    pub(crate) promise: String,
    pub(crate) account: String,
}

/// A guard, as its owner has it.
pub(crate) struct Held {
    pub(crate) guard: Rc<LockGuard>,
    pub(crate) about: Rc<About>,
}

/// What is known of a guard.
pub(crate) struct About {
    pub(crate) client: usize,
    pub(crate) resource: String,
    pub(crate) token: u64,
    pub(crate) born: Instant,
    /// The holder id, if it was found on the nodes.
    pub(crate) id: Option<String>,
    pub(crate) max_hold: Option<Duration>,
    /// The least ttl that it was renewed with, and the greatest.
    pub(crate) ttl: Cell<(Duration, Duration)>,
    /// Whether it is extended in the background, and since when.
    pub(crate) renews: Cell<Option<Instant>>,
    /// The interval, if it is one of the user's.
    pub(crate) every: Cell<Option<Duration>>,
    /// When its end was last moved by hand.
    pub(crate) touched: Cell<Instant>,
    /// When it was seen to be over.
    over: Cell<Option<Instant>>,
    /// When it was looked at, and until when it was valid then: the last time, and some round trips before.
    looked: Cell<[Option<(Instant, Instant)>; 2]>,
    told: Cell<bool>,
    watched: Cell<Watched>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Watched {
    No,
    Waits,
    Heard,
}

/// Someone in line whose ticket was recorded, and who awaits its turn.
struct Armed {
    number: u64,
    client: usize,
    resource: String,
    recorded: u64,
}

#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) well_since: Option<Instant>,
    /// When the grace of its last restart ends.
    votes_from: Option<Instant>,
    pub(crate) forgot: Option<Instant>,
    down: bool,
}

/// Who uses a resource.
#[derive(Clone, Copy)]
struct Use {
    now: usize,
    last: Instant,
    /// How often a use began.
    begun: u64,
}

#[derive(Default)]
struct Inner {
    order: u64,
    log: VecDeque<String>,
    failure: Option<(String, String)>,
    guards: Vec<(Weak<LockGuard>, Rc<About>)>,
    tokens: BTreeMap<String, u64>,
    armed: Vec<Armed>,
    nodes: Vec<Health>,
    uses: BTreeMap<String, Use>,
    released: VecDeque<(String, String, Instant)>,
    counts: BTreeMap<&'static str, u64>,
    shut: Vec<bool>,
    restarted: bool,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) cluster: MemoryCluster,
    pub(crate) clients: Vec<FifoRedlock>,
    pub(crate) start: Instant,
    skip: Vec<String>,
    loud: bool,
    inner: RefCell<Inner>,
    pub(crate) failed: Notify,
    /// What was kept by its owner for longer than it ran.
    pub(crate) pocket: RefCell<Vec<Box<dyn std::any::Any>>>,
}

/// Says that a resource is in use.
pub(crate) struct Using(Rc<World>, String);

impl Drop for Using {
    fn drop(&mut self) {
        let mut inner = self.0.inner.borrow_mut();
        let used = inner.uses.get_mut(&self.1).expect("in use");
        used.now -= 1;
        used.last = Instant::now();
    }
}

/// Says that somebody stands in line and awaits its turn.
pub(crate) struct InLine(Rc<World>, u64);

impl Drop for InLine {
    fn drop(&mut self) {
        self.0
            .inner
            .borrow_mut()
            .armed
            .retain(|armed| armed.number != self.1);
    }
}

/// When something was asked: what had happened by then, and the time.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    order: u64,
    pub(crate) at: Instant,
    begun: u64,
    others: usize,
    free: bool,
}

impl World {
    pub(crate) fn new(
        plan: Plan,
        terms: &Terms,
        cluster: MemoryCluster,
        clients: Vec<FifoRedlock>,
    ) -> Self {
        let now = Instant::now();
        let nodes = vec![
            Health {
                well_since: Some(now),
                votes_from: None,
                forgot: None,
                down: false
            };
            plan.latency.len()
        ];
        let inner = Inner {
            nodes,
            shut: vec![false; clients.len()],
            ..Inner::default()
        };
        Self {
            plan,
            cluster,
            clients,
            start: now,
            skip: terms.skip.clone(),
            loud: terms.loud,
            inner: RefCell::new(inner),
            failed: Notify::new(),
            pocket: RefCell::default(),
        }
    }

    pub(crate) fn chance(&self, user: u64) -> Chance {
        Chance::new(self.plan.seed, user)
    }

    pub(crate) fn key(&self, resource: &str) -> String {
        format!("{}{resource}", self.plan.prefix)
    }

    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        let at = self.start.elapsed().as_secs_f64();
        let line = format!("{at:10.4} {}", what());
        if self.loud {
            eprintln!("{line}");
        }
        let mut inner = self.inner.borrow_mut();
        inner.log.push_back(line);
        if inner.log.len() > 60 {
            inner.log.pop_front();
        }
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.inner.borrow_mut().counts.entry(what).or_default() += 1;
    }

    pub(crate) fn fail(&self, promise: &str, what: impl Into<String>) {
        let code = promise.split(' ').next().unwrap_or(promise);
        if self.skip.iter().any(|skip| skip == code || skip == promise) {
            return;
        }
        let what = what.into();
        self.note(|| format!("BROKEN {promise}: {what}"));
        let mut inner = self.inner.borrow_mut();
        if inner.failure.is_none() {
            inner.failure = Some((promise.to_owned(), what));
            self.failed.notify_one();
        }
    }

    pub(crate) fn take(&self) -> (Option<Failure>, BTreeMap<&'static str, u64>) {
        let mut inner = self.inner.borrow_mut();
        let log: Vec<_> = inner.log.iter().cloned().collect();
        let failure = inner.failure.take().map(|(promise, what)| Failure {
            account: format!(
                "seed {}: {promise}: {what}\n{:?}\n{}",
                self.plan.seed,
                self.plan,
                log.join("\n")
            ),
            promise,
        });
        (failure, std::mem::take(&mut inner.counts))
    }

    // Who asks.

    pub(crate) fn using(self: &Rc<Self>, resource: &str) -> Using {
        let mut inner = self.inner.borrow_mut();
        let used = inner.uses.entry(resource.to_owned());
        let used = used.or_insert(Use {
            now: 0,
            last: self.start,
            begun: 0,
        });
        used.now += 1;
        used.begun += 1;
        Using(self.clone(), resource.to_owned())
    }

    /// To be called at the first poll of a request, after `using`.
    pub(crate) fn asked(&self, resource: &str) -> Asked {
        let key = self.key(resource);
        let free = self.cluster.nodes().all(|node| !node.used().contains(&key));
        let mut inner = self.inner.borrow_mut();
        inner.order += 1;
        let used = inner.uses[resource];
        // What a request that was dropped has under way is over by then.
        let settle = self.plan.most(|settings| settings.node_timeout) * 2 + self.plan.slowest() * 4;
        let free = free && (used.begun == 1 || used.last + settle < Instant::now());
        Asked {
            order: inner.order,
            at: Instant::now(),
            begun: used.begun,
            others: used.now - 1,
            free,
        }
    }

    /// Whether somebody else used the resource since then.
    pub(crate) fn was_free(&self, resource: &str, asked: Asked) -> bool {
        asked.free && asked.others == 0 && self.inner.borrow().uses[resource].begun == asked.begun
    }

    /// A ticket has just been recorded, and its turn is awaited from now on.
    pub(crate) fn in_line(self: &Rc<Self>, client: usize, resource: &str) -> InLine {
        let mut inner = self.inner.borrow_mut();
        inner.order += 1;
        let number = inner.order;
        inner.armed.push(Armed {
            number,
            client,
            resource: resource.to_owned(),
            recorded: number,
        });
        InLine(self.clone(), number)
    }

    pub(crate) fn is_shut(&self, client: usize) -> bool {
        self.inner.borrow().shut[client]
    }

    pub(crate) fn shut(&self, client: usize) {
        self.inner.borrow_mut().shut[client] = true;
    }

    // Nodes.

    pub(crate) fn sick(&self, node: usize) {
        self.inner.borrow_mut().nodes[node].well_since = None;
    }

    /// Whether it was stopped, and not started again.
    pub(crate) fn is_down(&self, node: usize) -> bool {
        self.inner.borrow().nodes[node].down
    }

    pub(crate) fn down(&self, node: usize) {
        self.sick(node);
        self.forgot(node);
        self.inner.borrow_mut().nodes[node].down = true;
    }

    /// Its vote counts from now on, or once its grace is over.
    pub(crate) fn well(&self, node: usize) {
        let node = &mut self.inner.borrow_mut().nodes[node];
        let now = Instant::now();
        node.well_since = Some(node.votes_from.map_or(now, |from| from.max(now)));
    }

    pub(crate) fn forgot(&self, node: usize) {
        self.inner.borrow_mut().nodes[node].forgot = Some(Instant::now());
    }

    /// Its vote counts again after the grace.
    pub(crate) fn restarted(&self, node: usize) {
        self.forgot(node);
        let mut inner = self.inner.borrow_mut();
        inner.restarted = true;
        inner.nodes[node].down = false;
        let votes_from =
            Some(Instant::now() + self.plan.longest_grace() + Duration::from_millis(1100));
        inner.nodes[node].votes_from = votes_from;
        inner.nodes[node].well_since = votes_from;
    }

    /// How many nodes were well from `from` on.
    fn well_from(&self, from: Instant) -> usize {
        let inner = self.inner.borrow();
        // One that restarts in the first grace of a deployment puts all in grace; so does `cold_start_grace`.
        let first = self.start + self.plan.longest_grace() + Duration::from_millis(1100);
        if (inner.restarted || self.plan.cold) && from < first {
            return 0;
        }
        let well = |health: &&Health| health.well_since.is_some_and(|since| since <= from);
        inner.nodes.iter().filter(well).count()
    }

    /// L1, and what errors say: too few nodes can have answered.
    pub(crate) fn judge_no_quorum(
        &self,
        call: &str,
        client: usize,
        ttl: Duration,
        from: Instant,
        error: &NoQuorum,
        how: &str,
    ) {
        self.count("no quorum");
        // Of two nodes that answer one may have it and one not: then it is the third that tells.
        if call == "extend" && error.answered() >= error.needed() {
            return;
        }
        let well = self.well_from(from);
        if well >= self.plan.quorum() && self.plan.sound(client, ttl) {
            self.fail(
                &format!("VERDICT {call} NoQuorum{how}"),
                format!(
                    "c{client}: {well} nodes were well for {:?}, yet {error}",
                    from.elapsed()
                ),
            );
        }
    }

    /// L1: who waits for ever was not served in time.
    pub(crate) async fn stuck(&self, bound: Duration) {
        let views: Vec<_> = self.cluster.nodes().map(|node| node.used()).collect();
        let line = self.clients[0].inspect("r0").await;
        let line = line.map(|view| format!("{:?} {:?}", view.holder(), view.waiters()));
        self.fail(
            "L1",
            format!(
                "{bound:?} after all was well a waiter is not served: {views:?} {:?} {line:?}",
                self.votes("r0")
            ),
        );
    }

    // Guards.

    fn votes(&self, resource: &str) -> Vec<Option<String>> {
        let key = self.key(resource);
        self.cluster.nodes().map(|node| node.get(&key)).collect()
    }

    /// A guard came out.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn born(
        self: &Rc<Self>,
        client: usize,
        resource: &str,
        guard: LockGuard,
        asked: Asked,
        ttl: Duration,
        auto: bool,
        max_hold: Option<Duration>,
        how: &str,
    ) -> Held {
        let (now, token) = (Instant::now(), guard.fencing_token());
        self.count("guards");
        let validity = guard.validity();
        self.note(|| format!("c{client} has {resource} by {how}, ttl {ttl:?}, token {token}, validity {validity:?}"));
        self.judge_birth(client, resource, asked, token, how);
        let votes = self.votes(resource);
        let mine = |id: &&String| id.split(':').nth(2) == Some(&format!("c{client}"));
        let ids: Vec<_> = votes.iter().flatten().filter(mine).collect();
        let times = |id: &String| ids.iter().filter(|other| **other == id).count();
        let id = ids.iter().copied().max_by_key(|id| times(id)).cloned();
        let about = Rc::new(About {
            client,
            resource: resource.to_owned(),
            token,
            born: now,
            id,
            max_hold,
            ttl: Cell::new((ttl, ttl)),
            renews: Cell::new(auto.then_some(now)),
            every: Cell::new(None),
            touched: Cell::new(now),
            over: Cell::new(None),
            looked: Cell::default(),
            told: Cell::new(false),
            watched: Cell::new(Watched::No),
        });
        let guard = Rc::new(guard);
        self.inner
            .borrow_mut()
            .guards
            .push((Rc::downgrade(&guard), about.clone()));
        if token % 2 == 0 {
            about.watched.set(Watched::Waits);
            let (lost, heard) = (guard.lost(), about.clone());
            tokio::task::spawn_local(async move {
                lost.await;
                heard.watched.set(Watched::Heard);
            });
        }
        self.sample();
        Held { guard, about }
    }

    /// S2, F1 and F4 at the moment at which a guard comes out.
    pub(crate) fn judge_birth(
        &self,
        client: usize,
        resource: &str,
        asked: Asked,
        token: u64,
        how: &str,
    ) {
        let last = self
            .inner
            .borrow_mut()
            .tokens
            .insert(resource.to_owned(), token);
        let grace = self.plan.grace >= Duration::from_millis(2100);
        if let Some(last) = last
            && last >= token
            && self.plan.safe()
            && (grace || !self.plan.restarts)
        {
            self.fail(
                "S2",
                format!("c{client} has {resource} with token {token}, after {last}"),
            );
        }
        let fair =
            !matches!(self.plan.weather, Weather::Outages | Weather::Wild) && !self.plan.restarts;
        let inner = self.inner.borrow();
        let first = |armed: &&Armed| {
            armed.resource == resource
                && armed.recorded < asked.order
                && self
                    .plan
                    .sound(armed.client, Duration::from_millis(self.plan.ttls.0))
        };
        let passed = inner
            .armed
            .iter()
            .find(first)
            .map(|armed| (armed.client, armed.recorded));
        drop(inner);
        if let Some((other, recorded)) = passed
            && fair
        {
            let promise = if how == "try_lock" { "F4" } else { "F1" };
            self.fail(
                promise,
                format!("c{client} asked by {how} as event {}, after c{other} was in line ({recorded}), and has {resource}", asked.order),
            );
        }
    }

    /// A guard that nobody else can look at was asked, and says that it is held.
    pub(crate) fn held_elsewhere(&self, resource: &str, token: u64) {
        let others: Vec<_> = self.living();
        let other = others.iter().find(|(guard, about)| {
            about.resource == resource && about.token != token && guard.is_held()
        });
        if let Some((_, about)) = other
            && self.plan.safe()
        {
            self.fail(
                "S1",
                format!("{resource}: tokens {} and {token}", about.token),
            );
        }
    }

    fn living(&self) -> Vec<(Rc<LockGuard>, Rc<About>)> {
        let inner = self.inner.borrow();
        let living = inner.guards.iter();
        living
            .filter_map(|(guard, about)| Some((guard.upgrade()?, about.clone())))
            .collect()
    }

    /// To be called at every step: looks at all guards.
    pub(crate) fn sample(&self) {
        self.inner
            .borrow_mut()
            .guards
            .retain(|(guard, _)| guard.strong_count() > 0);
        let living = self.living();
        let mut holders: BTreeMap<&str, &About> = BTreeMap::new();
        for (guard, about) in &living {
            let held = guard.is_held();
            if held {
                if let Some(other) = holders.insert(&about.resource, about)
                    && self.plan.safe()
                {
                    self.fail(
                        "S1",
                        format!(
                            "{}: c{} with token {} and c{} with token {}",
                            about.resource, other.client, other.token, about.client, about.token
                        ),
                    );
                }
                self.judge_held(guard, about);
            } else {
                self.judge_over(guard, about);
            }
        }
        self.judge_released();
    }

    fn judge_held(&self, guard: &LockGuard, about: &About) {
        let name = || {
            format!(
                "c{}'s guard of {} with token {}",
                about.client, about.resource, about.token
            )
        };
        if about.over.get().is_some() {
            self.fail(
                "S3 returned",
                format!("{} was lost, and is held again", name()),
            );
        }
        if about.watched.get() == Watched::Heard {
            self.fail(
                "S3 told",
                format!("lost() of {} is ready, and it is held", name()),
            );
        }
        if let Some(most) = about.max_hold
            && about.born.elapsed() > most + TIMER
        {
            self.fail(
                "MAX_HOLD",
                format!("{} is held for {:?}", name(), about.born.elapsed()),
            );
        }
        if self.plan.weather == Weather::Wild {
            return;
        }
        let key = self.key(&about.resource);
        let nodes: Vec<_> = self
            .cluster
            .nodes()
            .map(|node| (node.get(&key), node.ttl(&key)))
            .collect();
        let has = |node: &(Option<String>, _)| node.0.is_some() && node.0 == about.id;
        let have = nodes.iter().filter(|node| has(node)).count();
        let forgot = {
            let inner = self.inner.borrow();
            let forgot = |place: &usize| {
                !has(&nodes[*place])
                    && inner.nodes[*place]
                        .forgot
                        .is_some_and(|at| at + self.plan.slowest() >= about.born)
            };
            (0..nodes.len()).filter(forgot).count()
        };
        if have + forgot < self.plan.quorum() && self.plan.safe() {
            self.fail(
                "S3 keys",
                format!("{} says it is held for {:?}, but only {have} nodes have its key: {nodes:?}, {:?}", name(), guard.validity(), about.id),
            );
        }
        self.judge_whole(guard, about, &nodes);
    }

    /// H15: a lease stands on all nodes, for its full ttl, within a few round trips of the guard.
    fn judge_whole(
        &self,
        guard: &LockGuard,
        about: &About,
        nodes: &[(Option<String>, Option<Duration>)],
    ) {
        let settle = self.plan.slowest() * 10 + Duration::from_millis(30);
        let sound = self.plan.all_sound() && self.plan.weather == Weather::Calm;
        if !sound
            || about.touched.get().elapsed() < settle
            || !self.plan.sound(about.client, about.ttl.get().0)
        {
            return;
        }
        let slack = self.plan.slowest() * 3 + Duration::from_millis(10);
        let (least, what) = match about.renews.get() {
            // Of the full ttl a third may have passed since the last renewal, and a little more by their grid.
            Some(since) if since.elapsed() >= settle => {
                let ttl = about.ttl.get().0;
                if about.every.get().is_some_and(|every| every > ttl / 3) {
                    return;
                }
                ((ttl * 3 / 5).saturating_sub(slack), "of its ttl")
            }
            _ => {
                let now = Instant::now();
                let until = now + guard.validity();
                let [mut last, mut before] = about.looked.get();
                if last.is_none_or(|(at, _)| at + slack <= now) {
                    (before, last) = (last, Some((now, until)));
                }
                about.looked.set([last, before]);
                // What has prolonged it since may not have come to all of them yet.
                let Some((_, known)) = before else { return };
                let least = known.min(until).saturating_duration_since(now);
                (least.saturating_sub(slack), "of its validity")
            }
        };
        if least.is_zero() {
            return;
        }
        for (place, (id, left)) in nodes.iter().enumerate() {
            let short = *id != about.id || left.is_some_and(|left| left < least);
            if short {
                self.fail(
                    &format!("WHOLE {}", if *id == about.id { what } else { "no vote" }),
                    format!(
                        "c{}'s guard of {} with token {}, {:?} old, {:?} of {:?}: node {place} has {id:?} for {left:?}, not {least:?} {what}; all {nodes:?}",
                        about.client, about.resource, about.token, about.born.elapsed(), guard.validity(), about.ttl.get()
                    ),
                );
                return;
            }
        }
    }

    fn judge_over(&self, guard: &LockGuard, about: &About) {
        let name = || {
            format!(
                "c{}'s guard of {} with token {}, {:?} old, ttl {:?}",
                about.client,
                about.resource,
                about.token,
                about.born.elapsed(),
                about.ttl.get()
            )
        };
        let since = about.over.get().unwrap_or_else(|| {
            about.over.set(Some(Instant::now()));
            Instant::now()
        });
        // Also where the task that looks has used up what tokio lets it do at a time.
        let why = tokio::task::unconstrained(guard.lost()).now_or_never();
        if !about.told.get()
            && let Some(why) = why
        {
            about.told.set(true);
            self.count("lost");
            self.note(|| format!("{} is lost: {why}", name()));
            self.judge_lost(about, why, &name());
        }
        let late = since.elapsed() > TIMER;
        if late && (why.is_none() || about.watched.get() == Watched::Waits) {
            self.fail(
                "S3 told",
                format!(
                    "{} is over for {:?}, and lost() does not say so",
                    name(),
                    since.elapsed()
                ),
            );
        }
    }

    fn judge_lost(&self, about: &About, why: LeaseLost, name: &str) {
        match why {
            LeaseLost::MaxHold if about.max_hold.is_some() => return,
            LeaseLost::Expired if about.renews.get().is_none() => return,
            LeaseLost::Expired | LeaseLost::QuorumLost => {}
            other => return self.fail("VERDICT lost", format!("{name}: {other}")),
        }
        let calm = matches!(self.plan.weather, Weather::Calm | Weather::Gentle);
        if calm && self.plan.sound(about.client, about.ttl.get().0) {
            let promise = if self.plan.weather == Weather::Calm {
                "L6"
            } else {
                "L5"
            };
            self.fail(promise, format!("{name} was lost: {why}"));
        }
    }

    /// A release or leave was confirmed: from now on a minority at most may have that id.
    pub(crate) fn released(&self, resource: &str, id: Option<String>) {
        if let Some(id) = id {
            let mut inner = self.inner.borrow_mut();
            inner
                .released
                .push_back((resource.to_owned(), id, Instant::now()));
            if inner.released.len() > 3 {
                inner.released.pop_front();
            }
        }
        self.sample();
    }

    fn judge_released(&self) {
        let released = self.inner.borrow().released.clone();
        for (resource, id, at) in released {
            let votes = self.votes(&resource);
            let uuid = |id: &str| id.split(':').next().map(str::to_owned);
            let have = votes
                .iter()
                .flatten()
                .filter(|vote| uuid(vote) == uuid(&id))
                .count();
            if have > votes.len() - self.plan.quorum() && self.plan.weather != Weather::Wild {
                self.fail(
                    "C3 confirmed",
                    format!(
                        "{resource}: {id} was released {:?} ago and is on {have} nodes: {votes:?}",
                        at.elapsed()
                    ),
                );
            }
        }
    }
}
