//! Scenarios with what nodes remember: an older state, and a clock that is far ahead.

use std::time::Duration;

use tokio::time::sleep;

use super::Scenario;
use crate::{
    node::table::Header,
    simulation::{
        chaos,
        history::{Ms, Note, What},
    },
};

impl Scenario<'_> {
    /// S2: a node comes back with a state of any age, while now this and now that node is away.
    pub(super) async fn old_snapshot(&mut self) {
        // Where a clock was far ahead, counters are, and a loss of memory may repeat them.
        let moved = |note: &Note| matches!(note.what, What::ClockMoved(_));
        if self
            .stage
            .sim
            .with(|world| world.history.notes.iter().any(moved))
        {
            return;
        }
        let party = self.enter();
        let nodes = self.stage.settings().nodes as u64;
        let (forgets, steps) = (self.chance.below(nodes) as usize, self.chance.between(4, 8));
        let (saved_at, back_at) = (self.chance.below(steps / 2), steps / 2);
        let mut saved = None;
        for step in 0..steps {
            if step == saved_at {
                let table = self
                    .stage
                    .sim
                    .with(|world| world.servers[forgets].table.clone());
                saved = Some(table);
            }
            if let Some(table) = saved.take_if(|_| step == back_at) {
                let on = format!("node {forgets}, as it was {} steps ago", step - saved_at);
                self.stage
                    .sim
                    .with(|world| chaos::restart_with(world, forgets, table, on));
                sleep(self.stage.past_grace()).await;
            }
            // Some minority is away, and not always the same.
            let first = self.chance.below(nodes);
            let minority = nodes - self.stage.settings().quorum as u64;
            let away = (first..first + minority).map(|node| (node % nodes) as usize);
            for node in away.clone().filter(|_| self.chance.is(90)) {
                let on = format!("node {node}, for a step");
                self.stage
                    .sim
                    .with(|world| chaos::hang(world, node, 60_000, on));
            }
            for _ in 0..self.chance.between(1, 5) {
                let (call, guard) = self.lock(party, 500).await;
                self.releases(call, guard).await;
            }
            self.stage
                .sim
                .with(|world| away.for_each(|node| chaos::wake(world, node)));
            // Until it is connected again.
            let pause = 600 + self.chance.below(300);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// C1: the clock of one node, however far it is ahead, does not rule for how long others keep a counter.
    pub(super) async fn far_clock(&mut self) {
        const NAMES: usize = 20;
        const DAYS: Ms = 86_400_000;
        let nodes = self.stage.settings().nodes;
        let far = self.chance.below(nodes as u64) as usize;
        let ahead = self.chance.between(1, 60) * DAYS;
        // One alone: the others agree.
        let agree = self.stage.sim.with(|world| {
            let mut others = (0..nodes).filter(|node| *node != far);
            others.all(|node| world.servers[node].ahead.abs() < 1_000_000)
        });
        if !agree {
            return;
        }
        self.stage.sim.with(|world| chaos::step(world, far, ahead));
        let (party, other) = (self.enter(), self.enter());
        let first = self.resource + 100;
        // What was far ahead may be right again before the last use.
        let again = self.chance.is(50);
        for round in 0..=usize::from(again) {
            if round > 0 {
                self.set_right(far, ahead);
                sleep(self.stage.past_grace()).await;
            }
            for resource in first..first + NAMES {
                self.resource = resource;
                let contended = self.chance.is(50);
                let (call, guard) = self.lock(party, 500).await;
                let waits = contended.then(|| self.waits(other, 500));
                sleep(Duration::from_millis(self.round_trips(4))).await;
                self.releases(call, guard).await;
                if let Some((call, waits)) = waits
                    && let Ok(guard) = waits.await
                {
                    self.releases(call, guard).await;
                }
            }
        }
        // A minute, and as much again.
        sleep(Duration::from_secs(120)).await;
        let kept = self.stage.sim.with(|world| {
            let now = world.now();
            let mut kept = 0;
            for (_, server) in (0..)
                .zip(&mut world.servers)
                .filter(|(node, _)| *node != far)
            {
                let header = Header {
                    micros: server.micros(now),
                    ..Header::default()
                };
                for resource in first..first + NAMES {
                    let report = server.table.inspect(header, &format!("r{resource}"));
                    kept += Ms::from(report.seq.is_some());
                }
            }
            kept
        });
        if !again {
            self.set_right(far, ahead);
        }
        let now = self.now();
        let what = "a clock was days ahead; counters that other nodes keep two minutes after use";
        self.tell("C1", Vec::new(), now, Some(now + kept), 0, what);
    }

    /// The clock of a node that was far ahead is right again, and its memory empty: it would keep what it has for
    /// as long as it was ahead.
    fn set_right(&self, node: usize, ahead: Ms) {
        self.stage.sim.with(|world| {
            world.servers[node].ahead -= ahead as i64 * 1000;
            let on = format!("node {node}, its clock is right again");
            chaos::crash(world, node, 0, chaos::Memory::Empty, on);
        });
    }
}
