//! Drills with very many requests at once, on nodes that carry them out one after the other.

use std::time::Duration;

use futures::{FutureExt, StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::time::{sleep, timeout};

use super::Drill;
use crate::simulation::{
    history::{Kind, Ms, What},
    server::Server,
    work::Cut,
};

impl Drill<'_> {
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

    /// C1: very many waiters are dropped at once.
    pub(super) async fn crowd(&mut self) {
        let many = self.chance.between(100, 400) as usize;
        let (holder, party) = (self.enter(), self.enter());
        // A node must be able to carry out what keeps so many places: three questions in each waiter lease.
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
