//! One run: a seed, the world and the clients that follow from it, and what became of them.

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    chance::{self, Chance},
    chaos,
    count::{self, Counts, Listener},
    faults::{self, LONG_TTL, PANIC, RATE},
    history::{History, Ms, Settings, What},
    life::{self, Life, Part},
    relations, scenarios,
    server::Server,
    way::{Way, Weather},
    wire::Wire,
    work::{Attic, Cut, Worker},
    world::Sim,
};
use crate::{FifoRedlock, builder::FifoRedlockBuilder, node::Node, runtime::clock::Clock};

/// When the clients start: the nodes are long past their grace.
const START: Ms = 40_000;

/// How far the nodes' clocks are apart at most in most runs.
pub(super) const CLOCKS_APART: Ms = 600;

/// What a run came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) history: History,
    pub(super) counts: Counts,
    /// The one fault of this run that voids promises.
    pub(super) beyond: Option<&'static str>,
}

/// Runs `seed` from beginning to end.
pub(super) fn run(seed: u64) -> Outcome {
    let mut chance = Chance::new(seed);
    chance::seed_uuids(seed);
    life::follow_spawns();
    count::take();
    count::PANICS.set(None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let voiding: Vec<_> = faults::voiding().map(|fault| fault.name).collect();
    let beyond = chance.is(25).then(|| chance.pick(&voiding));
    #[cfg(feature = "metrics")]
    let _recorder = metrics::set_default_local_recorder(&count::recorder::Panicking);
    let mut history =
        tracing::subscriber::with_default(Listener, || runtime.block_on(play(chance, beyond)));
    history.close();
    Outcome {
        history,
        counts: count::take(),
        beyond,
    }
}

/// A client as the run sees it.
pub(super) struct Party {
    pub(super) redlock: FifoRedlock,
    pub(super) life: Life,
}

/// What does not change in a run.
pub(super) struct Stage {
    pub(super) sim: Sim,
    clock: Clock,
    settings: Settings,
    fair: Weather,
}

async fn play(mut chance: Chance, beyond: Option<&'static str>) -> History {
    let nodes = chance.pick(&[3, 3, 3, 5]);
    let ephemeral = chance.pick(&[600, 900, 1500]);
    // The clocks are equal in some runs, so that a factor of zero is right.
    let rates = match beyond {
        Some(RATE) => 80_000,
        _ => chance.pick(&[0, 4_500, 4_500]),
    };
    let settings = Settings {
        nodes,
        quorum: nodes / 2 + 1,
        ephemeral,
        node_timeout: chance.pick(&[60, 120, 250]),
        poll: chance.pick(&[20, 60, 150]),
        grace: chance.pick(&[500, 1500, 3000, 6000, 12_000, 12_000]),
        drift: 10,
        delay: chance.pick(&[1, 2, 2, 5, 5, 10]),
        room: chance.pick(&[1, 2, 64, 64, 64]),
        retry: 50,
        attempts: 1,
    };
    // Nothing befalls nodes and network then: what is promised of healthy nodes is seen all the time.
    let quiet = beyond.is_none() && chance.is(30);
    let apart = if chance.is(80) {
        settings.clocks_apart().max(CLOCKS_APART)
    } else {
        CLOCKS_APART
    };
    let servers = (0..nodes)
        .map(|_| {
            let rate = chance.below(2 * rates + 1) as i64 - rates as i64;
            let apart = 1000 * apart;
            Server::new(rate, chance.below(apart + 1) as i64 - apart as i64 / 2)
        })
        .collect();
    let clock = Clock::tokio();
    let stage = Stage {
        sim: Sim::new(clock, chance.fork(), settings.clone(), servers),
        clock,
        fair: Weather::fair((
            chance.pick(&[0, 1, settings.delay]).min(settings.delay),
            settings.delay,
        )),
        settings,
    };
    // The subscriber that hears what the clients' own tasks log panics now and then.
    let panics = beyond.is_none() && chance.is(4);
    let sim = &stage.sim;
    let agenda = tokio::spawn(sim.clone().run());
    let memory = tokio::spawn(chaos::remember(sim.clone()));
    sleep(Duration::from_millis(START)).await;

    let patience = Some(chance.pick(&[10, 60]));
    let parties = (0..chance.between(2, 4)).map(|_| {
        let settings = stage.draw(&mut chance, rates == 0);
        stage.enter(settings, patience)
    });
    let mut parties: Vec<Party> = parties.collect();
    let attic = Attic::default();
    let end = sim.now() + chance.between(3000, 9000);
    let resources = chance.between(1, 2);
    let ttls: &'static [Ms] = match beyond {
        Some(LONG_TTL) => &[2000, 12_000, 20_000],
        _ => &[60, 150, 400, 1000, 2500, 5000, 10_000],
    };
    // A ttl above the grace is a fault of its own.
    let grace = stage.settings.grace;
    let ttls: Vec<Ms> = match beyond {
        Some(LONG_TTL) => ttls.to_vec(),
        _ => ttls.iter().copied().filter(|ttl| *ttl <= grace).collect(),
    };
    sim.with(|world| relations::count(&world.history.own, &ttls));
    if panics {
        sim.note(What::Fault(PANIC, "now and then, in this run".into()));
    }
    count::PANICS.set(panics.then(|| chance.fork()));
    let mut workers = Vec::new();
    for (client, party) in parties.iter().enumerate() {
        for _ in 0..chance.between(1, 3) {
            let worker = Worker {
                sim: sim.clone(),
                client,
                redlock: party.redlock.clone(),
                life: party.life.clone(),
                chance: chance.fork(),
                resources,
                ttls: ttls.clone(),
                attic: attic.clone(),
                end,
            };
            workers.push(tokio::spawn(
                party.life.gate(Part::Callers, Box::pin(worker.run())),
            ));
        }
    }
    if chance.is(6) {
        let party = &parties[chance.below(parties.len() as u64) as usize];
        let shuts = shuts_down(party.redlock.clone(), chance.fork(), end - sim.now());
        workers.push(tokio::spawn(
            party.life.gate(Part::Callers, Box::pin(shuts)),
        ));
    }
    let beyond = beyond.inspect(|fault| sim.with(|world| world.fault(fault, "in this run".into())));
    if quiet {
        chaos::meddle(sim.clone(), chance.fork(), end).await;
    } else {
        chaos::run(sim.clone(), chance.fork(), end, beyond).await;
    }
    sim.with(chaos::heal);

    // Everybody gets what it waits for, or gives up (L1).
    let settled = async {
        for worker in &mut workers {
            worker.await.expect("a worker that does not panic");
        }
    };
    if timeout(Duration::from_secs(180), settled).await.is_err() {
        stage.tell_starved();
    }
    workers.iter().for_each(|worker| worker.abort());
    count::PANICS.set(None);
    if beyond.is_none() && !panics {
        scenarios::run(&stage, &mut chance, &mut parties).await;
    }

    stage.shut_down(&parties).await;
    attic.lock().expect("no panic").clear();
    for party in parties.iter().filter(|party| !party.life.is_dead()) {
        // That it comes back was looked at before.
        let _ = timeout(Duration::from_secs(60), party.redlock.shutdown()).await;
    }
    drop(parties);
    let longest = sim.with(|world| {
        let calls = world.history.calls.iter();
        let longest = calls.map(|call| call.longest).max().unwrap_or(0);
        let Settings {
            ephemeral,
            node_timeout,
            ..
        } = world.history.settings;
        longest.max(ephemeral) + ephemeral + 2 * node_timeout + 2000
    });
    sleep(Duration::from_millis(longest)).await;
    memory.abort();
    stage.tell_residue().await;
    agenda.abort();
    let _ = agenda.await;
    sim.with(|world| {
        world.ways.clear();
        std::mem::take(&mut world.history)
    })
}

impl Stage {
    /// Settings of a client, as the builder accepts them: whatever need not be the same for all.
    fn draw(&self, chance: &mut Chance, equal_clocks: bool) -> Settings {
        let base = &self.settings;
        let trip = base.round_trip();
        let mut settings = Settings {
            ephemeral: chance.pick(&[base.ephemeral, base.ephemeral, 300, 3000, 8000]),
            node_timeout: chance
                .pick(&[base.node_timeout, 60, 120, 250, 500])
                .max(2 * trip),
            poll: chance.pick(&[base.poll, base.poll, base.poll, 5, 300, 5000]),
            drift: chance.pick(&[10, 10, 10, 50, 300, 500]),
            room: chance.pick(&[base.room, base.room, 64]),
            retry: chance.pick(&[base.retry, base.retry, 0, 200]),
            attempts: chance.pick(&[1, 1, 1, 3]),
            ..base.clone()
        };
        if chance.is(4) {
            settings.ephemeral = chance.between(trip.max(20), 5 * trip + 20);
        }
        if chance.is(2) {
            settings.node_timeout = chance.between(10, 2 * trip.max(6));
        }
        if equal_clocks && chance.is(30) {
            settings.drift = 0;
        }
        settings
    }

    /// Another client comes.
    pub(super) fn enter(&self, settings: Settings, patience: Option<u32>) -> Party {
        let life = Life::default();
        let client = self.sim.with(|world| {
            let now = world.now();
            world.history.settings = world.history.settings.max(&settings);
            world.history.own.push(settings.clone());
            world.lives.push(life.clone());
            world.entered.push(now);
            world.ways.push(Vec::new());
            world.ways.len() - 1
        });
        let millis = Duration::from_millis;
        let builder = FifoRedlockBuilder::default()
            .client_name(format!("client {client}"))
            .fifo_ephemeral_ttl(millis(settings.ephemeral))
            .node_timeout(millis(settings.node_timeout))
            .fifo_retry_delay(millis(settings.poll))
            .retry_delay(millis(settings.retry))
            .retry_count(settings.attempts)
            .fifo_retry_count(patience)
            .fifo_queue_length(settings.room)
            .clock_drift_factor(settings.drift as f64 / 1000.0)
            .restart_grace(millis(settings.grace));
        // Its task is its own from the start.
        let open = |node, context| {
            self.sim.with(|world| {
                world.ways[client].push(Way::new(context, self.fair));
                world.connect(client, node);
            });
            Arc::new(Wire {
                sim: self.sim.clone(),
                clock: self.clock,
                client,
                node,
                name: format!("node {node}").into(),
                patience: millis(settings.node_timeout),
            }) as Arc<dyn Node>
        };
        let connect = || builder.on_nodes(self.clock, settings.nodes, open);
        let redlock = life::within(&life, connect);
        Party { redlock, life }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// After so long the grace of every node is over for every client: uptime is counted in whole seconds, and the
    /// drift comes on top.
    pub(super) fn past_grace(&self) -> Duration {
        Duration::from_millis(self.settings.grace + self.settings.grace / 50 + 2500)
    }

    /// The calls that still wait although nothing is in their way.
    fn tell_starved(&self) {
        self.sim.with(|world| {
            let mut waiting = std::collections::BTreeSet::new();
            for note in &world.history.notes {
                match &note.what {
                    What::Asks(call) => {
                        waiting.insert(*call);
                    }
                    What::Had(call, _)
                    | What::NotHad(call)
                    | What::Failed(call, _)
                    | What::Given(call)
                    | What::Forgotten(call) => {
                        waiting.remove(call);
                    }
                    _ => {}
                }
            }
            for call in waiting.iter().copied() {
                let client = world.history.call(call).client;
                let (ttl, own) = (
                    world.history.call(call).ttl,
                    world.history.settings_of(call),
                );
                let could = own.answers_in_time(ttl) && own.waits_in_time(ttl);
                // Whoever finds no room waits for those in line, who may never have what they wait for.
                let resource = world.history.call(call).resource;
                let room = own.room;
                let hopeless = |other: &&u16| {
                    let it = world.history.call(**other);
                    let own = world.history.settings_of(**other);
                    let could = own.answers_in_time(it.ttl) && own.waits_in_time(it.ttl);
                    it.resource == resource && !could
                };
                let could = could && (waiting.iter().filter(hopeless).count() as u64) < room;
                if could && !world.lives[client].is_dead() {
                    world.note(What::Starved(call));
                }
            }
        });
    }

    /// Has all clients shut down, and notes what they have left on the nodes then (C3).
    async fn shut_down(&self, parties: &[Party]) {
        for (client, party) in parties.iter().enumerate() {
            if party.life.is_dead() {
                continue;
            }
            if client % 2 == 0 {
                // Dropped half-way, it goes on.
                let _ = Cut::new(party.redlock.shutdown(), 1, 0).await;
            }
            if timeout(Duration::from_secs(60), party.redlock.shutdown())
                .await
                .is_err()
            {
                let what = What::Scenario {
                    promise: "C3",
                    calls: Vec::new(),
                    took: 60_000,
                    bound: 30_000,
                    what: format!("shutdown of client {client}"),
                };
                self.sim.note(what);
            }
            self.sim.look_at_guards();
            self.sim.with(|world| {
                let now = world.now();
                let held: Vec<u16> = world.guards.iter().map(|out| out.call).collect();
                let mut left = Vec::new();
                for server in &mut world.servers {
                    // What was released in the second that a node has forgotten stands there again.
                    let standing = server.standing(now).into_iter();
                    left.extend(standing.filter(|call| !server.restored.contains(call)));
                }
                left.retain(|call| {
                    world.history.call(*call).client == client && !held.contains(call)
                });
                left.sort_unstable();
                left.dedup();
                world.note(What::ShutDown { client, left });
            });
        }
    }

    /// Notes what is left when everybody is gone and everything has run out (C1).
    async fn tell_residue(&self) {
        tokio::task::yield_now().await;
        // The agenda's task, and this one is none.
        let tasks = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        self.sim.with(|world| {
            let now = world.now();
            let mut left = Vec::new();
            for (node, server) in world.servers.iter_mut().enumerate() {
                left.extend(server.standing(now).into_iter().map(|call| (node, call)));
                let micros = server.micros(now);
                if !server.table.residue(micros).is_empty() {
                    left.push((node, 0));
                }
            }
            world.note(What::Residue(left, tasks.saturating_sub(1)));
        });
    }
}

/// Shuts a client down while it works, sometimes twice, and does not always wait for it.
async fn shuts_down(redlock: FifoRedlock, mut chance: Chance, within: Ms) {
    let pause = chance.millis(within);
    sleep(pause).await;
    count::count("shutdown amid the work");
    let first = chance.pick(&[0, 1, 2, u64::MAX]);
    let _ = Cut::new(redlock.shutdown(), first, 0).await;
    if chance.is(50) {
        redlock.shutdown().await;
    }
}

/// Whether a promise is to be checked in this run.
pub(super) fn is_checked(promise: &str, outcome: &Outcome) -> bool {
    faults::holds(promise, outcome.beyond)
}
