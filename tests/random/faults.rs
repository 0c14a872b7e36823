//! What happens to the nodes meanwhile.

use std::{rc::Rc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    chance::Chance,
    settings::{Weather, log_millis},
    world::World,
};

/// Runs until it is aborted; `heal` undoes what is left.
pub(crate) async fn run(world: Rc<World>) {
    let chance = &mut world.chance(2);
    let plan = &world.plan;
    let nodes = plan.latency.len();
    let mut restarted = world.start;
    let longest = Duration::from_millis(plan.ttls.1) + plan.most(|settings| settings.ephemeral);
    loop {
        let pause = match plan.weather {
            Weather::Calm => return,
            Weather::Gentle => longest * 3 / 2 + Duration::from_millis(5600),
            _ => log_millis(chance, 10, 3000),
        };
        sleep(pause).await;
        let at_once = match plan.weather {
            Weather::Gentle => 1,
            Weather::Outages if chance.once_in(2) => nodes,
            _ => 1 + chance.place(nodes.div_ceil(2).saturating_sub(1).max(1)),
        };
        let mut places: Vec<_> = (0..nodes).collect();
        chance.shuffle(&mut places);
        places.truncate(at_once);
        let span = log_millis(chance, 5, 5000);
        let kind = chance.below(if plan.weather == Weather::Wild { 9 } else { 5 });
        match kind {
            // A restart never makes two nodes look like a new deployment.
            0 | 1 if plan.restarts && restarted.elapsed() > Duration::from_millis(5600) => {
                restart(&world, places[0], span, chance).await;
                restarted = Instant::now();
            }
            0..=2 => {
                world.note(|| format!("nodes {places:?} hang for {span:?}"));
                each(&places, |place| world.sick(place));
                each(&places, |place| world.cluster.node(place).pause());
                sleep(span).await;
                each(&places, |place| world.cluster.node(place).resume());
                each(&places, |place| world.well(place));
            }
            3 => {
                let slow = log_millis(chance, 1, 1500);
                world.note(|| format!("nodes {places:?} take {slow:?} for {span:?}"));
                each(&places, |place| world.sick(place));
                each(&places, |place| world.cluster.node(place).set_latency(slow));
                sleep(span).await;
                each(&places, |place| {
                    world.cluster.node(place).set_latency(plan.latency[place])
                });
                // What went out meanwhile is as late as that.
                sleep(slow).await;
                each(&places, |place| world.well(place));
            }
            4 => {
                world.note(|| format!("nodes {places:?} lose pushes for {span:?}"));
                each(&places, |place| world.cluster.node(place).lose_pushes(true));
                sleep(span).await;
                each(&places, |place| {
                    world.cluster.node(place).lose_pushes(plan.deaf)
                });
            }
            5 => {
                world.note(|| format!("nodes {places:?} are flushed"));
                each(&places, |place| world.cluster.node(place).flush());
            }
            6 => {
                let step = f64::from(i32::try_from(chance.below(4000)).unwrap() - 2000) / 1000.0;
                world.note(|| format!("the clocks of {places:?} are stepped by {step}"));
                each(&places, |place| world.cluster.node(place).step_clock(step));
            }
            7 => {
                let key = world.key("r0");
                world.note(|| format!("{key} is deleted on {places:?}"));
                each(&places, |place| world.cluster.node(place).delete(&key));
            }
            _ => {
                let key = world.key("r0");
                let ttl = span.max(Duration::from_millis(1));
                let taken = places
                    .iter()
                    .filter(|place| world.cluster.node(**place).set_nx(&key, "stranger", ttl))
                    .count();
                world.note(|| {
                    format!("a stranger takes {key} on {taken} of {places:?} for {ttl:?}")
                });
            }
        }
    }
}

async fn restart(world: &World, place: usize, span: Duration, chance: &mut Chance) {
    world.sick(place);
    let node = world.cluster.node(place);
    if chance.once_in(2) {
        world.note(|| format!("node {place} is down for {span:?}"));
        world.down(place);
        node.stop();
        sleep(span).await;
    }
    world.note(|| format!("node {place} restarts"));
    node.restart();
    world.restarted(place);
}

fn each(places: &[usize], act: impl Fn(usize)) {
    places.iter().copied().for_each(act);
}

/// All is well again. Returns how long it takes until every vote counts.
pub(crate) fn heal(world: &World) -> Duration {
    let plan = &world.plan;
    let mut stopped = false;
    for (place, node) in world.cluster.nodes().enumerate() {
        node.resume();
        node.set_latency(plan.latency[place]);
        node.lose_pushes(plan.deaf);
        if world.is_down(place) {
            node.restart();
            world.restarted(place);
            stopped = true;
        }
        let key = world.key("r0");
        if node.get(&key).as_deref() == Some("stranger") {
            node.delete(&key);
        }
    }
    if stopped || plan.restarts || plan.cold {
        plan.longest_grace() + Duration::from_secs(2)
    } else {
        Duration::ZERO
    }
}
