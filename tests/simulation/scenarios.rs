//! Scenarios: what is promised of time, and of one event, is measured where nothing else goes on.
//!
//! Each run ends with a few of them, on nodes that the faults have left in whatever state, each beside a
//! minority of nodes that is well, hung or down.

mod burst;
mod hold;
mod late;
mod memory;
mod rivals;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    chance::Chance,
    chaos::{self, Memory},
    history::{Call, Kind, Ms, Settings, What},
    life::{self, Life, Part},
    run::{Party, Stage},
    way::NOTICED,
    work::Cut,
};
use crate::{LockGuard, Ticket};

/// No scenario waits for longer than this.
const NEVER: Duration = Duration::from_secs(60);

struct Scenario<'a> {
    stage: &'a Stage,
    chance: &'a mut Chance,
    parties: &'a mut Vec<Party>,
    resource: usize,
    /// What the minority costs at most.
    sick: Ms,
}

/// Polls a future on behalf of a client, whose tasks it may start.
async fn within_life<F: Future>(life: &Life, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| life::within(life, || future.as_mut().poll(cx))).await
}

/// Scenarios some promises.
pub(super) async fn run(stage: &Stage, chance: &mut Chance, parties: &mut Vec<Party>) {
    sleep(stage.past_grace()).await;
    for turn in 0..3 {
        let mut scenario = Scenario {
            stage,
            chance,
            parties,
            resource: 10 + turn,
            sick: 0,
        };
        scenario.go().await;
        stage.sim.with(chaos::heal);
        sleep(stage.past_grace()).await;
    }
}

impl Scenario<'_> {
    async fn go(&mut self) {
        // That costs as much as all else.
        if self.chance.is(2) {
            return match self.chance.below(8) {
                0 => self.crowd().await,
                1..=5 => self.longer_way().await,
                _ => self.burst().await,
            };
        }
        match self.chance.below(72) {
            12 | 13 => self.pestered().await,
            14..=16 => self.late_taker().await,
            17..=19 => self.one_node_meddles().await,
            20 | 21 => self.restart_after_handoff().await,
            22 => self.extended_once().await,
            23 => self.polled_once().await,
            24 | 25 => self.hasty_in_front().await,
            26 | 27 => self.old_snapshot().await,
            28 => self.far_clock().await,
            31 => self.try_beside_grace().await,
            29 | 30 => self.dead_holder().await,
            32 => self.old_snapshot().await,
            0 => self.dead_holder().await,
            1 | 2 => self.dead_waiters().await,
            3 | 4 => self.split_vote().await,
            5 => self.sick_minority().await,
            6 => self.rolling_restart().await,
            7 => self.quorum_comes_back().await,
            8 => self.dropped_lock().await,
            9 => self.dropped_acquire().await,
            10 => self.unclaimed_grant().await,
            11 => self.extend_after_release().await,
            33 | 34 => self.dead_process().await,
            35 | 50..=52 => self.polled_now_and_then().await,
            37..=40 => self.restart_behind_an_answer().await,
            41..=46 => self.forgotten_token().await,
            47..=49 => self.polls_seldom().await,
            53..=55 => self.split_beside_resets().await,
            56..=58 => self.newcomers().await,
            59 | 60 => self.full_of_hasty().await,
            61..=63 => self.hasty_attempt().await,
            64..=69 => self.dead_holder().await,
            _ => self.push_after_expiry().await,
        }
    }

    /// L2: a dead holder costs what is left of its lease, plus one poll. A renewal that was under way when it died
    /// may be carried out until its deadline.
    async fn dead_holder(&mut self) {
        self.minority_falls_sick();
        let (ttl, dead, next) = (self.chance.between(200, 4000), self.enter(), self.enter());
        let handed = self.chance.is(60);
        let before = self.enter();
        // It may have been handed over: then it is a lease like any other.
        let (first, guard) = if handed {
            let (call, guard) = self.lock(before, 3000).await;
            let (first, comes) = self.waits(dead, ttl);
            sleep(Duration::from_millis(self.round_trips(4))).await;
            self.releases(call, guard).await;
            let handed = timeout(NEVER, comes).await.expect("in time");
            (first, handed.expect("a guard"))
        } else {
            self.lock(dead, ttl).await
        };
        let (second, waits) = self.waits(next, ttl);
        let lives = self.chance.below(2 * ttl);
        sleep(Duration::from_millis(lives)).await;
        self.dies(dead);
        // Whatever that asks for does not get out any more.
        drop(guard);
        let died = self.now();
        let served = self.served(waits).await;
        let renewal = self.stage.settings().node_timeout;
        let bound = ttl + renewal + ttl / 100 + self.poll() + self.round_trips(3) + self.sick;
        self.tell(
            "L2",
            vec![first, second],
            died,
            served,
            bound,
            "the holder died",
        );
    }

    /// F3: all dead waiters together delay the next live one by one waiter ttl.
    async fn dead_waiters(&mut self) {
        let (holder, live) = (self.enter(), self.enter());
        let (first, guard) = self.lock(holder, 3000).await;
        let mut calls = vec![first];
        let mut dying = Vec::new();
        for _ in 0..self.chance.between(1, 5) {
            let dead = self.enter();
            let (call, ticket) = self.ticket(dead, 3000).await;
            calls.push(call);
            dying.push((dead, ticket));
        }
        let (last, waits) = self.waits(live, 3000);
        calls.push(last);
        let lives = self.chance.millis(self.stage.settings().ephemeral * 2);
        sleep(lives).await;
        let at_once = self.chance.is(50);
        if at_once {
            self.releases(first, guard).await;
        } else {
            for (dead, _) in &dying {
                self.dies(*dead);
                let pause = self.chance.millis(100);
                sleep(pause).await;
            }
            self.releases(first, guard).await;
        }
        for (dead, ticket) in dying {
            self.dies(dead);
            drop(ticket);
        }
        let free = self.now();
        let served = self.served(waits).await;
        let settings = self.stage.settings();
        // A keep-alive that was under way when they died may be carried out until its deadline.
        let lease = settings.ephemeral + settings.node_timeout;
        let bound = lease + self.poll() + self.round_trips(4);
        self.tell(
            "F3",
            calls,
            free,
            served,
            bound,
            "all waiters ahead were dead",
        );
    }

    /// F3: the waiters of one dead process, which listened for their turn, cost two polls together.
    async fn dead_process(&mut self) {
        // The places of the dead last for longer than it takes the nodes to notice, and than the bound.
        let long = Settings {
            ephemeral: 8000,
            ..self.stage.settings().clone()
        };
        let (holder, dead, live) = (self.enter(), self.enter_with(long), self.enter());
        let (first, guard) = self.lock(holder, 3000).await;
        let mut calls = vec![first];
        let mut dying = Vec::new();
        for _ in 0..self.chance.between(1, 6) {
            let (call, ticket) = self.ticket(dead, 8000).await;
            calls.push(call);
            dying.push(ticket);
        }
        let (last, waits) = self.waits(live, 3000);
        calls.push(last);
        sleep(Duration::from_millis(self.round_trips(6))).await;
        self.dies(dead);
        drop(dying);
        sleep(Duration::from_millis(NOTICED)).await;
        let free = self.now();
        self.releases(first, guard).await;
        let served = self.served(waits).await;
        let bound = (2 * self.poll()).max(20) + self.round_trips(5);
        self.tell(
            "F3",
            calls,
            free,
            served,
            bound,
            "the process of all waiters ahead was dead",
        );
    }

    /// C4, L1: a turn that is polled now and then, within the time that it lasts, is had.
    async fn polled_now_and_then(&mut self) {
        let (holder, party, next) = (self.enter(), self.enter(), self.enter());
        let ttl = self.chance.between(500, 4000);
        let (first, guard) = self.lock(holder, 4000).await;
        let (call, mut ticket) = self.ticket(party, ttl).await;
        let (second, mut waits) = self.waits(next, 4000);
        let pause = self.chance.millis(1000);
        sleep(pause).await;
        self.releases(first, guard).await;
        let lease = self.stage.settings().ephemeral.min(ttl);
        let every = lease * self.chance.between(20, 90) / 100;
        let from = self.now();
        let mut had = None;
        for _ in 0..12 {
            sleep(Duration::from_millis(every)).await;
            self.note(What::Polled(call));
            if let Some(Ok(guard)) = Cut::new(ticket.acquire(), 1, call).await {
                had = Some(guard);
                break;
            }
            self.note(What::Unpolled(call));
            if waits.try_recv().is_ok() {
                break;
            }
        }
        let at = had.is_some().then(|| self.now());
        let what = "it was polled now and then";
        self.tell("C4", vec![call, second], from, at, 4 * every, what);
        if let Some(guard) = had {
            let guard = Arc::new(guard);
            self.stage.sim.follow(call, &guard);
            self.releases(call, guard).await;
        }
        self.note(What::Given(call));
    }

    /// L3: a split vote resolves in a few round trips.
    async fn split_vote(&mut self) {
        self.minority_falls_sick();
        let mut calls = Vec::new();
        let mut waiting = Vec::new();
        let start = self.now();
        for _ in 0..self.chance.between(2, 5) {
            let party = self.enter();
            let (call, waits) = self.waits(party, 4000);
            calls.push(call);
            waiting.push(waits);
        }
        let mut served = None;
        let mut one = Box::pin(futures::future::select_all(waiting));
        if let Ok((first, ..)) = timeout(NEVER, &mut one).await {
            served = first.ok().map(|_| self.now());
        }
        let bound = self.round_trips(8) + self.sick;
        self.tell("L3", calls, start, served, bound, "several asked at once");
    }

    /// C2: votes are given back while connections break, so that an older generation of a request may reach a node
    /// after a newer one. Everybody is served all the same.
    async fn split_beside_resets(&mut self) {
        let asking = self.chance.between(4, 8);
        let parties: Vec<usize> = (0..asking).map(|_| self.enter()).collect();
        let mut waiting: Vec<_> = parties
            .iter()
            .map(|party| self.waits(*party, 4000))
            .collect();
        let nodes = self.stage.settings().nodes;
        for _ in 0..12 {
            let pause = self.chance.millis(self.round_trips(1));
            sleep(pause).await;
            let mut breaks = Vec::new();
            for party in &parties {
                for node in 0..nodes {
                    if self.chance.is(50) {
                        breaks.push((*party, node));
                    }
                }
            }
            self.stage.sim.with(|world| {
                for (party, node) in breaks {
                    world.reset(party, node);
                }
            });
        }
        while !waiting.is_empty() {
            let (calls, waits): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
            let next = timeout(NEVER, futures::future::select_all(waits)).await;
            let Ok((Ok(guard), first, rest)) = next else {
                return;
            };
            let mut calls = calls;
            // As `select_all` takes it out.
            self.releases(calls.swap_remove(first), guard).await;
            waiting = calls.into_iter().zip(rest).collect();
        }
    }

    /// L4: a hung or dead minority costs no latency.
    async fn sick_minority(&mut self) {
        self.minority_falls_sick();
        let party = self.enter();
        let start = self.now();
        let (call, waits) = self.waits(party, 4000);
        let served = self.served(waits).await;
        // One to get the votes, and one to write the fencing token where the counters are not equal.
        let bound = self.round_trips(2);
        self.tell(
            "L4",
            vec![call],
            start,
            served,
            bound,
            "a minority was sick",
        );
    }

    /// L5: a held lease survives a restart of every node, one at a time, also with waiters in line.
    async fn rolling_restart(&mut self) {
        let ttl = self.chance.pick(&[1500, 3000, 5000]);
        let (holder, waiter) = (self.enter(), self.enter());
        let (call, guard) = self.lock(holder, ttl).await;
        let (waiting, waits) = self.waits(waiter, ttl);
        // The first restart may come no sooner than the next one: a node that the waiter reached first must
        // have been repaired, too.
        sleep(Duration::from_millis(
            ttl / 3 + self.stage.settings().slack(),
        ))
        .await;
        for node in 0..self.stage.settings().nodes {
            let down = self.chance.below(ttl / 4);
            let on = format!("node {node}, one after the other");
            self.stage
                .sim
                .with(|world| chaos::crash(world, node, down, Memory::Empty, on));
            // All within five seconds would be a new deployment, which has no grace.
            let repaired = down + 3000 + ttl / 3 + self.stage.settings().slack();
            sleep(Duration::from_millis(repaired)).await;
        }
        let start = self.now();
        let lost = if guard.is_held() { 0 } else { 1 };
        let calls = vec![call, waiting];
        self.tell(
            "L5",
            calls,
            start,
            Some(start + lost),
            0,
            "every node restarted",
        );
        drop(waits);
        self.releases(call, guard).await;
    }

    /// L1: there is progress as soon as a quorum can be reached.
    async fn quorum_comes_back(&mut self) {
        let (holder, waiter) = (self.enter(), self.enter());
        let (first, guard) = self.lock(holder, 500).await;
        let (second, waits) = self.waits(waiter, 500);
        sleep(Duration::from_millis(50 + self.round_trips(2))).await;
        let lasts = self.chance.between(200, 3000);
        self.stage.sim.with(|world| {
            for node in 0..world.servers.len() {
                chaos::hang(world, node, lasts, format!("node {node}"));
            }
        });
        let gone = self.chance.millis(lasts);
        sleep(gone).await;
        self.let_go(first, guard);
        sleep(Duration::from_millis(lasts)).await;
        let back = self.now();
        let served = self.served(waits).await;
        let settings = self.stage.settings();
        // Connections are made again, the lease of the one before has run out or is released.
        let bound = 1000 + settings.slack() + settings.ephemeral + 1200;
        self.tell(
            "L1",
            vec![first, second],
            back,
            served,
            bound,
            "a quorum was back",
        );
    }

    /// C1, C3: what is dropped leaves nothing on nodes that answer.
    async fn dropped_lock(&mut self) {
        let (holder, party) = (self.enter(), self.enter());
        let held = self.chance.is(50);
        let before = if held {
            Some(self.lock(holder, 4000).await)
        } else {
            None
        };
        let (call, redlock) = (
            self.call(party, Kind::Lock, 4000),
            self.parties[party].redlock.clone(),
        );
        let name = self.name();
        let polls = self.chance.between(1, 5);
        let patience = self.chance.millis(20);
        self.note(What::Asks(call));
        let (dropped, gone) = oneshot::channel();
        let sim = self.stage.sim.clone();
        self.spawn(party, async move {
            let lock = redlock.lock(name, Duration::from_millis(4000));
            let outcome = timeout(patience, Cut::new(lock, polls, call)).await;
            sim.gives_up(call, outcome.ok().flatten().and_then(Result::ok));
            let _ = dropped.send(());
        });
        let _ = gone.await;
        let start = self.now();
        let end = start + self.round_trips(2);
        let mut left = true;
        while left && self.now() < end + 5000 {
            left = self.stage.sim.with(|world| {
                let now = world.now();
                world
                    .servers
                    .iter_mut()
                    .any(|server| server.standing(now).contains(&call))
            });
            if left {
                sleep(Duration::from_millis(1)).await;
            }
        }
        let done = self.now();
        self.tell(
            "C1",
            vec![call],
            start,
            Some(done),
            end - start,
            "the future or its guard was dropped",
        );
        if let Some((first, guard)) = before {
            self.releases(first, guard).await;
        }
    }

    /// C2, F2: an acquire that is dropped and called again keeps its place, however long it waits.
    async fn dropped_acquire(&mut self) {
        let (holder, party, later) = (self.enter(), self.enter(), self.enter());
        let (first, guard) = self.lock(holder, 4000).await;
        let (call, mut ticket) = self.ticket(party, 4000).await;
        let (last, _waits) = self.waits(later, 4000);
        let (answer, waits) = oneshot::channel();
        let (pauses, sim) = (self.chance.between(0, 300), self.stage.sim.clone());
        let mut chance = self.chance.fork();
        self.spawn(party, async move {
            loop {
                sim.note(What::Polled(call));
                let patience = chance.millis(100);
                let acquired = Cut::new(ticket.acquire(), chance.between(1, 3), call);
                match timeout(patience, acquired).await {
                    Ok(Some(Ok(guard))) => {
                        let guard = Arc::new(guard);
                        sim.follow(call, &guard);
                        let _ = answer.send(guard);
                        return;
                    }
                    Ok(Some(Err(_))) => return,
                    _ => sim.note(What::Unpolled(call)),
                }
                let pause = chance.millis(pauses);
                sleep(pause).await;
            }
        });
        let holds = self
            .chance
            .millis(4 * self.stage.settings().ephemeral.min(900));
        sleep(holds).await;
        self.releases(first, guard).await;
        let free = self.now();
        let served = timeout(NEVER, waits).await;
        let served = served
            .is_ok_and(|served| served.is_ok())
            .then(|| self.now());
        // Counters that differ are levelled while it is polled: then only the poll after that has the lease.
        let bound = self.poll() + self.round_trips(4) + 100 + 2 * pauses;
        self.tell(
            "C2",
            vec![first, call, last],
            free,
            served,
            bound,
            "it was first in line",
        );
    }

    /// C4: a grant that nobody polls is passed on, and its ticket is first again once it is polled.
    async fn unclaimed_grant(&mut self) {
        let (holder, party, next, later) = (self.enter(), self.enter(), self.enter(), self.enter());
        let (first, guard) = self.lock(holder, 4000).await;
        let (call, mut ticket) = self.ticket(party, 4000).await;
        self.note(What::Unpolled(call));
        let (second, waits) = self.waits(next, 4000);
        sleep(Duration::from_millis(100 + self.round_trips(4))).await;
        self.releases(first, guard).await;
        let free = self.now();
        let served = timeout(NEVER, waits).await.ok().and_then(Result::ok);
        let settings = self.stage.settings();
        let bound = settings.ephemeral + self.poll() + self.round_trips(6);
        let at = served.as_ref().map(|_| self.now());
        self.tell(
            "C4",
            vec![call, second],
            free,
            at,
            bound,
            "nobody polled the grant",
        );
        let (third, _waits) = self.waits(later, 4000);
        sleep(Duration::from_millis(100 + self.round_trips(4))).await;
        let (answer, again) = oneshot::channel();
        let sim = self.stage.sim.clone();
        self.spawn(party, async move {
            sim.note(What::Polled(call));
            if let Some(Ok(guard)) = Cut::new(ticket.acquire(), u64::MAX, call).await {
                let guard = Arc::new(guard);
                sim.follow(call, &guard);
                let _ = answer.send(guard);
            }
        });
        sleep(Duration::from_millis(100 + self.round_trips(4))).await;
        if let Some(guard) = served {
            self.let_go(second, guard);
        }
        let free = self.now();
        let served = timeout(NEVER, again).await;
        let at = served
            .is_ok_and(|served| served.is_ok())
            .then(|| self.now());
        let bound = self.poll() + self.round_trips(6);
        self.tell(
            "C4",
            vec![call, third],
            free,
            at,
            bound,
            "it was polled again, and first",
        );
    }

    /// A minority is hung or down, or nothing is wrong.
    fn minority_falls_sick(&mut self) {
        let nodes = self.stage.settings().nodes;
        let first = self.chance.below(nodes as u64) as usize;
        let minority = nodes - self.stage.settings().quorum;
        let kind = self.chance.below(3);
        self.stage.sim.with(|world| {
            for node in (0..minority).map(|place| (first + place) % nodes) {
                let on = format!("node {node}, for a scenario");
                match kind {
                    0 => chaos::hang(world, node, 20_000, on),
                    1 => chaos::crash(world, node, 20_000, Memory::Empty, on),
                    _ => {}
                }
            }
        });
        if kind == 0 {
            self.sick = self.stage.settings().node_timeout;
        }
    }

    /// Another client comes, to whom nothing has happened yet.
    fn enter(&mut self) -> usize {
        let settings = self.stage.settings().clone();
        self.enter_with(settings)
    }

    fn enter_with(&mut self, settings: Settings) -> usize {
        self.enter_as(Settings {
            room: 10_000,
            ..settings
        })
    }

    /// A client with just these settings.
    fn enter_as(&mut self, settings: Settings) -> usize {
        self.parties.push(self.stage.enter(settings, None));
        self.parties.len() - 1
    }

    fn dies(&self, party: usize) {
        let on = format!("client {party}");
        self.stage.sim.with(|world| chaos::die(world, party, on));
    }

    fn call(&self, client: usize, kind: Kind, ttl: Ms) -> u16 {
        let call = Call::new(client, self.resource, kind, ttl);
        self.stage.sim.with(|world| world.call(call))
    }

    fn name(&self) -> String {
        format!("r{}", self.resource)
    }

    fn spawn(&self, party: usize, task: impl Future<Output = ()> + Send + 'static) {
        let life = &self.parties[party].life;
        tokio::spawn(life.gate(Part::Callers, Box::pin(task)));
    }

    /// Asks for the lock, as long as it takes.
    fn waits(&self, party: usize, ttl: Ms) -> (u16, oneshot::Receiver<Arc<LockGuard>>) {
        let call = self.call(party, Kind::Lock, ttl);
        let lock = self.parties[party]
            .redlock
            .lock(self.name(), Duration::from_millis(ttl));
        let lock = lock.wait_forever();
        let (answer, served) = oneshot::channel();
        let sim = self.stage.sim.clone();
        self.spawn(party, async move {
            sim.note(What::Asks(call));
            match Cut::new(lock, u64::MAX, call).await {
                Some(Ok(guard)) => {
                    let guard = Arc::new(guard);
                    sim.follow(call, &guard);
                    let _ = answer.send(guard);
                }
                _ => sim.note(What::Failed(call, String::new())),
            }
        });
        (call, served)
    }

    async fn lock(&self, party: usize, ttl: Ms) -> (u16, Arc<LockGuard>) {
        let (call, served) = self.waits(party, ttl);
        (
            call,
            timeout(NEVER, served)
                .await
                .expect("in time")
                .expect("a guard"),
        )
    }

    async fn ticket(&self, party: usize, ttl: Ms) -> (u16, Ticket) {
        let call = self.call(party, Kind::Enqueue, ttl);
        let (redlock, name) = (self.parties[party].redlock.clone(), self.name());
        let (answer, recorded) = oneshot::channel();
        let sim = self.stage.sim.clone();
        self.spawn(party, async move {
            sim.note(What::Asks(call));
            let asked = redlock.enqueue(name, Duration::from_millis(ttl));
            if let Some(Ok(ticket)) = Cut::new(asked, u64::MAX, call).await {
                sim.note(What::Recorded(call));
                let _ = answer.send(ticket);
            }
        });
        (call, recorded.await.expect("a ticket"))
    }

    async fn releases(&self, call: u16, guard: Arc<LockGuard>) {
        self.stage.sim.look_at_guards();
        self.note(What::Releases(call));
        if let Some(guard) = Arc::into_inner(guard)
            && guard.release().await.is_ok()
        {
            self.note(What::Confirmed(call));
        }
    }

    fn let_go(&self, call: u16, guard: Arc<LockGuard>) {
        self.stage.sim.look_at_guards();
        self.note(What::Releases(call));
        drop(guard);
    }

    async fn served(&self, waits: oneshot::Receiver<Arc<LockGuard>>) -> Option<Ms> {
        let served = timeout(NEVER, waits).await;
        served
            .is_ok_and(|served| served.is_ok())
            .then(|| self.now())
    }

    fn now(&self) -> Ms {
        self.stage.sim.now()
    }

    fn note(&self, what: What) {
        self.stage.sim.note(what);
    }

    fn poll(&self) -> Ms {
        self.stage.settings().poll
    }

    /// So many round trips, with what the timers are coarser than that.
    fn round_trips(&self, many: Ms) -> Ms {
        many * (2 * self.stage.settings().delay + 1) + 2
    }

    fn tell(
        &self,
        promise: &'static str,
        calls: Vec<u16>,
        from: Ms,
        to: Option<Ms>,
        bound: Ms,
        what: &str,
    ) {
        let took = to.map_or(NEVER.as_millis() as Ms, |to| to - from);
        let what = what.to_owned();
        self.note(What::Scenario {
            promise,
            calls,
            took,
            bound,
            what,
        });
    }
}
