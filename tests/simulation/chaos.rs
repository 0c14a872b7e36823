//! What goes wrong, and when it heals.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    chance::Chance,
    faults::{
        BACK, COLD, CRASH, DEATH, DELAY, EMPTY, FLUSH, FOREIGN, FORWARD, HUNG, ISLAND, LONG_PAUSE,
        LOSS, MEDDLED, OLD, ONE_WAY, PARTITION, PAUSE, PUSHES, RESET, STALE, STARVED,
    },
    history::{Ms, What},
    life::Part,
    run::CLOCKS_APART,
    server::Condition,
    world::{Sim, World},
};
use crate::node::table::{Header, Table};

/// How many states of each node are kept.
const SNAPSHOTS: usize = 24;

/// Has one node lose keys, or its clock moved, until `end`, while all else is well: but only when every lease
/// should stand on all nodes, since that is when one node can do no harm.
pub(super) async fn meddle(sim: Sim, mut chance: Chance, end: Ms) {
    let node = chance.below(sim.with(|world| world.servers.len()) as u64) as usize;
    let kind = chance.below(5);
    while sim.now() < end {
        sleep(chance.millis(1500)).await;
        sim.look_at_guards();
        sim.with(|world| {
            if world.is_whole() {
                let resource = chance.below(2) as usize;
                match kind {
                    0 | 1 => delete(world, node, resource),
                    2 => flush(world, node),
                    3 => step(world, node, chance.between(10_000, 3_600_000)),
                    _ => {}
                }
            }
        });
    }
}

/// Somebody deletes the lock key of a resource on a node.
pub(super) fn delete(world: &mut World, node: usize, resource: usize) {
    world.fault(MEDDLED, format!("node {node}, the key of r{resource}"));
    world.servers[node].table.delete(&format!("r{resource}"));
    meddled(world, node);
}

/// Somebody flushes a node.
fn flush(world: &mut World, node: usize) {
    world.fault(MEDDLED, format!("node {node}, all keys"));
    world.servers[node].table.clear();
    meddled(world, node);
}

/// The clock of a node is stepped forward.
pub(super) fn step(world: &mut World, node: usize, millis: Ms) {
    world.fault(MEDDLED, format!("node {node}, its clock by {millis} ms"));
    world.servers[node].ahead += millis as i64 * 1000;
    world.note(What::ClockMoved(node));
    meddled(world, node);
}

fn meddled(world: &mut World, node: usize) {
    world.servers[node].meddled = Some(world.now());
    world.look_at_all(node);
}

/// A part of a client gets no time.
pub(super) fn starve(world: &mut World, client: usize, part: Part, lasts: Ms, on: String) {
    if world.lives[client].is_dead() || world.lives[client].is_starved() {
        return;
    }
    world.fault(STARVED, format!("{part:?}, {on}"));
    world.lives[client].starve(part, true);
    world.review_client(client);
    world.after(lasts, move |world| {
        world.lives[client].starve(part, false);
        world.review_client(client);
    });
}

/// Lets faults befall the world until `end`. `beyond` is the one fault of this run that voids promises.
pub(super) async fn run(sim: Sim, mut chance: Chance, end: Ms, beyond: Option<&'static str>) {
    let fierce = chance.pick(&[1, 1, 2, 4]);
    // When each node's memory can be relied on again: a majority remembers at any time.
    let mut sound_from = vec![0; sim.with(|world| world.servers.len())];
    while sim.now() < end {
        sleep(chance.millis(900 / fierce)).await;
        let lasts = chance.between(20, chance.clone().pick(&[200, 1500, 3000]));
        sim.with(|world| {
            if beyond.is_some() && chance.is(25) {
                exceed(world, &mut chance, beyond.unwrap_or_default());
            } else {
                befall(world, &mut chance, lasts, &mut sound_from);
            }
        });
    }
}

fn befall(world: &mut World, chance: &mut Chance, lasts: Ms, sound_from: &mut [Ms]) {
    let node = chance.below(world.servers.len() as u64) as usize;
    let client = chance.below(world.ways.len() as u64) as usize;
    let on = format!("client {client}, node {node}, {lasts} ms");
    match chance.below(23) {
        0 => weather(
            world,
            DELAY,
            client,
            node,
            lasts,
            on,
            |weather, chance| {
                weather.delay = (0, chance.pick(&[20, 100, 400, 1500]));
            },
            chance,
        ),
        1 => weather(
            world,
            LOSS,
            client,
            node,
            lasts,
            on,
            |weather, chance| {
                weather.loses_requests = chance.pick(&[0, 30, 80]);
                weather.loses_answers = chance.pick(&[10, 30, 80]);
            },
            chance,
        ),
        2 => weather(
            world,
            PARTITION,
            client,
            node,
            lasts,
            on,
            |weather, _| {
                weather.cut_there = true;
                weather.cut_back = true;
            },
            chance,
        ),
        3 => weather(
            world,
            ONE_WAY,
            client,
            node,
            lasts,
            on,
            |weather, chance| {
                weather.cut_there = chance.is(50);
                weather.cut_back = !weather.cut_there;
            },
            chance,
        ),
        4 | 5 => weather(
            world,
            PUSHES,
            client,
            node,
            lasts,
            on,
            |weather, chance| {
                weather.loses_pushes = chance.pick(&[0, 0, 50, 100]);
                weather.doubles_pushes = chance.pick(&[0, 50]);
                weather.late_pushes = chance.pick(&[0, 50, 500, 3000]);
            },
            chance,
        ),
        6 => {
            world.fault(ISLAND, on.clone());
            for node in 0..world.servers.len() {
                weather(
                    world,
                    PARTITION,
                    client,
                    node,
                    lasts,
                    on.clone(),
                    |weather, _| {
                        weather.cut_there = true;
                        weather.cut_back = true;
                    },
                    chance,
                );
            }
        }
        7 | 8 => {
            world.fault(RESET, on);
            world.reset(client, node);
            // Again and again, while requests are under way.
            for _ in 0..chance.pick(&[0, 0, 20]) {
                let wait = chance.below(lasts);
                world.after(wait, move |world| world.reset(client, node));
            }
        }
        9..=11 => hang(world, node, lasts, on),
        12..=14 if may_forget(world, node, sound_from) => {
            let memory = chance.pick(&[
                Memory::Empty,
                Memory::Empty,
                Memory::LastSecond,
                Memory::Old,
            ]);
            let down = if chance.is(50) { 0 } else { lasts };
            let sound = world.now() + down + world.history.settings.grace + 1500;
            sound_from[node] = sound;
            crash(world, node, down, memory, on);
        }
        15..=17 if !world.lives[client].is_paused() => pause(world, client, lasts, on),
        20..=22 => {
            let part = chance.pick(&[Part::Own, Part::Own, Part::Callers]);
            starve(world, client, part, lasts, on);
        }
        18 if chance.is(30) && living(world) > 2 => die(world, client, on),
        _ => {}
    }
}

/// Whether a majority remembers, also without that node.
fn may_forget(world: &World, node: usize, sound_from: &[Ms]) -> bool {
    let now = world.now();
    let unsound = |(other, from): &(usize, &Ms)| *other != node && **from > now;
    let unsound = sound_from.iter().enumerate().filter(unsound).count();
    // After a cold start it would look like a part of that, and have no grace either.
    let young = |server: &super::server::Server| now - server.started <= 5000;
    let mut others = (0..)
        .zip(&world.servers)
        .filter(|(other, _)| *other != node);
    unsound + 1 < world.history.settings.quorum
        && unsound < world.servers.len() / 2
        && world.servers[node].condition != Condition::Down
        && !others.all(|(_, server)| young(server))
}

fn living(world: &World) -> usize {
    world.lives.iter().filter(|life| !life.is_dead()).count()
}

#[allow(clippy::too_many_arguments)]
fn weather(
    world: &mut World,
    fault: &'static str,
    client: usize,
    node: usize,
    lasts: Ms,
    on: String,
    change: impl FnOnce(&mut super::way::Weather, &mut Chance),
    chance: &mut Chance,
) {
    world.fault(fault, on);
    world.set_weather(client, node, |weather| change(weather, chance));
    world.after(lasts, move |world| {
        let fair = world.ways[client][node].fair;
        world.set_weather(client, node, |weather| *weather = fair);
    });
}

pub(super) fn hang(world: &mut World, node: usize, lasts: Ms, on: String) {
    if world.servers[node].condition != Condition::Running {
        return;
    }
    world.fault(HUNG, on);
    world.servers[node].condition = Condition::Hung;
    world.review_node(node);
    world.after(lasts, move |world| wake(world, node));
}

/// A hung node goes on: what it was asked is carried out now, in order.
pub(super) fn wake(world: &mut World, node: usize) {
    if world.servers[node].condition == Condition::Hung {
        world.servers[node].condition = Condition::Running;
        for act in std::mem::take(&mut world.servers[node].backlog) {
            act(world);
        }
        world.review_node(node);
    }
}

/// What a node knows when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    Empty,
    /// All but about a second.
    LastSecond,
    /// What it knew at any time before.
    Old,
}

/// Kills a node, and starts it again at once with that memory.
pub(super) fn restart_with(world: &mut World, node: usize, table: Table, on: String) {
    crash(world, node, 0, Memory::Old, on);
    world.servers[node].left_behind = Some((table, Memory::Old));
}

/// Kills a node, and starts it again after `down`.
pub(super) fn crash(world: &mut World, node: usize, down: Ms, memory: Memory, on: String) {
    let kept = world.servers[node].snapshots.len();
    let snapshot = match memory {
        Memory::Empty => None,
        Memory::LastSecond => kept.checked_sub(2),
        Memory::Old => Some(world.chance.below(kept as u64) as usize),
    };
    let server = &mut world.servers[node];
    let table = snapshot.and_then(|place| server.snapshots.get(place));
    let table = table.cloned().unwrap_or_default();
    server.condition = Condition::Down;
    server.table = Table::default();
    server.backlog.clear();
    server.listeners.clear();
    if down > 0 {
        world.fault(CRASH, on.clone());
    }
    world.look_at_all(node);
    for client in 0..world.ways.len() {
        // Who is paused or cut off hears of it later.
        if !world.lives[client].is_paused() && !world.ways[client][node].weather.cut_back {
            world.reset(client, node);
        }
    }
    world.review_node(node);
    world.servers[node].left_behind = Some((table, memory));
    world.after(down, move |world| start(world, node));
}

/// A node that is down comes back, if nobody has started it yet.
fn start(world: &mut World, node: usize) {
    let Some((table, memory)) = world.servers[node].left_behind.take() else {
        return;
    };
    let fault = match memory {
        Memory::Empty => EMPTY,
        Memory::LastSecond => STALE,
        Memory::Old => OLD,
    };
    world.fault(fault, format!("node {node}"));
    let now = world.now();
    world.servers[node].start(table, now);
    world.look_at_all(node);
    world.servers[node].restored = world.servers[node].standing(now).into_iter().collect();
    world.review_node(node);
}

pub(super) fn pause(world: &mut World, client: usize, lasts: Ms, on: String) {
    if world.lives[client].is_dead() {
        return;
    }
    world.fault(if lasts > 1000 { LONG_PAUSE } else { PAUSE }, on);
    world.note(What::Paused(client));
    world.lives[client].pause(true);
    world.review_client(client);
    world.after(lasts, move |world| resume(world, client));
}

pub(super) fn resume(world: &mut World, client: usize) {
    if world.lives[client].is_paused() && !world.lives[client].is_dead() {
        world.note(What::Resumed(client));
        world.lives[client].pause(false);
        world.review_client(client);
    }
}

/// A client is gone; its connections close when the servers notice.
pub(super) fn die(world: &mut World, client: usize, on: String) {
    if world.lives[client].is_dead() {
        return;
    }
    world.fault(DEATH, on);
    world.note(What::Crashed(client));
    for node in 0..world.servers.len() {
        world.reset(client, node);
    }
    world.lives[client].end();
    world.review_client(client);
}

/// The faults that void promises.
fn exceed(world: &mut World, chance: &mut Chance, fault: &'static str) {
    let nodes = world.servers.len() as u64;
    let node = chance.below(nodes) as usize;
    let on = format!("node {node}");
    match fault {
        FORWARD => {
            world.fault(fault, on);
            world.servers[node].ahead += chance.between(100_000, 5_000_000) as i64;
        }
        BACK
            // No more than that in all, or S2 goes, too.
            if world.servers[node].ahead > -400_000 => {
                world.fault(fault, on);
                world.servers[node].ahead -= chance.between(10_000, 300_000) as i64;
            }
        FLUSH => {
            let all = chance.is(30);
            for node in (0..nodes as usize).filter(|other| all || *other == node) {
                world.fault(fault, format!("node {node}"));
                world.servers[node].table.clear();
                world.look_at_all(node);
            }
        }
        COLD => {
            // A second time soon after, clocks that are apart by more than half of what passed in between
            // would show in the tokens.
            let soon = world.history.settings.grace.max(3 * CLOCKS_APART);
            let young = |server: &super::server::Server| world.now() - server.started < soon;
            if world.servers.iter().any(young) {
                return;
            }
            for node in 0..nodes as usize {
                world.fault(fault, format!("node {node}"));
                crash(world, node, 0, Memory::Empty, format!("node {node}"));
            }
        }
        FOREIGN => {
            let now = world.now();
            for node in 0..nodes as usize {
                let server = &mut world.servers[node];
                let header = Header {
                    micros: server.micros(now),
                    ..Header::default()
                };
                if server.condition == Condition::Running
                    && server.table.set_nx(header, "r0", "foreign", 300)
                {
                    world.fault(fault, format!("node {node}"));
                    world.look(node, None, 0, Some(0));
                }
            }
        }
        _ => {}
    }
}

/// Everything is well again.
pub(super) fn heal(world: &mut World) {
    for node in 0..world.servers.len() {
        wake(world, node);
        start(world, node);
        for client in 0..world.ways.len() {
            let fair = world.ways[client][node].fair;
            world.set_weather(client, node, |weather| *weather = fair);
        }
    }
    for client in 0..world.ways.len() {
        resume(world, client);
        for part in [Part::Own, Part::Callers] {
            world.lives[client].starve(part, false);
        }
        world.review_client(client);
    }
}

/// Keeps what nodes knew before, for a restart with that.
pub(super) async fn remember(sim: Sim) {
    loop {
        sleep(Duration::from_millis(700)).await;
        sim.with(|world| {
            for server in &mut world.servers {
                if server.condition == Condition::Running {
                    let table = server.table.clone();
                    server.snapshots.push(table);
                    // The older they are, the farther they are apart.
                    if server.snapshots.len() > SNAPSHOTS {
                        let kept = std::mem::take(&mut server.snapshots)
                            .into_iter()
                            .enumerate();
                        let kept =
                            kept.filter(|(place, _)| place % 2 == 0 || *place > SNAPSHOTS / 2);
                        server.snapshots = kept.map(|(_, table)| table).collect();
                    }
                }
            }
        });
    }
}
