//! Scenarios with rivals: requests that come and go while a lease is taken, waiters that cannot be served in a full
//! line, a way that is too long for what is asked for, a request that has what a holder lacks.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{Scenario, within_life};
use crate::simulation::{
    history::{Kind, Ms, Settings, What},
    work::Cut,
};

/// How many newcomers there are: as long as they come, a handoff that followed them would not end.
const MANY: u64 = 300;

impl Scenario<'_> {
    /// L3: whoever arrives meanwhile does not hold up a handoff.
    pub(super) async fn newcomers(&mut self) {
        let far = self.chance.pick(&[25, 50]);
        let (holder, next) = (self.enter(), self.enter_with(self.patient(far)));
        let newcomer = self.enter();
        let delays: Vec<Ms> = (0..self.stage.settings().nodes)
            .map(|_| self.chance.between(2, far))
            .collect();
        self.slow(next, |node| (delays[node], delays[node]));
        let (first, guard) = self.lock(holder, 4000).await;
        let (second, waits) = self.waits(next, 4000);
        sleep(Duration::from_millis(8 * far)).await;
        let every = self.chance.between(4, 8);
        let sim = self.stage.sim.clone();
        let (redlock, name) = (self.parties[newcomer].redlock.clone(), self.name());
        // Its calls are made beforehand, as the table of calls is the scenario's.
        let calls: Vec<u16> = (0..MANY)
            .map(|_| self.call(newcomer, Kind::Lock, 4000))
            .collect();
        self.spawn(newcomer, async move {
            for call in calls {
                sleep(Duration::from_millis(every)).await;
                sim.note(What::Asks(call));
                let lock = redlock.lock(name.clone(), Duration::from_secs(4));
                let sim = sim.clone();
                tokio::spawn(async move {
                    let lock = Cut::new(lock, u64::MAX, call);
                    let outcome = timeout(Duration::from_millis(100), lock).await;
                    sim.gives_up(call, outcome.ok().flatten().and_then(Result::ok));
                });
            }
        });
        sleep(Duration::from_millis(5 * every)).await;
        let free = self.now();
        self.releases(first, guard).await;
        let served = self.served(waits).await;
        let bound = 12 * far + self.poll() + self.round_trips(4);
        let what = format!("a newcomer every {every} ms, nodes up to {far} ms away");
        self.tell("L3", vec![first, second], free, served, bound, &what);
        // Until the last of them is gone.
        sleep(Duration::from_millis(MANY * every + 200)).await;
    }

    /// Nobody stuck: a line that is full of waiters which cannot be served lets others in.
    pub(super) async fn full_of_hasty(&mut self) {
        // A minority is near enough for them, and the others are not.
        let (near, far) = (self.chance.between(2, 4), self.chance.between(6, 12));
        let full = Settings {
            room: self.chance.between(1, 2),
            poll: 10,
            ..self.patient(far)
        };
        let minority = full.nodes - full.quorum;
        let holder = self.enter();
        let drift = self.chance.pick(&[10, 500, 500]);
        let hasty = Settings {
            drift,
            ..full.clone()
        };
        let (hasty, patient) = (self.enter_as(hasty), self.enter_as(full));
        for party in [hasty, patient] {
            self.slow(party, |node| {
                let delay = if node < minority { near } else { far };
                (delay, delay)
            });
        }
        let (least, most) = (20, 12 * far);
        let (first, guard) = self.lock(holder, 3000).await;
        let mut calls = vec![first];
        for _ in 0..8 {
            let ttl = self.chance.between(least, most);
            let (call, comes) = self.waits(hasty, ttl);
            calls.push(call);
            // One that is served goes at once.
            let (sim, life) = (self.stage.sim.clone(), &self.parties[hasty].life);
            let task = async move {
                if let Ok(guard) = comes.await {
                    sim.look_at_guards();
                    sim.note(What::Releases(call));
                    drop(guard);
                }
            };
            tokio::spawn(life.gate(super::Part::Callers, Box::pin(task)));
        }
        sleep(Duration::from_millis(12 * far)).await;
        let (last, waits) = self.waits(patient, 3000);
        calls.push(last);
        sleep(Duration::from_millis(12 * far)).await;
        self.releases(first, guard).await;
        let free = self.now();
        let served = self.served(waits).await;
        let what = format!("waiters with ttls of {least} to {most} ms fill the line");
        self.tell("nobody stuck", calls, free, served, 50_000, &what);
        // They may never be served themselves.
        self.dies(hasty);
    }

    /// Verdicts: an attempt ends, however long the way is for its ttl.
    pub(super) async fn hasty_attempt(&mut self) {
        // An answer comes within a third of the ttl, but not within a third of what can be trusted of it.
        let delay = self.chance.between(4, 12);
        let hasty = Settings {
            drift: 500,
            retry: self.chance.pick(&[0, 0, 50]),
            ..self.patient(delay)
        };
        let trip = 2 * delay;
        let party = self.enter_with(hasty);
        // Those beyond the quorum are further away, so that the nodes are not asked in step.
        let quorum = self.stage.settings().quorum;
        let further = self.chance.between(1, delay);
        self.slow(party, |node| {
            let delay = if node < quorum {
                delay
            } else {
                delay + further
            };
            (delay, delay)
        });
        let start = self.now();
        let mut calls = Vec::new();
        for _ in 0..6 {
            let ttl = (3 * trip + self.chance.between(1, 6)).max(20);
            let call = self.call(party, Kind::TryLock, ttl);
            let (redlock, name) = (self.parties[party].redlock.clone(), self.name());
            self.note(What::Asks(call));
            let tries = redlock.try_lock(&name, Duration::from_millis(ttl));
            let tries = timeout(Duration::from_secs(30), Cut::new(tries, u64::MAX, call));
            match within_life(&self.parties[party].life, tries).await {
                Ok(Some(Ok(Some(guard)))) => {
                    let guard = Arc::new(guard);
                    self.stage.sim.follow(call, &guard);
                    self.releases(call, guard).await;
                }
                Ok(_) => {}
                Err(_) => calls.push(call),
            }
            self.note(What::Given(call));
        }
        let endless = calls.len() as Ms;
        let what = format!("the round trip is {trip} ms; attempts that had no end");
        self.tell("verdicts", calls, start, Some(start + endless), 0, &what);
    }
}
