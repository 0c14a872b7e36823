//! Scenarios with a lease that is held: whatever its owner calls, cancels or leaves unpolled (L6), and whatever one
//! node does (S1, L5), on nodes that are well.

use std::{future::Future, pin::Pin, time::Duration};

use tokio::time::{sleep, timeout};

use super::{NEVER, Scenario};
use crate::{
    LockGuard,
    simulation::{
        chaos::{self, Memory},
        history::{Call, Kind, Ms, Settings, What},
        server::Server,
        way::Weather,
        work::Cut,
        world::World,
    },
};

impl Scenario<'_> {
    /// L6: a lease is renewed while its owner calls, cancels and keeps what there is.
    pub(super) async fn pestered(&mut self) {
        let delay = self.chance.pick(&[1, 1, 5, 20, 50]);
        let settings = self.patient(delay);
        let trip = settings.round_trip();
        let party = self.enter_with(settings);
        self.slow(party, |_| (delay, delay));
        let ttl = self.chance.between(200.max(12 * trip), 5000);
        let (call, guard) = self.lock(party, ttl).await;
        let end = self.now() + ttl + self.chance.below(ttl) + 10;
        let step = self.chance.between(1, trip.max(2));
        let kind = self.chance.below(6);
        match kind {
            0 => self.asks_until(&guard, call, end, step).await,
            1 => {
                let (one, other) = (self.asks_until(&guard, call, end, step), async {
                    sleep(Duration::from_millis(step / 2 + 1)).await;
                    self.asks_until(&guard, call, end, step).await;
                });
                tokio::join!(one, other);
            }
            2 | 3 => {
                let mut kept: Pin<Box<dyn Future<Output = ()> + Send + '_>> = if kind == 2 {
                    Box::pin(async { drop(guard.is_valid().await) })
                } else {
                    Box::pin(async { drop(guard.extend(Duration::from_millis(ttl)).await) })
                };
                let wait = self.chance.millis(ttl / 2);
                sleep(wait).await;
                let _ = Cut::new(&mut kept, 1, call).await;
                let rest = end + ttl - self.now();
                sleep(Duration::from_millis(rest)).await;
            }
            _ => {
                // Cancelled at any moment of a round trip, again and again.
                let end = end + 4 * ttl;
                while self.now() < end {
                    let wait = self.chance.millis(ttl / 4);
                    sleep(wait).await;
                    let patience = Duration::from_millis(self.chance.below(trip + 1));
                    if kind == 4 {
                        let asks = Cut::new(guard.is_valid(), u64::MAX, call);
                        let _ = timeout(patience, asks).await;
                    } else {
                        let extends = guard.extend(Duration::from_millis(ttl));
                        let _ = timeout(patience, Cut::new(extends, u64::MAX, call)).await;
                    }
                }
            }
        }
        let what = [
            "`is_valid` was called all the time",
            "`is_valid` was called by two in turn",
            "`is_valid` was polled once and kept",
            "`extend` was polled once and kept",
            "`is_valid` was cancelled at any moment",
            "`extend` was cancelled at any moment",
        ];
        self.is_kept(call, &guard, what[kind as usize]);
        self.releases(call, guard).await;
    }

    async fn asks_until(&self, guard: &LockGuard, call: u16, end: Ms, step: Ms) {
        while self.now() < end && guard.is_held() {
            let _ = Cut::new(guard.is_valid(), u64::MAX, call).await;
            sleep(Duration::from_millis(step)).await;
        }
    }

    /// L6: a grant that is taken late is a lease for as long as it is held, also if it is extended at once.
    pub(super) async fn late_taker(&mut self) {
        let delay = self.chance.pick(&[1, 1, 5, 25]);
        let settings = Settings {
            ephemeral: self.chance.pick(&[500, 1500, 5000]),
            drift: self.chance.pick(&[10, 10, 10, 500]),
            ..self.patient(delay)
        };
        let (ephemeral, trip) = (settings.ephemeral, settings.round_trip());
        let late = settings.node_timeout;
        let holder = self.enter();
        let party = self.enter_with(settings);
        self.slow(party, |_| (delay, delay));
        let ttl = self.chance.between(12 * trip + 100, 5000);
        let before = if self.chance.is(60) {
            Some(self.lock(holder, 3000).await)
        } else {
            None
        };
        let (call, mut ticket) = self.ticket(party, ttl).await;
        self.note(What::Unpolled(call));
        if let Some((first, guard)) = before {
            self.releases(first, guard).await;
        }
        let turn = ephemeral.min(ttl);
        let wait = match self.chance.below(4) {
            0 => 0,
            1 => self.chance.below(turn),
            // The next renewal would be due by then, and there is still time for it.
            2 => turn - self.chance.between(late.min(turn / 3), turn / 3),
            _ => turn.saturating_sub(self.chance.below(4 * trip + 20)),
        };
        sleep(Duration::from_millis(wait)).await;
        self.note(What::Polled(call));
        let acquired = Cut::new(ticket.acquire(), u64::MAX, call);
        let Ok(Some(Ok(guard))) = timeout(NEVER, acquired).await else {
            return self.tell(
                "L6",
                vec![call],
                0,
                Some(1),
                0,
                "a grant was not had in a minute",
            );
        };
        let guard = std::sync::Arc::new(guard);
        self.stage.sim.follow(call, &guard);
        let mut longest = ttl;
        let mut what = "its grant was taken late";
        if self.chance.is(40) {
            let other = self.chance.between(12 * trip + 100, 6000);
            self.stage
                .sim
                .changes(call, |it| it.longest = it.longest.max(other));
            let extends = guard.extend(Duration::from_millis(other));
            if let Some(Ok(())) = Cut::new(extends, u64::MAX, call).await {
                self.stage.sim.changes(call, |it| it.extended(other));
            }
            longest = longest.max(other);
            what = "its grant was taken late, and extended at once";
        }
        sleep(Duration::from_millis(2 * longest)).await;
        self.is_kept(call, &guard, what);
        self.releases(call, guard).await;
    }

    /// S1, whole lease: several ask at once, or one after the other, some nodes being farther away than others;
    /// a few round trips after each guard one node loses the key.
    pub(super) async fn one_node_meddles(&mut self) {
        const FAR: Ms = 20;
        let at_once = self.chance.is(60);
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let party = self.enter_with(self.patient(FAR));
            let mut chance = self.chance.fork();
            self.slow(party, |_| {
                let delay = chance.pick(&[1, 1, 3, FAR]);
                (delay, delay)
            });
            let ttl = self.chance.pick(&[2000, 4000, 8000]);
            waiting.push((ttl, self.waits(party, ttl)));
            if !at_once {
                sleep(Duration::from_millis(10 * FAR)).await;
            }
        }
        // It stands on a bare quorum for no longer than this.
        let few = Settings {
            delay: FAR,
            ..Settings::default()
        };
        while !waiting.is_empty() {
            let each = waiting.iter_mut().map(|(_, (_, served))| served);
            let next = timeout(NEVER, futures::future::select_all(each)).await;
            let Ok((Ok(guard), place, _)) = next else {
                return;
            };
            let (ttl, (call, _)) = waiting.remove(place);
            sleep(Duration::from_millis(2 * few.few())).await;
            let node = self.chance.below(self.stage.settings().nodes as u64) as usize;
            let resource = self.resource;
            self.stage
                .sim
                .with(|world| chaos::delete(world, node, resource));
            // As long as it takes until it is renewed.
            sleep(Duration::from_millis(ttl / 3 + few.few())).await;
            self.is_kept(call, &guard, "one node lost its key");
            self.releases(call, guard).await;
        }
    }

    /// L5: what was handed over survives the restart of a node at any time after a few round trips.
    pub(super) async fn restart_after_handoff(&mut self) {
        let (holder, waiter) = (self.enter(), self.enter());
        let ttl = self.chance.pick(&[3000, 5000, 10_000]);
        let (first, guard) = self.lock(holder, ttl).await;
        let (call, waits) = self.waits(waiter, ttl);
        let waited = self.chance.millis(2000);
        sleep(waited).await;
        self.let_go(first, guard);
        let Ok(Ok(guard)) = timeout(NEVER, waits).await else {
            return;
        };
        let few = self.stage.settings().few();
        let wait = few + self.chance.below(2 * ttl);
        sleep(Duration::from_millis(wait)).await;
        let node = self.chance.below(self.stage.settings().nodes as u64) as usize;
        self.restarts(node);
        sleep(Duration::from_millis(2 * ttl)).await;
        let now = self.now();
        let lost = u64::from(!guard.is_held());
        let what = "one node restarted after a handoff";
        self.tell("L5", vec![first, call], now, Some(now + lost), 0, what);
        self.releases(call, guard).await;
    }

    /// Whole lease: an answer of a node's earlier run may come when its client is connected to the new one, which
    /// has forgotten the lease. It says nothing about that.
    pub(super) async fn restart_behind_an_answer(&mut self) {
        let party = self.enter_with(self.patient(1));
        self.slow(party, |_| (1, 1));
        let ttl = 25_000;
        let (call, guard) = self.lock(party, ttl).await;
        if self.chance.is(50) {
            guard.stop_auto_extend();
            self.stage.sim.changes(call, Call::stopped);
        }
        sleep(Duration::from_millis(100)).await;
        let node = self.chance.below(self.stage.settings().nodes as u64) as usize;
        let late = self.chance.between(100, 400);
        let weather = |world: &mut World, delay| {
            world.set_weather(party, node, |weather| weather.delay = (delay, delay));
        };
        self.stage.sim.with(|world| weather(world, late));
        let _ = Cut::new(guard.is_valid(), 1, call).await;
        // It has arrived by then, and the answer is under way.
        let under_way = late + self.chance.below(late);
        sleep(Duration::from_millis(under_way)).await;
        self.restarts(node);
        self.stage.sim.with(|world| weather(world, 1));
        // The answer may never come. By then the lease is not due to be renewed.
        sleep(Duration::from_millis(3000)).await;
        let (now, resource) = (self.now(), self.resource);
        let left = self.stage.sim.with(|world| {
            let left = world.servers[node].key_left(resource, call, now);
            left.unwrap_or(0)
        });
        let missing = u64::from(left < ttl / 2);
        let what = "a node restarted behind an answer; leases that it was not given again";
        self.tell("whole lease", vec![call], now, Some(now + missing), 0, what);
        self.releases(call, guard).await;
    }

    /// S2: the only node that has heard of a token and can be asked forgets it, and its clock is behind.
    pub(super) async fn forgotten_token(&mut self) {
        let settings = self.stage.settings().clone();
        let mut nodes: Vec<usize> = (0..settings.nodes).collect();
        self.stage
            .sim
            .with(|world| nodes.sort_by_key(|node| world.servers[*node].ahead));
        let ahead = |world: &World, node: usize| world.servers[node].ahead;
        let apart = self
            .stage
            .sim
            .with(|world| ahead(world, nodes[settings.nodes - 1]) - ahead(world, nodes[0]));
        if apart > 1000 * settings.clocks_apart() as i64 {
            return;
        }
        let party = self.enter();
        // Between the one that is behind and those that are ahead.
        let (behind, others) = (
            nodes[0],
            nodes[1..=settings.nodes - settings.quorum].to_vec(),
        );
        let ahead = nodes[1 + others.len()..].to_vec();
        let pauses = [self.chance.below(600), self.chance.below(200)];
        // Whatever has restarted before has not started together with what restarts now.
        sleep(Duration::from_secs(6)).await;
        self.restarts(others[0]);
        sleep(Duration::from_millis(600 + pauses[0])).await;
        for node in &others {
            self.hangs(*node, 5000);
        }
        let (call, guard) = self.lock(party, 1000).await;
        self.releases(call, guard).await;
        // What they were asked comes too late by then.
        sleep(Duration::from_millis(2 * settings.node_timeout)).await;
        for node in &others {
            self.stage.sim.with(|world| chaos::wake(world, *node));
        }
        sleep(Duration::from_millis(pauses[1])).await;
        self.restarts(behind);
        // Nothing is known of those any more, not even their clocks.
        let cut = |scenario: &Self, cut: bool| {
            scenario.stage.sim.with(|world| {
                for node in &ahead {
                    world.set_weather(party, *node, |weather| weather.cut_there = cut);
                    world.reset(party, *node);
                }
            });
        };
        cut(self, true);
        // Until it is connected again.
        sleep(Duration::from_millis(400)).await;
        let (call, guard) = self.lock(party, 1000).await;
        self.releases(call, guard).await;
        cut(self, false);
    }

    /// L6, L1: a waiter that got one node's vote keeps it from nobody who comes first, however seldom it polls.
    pub(super) async fn polls_seldom(&mut self) {
        let seldom = Settings {
            poll: 3_600_000,
            ..self.patient(1)
        };
        let (holder, party) = (self.enter_with(self.patient(1)), self.enter_with(seldom));
        let ttl = self.chance.between(600, 1500);
        let (call, guard) = self.lock(holder, ttl).await;
        let (second, _waits) = self.waits(party, 4000);
        let nodes = self.stage.settings().nodes as u64;
        let minority = self.stage.settings().nodes - self.stage.settings().quorum;
        let hung = self.chance.below(nodes) as usize;
        for _ in 0..self.chance.between(3, 6) {
            // For longer than what the lease has there.
            let span = ttl + ttl / 4 + self.chance.below(40);
            self.hangs(hung, span);
            sleep(Duration::from_millis(span + 5 * ttl)).await;
        }
        for place in 1..=minority {
            self.hangs((hung + place) % nodes as usize, 3 * ttl);
        }
        sleep(Duration::from_millis(3 * ttl)).await;
        let now = self.now();
        let lost = u64::from(!guard.is_held());
        let what = "a waiter polls seldom, and nodes hang one after the other";
        self.tell("L6", vec![call, second], now, Some(now + lost), 0, what);
        self.releases(call, guard).await;
        self.dies(party);
    }

    /// Verdicts: beside one node in its grace `try_lock` finds free what is free.
    pub(super) async fn try_beside_grace(&mut self) {
        let node = self.chance.below(self.stage.settings().nodes as u64) as usize;
        let party = self.enter();
        self.restarts(node);
        // Until it is connected again.
        sleep(Duration::from_millis(600)).await;
        let (first, start) = (self.resource + 200, self.now());
        let mut calls = Vec::new();
        for resource in first..first + 6 {
            self.resource = resource;
            let call = self.call(party, Kind::TryLock, 1000);
            let (redlock, name) = (self.parties[party].redlock.clone(), self.name());
            self.note(What::Asks(call));
            let tries = redlock.try_lock(&name, Duration::from_secs(1));
            let tries = Cut::new(tries, u64::MAX, call);
            match super::within_life(&self.parties[party].life, tries).await {
                Some(Ok(Some(guard))) => {
                    let guard = std::sync::Arc::new(guard);
                    self.stage.sim.follow(call, &guard);
                    self.releases(call, guard).await;
                }
                _ => calls.push(call),
            }
            self.note(What::Given(call));
        }
        let refused = calls.len() as Ms;
        let what = "one node was in its grace; free locks that were not had";
        self.tell("verdicts", calls, start, Some(start + refused), 0, what);
    }

    /// Whole lease: what an extend has prolonged on a quorum it prolongs on all nodes.
    pub(super) async fn extended_once(&mut self) {
        let party = self.enter();
        let (call, guard) = self.lock(party, 1000).await;
        let longer = self.chance.between(2000, 9000);
        self.stage.sim.changes(call, |it| it.longest = longer);
        // What goes to one node is lost on the way.
        let node = self.chance.below(self.stage.settings().nodes as u64) as usize;
        self.stage
            .sim
            .with(|world| world.set_weather(party, node, |weather| weather.loses_requests = 100));
        let start = self.now();
        let extends = guard.extend(Duration::from_millis(longer));
        if let Some(Ok(())) = Cut::new(extends, u64::MAX, call).await {
            self.stage.sim.changes(call, |it| it.extended(longer));
        }
        self.stage
            .sim
            .with(|world| world.set_weather(party, node, |weather| weather.loses_requests = 0));
        guard.stop_auto_extend();
        self.stage.sim.changes(call, Call::stopped);
        let settings = self.stage.settings();
        // It is missed after a timeout, and asked again.
        let wait = 2 * settings.node_timeout + 2 * settings.few();
        sleep(Duration::from_millis(wait)).await;
        let now = self.now();
        let least = longer.saturating_sub(now - start + longer / 50 + 5);
        let resource = self.resource;
        let short = self.stage.sim.with(|world| {
            let left = |server: &Server| server.key_left(resource, call, now).unwrap_or(0);
            let servers = world.servers.iter();
            servers.filter(|server| left(server) < least).count() as Ms
        });
        let what = "extended once; nodes that have not got all of it";
        self.tell("whole lease", vec![call], now, Some(now + short), 0, what);
        self.releases(call, guard).await;
    }

    /// C4: a future that was polled in its first round, and never again, is in nobody's way for longer than a
    /// waiter ttl, whatever its ttl.
    pub(super) async fn polled_once(&mut self) {
        let (party, next) = (self.enter(), self.enter());
        let ttl = self.chance.between(4000, 20_000);
        let call = self.call(party, Kind::Lock, ttl);
        let lock = self.parties[party]
            .redlock
            .lock(self.name(), Duration::from_millis(ttl));
        let mut lock = Box::pin(lock.wait_forever());
        self.note(What::Asks(call));
        let polls = self.chance.between(1, 2);
        let life = self.parties[party].life.clone();
        let cut = Cut::new(&mut lock, polls, call);
        if super::within_life(&life, cut).await.is_some() {
            return self.note(What::Given(call));
        }
        self.note(What::Forgotten(call));
        let start = self.now();
        let (second, waits) = self.waits(next, 1000);
        let served = self.served(waits).await;
        let bound = self.stage.settings().ephemeral + self.poll() + self.round_trips(8) + 5;
        let what = "the first in line was polled in its first round only";
        self.tell("C4", vec![call, second], start, served, bound, what);
        self.note(What::Given(call));
        drop(lock);
    }

    /// Nobody stuck: whoever is in front may have settings with which it can hardly take its turn.
    pub(super) async fn hasty_in_front(&mut self) {
        let delay = self.chance.pick(&[10, 25]);
        let base = self.patient(delay);
        let trip = base.round_trip();
        let (mut ephemeral, mut ttl) = (base.ephemeral, 3000);
        if self.chance.is(70) {
            ephemeral = self.chance.between(trip, 5 * trip);
        } else {
            ttl = self.chance.between(trip, 5 * trip);
        }
        let hasty = Settings {
            ephemeral,
            ..base.clone()
        };
        let holder = self.enter();
        let (front, behind) = (self.enter_with(hasty), self.enter_with(base));
        for party in [front, behind] {
            self.slow(party, |_| (delay, delay));
        }
        let (first, guard) = self.lock(holder, 3000).await;
        let (second, comes) = self.waits(front, ttl);
        sleep(Duration::from_millis(4 * trip)).await;
        let (third, waits) = self.waits(behind, 3000);
        sleep(Duration::from_millis(4 * trip)).await;
        self.releases(first, guard).await;
        let free = self.now();
        let life = self.parties[front].life.clone();
        // If that is served it goes at once.
        let sim = self.stage.sim.clone();
        let task = async move {
            if let Ok(guard) = comes.await {
                sim.look_at_guards();
                sim.note(What::Releases(second));
                drop(guard);
            }
        };
        tokio::spawn(life.gate(super::Part::Callers, Box::pin(task)));
        let served = self.served(waits).await;
        let what = format!(
            "in front was a waiter ttl of {ephemeral} ms and a ttl of {ttl} ms, the round trip being {trip} ms"
        );
        let calls = vec![first, second, third];
        self.tell("nobody stuck", calls, free, served, 20_000, &what);
        // It may never be served itself.
        self.dies(front);
    }

    /// Settings with which all is well at such a delay.
    pub(super) fn patient(&self, delay: Ms) -> Settings {
        let base = self.stage.settings();
        Settings {
            delay: delay.max(base.delay),
            node_timeout: 500,
            ephemeral: base.ephemeral.max(20 * delay),
            ..base.clone()
        }
    }

    /// From now on each node is that far from a client, and that is healthy.
    pub(super) fn slow(&mut self, client: usize, mut delay: impl FnMut(usize) -> (Ms, Ms)) {
        for node in 0..self.stage.settings().nodes {
            let fair = Weather::fair(delay(node));
            self.stage.sim.with(|world| {
                world.ways[client][node].fair = fair;
                world.set_weather(client, node, |weather| *weather = fair);
            });
        }
    }

    /// A node restarts at once, and has forgotten all.
    fn restarts(&self, node: usize) {
        let on = format!("node {node}, for a scenario");
        let crash = |world: &mut World| chaos::crash(world, node, 0, Memory::Empty, on);
        self.stage.sim.with(crash);
    }

    fn hangs(&self, node: usize, span: Ms) {
        let on = format!("node {node}, for a scenario");
        let hang = |world: &mut World| chaos::hang(world, node, span, on);
        self.stage.sim.with(hang);
    }

    fn is_kept(&self, call: u16, guard: &LockGuard, what: &str) {
        let now = self.now();
        let lost = u64::from(!guard.is_held());
        self.tell("L6", vec![call], now, Some(now + lost), 0, what);
    }
}
