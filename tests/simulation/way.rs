//! The way between one client and one node: a connection, and what the network does to it.
//!
//! What is sent over one connection arrives in order, or not at all. When a connection ends, what was under
//! way on it is lost, or is carried out still, or much later: that is how requests are reordered between
//! connections. A push takes a way of its own, as it does in the driver.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    chance::call_of,
    count::count,
    history::{Ms, What},
    server::{Ask, Condition, Listener, Reply},
    world::World,
};
use crate::{
    message::Incarnation,
    node::{Context, Events, NodeClock, NodeEvent, READ_EVERY},
    time::Time,
};

/// After so many timeouts in a row a connection is replaced, as the real ones are.
const MAX_TIMEOUTS: u32 = 3;

/// For so long an earlier connection may still bring answers.
const LINGERS: Ms = 2000;

/// A node notices by then that a connection has ended.
pub(super) const NOTICED: Ms = 1500;

/// The node's clock in milliseconds and its answer; none if the request was late.
pub(super) type Outcome = (u64, Option<Reply>);

/// What the network does to messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) delay: (Ms, Ms),
    /// Of a hundred.
    pub(super) loses_requests: u64,
    pub(super) loses_answers: u64,
    pub(super) loses_pushes: u64,
    pub(super) doubles_pushes: u64,
    /// The longest that a push takes.
    pub(super) late_pushes: Ms,
    /// Nothing gets from the client to the node.
    pub(super) cut_there: bool,
    /// Nothing gets from the node to the client.
    pub(super) cut_back: bool,
}

pub(super) struct Way {
    pub(super) context: Context,
    pub(super) weather: Weather,
    /// What it is when nothing is wrong.
    pub(super) fair: Weather,
    link: Option<Link>,
    epochs: u64,
    timeouts: u32,
    /// When the last answer came.
    heard: Ms,
    /// When what was sent last arrives, there and back.
    last: (Ms, Ms),
    /// What is waited for over earlier connections, by their epochs.
    lingering: BTreeMap<u64, BTreeMap<u64, oneshot::Sender<Outcome>>>,
    /// What is under way while nothing gets through.
    held_up: Vec<Message>,
    /// Since when everything that is sent arrives in time.
    healthy: Option<Ms>,
}

struct Link {
    epoch: u64,
    run: u64,
    up_since: Time,
    up_before: Time,
    clock: Arc<NodeClock>,
    waiting: BTreeMap<u64, oneshot::Sender<Outcome>>,
    /// The calls whose release went out here, with the generation.
    released: BTreeMap<u16, u32>,
}

/// A request under way.
struct Message {
    client: usize,
    node: usize,
    epoch: u64,
    run: u64,
    number: u64,
    ask: Ask,
    /// In the node's clock.
    deadline: Option<u64>,
    /// The same, as it was meant.
    meant: Option<Ms>,
    stray: bool,
}

impl Link {
    /// The calls for which `ask` may take something although their release went out before, over the same
    /// connection, which keeps its order.
    fn after_release(&mut self, ask: &Ask) -> Vec<u16> {
        let takes: Vec<_> = match ask {
            Ask::Release(batch, _) => {
                for (call, generation) in batch.iter().filter_map(|one| call_of(one.id.text())) {
                    let latest = self.released.entry(call).or_default();
                    *latest = generation.max(*latest);
                }
                return Vec::new();
            }
            Ask::Enqueue(batch, _) => batch.iter().map(|one| &one.id).collect(),
            Ask::Extend(batch, _) => {
                let repairs = batch.iter().filter(|one| one.repair);
                repairs.map(|one| &one.id).collect()
            }
            Ask::Inspect(_) => return Vec::new(),
        };
        let calls = takes.into_iter().filter_map(|id| call_of(id.text()));
        let released = calls.filter(|(call, generation)| {
            let latest = self.released.get(call);
            latest.is_some_and(|latest| generation <= latest)
        });
        released.map(|(call, _)| call).collect()
    }
}

impl Weather {
    pub(super) fn fair(delay: (Ms, Ms)) -> Self {
        Self {
            delay,
            loses_requests: 0,
            loses_answers: 0,
            loses_pushes: 0,
            doubles_pushes: 0,
            late_pushes: delay.1,
            cut_there: false,
            cut_back: false,
        }
    }
}

impl Way {
    pub(super) fn new(context: Context, fair: Weather) -> Self {
        Self {
            context,
            weather: fair,
            fair,
            link: None,
            epochs: 0,
            timeouts: 0,
            heard: 0,
            last: (0, 0),
            lingering: BTreeMap::new(),
            held_up: Vec::new(),
            healthy: None,
        }
    }

    pub(super) fn incarnation(&self) -> Option<Incarnation> {
        let link = self.link.as_ref()?;
        Some(Incarnation {
            epoch: link.epoch,
            run: link.run,
            up_since: link.up_since,
            up_before: link.up_before,
            clock_offset: link.clock.offset(),
            pushes: true,
        })
    }

    pub(super) fn clock(&self) -> Option<Arc<NodeClock>> {
        self.link.as_ref().map(|link| link.clock.clone())
    }
}

impl World {
    /// For how long everything between the two has arrived in time, and both were alive.
    pub(super) fn healthy_for(&self, client: usize, node: usize) -> Ms {
        let now = self.now();
        let way = &self.ways[client][node];
        way.healthy.map_or(0, |since| now.saturating_sub(since))
    }

    /// To be called after whatever may have changed that.
    pub(super) fn review(&mut self, client: usize, node: usize) {
        let now = self.now();
        let life = &self.lives[client];
        let awake = !life.is_dead() && !life.is_paused() && !life.is_starved();
        let runs = self.servers[node].condition == Condition::Running;
        let way = &mut self.ways[client][node];
        let Weather {
            delay,
            loses_requests,
            loses_answers,
            cut_there,
            cut_back,
            ..
        } = way.weather;
        let fair = delay.1 <= way.fair.delay.1
            && loses_requests + loses_answers == 0
            && !cut_there
            && !cut_back
            && way.held_up.is_empty();
        let (there, back) = way.last;
        way.healthy = if awake && runs && fair && way.link.is_some() {
            // What was delayed before still delays what follows it.
            way.healthy.or(Some(now.max(there).max(back)))
        } else {
            None
        };
    }

    pub(super) fn review_node(&mut self, node: usize) {
        for client in 0..self.ways.len() {
            self.review(client, node);
        }
    }

    pub(super) fn review_client(&mut self, client: usize) {
        for node in 0..self.servers.len() {
            self.review(client, node);
        }
    }

    pub(super) fn set_weather(
        &mut self,
        client: usize,
        node: usize,
        change: impl FnOnce(&mut Weather),
    ) {
        change(&mut self.ways[client][node].weather);
        self.review(client, node);
    }

    /// Sends a request over the connection of the moment.
    pub(super) fn send(
        &mut self,
        client: usize,
        node: usize,
        ask: Ask,
        deadline: Option<Time>,
    ) -> Option<(u64, oneshot::Receiver<Outcome>)> {
        let (now, at) = (self.now(), self.clock.now());
        if self.lives[client].is_dead() {
            return None;
        }
        self.requests += 1;
        let number = self.requests;
        let (sender, receiver) = oneshot::channel();
        let way = &mut self.ways[client][node];
        let margin = way.context.config.node_timeout;
        let link = way.link.as_mut()?;
        link.waiting.insert(number, sender);
        let after = link.after_release(&ask);
        let message = Message {
            client,
            node,
            epoch: link.epoch,
            run: link.run,
            number,
            ask,
            deadline: deadline.map(|deadline| link.clock.deadline(deadline, margin, at)),
            meant: deadline.map(|deadline| deadline.since(Time::default()).as_millis() as Ms),
            stray: false,
        };
        let weather = way.weather;
        let epoch = link.epoch;
        for call in after {
            self.note(What::AfterRelease { call, node });
        }
        if self.chance.is(weather.loses_requests) {
            count("request lost");
            return Some((epoch, receiver));
        }
        let arrives = now + self.chance.between(weather.delay.0, weather.delay.1);
        let last = &mut self.ways[client][node].last.0;
        *last = arrives.max(*last);
        let arrives = *last;
        self.at(arrives, move |world| world.arrive(message));
        Some((epoch, receiver))
    }

    /// A request reaches its node, or what is in the way there.
    fn arrive(&mut self, mut message: Message) {
        let Message {
            client,
            node,
            epoch,
            run,
            ..
        } = message;
        let way = &self.ways[client][node];
        let current = way.link.as_ref().is_some_and(|link| link.epoch == epoch);
        if way.weather.cut_there || !way.held_up.is_empty() {
            return self.hold_up(message);
        }
        if !current && !message.stray {
            message.stray = true;
            match self.chance.below(3) {
                0 => return count("reset, request never executed"),
                1 => {
                    count("reset, request executed later");
                    let most = self.chance.pick(&[10, 100, 4000]);
                    let wait = self.chance.between(1, most);
                    return self.after(wait, move |world| world.arrive(message));
                }
                _ => count("reset, request executed"),
            }
        }
        match self.servers[node].condition {
            Condition::Down => {
                if current {
                    self.reset(client, node);
                }
            }
            _ if self.servers[node].run != run => {
                if current {
                    self.reset(client, node);
                }
            }
            Condition::Hung => {
                let act = Box::new(move |world: &mut Self| world.execute(message));
                self.servers[node].backlog.push(act);
            }
            Condition::Running if self.servers[node].cost > 0 => self.queue(message),
            Condition::Running => self.execute(message),
        }
    }

    /// Nothing gets through for the moment. What does later arrives in the order in which it was sent.
    fn hold_up(&mut self, message: Message) {
        let (client, node) = (message.client, message.node);
        let way = &mut self.ways[client][node];
        if way.weather.cut_there && self.chance.is(50) {
            return;
        }
        count("request held up by a partition");
        way.held_up.push(message);
        if way.held_up.len() == 1 {
            self.let_through_later(client, node);
        }
    }

    fn let_through_later(&mut self, client: usize, node: usize) {
        let wait = self.chance.between(20, 400);
        self.after(wait, move |world| {
            let way = &mut world.ways[client][node];
            if way.weather.cut_there {
                return world.let_through_later(client, node);
            }
            for message in std::mem::take(&mut way.held_up) {
                world.arrive(message);
            }
            world.review(client, node);
        });
    }

    /// A node has others to carry out before.
    fn queue(&mut self, message: Message) {
        let micros = self.now() * 1000;
        let server = &mut self.servers[message.node];
        let done = server.busy_until.max(micros) + message.ask.size() * server.cost;
        server.busy_until = done;
        self.at(done.div_ceil(1000), move |world| {
            let server = &mut world.servers[message.node];
            match server.condition {
                Condition::Running if server.run == message.run => world.execute(message),
                Condition::Hung => {
                    let act = Box::new(move |world: &mut Self| world.execute(message));
                    server.backlog.push(act);
                }
                _ => {}
            }
        });
    }

    fn execute(&mut self, message: Message) {
        let Message {
            client,
            node,
            epoch,
            number,
            ask,
            deadline,
            meant,
            ..
        } = message;
        let now = self.now();
        let millis = self.servers[node].millis(now);
        let reply = if deadline.is_some_and(|deadline| millis > deadline) {
            count("late request refused");
            None
        } else {
            let before = self.history.notes.len();
            let reply = self.carry_out(node, &ask);
            let bound = meant.map(|meant| meant + self.history.own[client].node_timeout);
            if bound.is_some_and(|bound| now > bound) {
                self.note_late(node, before, now - meant.unwrap_or(now));
            }
            Some(reply)
        };
        let way = &self.ways[client][node];
        let weather = way.weather;
        if self.chance.is(weather.loses_answers) {
            return count("answer lost");
        }
        if weather.cut_back && self.chance.is(50) {
            return;
        }
        let arrives = now + self.chance.between(weather.delay.0, weather.delay.1);
        let last = &mut self.ways[client][node].last.1;
        *last = arrives.max(*last);
        let arrives = *last;
        self.at(arrives, move |world| {
            world.answer(client, node, epoch, number, (millis, reply))
        });
    }

    fn note_late(&mut self, node: usize, before: usize, late: Ms) {
        let made = |what: &What| match what {
            What::Votes { call, .. } | What::Lines { call, .. } => Some(*call),
            _ => None,
        };
        let did = self.history.notes[before..]
            .iter()
            .find_map(|note| made(&note.what));
        if let Some(call) = did {
            self.note(What::LateDid { call, node, late });
        }
    }

    fn answer(&mut self, client: usize, node: usize, epoch: u64, number: u64, outcome: Outcome) {
        let now = self.now();
        let way = &mut self.ways[client][node];
        let Some(link) = way.link.as_mut().filter(|link| link.epoch == epoch) else {
            let lingering = way.lingering.get_mut(&epoch);
            if let Some(sender) = lingering.and_then(|waiting| waiting.remove(&number)) {
                count("answered over an earlier connection");
                let _ = sender.send(outcome);
            }
            return;
        };
        if way.weather.cut_back {
            let wait = self.chance.between(20, 400);
            return self.after(wait, move |world| {
                world.answer(client, node, epoch, number, outcome)
            });
        }
        way.timeouts = 0;
        way.heard = now;
        if let Some(sender) = link.waiting.remove(&number) {
            // Whoever asked may be gone.
            let _ = sender.send(outcome);
        }
    }

    /// Tells a client of a vote.
    pub(super) fn push(
        &mut self,
        client: usize,
        node: usize,
        epoch: u64,
        events: &Events,
        event: NodeEvent,
    ) {
        let weather = self.ways[client][node].weather;
        if self.chance.is(weather.loses_pushes) {
            return count("push lost");
        }
        let times = if self.chance.is(weather.doubles_pushes) {
            2
        } else {
            1
        };
        for time in 0..times {
            if time > 0 {
                count("push doubled");
            }
            let wait = self
                .chance
                .between(weather.delay.0, weather.late_pushes.max(weather.delay.1));
            if wait > weather.delay.1 {
                count("push late");
            }
            let (events, event) = (events.clone(), event.clone());
            self.after(wait, move |world| {
                let way = &world.ways[client][node];
                let current = way.link.as_ref().is_some_and(|link| link.epoch == epoch);
                if current && !way.weather.cut_back {
                    events.tell(event);
                }
            });
        }
    }

    /// A call that began at `began` was not answered in time.
    pub(super) fn unanswered(
        &mut self,
        client: usize,
        node: usize,
        epoch: u64,
        number: u64,
        began: Ms,
    ) {
        let way = &mut self.ways[client][node];
        let Some(link) = way.link.as_mut().filter(|link| link.epoch == epoch) else {
            return;
        };
        link.waiting.remove(&number);
        if way.heard > began {
            return count("unanswered by a server that answers others");
        }
        way.timeouts += 1;
        if way.timeouts >= MAX_TIMEOUTS {
            count("connection replaced after timeouts");
            self.reset(client, node);
        }
    }

    /// Ends the connection. Its requests fail at once, or are still waited for; what becomes of those under way is
    /// chance.
    pub(super) fn reset(&mut self, client: usize, node: usize) {
        let way = &mut self.ways[client][node];
        let Some(link) = way.link.take() else {
            return;
        };
        way.timeouts = 0;
        if self.chance.is(40) {
            // Some of what was asked over it may still be answered.
            let epoch = link.epoch;
            way.lingering.insert(epoch, link.waiting);
            self.after(LINGERS, move |world| {
                world.ways[client][node].lingering.remove(&epoch);
            });
        } else {
            drop(link.waiting);
        }
        // The server may notice much later, and tells a connection meanwhile that nobody reads.
        let wait = if self.chance.is(50) {
            0
        } else {
            self.chance.below(NOTICED)
        };
        self.after(wait, move |world| {
            world.servers[node]
                .listeners
                .retain(|listener| listener.client != client || listener.epoch != link.epoch);
        });
        self.review(client, node);
        let most = self.chance.pick(&[2, 10, 150]);
        let wait = self.chance.between(1, most);
        self.after(wait, move |world| world.dial(client, node));
    }

    /// Tries to connect, again and again.
    pub(super) fn dial(&mut self, client: usize, node: usize) {
        if self.lives[client].is_dead() || self.ways[client][node].link.is_some() {
            return;
        }
        let weather = self.ways[client][node].weather;
        let there = self.chance.between(weather.delay.0, weather.delay.1);
        let sent = self.clock.now();
        self.after(there, move |world| {
            let weather = world.ways[client][node].weather;
            let runs = world.servers[node].condition == Condition::Running;
            let lost = world
                .chance
                .is(weather.loses_requests.max(weather.loses_answers));
            if world.lives[client].is_paused()
                || weather.cut_there
                || weather.cut_back
                || lost
                || !runs
            {
                let wait = world.chance.between(20, 300);
                return world.after(wait, move |world| world.dial(client, node));
            }
            let back = world.chance.between(weather.delay.0, weather.delay.1);
            let found = world.greet(client, node);
            world.after(back, move |world| {
                world.connected(client, node, sent, found)
            });
        });
    }

    /// The node's part of a handshake.
    fn greet(&mut self, client: usize, node: usize) -> (u64, u64, u64, u64) {
        let now = self.now();
        let way = &mut self.ways[client][node];
        way.epochs += 1;
        let epoch = way.epochs;
        let server = &mut self.servers[node];
        server.listeners.push(Listener {
            channel: way.context.channel.clone(),
            client,
            epoch,
            events: way.context.events.clone(),
        });
        (epoch, server.run, server.millis(now), server.uptime(now))
    }

    fn connected(&mut self, client: usize, node: usize, sent: Time, found: (u64, u64, u64, u64)) {
        let (epoch, run, millis, uptime) = found;
        let received = self.clock.now();
        let way = &mut self.ways[client][node];
        if way.link.is_some() || self.lives[client].is_dead() {
            return;
        }
        way.link = Some(Link {
            epoch,
            run,
            up_since: received.minus(Duration::from_secs(uptime.saturating_sub(1))),
            up_before: sent.minus(Duration::from_secs(uptime + 1)),
            clock: Arc::new(NodeClock::read(millis, sent, received)),
            waiting: BTreeMap::new(),
            released: BTreeMap::new(),
        });
        if epoch > 1 {
            count("connected again");
            way.context.events.tell(NodeEvent::Up);
        }
        self.read_clock_later(client, node, epoch);
        self.review(client, node);
    }

    /// Where no answer tells of a node's clock for long, its connection asks for that.
    fn read_clock_later(&mut self, client: usize, node: usize, epoch: u64) {
        let Some(clock) = self.ways[client][node].clock() else {
            return;
        };
        let read = clock.last_read();
        self.after(READ_EVERY.as_millis() as Ms, move |world| {
            let way = &world.ways[client][node];
            if way.link.as_ref().is_none_or(|link| link.epoch != epoch) {
                return;
            }
            let there = way.weather.cut_there || way.weather.cut_back;
            let running = world.servers[node].condition == Condition::Running;
            if clock.last_read() == read && running && !there && !world.lives[client].is_paused() {
                let received = world.clock.now();
                let millis = world.servers[node].millis(world.now());
                // Half the way there and back.
                let delay = Duration::from_millis(way.weather.delay.1);
                clock.learn(millis, received.minus(delay), received.plus(delay));
            }
            world.read_clock_later(client, node, epoch);
        });
    }

    /// Connects at once, without a message.
    pub(super) fn connect(&mut self, client: usize, node: usize) {
        let now = self.clock.now();
        let found = self.greet(client, node);
        self.connected(client, node, now, found);
    }
}
