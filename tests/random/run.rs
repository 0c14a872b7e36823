//! One run: the chaos, its end, and the scenarios after it.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use redlock_fifo::{LockError, MemoryCluster};
use tokio::{
    task::{JoinHandle, LocalSet, spawn_local},
    time::{sleep, sleep_until, timeout},
};

use crate::{
    actor::Actor,
    faults, scenarios,
    settings::{Plan, Terms, Weather, log_millis},
    world::{Failure, World},
};

pub(crate) struct Outcome {
    pub(crate) failure: Option<Failure>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

pub(crate) fn run(seed: u64, terms: &Terms) -> Outcome {
    let plan = Plan::draw(seed, terms);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let local = LocalSet::new();
    let (failure, counts) = local.block_on(&runtime, async {
        let cluster = MemoryCluster::new(plan.latency.len());
        for (place, node) in cluster.nodes().enumerate() {
            node.set_latency(plan.latency[place]);
            node.lose_pushes(plan.deaf);
        }
        let mut clients = Vec::new();
        for place in 0..plan.clients.len() {
            clients.push(plan.connect(place, &cluster).await);
        }
        let world = Rc::new(World::new(plan, terms, cluster, clients));
        tokio::select! {
            biased;
            () = world.failed.notified() => {}
            whole = timeout(Duration::from_secs(100_000), whole(&world)) => {
                if whole.is_err() {
                    world.fail("HANG", "the run does not end");
                }
            }
        }
        world.take()
    });
    Outcome { failure, counts }
}

/// Ends a task, and passes its panic on.
pub(crate) async fn end<T>(task: JoinHandle<T>) -> Option<T> {
    task.abort();
    match task.await {
        Ok(value) => Some(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

async fn whole(world: &Rc<World>) {
    let plan = &world.plan;
    let watched = world.clone();
    let step = (plan.horizon / 1500).max(Duration::from_millis(1));
    let monitor = spawn_local(async move {
        loop {
            sleep(step).await;
            watched.sample();
        }
    });
    let mut tasks = Vec::new();
    let mut user = 10;
    for (client, many) in plan.tasks.iter().enumerate() {
        for _ in 0..*many {
            tasks.push(spawn_local(Actor::new(world.clone(), client, user).run()));
            user += 1;
        }
    }
    let waiters: Vec<_> = (0..2)
        .map(|place| spawn_local(wait_forever(world.clone(), 100 + place)))
        .collect();
    let weather = spawn_local(faults::run(world.clone()));
    sleep_until(world.start + plan.horizon).await;
    end(weather).await;
    let healed = faults::heal(world);
    world.note(|| "all is healed, and everybody but the two who wait goes".to_owned());
    for task in tasks {
        end(task).await;
    }
    world.pocket.borrow_mut().clear();

    // L1: whoever still waits is served.
    let stray = if plan.weather == Weather::Wild {
        Duration::from_secs(20)
    } else {
        Duration::ZERO
    };
    let longest = Duration::from_millis(plan.ttls.1) + plan.most(|settings| settings.ephemeral) * 2;
    let bound = healed + longest + stray + Duration::from_secs(30);
    for waiter in waiters {
        match timeout(bound, waiter).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            Err(_) => world.stuck(bound).await,
        }
    }

    // C1, C3: nothing is left of all that.
    let quick = plan.most(|settings| settings.node_timeout) * 2
        + plan.slowest() * 20
        + Duration::from_millis(200);
    let bound = match plan.weather {
        Weather::Calm if plan.all_sound() => quick,
        _ => quick + longest + stray,
    };
    cleared(world, bound, "C1").await;
    if plan.weather == Weather::Calm {
        scenarios::run(world).await;
    }

    // And shutting down takes no time, and leaves nothing.
    for (place, client) in world.clients.iter().enumerate() {
        world.note(|| format!("c{place} is shut down at the end"));
        // Of a node that never answers in time nothing is known before it has all run out.
        let settings = &plan.clients[place];
        if settings.node_timeout <= plan.slowest() {
            continue;
        }
        if timeout(bound, client.shutdown()).await.is_err() {
            world.fail(
                "C3 shutdown",
                format!("c{place} is not shut down after {bound:?}"),
            );
        }
    }
    let used: Vec<_> = world.cluster.nodes().map(|node| node.used()).collect();
    if used.iter().any(|used| !used.is_empty()) && plan.weather == Weather::Calm {
        world.fail("C3 left", format!("after all have shut down: {used:?}"));
    }
    end(monitor).await;
}

/// Waits until the nodes are empty.
pub(crate) async fn cleared(world: &World, bound: Duration, promise: &str) {
    let from = tokio::time::Instant::now();
    loop {
        let used: Vec<_> = world.cluster.nodes().map(|node| node.used()).collect();
        if used.iter().all(Vec::is_empty) {
            return;
        }
        if from.elapsed() > bound {
            let views: Vec<_> = world
                .cluster
                .nodes()
                .map(|node| {
                    node.used()
                        .into_iter()
                        .take(3)
                        .map(|key| (node.get(&key), node.ttl(&key), key))
                        .collect::<Vec<_>>()
                })
                .collect();
            return world.fail(
                promise,
                format!("{bound:?} after all is gone there is {views:?}"),
            );
        }
        sleep((bound / 50).max(Duration::from_millis(1))).await;
    }
}

/// Asks at some time, waits for ever, holds for a moment.
async fn wait_forever(world: Rc<World>, user: u64) {
    let chance = &mut world.chance(user);
    let plan = &world.plan;
    sleep(plan.horizon * u32::try_from(chance.below(101)).unwrap() / 100).await;
    let ttl = log_millis(chance, plan.ttls.0, plan.ttls.1);
    // The first client is never shut down.
    let client = (0..plan.clients.len())
        .find(|place| (*place == 0 || !plan.shut) && plan.sound(*place, ttl));
    let Some(client) = client else { return };
    let _using = world.using("r0");
    let asked = world.asked("r0");
    world.note(|| format!("c{client} asks for r0 and waits for ever, ttl {ttl:?}"));
    match world.clients[client].lock("r0", ttl).wait_forever().await {
        Ok(guard) => {
            let settings = &plan.clients[client];
            let held = world.born(
                client,
                "r0",
                guard,
                asked,
                ttl,
                settings.auto,
                settings.max_hold,
                "lock for ever",
            );
            sleep(plan.slowest() + Duration::from_millis(5)).await;
            drop(held);
        }
        Err(LockError::NoQuorum(error)) => {
            world.judge_no_quorum("lock for ever", client, ttl, asked.at, &error, "")
        }
        Err(error) => world.fail("VERDICT lock for ever", format!("c{client}: {error}")),
    }
}
