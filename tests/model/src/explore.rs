//! What may happen next, and what must hold whatever does.

use std::thread::available_parallelism;

use stateright::{Checker, CheckerBuilder, Expectation, Model, Property, UniformChooser};

use crate::{client::Stage, scenario::Scenario, world::World};

/// More give-backs in a row than a few round trips.
const MANY: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Start(usize),
    /// Releases, or leaves.
    End(usize),
    Deliver {
        client: usize,
        node: usize,
    },
    /// A request is carried out, and the answer is long under way.
    Slowly {
        client: usize,
        node: usize,
    },
    Hear {
        client: usize,
        node: usize,
    },
    Break {
        client: usize,
        node: usize,
    },
    DeliverLate(usize),
    Forget(usize),
    Wait,
}

impl Model for Scenario {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut world = World::new(self.clients, self.nodes, self.lie, self.left);
        if self.held {
            world.start(0);
            (0..self.nodes).for_each(|node| world.deliver(0, node, false));
        }
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if self.served > 0 && world.facts.served >= self.served {
            return;
        }
        let left = &world.left;
        for (me, client) in world.clients.iter().enumerate() {
            match client.stage {
                Stage::Idle => actions.push(Action::Start(me)),
                Stage::Held(_) => actions.push(Action::End(me)),
                Stage::Lost => actions.push(Action::End(me)),
                Stage::Waiting if left.leavers > 0 => actions.push(Action::End(me)),
                _ => {}
            }
            for (node, link) in world.links[me].iter().enumerate() {
                if !link.there.is_empty() {
                    actions.push(Action::Deliver { client: me, node });
                }
                if left.slow > 0 && link.next_is_awaited() {
                    actions.push(Action::Slowly { client: me, node });
                }
                if !link.back.is_empty() {
                    actions.push(Action::Hear { client: me, node });
                }
                if left.breaks > 0 && !(link.there.is_empty() && link.back.is_empty()) {
                    actions.push(Action::Break { client: me, node });
                }
            }
        }
        actions.extend((0..world.loose.len()).map(Action::DeliverLate));
        if left.forgets > 0 {
            actions.extend((0..self.nodes).map(Action::Forget));
        }
        let held = world.holders() > 0;
        let may_wait = match (world.is_busy(), held) {
            (true, _) => left.waits > 0,
            (false, true) => left.holds > 0,
            (false, false) => left.moments > 0 && !world.is_over(),
        };
        let idle = world
            .clients
            .iter()
            .any(|client| client.stage == Stage::Idle);
        if may_wait && !idle && world.next_moment().is_some() {
            actions.push(Action::Wait);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Start(me) => world.start(me),
            Action::End(me) => {
                world.left.leavers -= u8::from(world.clients[me].stage == Stage::Waiting);
                world.end(me);
            }
            Action::Deliver { client, node } => world.deliver(client, node, false),
            Action::Slowly { client, node } => {
                world.left.slow -= 1;
                world.deliver(client, node, true);
            }
            Action::Hear { client, node } => world.hear(client, node),
            Action::Break { client, node } => {
                world.left.breaks -= 1;
                world.break_link(client, node, true);
            }
            Action::DeliverLate(place) => world.deliver_late(place),
            Action::Forget(node) => {
                world.left.forgets -= 1;
                world.forget(node);
            }
            Action::Wait => {
                let left = &mut world.left;
                let of = match (last.is_busy(), last.holders() > 0) {
                    (true, _) => &mut left.waits,
                    (false, true) => &mut left.holds,
                    (false, false) => &mut left.moments,
                };
                *of -= 1;
                world.wait();
            }
        }
        Some(world)
    }

    fn within_boundary(&self, world: &World) -> bool {
        self.served == 0 || world.facts.served <= self.served
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("S1: one holder at a time", |_, world: &World| {
                world.holders() <= 1
            }),
            Property::always("S2: tokens rise", |_, world: &World| !world.facts.fell),
            Property::always("F1: in order of the tickets", |_, world: &World| {
                !world.facts.passed
            }),
            Property::always("L1: nobody is stuck", |scenario: &Self, world: &World| {
                let mut actions = Vec::new();
                scenario.actions(world, &mut actions);
                let served = scenario.served > 0 && world.facts.served >= scenario.served;
                !actions.is_empty() || world.is_over() || served
            }),
            Property::always("L3: split votes resolve", |_, world: &World| {
                world
                    .clients
                    .iter()
                    .all(|client| client.generation() < MANY)
            }),
            // One that has just begun may stand on a bare quorum, which a node that forgets ends.
            Property::always("L6: no lease is lost", |scenario: &Self, world: &World| {
                !world.facts.lost || scenario.left.forgets > 0
            }),
            Property::always("C1: nothing is left", |_, world: &World| {
                !world.is_over() || !world.loose.is_empty() || world.is_clean()
            }),
            Property::always("nothing is due without end", |_, world: &World| {
                !world.facts.spun
            }),
            // That there is something to see.
            Property::sometimes("all are served", |_, world: &World| {
                usize::from(world.facts.served) == world.clients.len()
            }),
            Property::sometimes("votes are given back", |_, world: &World| {
                world.facts.gave_back
            }),
        ]
    }
}

/// What was violated, each with the way there, and how many states there were.
pub(crate) type Findings = (Vec<(&'static str, String)>, usize);

/// Explores all there is, or all up to the depth.
pub(crate) fn explore(scenario: Scenario) -> Findings {
    let checker = checker(&scenario);
    let checker = if scenario.depth > 0 {
        checker.target_max_depth(scenario.depth)
    } else {
        checker
    };
    findings(&scenario, &checker.spawn_bfs().join())
}

/// Walks at random from the beginning to the end, again and again, until so many states were seen.
pub(crate) fn walk(scenario: Scenario, states: usize) -> Findings {
    let checker = checker(&scenario).target_state_count(states);
    findings(
        &scenario,
        &checker.spawn_simulation(1, UniformChooser).join(),
    )
}

fn checker(scenario: &Scenario) -> CheckerBuilder<Scenario> {
    let threads = available_parallelism().map_or(1, usize::from);
    scenario.clone().checker().threads(threads)
}

fn findings(scenario: &Scenario, checker: &impl Checker<Scenario>) -> Findings {
    let found = checker.discoveries();
    let violated = scenario.properties().into_iter().filter_map(|property| {
        let path = found.get(property.name);
        match property.expectation {
            Expectation::Sometimes => path.is_none().then(|| (property.name, "never".to_owned())),
            _ => path.map(|path| (property.name, format!("{:?}", path.clone().into_actions()))),
        }
    });
    (violated.collect(), checker.unique_state_count())
}
