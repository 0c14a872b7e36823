//! A simulated node: the memory nodes' table under a clock of its own, and what can befall it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    chance::call_of,
    chaos::Memory,
    count::count,
    history::{Ms, Out, What},
    world::World,
};
use crate::{
    message::{Enqueue, Extend, Extended, Incarnation, Release, Released, Report, Standing, Terms},
    node::{
        Events, NodeEvent,
        table::{Header, Push, Table},
    },
    resource::Resource,
    runtime::clock::MEMORY_EPOCH_MILLIS,
    time::Time,
};

/// What is asked of a node.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Enqueue(Vec<Enqueue>, Terms),
    Extend(Vec<Extend>, Terms),
    Release(Vec<Release>, Terms),
    Inspect(Arc<Resource>),
}

impl Ask {
    /// How many requests it carries.
    pub(super) fn size(&self) -> u64 {
        let size = match self {
            Self::Enqueue(batch, _) => batch.len(),
            Self::Extend(batch, _) => batch.len(),
            Self::Release(batch, _) => batch.len(),
            Self::Inspect(_) => 1,
        };
        size as u64
    }
}

/// What it answers.
#[derive(Debug)]
pub(super) enum Reply {
    Standing(Vec<Standing>),
    Extended(Vec<Extended>),
    Released(Vec<Released>),
    Report(Report),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Running,
    Hung,
    Down,
}

/// A client that listens, on a connection.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) channel: Arc<str>,
    pub(super) client: usize,
    pub(super) epoch: u64,
    pub(super) events: Events,
}

pub(super) struct Server {
    pub(super) table: Table,
    pub(super) condition: Condition,
    /// Rises with every start.
    pub(super) run: u64,
    pub(super) started: Ms,
    /// The node's clock at its start, in whole seconds.
    started_at: u64,
    /// How much faster than the clients' the node's clock runs, in millionths.
    rate: i64,
    /// How far it is ahead, in microseconds.
    pub(super) ahead: i64,
    /// What a request costs it, in microseconds: it carries them out one after the other.
    pub(super) cost: u64,
    /// When it is done with those that it has, in microseconds.
    pub(super) busy_until: u64,
    pub(super) backlog: Vec<super::world::Action>,
    pub(super) listeners: Vec<Listener>,
    /// What it will know when it comes back.
    pub(super) left_behind: Option<(Table, Memory)>,
    /// What it knew before, the latest last.
    pub(super) snapshots: Vec<Table>,
    seen: BTreeMap<usize, Seen>,
    /// The keys that it had and forgot, by resource and call.
    lost: BTreeMap<(usize, u16), u64>,
    /// What stood in the memory that it last started with.
    pub(super) restored: BTreeSet<u16>,
    /// What was released, by generation and call.
    released: BTreeSet<(u32, u16)>,
    /// When something was done to its keys or its clock while it ran.
    pub(super) meddled: Option<Ms>,
}

/// What stands on a node for one resource.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Whose the vote is, in which generation, and until when by the node's clock.
    holder: Option<(u16, u32, u64)>,
    /// Since when it is that call's.
    since: Ms,
    /// Number and end of the waiter ttl.
    line: BTreeMap<u16, (u64, u64)>,
}

impl Server {
    pub(super) fn new(rate: i64, ahead: i64) -> Self {
        let mut server = Self {
            table: Table::default(),
            condition: Condition::Running,
            run: 1,
            started: 0,
            started_at: 0,
            rate,
            ahead,
            cost: 0,
            busy_until: 0,
            backlog: Vec::new(),
            listeners: Vec::new(),
            left_behind: None,
            snapshots: vec![Table::default()],
            seen: BTreeMap::new(),
            lost: BTreeMap::new(),
            restored: BTreeSet::new(),
            released: BTreeSet::new(),
            meddled: None,
        };
        server.started_at = server.millis(0) / 1000;
        server
    }

    /// The node's clock, in microseconds.
    pub(super) fn micros(&self, now: Ms) -> u64 {
        let passed = now as i64 * 1000;
        let drifted = passed / 1_000_000 * self.rate + passed % 1_000_000 * self.rate / 1_000_000;
        (MEMORY_EPOCH_MILLIS as i64 * 1000 + passed + drifted + self.ahead) as u64
    }

    pub(super) fn millis(&self, now: Ms) -> u64 {
        self.micros(now) / 1000
    }

    /// What `INFO` says: whole seconds of its own clock.
    pub(super) fn uptime(&self, now: Ms) -> u64 {
        (self.millis(now) / 1000).saturating_sub(self.started_at)
    }

    /// Starts it again, with `table` as its memory.
    pub(super) fn start(&mut self, table: Table, now: Ms) {
        self.table = table;
        self.condition = Condition::Running;
        self.run += 1;
        self.started = now;
        self.started_at = self.millis(now) / 1000;
        self.backlog.clear();
        self.listeners.clear();
    }

    /// Whether the lock key is that call's.
    pub(super) fn has_key(&self, resource: usize, call: u16, now: Ms) -> bool {
        let holder = self.seen.get(&resource).and_then(|seen| seen.holder);
        holder.is_some_and(|(holder, _, until)| holder == call && until > self.millis(now))
    }

    /// How long it still has it.
    pub(super) fn key_left(&self, resource: usize, call: u16, now: Ms) -> Option<Ms> {
        let (holder, _, until) = self.seen.get(&resource)?.holder?;
        (holder == call).then(|| until.saturating_sub(self.millis(now)))
    }

    /// Whose the lock key is.
    pub(super) fn holder(&self, resource: usize, now: Ms) -> Option<u16> {
        let (holder, _, until) = self.seen.get(&resource)?.holder?;
        (until > self.millis(now)).then_some(holder)
    }

    /// Since when the lock key is that call's, or was when it ran out.
    pub(super) fn voted_since(&self, resource: usize, call: u16) -> Option<Ms> {
        let seen = self.seen.get(&resource)?;
        seen.holder.filter(|(holder, ..)| *holder == call)?;
        Some(seen.since)
    }

    /// Whether it would have, and the node forgot it.
    pub(super) fn lost_key(&self, resource: usize, call: u16, now: Ms) -> bool {
        let until = self.lost.get(&(resource, call));
        until.is_some_and(|until| *until > self.millis(now))
    }

    /// Forgot that `call` has the key until then.
    fn loses(&mut self, resource: usize, call: u16, until: u64) {
        let lost = self.lost.entry((resource, call)).or_default();
        *lost = until.max(*lost);
    }

    /// The calls that stand here in any way.
    pub(super) fn standing(&mut self, now: Ms) -> Vec<u16> {
        let millis = self.millis(now);
        let mut calls = BTreeSet::new();
        for seen in self.seen.values() {
            calls.extend(
                seen.holder
                    .filter(|(.., until)| *until > millis)
                    .map(|(call, ..)| call),
            );
            let live = seen.line.iter().filter(|(_, (_, end))| *end > millis);
            calls.extend(live.map(|(call, _)| *call));
        }
        calls.into_iter().collect()
    }

    /// Whether somebody waits here whose lease has not ended, besides `call`.
    fn live_waiter(&self, resource: usize, call: u16, now: u64) -> Option<u16> {
        let line = &self.seen.get(&resource)?.line;
        let live = line
            .iter()
            .filter(|(other, (_, end))| **other != call && *end > now);
        live.map(|(other, _)| *other).next()
    }

    fn header(&self, terms: &Terms, now: Ms) -> Header {
        let micros = self.micros(now);
        // As a client knows it: uptime counts whole seconds, and one is taken off.
        let incarnation = Incarnation {
            epoch: 1,
            run: self.run,
            up_since: Time::ORIGIN.plus(Duration::from_millis(self.started + 1000)),
            up_before: Time::ORIGIN,
            clock_offset: micros as i64 - now as i64 * 1000,
            pushes: true,
        };
        Header::of(micros, terms, &incarnation)
    }
}

/// The place of a resource: they are called `r0`, `r1`, …
pub(super) fn place_of(resource: &Resource) -> usize {
    resource.name()[1..].parse().unwrap_or(usize::MAX)
}

impl World {
    /// Has a node carry out what it was asked; what follows for others is noted and told.
    pub(super) fn carry_out(&mut self, node: usize, ask: &Ask) -> Reply {
        let now = self.now();
        if matches!(ask, Ask::Enqueue(batch, _) if batch.len() > 1) {
            count("batch of several");
        }
        match ask {
            Ask::Enqueue(batch, terms) => Reply::Standing(
                batch
                    .iter()
                    .map(|one| {
                        let who = call_of(one.id.text()).map_or(0, |(call, _)| call);
                        let resource = place_of(&one.resource);
                        let millis = self.servers[node].millis(now);
                        let past = self.servers[node].live_waiter(resource, who, millis);
                        let in_line = self.servers[node].seen.get(&resource).is_some_and(|seen| {
                            seen.line.contains_key(&who)
                                || seen.holder.is_some_and(|(holder, ..)| holder == who)
                        });
                        let standing = self.apply(
                            node,
                            &one.resource,
                            who,
                            terms,
                            |table, header, publish| table.enqueue(header, one, publish),
                        );
                        if let (None, false, Some(past), Standing::Granted { .. }) =
                            (one.number, in_line, past, standing)
                        {
                            self.note(What::Barged {
                                call: who,
                                node,
                                past,
                            });
                        }
                        self.count_standing(one, &standing);
                        standing
                    })
                    .collect(),
            ),
            Ask::Extend(batch, terms) => Reply::Extended(
                batch
                    .iter()
                    .map(|one| {
                        let who = call_of(one.id.text()).map_or(0, |(call, _)| call);
                        let had = self.servers[node].has_key(place_of(&one.resource), who, now);
                        let extended = self.apply(
                            node,
                            &one.resource,
                            who,
                            terms,
                            |table, header, publish| table.extend(header, one, publish),
                        );
                        self.count_extended(one, had, extended);
                        extended
                    })
                    .collect(),
            ),
            Ask::Release(batch, terms) => Reply::Released(
                batch
                    .iter()
                    .map(|one| {
                        let who = call_of(one.id.text()).map_or(0, |(call, _)| call);
                        if !self.servers[node]
                            .released
                            .insert((one.id.generation(), who))
                        {
                            count("release repeated");
                        }
                        self.apply(node, &one.resource, who, terms, |table, header, publish| {
                            table.release(header, one, publish)
                        })
                    })
                    .collect(),
            ),
            Ask::Inspect(resource) => {
                let server = &mut self.servers[node];
                let header = Header {
                    micros: server.micros(now),
                    ..Header::default()
                };
                Reply::Report(server.table.inspect(header, resource.lock_key()))
            }
        }
    }

    fn apply<T>(
        &mut self,
        node: usize,
        resource: &Resource,
        who: u16,
        terms: &Terms,
        act: impl FnOnce(&mut Table, Header, crate::node::table::Publish<'_>) -> T,
    ) -> T {
        let now = self.now();
        let server = &mut self.servers[node];
        let header = server.header(terms, now);
        let mut told = Vec::new();
        let listeners = &server.listeners;
        let mut publish = |message: &Push| {
            let hears = |listener: &&Listener| *listener.channel == *message.channel;
            let hearing: Vec<_> = listeners.iter().filter(hears).collect();
            for listener in &hearing {
                let event = NodeEvent::Granted {
                    id: message.id.to_string(),
                    waiter_end: message.waiter_end,
                    seq: message.seq,
                };
                told.push((
                    listener.client,
                    listener.epoch,
                    listener.events.clone(),
                    event,
                ));
            }
            Some(!hearing.is_empty())
        };
        let done = act(&mut server.table, header, &mut publish);
        self.look(
            node,
            Some(resource.lock_key()),
            place_of(resource),
            Some(who),
        );
        for (client, epoch, events, event) in told {
            self.push(client, node, epoch, &events, event);
        }
        done
    }

    /// Notes what has changed on a node for a resource, and whose doing it was; nobody's if it forgot.
    pub(super) fn look(
        &mut self,
        node: usize,
        key: Option<&str>,
        resource: usize,
        by: Option<u16>,
    ) {
        let now = self.now();
        let server = &mut self.servers[node];
        let millis = server.millis(now);
        let header = Header {
            micros: server.micros(now),
            ..Header::default()
        };
        let key = key.map_or_else(|| format!("r{resource}"), str::to_owned);
        let report = server.table.inspect(header, &key);
        let mut new = Seen::default();
        if let Some((id, left)) = &report.holder
            && let Some((call, generation)) = call_of(id)
        {
            let until = left.map_or(u64::MAX, |left| millis + left.as_millis() as u64);
            new.holder = Some((call, generation, until));
            let before = server.seen.get(&resource);
            let before = before.filter(|seen| seen.holder.is_some_and(|(it, ..)| it == call));
            new.since = before.map_or(now, |seen| seen.since);
        }
        for waiting in &report.line {
            if let Some((call, _)) = call_of(&waiting.id) {
                new.line.insert(call, (waiting.number, waiting.waiter_end));
            }
        }
        let old = server
            .seen
            .insert(resource, new.clone())
            .unwrap_or_default();
        let up_since = server.started;
        let mut notes = Vec::new();
        let stands = |call: u16| {
            new.holder.is_some_and(|(holder, ..)| holder == call) || new.line.contains_key(&call)
        };
        let mut gone = |server: &mut Server, call: u16, until: u64, vote: bool| {
            let why = match by {
                None => {
                    if vote {
                        server.loses(resource, call, until);
                    }
                    Some(Out::Forgot)
                }
                Some(by) if by == call => Some(Out::Own),
                _ if until <= millis => Some(Out::Expired { vote, healthy: 0 }),
                Some(by) => {
                    let how = if vote {
                        "took its vote"
                    } else {
                        "threw it out of the line"
                    };
                    notes.push(What::Harmed {
                        call: by,
                        node,
                        whom: call,
                        how,
                    });
                    None
                }
            };
            notes.extend(why.map(|why| What::Out { call, node, why }));
        };
        if let Some((call, _, until)) = old.holder
            && new.holder.is_none_or(|(holder, ..)| holder != call)
        {
            if !stands(call) {
                gone(server, call, until, true);
            } else if by.is_none() {
                server.loses(resource, call, until);
            }
        }
        for (call, (_, end)) in &old.line {
            if !stands(*call) && old.holder.is_none_or(|(holder, ..)| holder != *call) {
                gone(server, *call, *end, false);
            }
        }
        if let Some((call, _, until)) = new.holder.filter(|_| by.is_some()) {
            let ttl = self.history.calls[usize::from(call)].longest;
            let left = until.saturating_sub(millis);
            let grown = old
                .holder
                .is_none_or(|(other, _, before)| other != call || before < until);
            // Rounded up on the way, and by the node.
            if grown && left > ttl + 2 && call != 0 {
                notes.push(What::LongVote {
                    call,
                    node,
                    left,
                    ttl,
                });
            }
        }
        if let Some((call, generation, until)) = new.holder {
            let same = old
                .holder
                .filter(|(holder, _, until)| *holder == call && *until > millis);
            if same.is_none_or(|(_, before, _)| before != generation) {
                notes.push(What::Votes {
                    call,
                    node,
                    generation,
                    up_since,
                });
            }
            if let Some((_, before, ended)) = same
                && before == generation
                && until < ended
            {
                match by {
                    None => server.loses(resource, call, ended),
                    Some(by) if by != call => {
                        let how = "shortened its lease";
                        notes.push(What::Harmed {
                            call: by,
                            node,
                            whom: call,
                            how,
                        });
                    }
                    Some(_) => {}
                }
            }
        }
        for (call, (number, _)) in &new.line {
            if old
                .line
                .get(call)
                .is_none_or(|(before, _)| before != number)
            {
                notes.push(What::Lines {
                    call: *call,
                    node,
                    number: *number,
                });
            }
        }
        // It ran out before it was given again.
        let expired = old.holder.filter(|(.., until)| *until <= millis);
        if let Some((call, ..)) = expired.filter(|(call, ..)| stands(*call)) {
            let (vote, healthy) = (true, 0);
            let why = Out::Expired { vote, healthy };
            notes.insert(0, What::Out { call, node, why });
        }
        for mut note in notes {
            if let What::Out {
                call,
                why: Out::Expired { healthy, .. },
                ..
            } = &mut note
            {
                *healthy = self.healthy_for(self.history.call(*call).client, node);
            }
            self.note(note);
        }
    }

    /// Notes what a node knows after it started again or was flushed.
    pub(super) fn look_at_all(&mut self, node: usize) {
        let resources: Vec<usize> = self.servers[node].seen.keys().copied().collect();
        for resource in resources {
            self.look(node, None, resource, None);
        }
    }
}
