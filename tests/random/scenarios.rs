//! After the chaos, on healthy nodes: what is promised of time.

use std::{rc::Rc, time::Duration};

use redlock_fifo::{LockGuard, Ticket};
use tokio::{
    task::spawn_local,
    time::{Instant, sleep, timeout},
};

use crate::{
    chance::Chance,
    drive::{Boxed, Few},
    run::cleared,
    settings::{log, log_millis},
    world::World,
};

enum Lying {
    #[allow(dead_code)]
    Future(Boxed<Result<LockGuard, redlock_fifo::LockError>>),
    #[allow(dead_code)]
    Ticket(Ticket),
}

pub(crate) async fn run(world: &Rc<World>) {
    let chance = &mut world.chance(3);
    if world.plan.cold {
        tokio::time::sleep_until(world.start + world.plan.longest_grace() + Duration::from_secs(2))
            .await;
    }
    for _ in 0..2 {
        let plan = &world.plan;
        let ttl = log_millis(chance, plan.ttls.0, 60_000);
        let other = log_millis(chance, plan.ttls.0, 60_000);
        let open: Vec<_> = (0..plan.clients.len())
            .filter(|place| {
                !world.is_shut(*place) && plan.sound(*place, ttl) && plan.sound(*place, other)
            })
            .collect();
        if open.is_empty() {
            return;
        }
        let (x, y) = (
            open[chance.place(open.len())],
            open[chance.place(open.len())],
        );
        match chance.below(4) {
            0 => unpolled(world, chance, x, y, ttl, other).await,
            1 => dead_holder(world, chance, x, y, ttl, other).await,
            2 => crowd(world, chance, &open, ttl).await,
            _ => many_dropped(world, chance, x, ttl).await,
        }
        let bound = Duration::from_secs(90);
        cleared(world, bound, "C1 scenario").await;
    }
}

/// What a handoff may take where nothing hinders it.
fn handoff(world: &World, to: usize) -> Duration {
    let settings = &world.plan.clients[to];
    let deaf = if world.plan.deaf {
        settings.ephemeral / 3
    } else {
        Duration::ZERO
    };
    settings.fifo_retry_delay + deaf + world.plan.slowest() * 8 + Duration::from_millis(20)
}

/// C4: what is not polled any more delays the next by one `fifo_ephemeral_ttl` each.
async fn unpolled(
    world: &Rc<World>,
    chance: &mut Chance,
    x: usize,
    y: usize,
    ttl: Duration,
    other: Duration,
) {
    let many = 1 + u32::try_from(chance.below(2)).unwrap();
    let mut lying = Vec::new();
    for _ in 0..many {
        if chance.once_in(4) {
            let ask = world.clients[x].enqueue("d", ttl);
            match timeout(Duration::from_secs(5), ask).await {
                Ok(Ok(ticket)) => lying.push(Lying::Ticket(ticket)),
                // Behind a full line.
                _ => return,
            }
            continue;
        }
        let mut future: Boxed<_> = Box::pin(world.clients[x].lock("d", ttl).wait_forever());
        let polls = log(chance, 1, 8);
        let span = world.plan.slowest() * 3 + Duration::from_millis(5);
        let few = timeout(span, Few(future.as_mut(), u32::try_from(polls).unwrap())).await;
        world.note(|| {
            format!("scenario C4: c{x} polls a lock of ttl {ttl:?} at most {polls} times")
        });
        if few.ok().flatten().is_none() {
            lying.push(Lying::Future(future));
        }
    }
    sleep(world.plan.slowest() * u32::try_from(chance.below(5)).unwrap()).await;
    let from = Instant::now();
    let settings = &world.plan.clients[x];
    let bound = (settings.ephemeral + handoff(world, x) + handoff(world, y)) * many
        + settings.node_timeout * 2;
    world.note(|| format!("scenario C4: c{y} asks behind {}", lying.len()));
    let next = world.clients[y].lock("d", other).wait_forever();
    match timeout(bound, next).await {
        Ok(Ok(guard)) => {
            world.note(|| format!("scenario C4: served after {:?} of {bound:?}", from.elapsed()));
            world.count("scenarios C4");
            drop(guard);
        }
        Ok(Err(error)) => world.fail("VERDICT scenario C4", error.to_string()),
        Err(_) => world.fail(if world.plan.slowest().is_zero() { "C4" } else { "C4 under way" }, format!("c{y} is not served {bound:?} after c{x} stopped polling {many}, ephemeral {:?}, ttl {ttl:?}", settings.ephemeral)),
    }
    drop(lying);
}

/// L2: a holder that is gone costs what is left of its lease, and a poll.
async fn dead_holder(
    world: &Rc<World>,
    chance: &mut Chance,
    x: usize,
    y: usize,
    ttl: Duration,
    other: Duration,
) {
    let handed = chance.once_in(2);
    let before = if handed {
        world.clients[y].lock("e", other).await.ok()
    } else {
        None
    };
    let ask = world.clients[x]
        .lock("e", ttl)
        .auto_extend(false)
        .wait_forever();
    let dying = spawn_local(ask);
    sleep(world.plan.slowest() * 4 + Duration::from_millis(5)).await;
    drop(before);
    let Ok(Ok(Ok(guard))) = timeout(Duration::from_secs(300), dying).await else {
        return world.fail("L1 scenario", "a lock that was let go is not given on");
    };
    let from = Instant::now();
    let left = guard.validity();
    // As if its process had been killed: nothing is released.
    std::mem::forget(guard);
    let bound = ttl + handoff(world, y);
    world.note(|| {
        format!(
            "scenario L2: c{x} dies with a lease of {ttl:?}, validity {left:?}, handed {handed}"
        )
    });
    match timeout(bound, world.clients[y].lock("e", other).wait_forever()).await {
        Ok(Ok(guard)) => {
            world.note(|| format!("scenario L2: served after {:?} of {bound:?}", from.elapsed()));
            world.count("scenarios L2");
            if from.elapsed() + Duration::from_millis(1) < left {
                world.fail("S1 scenario", format!("c{y} has it after {:?}, while the lease was trusted for {left:?}", from.elapsed()));
            }
            drop(guard);
        }
        Ok(Err(error)) => world.fail("VERDICT scenario L2", error.to_string()),
        Err(_) => world.fail(if handed { "L2 handed" } else { "L2 free" }, format!("c{y} is not served {bound:?} after c{x} died with a lease of {ttl:?}, validity {left:?}")),
    }
}

/// L3 and the handoff: a crowd that asks at once is served one after the other, without pauses.
async fn crowd(world: &Rc<World>, chance: &mut Chance, open: &[usize], ttl: Duration) {
    let many = 2 + chance.below(6);
    let from = Instant::now();
    let (told, mut served) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    let mut bound = Duration::ZERO;
    for _ in 0..many {
        let client = open[chance.place(open.len())];
        bound = bound.max(handoff(world, client));
        let wait = world.plan.slowest() * u32::try_from(chance.below(101)).unwrap() / 100;
        let lock = world.clients[client].lock("f", ttl).wait_forever();
        let told = told.clone();
        tasks.push(spawn_local(async move {
            sleep(wait).await;
            let guard = lock.await;
            let _ = told.send(guard.map(|guard| guard.fencing_token()));
        }));
    }
    drop(told);
    let first = world.plan.slowest() * 12 + Duration::from_millis(20) + bound;
    let mut last = 0;
    for place in 0..many {
        let bound = if place == 0 { first } else { bound };
        match timeout(bound, served.recv()).await {
            Ok(Some(Ok(token))) => {
                if token <= last {
                    world.fail("S2 scenario", format!("{token} after {last}"));
                }
                last = token;
            }
            Ok(Some(Err(error))) => return world.fail("VERDICT scenario L3", error.to_string()),
            Ok(None) => return world.fail("VERDICT scenario L3", "a task has ended"),
            Err(_) => {
                world.fail(
                    if place == 0 { "L3 first" } else { "L3 handoff" },
                    format!("number {place} of {many} is not served within {bound:?}"),
                );
                break;
            }
        }
    }
    world.note(|| format!("scenario L3: {many} served in {:?}", from.elapsed()));
    world.count("scenarios L3");
    for task in tasks {
        crate::run::end(task).await;
    }
}

/// C1, C3: hundreds that are dropped at once are gone soon.
async fn many_dropped(world: &Rc<World>, chance: &mut Chance, x: usize, ttl: Duration) {
    let many = log(chance, 2, 200);
    let asks: Vec<_> = (0..many)
        .map(|place| world.clients[x].lock(format!("g{place}"), ttl))
        .collect();
    let from = Instant::now();
    let guards = futures::future::join_all(asks).await;
    if let Some(error) = guards.iter().find_map(|guard| guard.as_ref().err()) {
        return world.fail(
            "VERDICT scenario C3",
            format!("of {many} free locks: {error}"),
        );
    }
    let spent = from.elapsed();
    // So many are asked for at once, and half as many more in each round trip after that.
    let mut window = 16;
    let mut rounds = 1;
    let mut asked = window;
    while asked < many {
        window += window / 2;
        asked += window;
        rounds += 1;
    }
    if spent > world.plan.slowest() * (rounds + 1) + Duration::from_millis(10) {
        world.fail("L1 free", format!("{many} free locks took {spent:?}"));
    }
    drop(guards);
    world.count("scenarios C3");
    cleared(
        world,
        world.plan.slowest() * 6 + Duration::from_millis(50),
        "C3 scenario",
    )
    .await;
}
