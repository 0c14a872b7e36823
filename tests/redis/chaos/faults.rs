//! The faults, in lanes that run side by side, each in an order that the seed decides.
//!
//! At any time at most one node has forgotten, so that the promises stand; at most one other node hangs.
//! What is cut off, paused and killed beside them is bounded by nothing: that costs progress only.

use std::{fmt, time::Duration};

use super::{
    GRACE, LONGEST_TTL, NODES, SLOTS,
    proxy::{Link, Way},
    rig::{Contestant, Rig, pass},
};
use crate::{chance::Chance, process::now};

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A node is killed and started again, empty.
    Kill,
    /// The same of a node that every process needs for its quorum: half of them are cut off from two of the
    /// others, half from the other two, until after the node
    /// has come back.
    Eclipse,
    /// A node forgets all keys and goes on.
    Forget,
    /// A node is stopped for longer than the longest ttl.
    Hang,
    /// A node sleeps within a command.
    Doze,
    /// A node closes all connections.
    Disconnect,
    /// A node forgets the scripts.
    Unlearn,
    /// Connections of a process to some nodes break, and none can be made.
    Cut,
    /// They are slow.
    Slow,
    /// They hold back what is sent.
    Hold,
    /// They hold back what is answered.
    Mute,
    /// The connections of a process to all nodes are cut or held.
    Isolate,
    /// A process is stopped for longer than the longest ttl.
    Pause,
    /// A process is stopped for a moment, which must cost it nothing.
    Blink,
    /// A process is killed, and another takes its place.
    Murder,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", format!("{self:?}").to_lowercase())
    }
}

/// One fault that was done.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// The nodes that were out of reach.
    pub(crate) nodes: Vec<usize>,
    /// For which process; `None`: for all.
    pub(crate) slot: Option<usize>,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

/// Kinds in an order by chance, each of them once before any comes again.
#[derive(Debug)]
struct Deck {
    kinds: Vec<Kind>,
    dealt: usize,
    until: Duration,
}

impl Deck {
    fn new(kinds: &[Kind], until: Duration) -> Self {
        Self {
            kinds: kinds.to_vec(),
            dealt: 0,
            until,
        }
    }

    /// The next one. Ends when the time is over, but not before each has come.
    fn deal(&mut self, chance: &mut Chance) -> Option<Kind> {
        let place = self.dealt % self.kinds.len();
        if self.dealt >= self.kinds.len() && now() >= self.until {
            return None;
        }
        if place == 0 {
            chance.shuffle(&mut self.kinds);
        }
        self.dealt += 1;
        Some(self.kinds[place])
    }
}

/// Nodes that lose their memory: one at a time, and the next one when the first one's grace is over.
pub(crate) fn forgetting(rig: &Rig, mut chance: Chance, kinds: &[Kind], until: Duration) {
    let mut deck = Deck::new(kinds, until);
    while let Some(kind) = deck.deal(&mut chance) {
        pass(chance.millis(100, 1000));
        let node = rig.take_node(&mut chance);
        let from = now();
        let (server, mut eclipsed) = (&rig.servers[node], Vec::new());
        match kind {
            Kind::Forget => {
                server.command(&["FLUSHALL"]);
            }
            Kind::Eclipse => {
                eclipsed = eclipse(rig, node, &mut chance);
                server.restart();
                // With it the others could make a quorum, while a lease stands on its votes that were lost.
                pass(LONGEST_TTL / 2);
            }
            _ => {
                server.kill();
                pass(chance.millis(50, 1500));
                server.restart();
            }
        }
        for (slot, nodes) in eclipsed.into_iter().enumerate() {
            nodes
                .iter()
                .for_each(|&node| rig.links[slot][node].set(Way::Open));
            rig.note(Fault {
                kind: Kind::Cut,
                nodes,
                slot: Some(slot),
                from,
                to: now(),
            });
        }
        rig.note(Fault {
            kind,
            nodes: vec![node],
            slot: None,
            from,
            to: now(),
        });
        if kind != Kind::Forget {
            // Uptime is in whole seconds, of which one is taken off.
            pass(GRACE + Duration::from_secs(2));
        }
        rig.give_back(node);
    }
}

/// Cuts each process off from two nodes besides `node`, for long enough that leases stand on the others
/// alone, and that the votes of those two go to waiters. Returns which.
fn eclipse(rig: &Rig, node: usize, chance: &mut Chance) -> Vec<Vec<usize>> {
    let mut others: Vec<usize> = (0..NODES).filter(|other| *other != node).collect();
    chance.shuffle(&mut others);
    let cut = |(slot, links): (usize, &Vec<Link>)| {
        let nodes = others[slot % 2 * 2..][..2].to_vec();
        nodes.iter().for_each(|&node| links[node].set(Way::Cut));
        nodes
    };
    let eclipsed = rig.links.iter().enumerate().map(cut).collect();
    pass(LONGEST_TTL);
    eclipsed
}

/// Nodes that hang, and such as lose what is not their memory.
pub(crate) fn ailing(rig: &Rig, mut chance: Chance, until: Duration) {
    let kinds = [Kind::Hang, Kind::Doze, Kind::Disconnect, Kind::Unlearn];
    let mut deck = Deck::new(&kinds, until);
    while let Some(kind) = deck.deal(&mut chance) {
        pass(chance.millis(100, 800));
        let node = rig.take_node(&mut chance);
        let server = &rig.servers[node];
        let from = now();
        match kind {
            Kind::Hang => {
                server.pause();
                pass(LONGEST_TTL + chance.millis(100, 800));
                server.resume();
            }
            Kind::Doze => {
                let span = chance.millis(100, 900).as_secs_f64();
                server.command(&["DEBUG", "SLEEP", &span.to_string()]);
            }
            Kind::Disconnect => {
                server.command(&["CLIENT", "KILL", "TYPE", "normal"]);
                server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
            }
            _ => {
                server.command(&["SCRIPT", "FLUSH"]);
            }
        }
        rig.note(Fault {
            kind,
            nodes: vec![node],
            slot: None,
            from,
            to: now(),
        });
        rig.give_back(node);
    }
}

/// Connections between one process and some nodes.
pub(crate) fn network(rig: &Rig, mut chance: Chance, until: Duration) {
    let kinds = [Kind::Cut, Kind::Slow, Kind::Hold, Kind::Mute, Kind::Isolate];
    let mut deck = Deck::new(&kinds, until);
    while let Some(kind) = deck.deal(&mut chance) {
        pass(chance.millis(50, 600));
        let slot = chance.place(SLOTS);
        let mut nodes: Vec<usize> = (0..NODES).collect();
        chance.shuffle(&mut nodes);
        let way = match kind {
            Kind::Cut => Way::Cut,
            Kind::Slow => Way::Slow(chance.millis(5, 150)),
            Kind::Hold => Way::Held,
            Kind::Mute => Way::AnswersHeld,
            _ if chance.once_in(2) => Way::Cut,
            _ => Way::Held,
        };
        if kind != Kind::Isolate {
            nodes.truncate(1 + chance.place(2));
        }
        let from = now();
        nodes
            .iter()
            .for_each(|&node| rig.links[slot][node].set(way));
        pass(chance.millis(50, 2500));
        nodes
            .iter()
            .for_each(|&node| rig.links[slot][node].set(Way::Open));
        rig.note(Fault {
            kind,
            nodes,
            slot: Some(slot),
            from,
            to: now(),
        });
    }
}

/// Processes that stand still or die.
pub(crate) fn mortality(
    rig: &Rig,
    mut chance: Chance,
    mut contestants: Vec<Contestant>,
    until: Duration,
) -> Vec<Contestant> {
    let mut deck = Deck::new(&[Kind::Pause, Kind::Blink, Kind::Murder], until);
    while let Some(kind) = deck.deal(&mut chance) {
        pass(chance.millis(300, 1500));
        let place = chance.place(contestants.len());
        let slot = contestants[place].slot;
        let from = now();
        match kind {
            Kind::Murder => {
                let victim = contestants.swap_remove(place);
                victim.kill();
                let seed = chance.below(u64::MAX);
                contestants.push(Contestant::start(rig, slot, seed));
            }
            _ => {
                let worker = &contestants[place].worker;
                worker.pause();
                pass(match kind {
                    Kind::Pause => LONGEST_TTL + chance.millis(100, 1000),
                    _ => chance.millis(50, 250),
                });
                worker.resume();
            }
        }
        rig.note(Fault {
            kind,
            nodes: Vec::new(),
            slot: Some(slot),
            from,
            to: now(),
        });
    }
    contestants
}
