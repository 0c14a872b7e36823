//! Scenarios with what comes late: an extend after the release, a push after its vote has expired.
//!
//! Faults by chance make these too seldom. What a late push must not lead to, two leases or one that the nodes
//! do not back, is looked for in every run (S1, S3).

use std::time::Duration;

use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};

use super::{NEVER, Scenario};
use crate::simulation::{chaos, history::Ms, server::Server, way::Weather, work::Cut};

const TTL: Ms = 4000;

/// So often others are let run before what was asked for is on its way.
const YIELDS: u32 = 20;

impl Scenario<'_> {
    /// C3: an extend that is carried out after the release makes nothing.
    pub(super) async fn extend_after_release(&mut self) {
        let party = self.enter();
        let (call, guard) = self.lock(party, TTL).await;
        let extend = Cut::new(guard.extend(Duration::from_millis(TTL)), 1, call).await;
        assert!(extend.is_none(), "no node can have answered yet");
        // The client's own task writes it.
        let written = || self.stage.sim.with(|world| world.requests);
        let before = written();
        for _ in 0..YIELDS {
            if written() > before {
                break;
            }
            yield_now().await;
        }
        // It is under way on connections that end, and the release takes new ones.
        self.stage.sim.with(|world| {
            for node in 0..world.servers.len() {
                world.reset(party, node);
                world.connect(party, node);
            }
        });
        let start = self.now();
        self.releases(call, guard).await;
        sleep(Duration::from_millis(TTL / 2)).await;
        let left = self.stage.sim.with(|world| {
            let now = world.now();
            let stands = |server: &mut Server| server.standing(now).contains(&call);
            let servers = world.servers.iter_mut();
            servers.map(stands).filter(|stands| *stands).count()
        });
        self.tell(
            "C3",
            vec![call],
            start,
            Some(start + left as Ms),
            0,
            "an extend was under way when the guard was released; nodes that have the key",
        );
    }

    /// F3, S3: a waiter that sleeps costs one waiter ttl, and what it is told of a vote that has expired
    /// makes no lease.
    pub(super) async fn push_after_expiry(&mut self) {
        let (holder, sleeper, next) = (self.enter(), self.enter(), self.enter());
        let ephemeral = self.stage.settings().ephemeral;
        let (first, guard) = self.lock(holder, TTL).await;
        let (second, waits) = self.waits(sleeper, TTL);
        sleep(Duration::from_millis(self.round_trips(4))).await;
        let (third, comes) = self.waits(next, TTL);
        sleep(Duration::from_millis(self.round_trips(4))).await;
        self.weather(sleeper, |weather, _| {
            weather.late_pushes = 2 * ephemeral;
            weather.doubles_pushes = 50;
        });
        let bound = ephemeral + self.poll() + self.round_trips(4);
        // Not less, or it may wake just in time to be first again.
        let sleeps = bound + self.chance.below(ephemeral / 2);
        let on = format!("client {sleeper}, for a scenario");
        self.stage
            .sim
            .with(|world| chaos::pause(world, sleeper, sleeps, on));
        self.releases(first, guard).await;
        let free = self.now();
        let served = timeout(NEVER, comes).await.ok().and_then(Result::ok);
        let at = served.as_ref().map(|_| self.now());
        self.tell(
            "F3",
            vec![first, second, third],
            free,
            at,
            bound,
            "the waiter ahead slept",
        );
        // Until the last of what is late has come.
        sleep(Duration::from_millis(2 * ephemeral)).await;
        if let Some(guard) = served {
            self.releases(third, guard).await;
        }
        if let Ok(Ok(guard)) = timeout(NEVER, waits).await {
            self.releases(second, guard).await;
        }
    }

    /// Changes the weather between a client and each node.
    fn weather(&mut self, client: usize, mut change: impl FnMut(&mut Weather, &mut super::Chance)) {
        for node in 0..self.stage.settings().nodes {
            let chance = &mut *self.chance;
            self.stage
                .sim
                .with(|world| world.set_weather(client, node, |weather| change(weather, chance)));
        }
    }
}
