//! Everything that there is at a moment: clients, nodes, and what is under way between them.

use std::{
    collections::VecDeque,
    fmt::{self, Write},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use crate::{
    client::{Client, Stage},
    config::Config,
    error::NodeError,
    message::{Answer, Incarnation, Reply, Terms},
    node::{Lie, Node, Push},
    quorum::Quorum,
    request::Outgoing,
    servers,
    time::Time,
};

/// The nodes' clocks, in microseconds, at the origin of the clients'.
pub(crate) const CLOCK: i64 = 1_700_000_000_000_000;

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) config: Arc<Config>,
    pub(crate) quorum: Quorum,
    pub(crate) lie: Lie,
    pub(crate) now: Time,
    pub(crate) clients: Vec<Client>,
    pub(crate) nodes: Vec<Node>,
    /// By client and node.
    pub(crate) links: Vec<Vec<Link>>,
    /// What went over connections that have broken, and may still arrive.
    pub(crate) loose: Vec<(usize, Asked)>,
    pub(crate) left: Budget,
    pub(crate) facts: Facts,
}

/// How much may still go wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Budget {
    /// Answers that come later than something else that happens.
    pub(crate) slow: u8,
    /// Connections that break.
    pub(crate) breaks: u8,
    /// Nodes that restart and have forgotten all.
    pub(crate) forgets: u8,
    /// Clients that leave before they are served.
    pub(crate) leavers: u8,
    /// Moments that pass while something is under way.
    pub(crate) waits: u8,
    /// Moments that pass while somebody holds the lease.
    pub(crate) holds: u8,
    /// Moments that pass when nothing else can happen.
    pub(crate) moments: u8,
}

/// What has happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) served: u8,
    pub(crate) token: u64,
    /// A token was not higher than the one before.
    pub(crate) fell: bool,
    /// Whose ticket was recorded before which client asked: `before[later][earlier]`.
    pub(crate) before: Vec<Vec<bool>>,
    /// Somebody was served before one whose ticket was recorded before it asked.
    pub(crate) passed: bool,
    pub(crate) lost: bool,
    pub(crate) spun: bool,
    pub(crate) gave_back: bool,
    pub(crate) fenced: bool,
}

/// One connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) epoch: u64,
    pub(crate) there: VecDeque<Asked>,
    pub(crate) back: VecDeque<Back>,
    /// What is waited for, and until when.
    waiting: Vec<(Outgoing, Time)>,
}

/// A outgoing under way.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) outgoing: Outgoing,
    pub(crate) sent: Time,
    pub(crate) deadline: Time,
    pub(crate) terms: Terms,
    pub(crate) incarnation: Incarnation,
}

/// What is under way to a client.
#[derive(Clone, Debug)]
pub(crate) enum Back {
    Answer(Outgoing, Answer<Reply>),
    Push(Push),
}

impl World {
    pub(crate) fn new(clients: usize, nodes: usize, lie: Lie, left: Budget) -> Self {
        let config = Arc::new(Config {
            long_hold: None,
            ..Config::default()
        });
        let mut world = Self {
            quorum: Quorum::of(nodes),
            lie,
            // All nodes are long past their grace.
            now: Time::ORIGIN.plus(Duration::from_secs(1000)),
            clients: (0..clients)
                .map(|number| Client::new(&config, nodes, number))
                .collect(),
            nodes: vec![Node::new(); nodes],
            links: vec![vec![Link::default(); nodes]; clients],
            loose: Vec::new(),
            left,
            facts: Facts {
                before: vec![vec![false; clients]; clients],
                ..Facts::default()
            },
            config,
        };
        for client in 0..clients {
            for node in 0..nodes {
                world.connect(client, node);
            }
        }
        world
    }

    fn incarnation(&self, client: usize, node: usize) -> Incarnation {
        self.nodes[node].incarnation(self.links[client][node].epoch)
    }

    fn connect(&mut self, client: usize, node: usize) {
        self.links[client][node].epoch += 1;
        let incarnation = self.incarnation(client, node);
        self.clients[client].servers.see(node, Some(incarnation));
    }

    pub(crate) fn start(&mut self, me: usize) {
        for other in 0..self.clients.len() {
            self.facts.before[me][other] = self.clients[other].is_recorded();
        }
        let (config, quorum, now) = (self.config.clone(), self.quorum, self.now);
        self.clients[me].start(me, &config, quorum, now);
        self.go_on(me);
    }

    pub(crate) fn end(&mut self, me: usize) {
        let now = self.now;
        self.clients[me].end(now);
        self.go_on(me);
    }

    /// What follows for a client from what has just changed.
    fn go_on(&mut self, me: usize) {
        let (now, before) = (self.now, self.clients[me].stage);
        let outcome = self.clients[me].go_on(now);
        self.facts.spun |= outcome.spins;
        self.facts.gave_back |= self.clients[me].generation() > 0;
        let after = self.clients[me].stage;
        if before == Stage::Waiting
            && let Stage::Held(token) = after
        {
            self.facts.fell |= token <= self.facts.token;
            self.facts.token = token;
            self.facts.served += 1;
            let mut others = self.clients.iter().zip(&self.facts.before[me]);
            self.facts.passed |=
                others.any(|(earlier, before)| *before && earlier.stage == Stage::Waiting);
        }
        self.facts.lost |= after == Stage::Lost;
        for outgoing in outcome.outgoing {
            self.send(me, outgoing);
        }
    }

    fn send(&mut self, me: usize, outgoing: Outgoing) {
        let (node, now) = (outgoing.node, self.now);
        let deadline = now.plus(outgoing.timeout);
        let incarnations: Vec<Incarnation> = (0..self.nodes.len())
            .map(|node| self.incarnation(me, node))
            .collect();
        let terms = servers::terms(
            incarnations.iter().copied(),
            self.quorum,
            &self.config,
            deadline,
            outgoing.waiter_ttl,
            now,
        );
        let link = &mut self.links[me][node];
        link.waiting.push((outgoing.clone(), deadline));
        link.there.push_back(Asked {
            outgoing,
            sent: now,
            deadline,
            terms,
            incarnation: incarnations[node],
        });
    }

    /// The next request of a connection arrives. Its answer is heard at once unless it is `slow`, or behind another.
    pub(crate) fn deliver(&mut self, me: usize, node: usize, slow: bool) {
        let Some(asked) = self.links[me][node].there.pop_front() else {
            return;
        };
        let reply = self.carry_out(node, &asked);
        let link = &mut self.links[me][node];
        let Some(value) = reply else { return };
        if !link.awaits(asked.outgoing.stamp) {
            return;
        }
        let answer = Answer {
            sent: asked.sent,
            incarnation: asked.incarnation,
            value,
        };
        link.back.push_back(Back::Answer(asked.outgoing, answer));
        if !slow && link.back.len() == 1 {
            self.hear(me, node);
        }
    }

    /// One that went over a connection that has broken is carried out all the same.
    pub(crate) fn deliver_late(&mut self, place: usize) {
        let (node, asked) = self.loose.remove(place);
        self.carry_out(node, &asked);
    }

    fn carry_out(&mut self, node: usize, asked: &Asked) -> Option<Reply> {
        let (now, lie, mut pushes) = (self.now, self.lie, Vec::new());
        let reply = self.nodes[node].carry_out(asked, now, lie, &mut pushes);
        for push in pushes {
            let to = self
                .clients
                .iter()
                .position(|client| client.channel == push.channel);
            if let Some(to) = to {
                self.links[to][node].back.push_back(Back::Push(push));
            }
        }
        reply
    }

    /// The next answer or push of a connection is heard.
    pub(crate) fn hear(&mut self, me: usize, node: usize) {
        let now = self.now;
        match self.links[me][node].back.pop_front() {
            Some(Back::Answer(outgoing, answer)) => {
                let link = &mut self.links[me][node];
                if !link.awaits(outgoing.stamp) {
                    return;
                }
                link.waiting
                    .retain(|(other, _)| other.stamp != outgoing.stamp);
                self.clients[me].hear(&outgoing, Ok(answer), now);
            }
            Some(Back::Push(push)) => self.clients[me].hear_push(node, &push, now),
            None => return,
        }
        self.go_on(me);
    }

    /// A connection breaks, and there is another at once. What was sent may still arrive.
    pub(crate) fn break_link(&mut self, me: usize, node: usize, arrives: bool) {
        let now = self.now;
        let link = &mut self.links[me][node];
        let there = std::mem::take(&mut link.there);
        let waiting = std::mem::take(&mut link.waiting);
        link.back.clear();
        if arrives {
            self.loose
                .extend(there.into_iter().map(|asked| (node, asked)));
        }
        self.connect(me, node);
        for (outgoing, _) in waiting {
            self.clients[me].hear(&outgoing, Err(NodeError::Broken), now);
        }
        self.clients[me].hear_reconnect(node, now);
        self.go_on(me);
    }

    /// A node restarts, and has forgotten all.
    pub(crate) fn forget(&mut self, node: usize) {
        self.nodes[node].forget(self.now);
        self.loose.retain(|(other, _)| *other != node);
        for me in 0..self.clients.len() {
            self.break_link(me, node, false);
        }
    }

    /// Time goes on to when something is due, or not waited for any longer.
    pub(crate) fn wait(&mut self) {
        let Some(next) = self.next_moment() else {
            return;
        };
        self.now = next.max(self.now);
        let now = self.now;
        let late = self.lie == Lie::CarriesOutLate;
        self.loose
            .retain(|(_, asked)| late || asked.deadline >= now);
        for me in 0..self.clients.len() {
            for node in 0..self.nodes.len() {
                let link = &mut self.links[me][node];
                let over = |(_, until): &(Outgoing, Time)| *until <= now;
                let (ended, open) = std::mem::take(&mut link.waiting)
                    .into_iter()
                    .partition(over);
                link.waiting = open;
                let ended: Vec<(Outgoing, Time)> = ended;
                for (outgoing, _) in ended {
                    self.clients[me].hear(&outgoing, Err(NodeError::TimedOut), now);
                }
            }
            self.go_on(me);
        }
    }

    pub(crate) fn next_moment(&self) -> Option<Time> {
        let due = self
            .clients
            .iter()
            .filter_map(|client| client.due(self.now));
        let links = self.links.iter().flatten();
        let waiting = links.flat_map(|link| link.waiting.iter().map(|(_, until)| *until));
        due.chain(waiting).min()
    }

    /// Whether anything is under way over a connection.
    pub(crate) fn is_busy(&self) -> bool {
        let busy = |link: &Link| !(link.there.is_empty() && link.back.is_empty());
        self.links.iter().flatten().any(busy)
    }

    /// Whether everybody is done, and nothing of it is left to do.
    pub(crate) fn is_over(&self) -> bool {
        let over = |client: &Client| {
            matches!(client.stage, Stage::Over | Stage::Lost)
                && client
                    .request
                    .as_ref()
                    .is_none_or(|request| request.is_clean() || request.is_expired(self.now))
        };
        !self.is_busy() && self.clients.iter().all(over)
    }

    pub(crate) fn holders(&self) -> usize {
        let held = |client: &&Client| client.is_held(self.now);
        self.clients.iter().filter(held).count()
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.nodes.iter().all(|node| node.is_clean(self.now))
    }
}

impl Link {
    fn awaits(&self, stamp: u32) -> bool {
        self.waiting
            .iter()
            .any(|(outgoing, _)| outgoing.stamp == stamp)
    }

    /// Whether somebody waits for the answer to what arrives next.
    pub(crate) fn next_is_awaited(&self) -> bool {
        let next = self.there.front();
        next.is_some_and(|asked| self.awaits(asked.outgoing.stamp))
    }
}

/// Feeds what is written to a hasher: states are equal if they look equal.
struct Digest(DefaultHasher);

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl World {
    fn digest(&self) -> u64 {
        let mut digest = Digest(DefaultHasher::new());
        let state = (&self.now, &self.clients, &self.nodes, &self.links);
        let rest = (&self.loose, &self.left, &self.facts);
        // Hashing cannot fail.
        let _ = write!(digest, "{state:?}{rest:?}");
        digest.0.finish()
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest());
    }
}

impl PartialEq for World {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stages: Vec<Stage> = self.clients.iter().map(|client| client.stage).collect();
        f.debug_struct("World")
            .field("now", &self.now)
            .field("stages", &stages)
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}
