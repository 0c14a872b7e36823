//! Scenarios with very many requests at once, on nodes that carry them out one after the other.

use std::time::Duration;

use futures::{FutureExt, StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};

use super::Scenario;
use crate::simulation::{
    history::{Kind, Ms, Settings, What},
    server::Server,
    work::Cut,
};

impl Scenario<'_> {
    /// L1, C3: a burst is slow, and never refused; and what is dropped at once is cleared as fast.
    pub(super) async fn burst(&mut self) {
        let many = self.chance.between(500, 3000) as usize;
        // In microseconds for each request.
        let cost = self.chance.pick(&[100, 300, 1000]);
        let party = self.enter();
        let base = self.resource + 1000;
        let calls: Vec<u16> = (0..many)
            .map(|place| {
                self.resource = base + place;
                self.call(party, Kind::Lock, 20_000)
            })
            .collect();
        self.cost(cost);
        let start = self.now();
        // All of it is asked of each node once, extended at most twice, and taken back.
        let once = many as Ms * cost / 1000;
        let redlock = self.parties[party].redlock.clone();
        let ask = |(place, call): (usize, &u16)| {
            let lock = redlock.lock(format!("r{}", base + place), Duration::from_secs(20));
            let lock = Cut::new(lock.wait_forever(), u64::MAX, *call);
            let call = *call;
            lock.map(move |outcome| (call, outcome))
        };
        let mut locks: FuturesUnordered<_> = calls.iter().enumerate().map(ask).collect();
        let (mut guards, mut refused) = (Vec::new(), 0);
        let patience = Duration::from_millis(5 * once + 5000);
        let all = async {
            while let Some((call, outcome)) = locks.next().await {
                match outcome {
                    Some(Ok(guard)) => {
                        self.note(What::Had(call, guard.fencing_token()));
                        guards.push(guard);
                    }
                    _ => refused += 1,
                }
            }
        };
        let served = timeout(patience, super::within_life(&self.parties[party].life, all)).await;
        drop(locks);
        let what = format!("{many} locks of free names at once, {cost} us each; refused");
        self.tell("L1", Vec::new(), start, Some(start + refused), 0, &what);
        let took = served.is_ok().then(|| self.now());
        let bound = 3 * once + self.round_trips(20) + 500;
        let what = format!("{many} locks of free names at once, {cost} us each");
        self.tell("L1", Vec::new(), start, took, bound, &what);
        if self.chance.is(50) {
            // Some renewals go out in between.
            sleep(Duration::from_secs(8)).await;
        }
        calls.iter().for_each(|call| self.note(What::Over(*call)));
        drop(guards);
        let dropped = self.now();
        let bound = 4 * once + self.round_trips(20) + 1000;
        let cleared = self.cleared(&calls, dropped + bound + 5000).await;
        let what = format!("{many} guards were dropped at once, {cost} us each");
        self.tell("C3", Vec::new(), dropped, cleared, bound, &what);
        self.cost(0);
    }

    /// L6, F2: one client has many leases and places, and the way to the nodes becomes longer, but not too long.
    pub(super) async fn longer_way(&mut self) {
        let ttl = self.chance.pick(&[1000, 2000, 4000, 8000]);
        let answer = 500.min((ttl * 99 / 100 - 2) / 3);
        let way = answer * self.chance.between(50, 92) / 200;
        let settings = Settings {
            delay: way,
            node_timeout: 500,
            ephemeral: 4000,
            room: 10_000,
            ..self.stage.settings().clone()
        };
        let (holder, party) = (self.enter(), self.enter_with(settings));
        let (many, waiting) = (self.chance.between(50, 300), self.chance.below(40));
        let base = self.resource + 1000;
        let line = self.resource;
        let (first, guard) = self.lock(holder, 20_000).await;
        let mut tickets = Vec::new();
        for _ in 0..waiting {
            tickets.push(self.ticket(party, 8000).await);
        }
        let mut guards = Vec::new();
        for place in 0..many as usize {
            self.resource = base + place;
            let (call, guard) = self.lock(party, ttl).await;
            // They wait their turn once the way is longer: in time is soon enough (L6).
            self.stage.sim.changes(call, |it| it.lag = ttl);
            guards.push((call, guard));
        }
        let (step, after) = (self.chance.millis(ttl), self.chance.below(ttl));
        sleep(step).await;
        self.slow(party, |_| (way, way));
        sleep(Duration::from_millis(4 * ttl + 8000 + after)).await;
        let lost = guards.iter().filter(|(_, guard)| !guard.is_held());
        let calls: Vec<u16> = lost.map(|(call, _)| *call).collect();
        let (now, count) = (self.now(), calls.len() as Ms);
        let what = format!("{many} leases of {ttl} ms, then a way of {way} ms; lost");
        self.tell("L6", calls, now, Some(now + count), 0, &what);
        self.resource = line;
        let in_line = self.stage.sim.with(|world| {
            let now = world.now();
            let standing = |server: &mut Server| {
                let standing = server.standing(now);
                tickets
                    .iter()
                    .filter(|(call, _)| standing.contains(call))
                    .count()
            };
            let mut lines: Vec<usize> = world.servers.iter_mut().map(standing).collect();
            lines.sort_unstable();
            lines[lines.len() / 2]
        });
        let (now, missing) = (self.now(), waiting - in_line as Ms);
        let what = format!("{waiting} places beside {many} leases, then a way of {way} ms; gone");
        let calls = tickets.iter().map(|(call, _)| *call).collect();
        self.tell("F2", calls, now, Some(now + missing), 0, &what);
        for (call, guard) in guards {
            self.let_go(call, guard);
        }
        for (call, ticket) in tickets {
            self.note(What::Given(call));
            drop(ticket);
        }
        self.releases(first, guard).await;
    }

    /// C1: very many waiters are dropped at once.
    pub(super) async fn crowd(&mut self) {
        let many = self.chance.between(100, 400) as usize;
        let (holder, party) = (self.enter(), self.enter());
        // A node must be able to carry out what keeps so many places: three questions in each waiter ttl.
        let settings = self.stage.settings();
        let lease = settings.trusted(settings.ephemeral.min(4000));
        let most = lease * 1000 / (8 * many as Ms);
        let cost = self.chance.pick(&[100, 300, 1000]).min(most);
        let (first, guard) = self.lock(holder, 20_000).await;
        let calls: Vec<u16> = (0..many)
            .map(|_| self.call(party, Kind::Enqueue, 4000))
            .collect();
        self.cost(cost);
        let start = self.now();
        let once = many as Ms * cost / 1000;
        let (redlock, name) = (self.parties[party].redlock.clone(), self.name());
        let ask = |call: &u16| {
            let asked = redlock.enqueue(name.clone(), Duration::from_secs(4));
            Cut::new(asked, u64::MAX, *call)
        };
        let asked = join_all(calls.iter().map(ask));
        let asked = super::within_life(&self.parties[party].life, asked).await;
        let refused = asked.iter().filter(|it| !matches!(it, Some(Ok(_)))).count() as Ms;
        let what = format!("{many} asked for a place at once, {cost} us each; refused");
        self.tell("L1", Vec::new(), start, Some(start + refused), 0, &what);
        calls.iter().for_each(|call| self.note(What::Given(*call)));
        drop(asked);
        let dropped = self.now();
        let bound = 6 * once + self.round_trips(20) + 1000;
        let cleared = self.cleared(&calls, dropped + bound + 5000).await;
        let what = format!("{many} waiters were dropped at once, {cost} us each");
        self.tell("C1", Vec::new(), dropped, cleared, bound, &what);
        self.cost(0);
        self.releases(first, guard).await;
    }

    /// When nothing of these calls is left on any node, if that is by `end`.
    async fn cleared(&self, calls: &[u16], end: Ms) -> Option<Ms> {
        let (first, last) = (*calls.first()?, *calls.last()?);
        loop {
            let left = self.stage.sim.with(|world| {
                let now = world.now();
                let stands = |server: &mut Server| {
                    let standing = server.standing(now);
                    standing.iter().any(|call| (first..=last).contains(call))
                };
                world.servers.iter_mut().any(stands)
            });
            if !left {
                return Some(self.now());
            }
            if self.now() >= end {
                return None;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a request costs a node from now on, in microseconds.
    fn cost(&self, micros: Ms) {
        self.stage.sim.with(|world| {
            for server in &mut world.servers {
                server.cost = micros;
            }
        });
    }
}
