//! One request's claim to a resource: what is believed of it on each node, and what follows.
//!
//! A claim sends nothing and reads no clock. It is told what was answered and when, and says what to ask
//! next and when. The first round is carried by the caller's future, all later ones by the client's
//! ticker (`keepalive`).
//!
//! ```text
//! Asking ──votes from a quorum──▶ Granted ──taken──▶ Held ──▶ Ended
//!   │ ▲                            ▲  │ ▲ │
//!   │ └─ Outside (no room)         │  │ │ └─counters differ, or short─▶ Fencing ─▶ Held
//!   └──ticket agreed──▶ Waiting ───┘  │ └────────────┐
//!                          ▲          └─nobody took─▶ Aside ──polled──▶ Waiting
//! ```
//!
//! Rules. A vote counts only under the current holder id: giving votes back takes a new generation, and
//! whatever is said of an older one is void. A waiter gives its votes back as soon as it hears that a
//! waiter on one of those nodes comes before it: then that one collects them all (L3). The ticket is
//! the maximum over a quorum, and is written to every node that has another (F1).
//!
//! A claim that ends or stands aside leaves an [`Undo`] for the janitor: it names all that was ever sent.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Time,
    error::{LeaseLost, NodeError},
    holder::HolderId,
    node::{Enqueue, Era, Extend},
    nodes::Nodes,
    quorum::Majority,
    resource::Resource,
    telemetry::Who,
};

mod ask;
mod hear;
mod hold;
mod seat;

pub(crate) use seat::Quiet;
use seat::Seat;

/// Rounds that follow each other at once after a vote came without a quorum.
const EAGER_ROUNDS: u8 = 3;

/// What one request is believed to have.
#[derive(Debug)]
pub(crate) struct Claim {
    nodes: Arc<Nodes>,
    resource: Arc<Resource>,
    id: HolderId,
    ttl: Duration,
    /// The longest that was ever asked for: nothing shortens what a node has.
    longest: Duration,
    room: Option<u64>,
    number: Option<u64>,
    seats: Box<[Seat]>,
    phase: Phase,
    position: u64,
    /// When it was made.
    asked: Time,
    /// When the request last moved forward.
    progress: Time,
    eager: u8,
    /// When votes may be given back again, if that goes on once per poll.
    next_give_back: Time,
    token: u64,
    /// How often a held lease is renewed; `None`: not at all.
    renewal: Option<Duration>,
    held_until: Option<Time>,
    /// When the guard was handed out.
    held_since: Time,
    /// The validity that the last renewal gave; none before a quorum has the full ttl.
    renewed_until: Option<Time>,
    /// When to warn that it is held for long.
    long_hold: Option<Time>,
    /// Numbers the questions, so that an answer finds its own; short, as ten thousand wait at once.
    stamps: u32,
    revision: u64,
    news: News,
}

/// Where a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first round is under way.
    Asking,
    /// There was no room; asks again until there is.
    Outside,
    /// In line, with an agreed ticket.
    Waiting,
    /// Has the votes of a quorum; nobody took them yet.
    Granted { since: Time },
    /// Was taken; the fencing token and the full ttl are being written to a quorum.
    Fencing { since: Time, done: bool },
    /// Was granted, but nobody took it in time. Has a number, but no place on any node (C4).
    Aside,
    /// A guard is out.
    Held,
    /// Nothing more happens.
    Ended(End),
}

/// How a claim ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Lost(LeaseLost),
    /// Left, released, or given up.
    Over,
    ShutDown,
}

/// What became of a claim since it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Whoever waits for it should look.
    pub(crate) wake: bool,
    pub(crate) undo: Option<Undo>,
}

/// What is to be taken back, on all nodes that were asked anything.
#[derive(Clone, Debug)]
pub(crate) struct Undo {
    /// This generation and the older ones.
    pub(crate) id: HolderId,
    /// The nodes, and when each is done with what was asked of it.
    pub(crate) places: Vec<(usize, Quiet)>,
    /// When all of it has expired by itself.
    pub(crate) expires: Time,
}

/// What to send to a node.
#[derive(Clone, Debug)]
pub(crate) enum Send {
    Enqueue(Enqueue),
    Extend(Extend),
}

/// A question to one node.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) place: usize,
    pub(crate) stamp: u32,
    pub(crate) timeout: Duration,
    pub(crate) send: Send,
}

/// What taking a granted claim comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Taken {
    /// The lease is there.
    Lease(Majority),
    /// Not yet. If it stood aside it asks again now.
    NotYet,
    /// There is nothing to take any more.
    Ended(End),
}

impl Claim {
    /// A new request. Nothing is sent before its questions are asked for.
    pub(crate) fn new(
        nodes: Arc<Nodes>,
        resource: Arc<Resource>,
        ttl: Duration,
        room: Option<u64>,
        now: Time,
    ) -> Self {
        Self {
            id: nodes.holder_id(),
            seats: nodes.list.iter().map(|_| Seat::new(now)).collect(),
            nodes,
            resource,
            ttl,
            longest: ttl,
            room,
            number: None,
            phase: Phase::Asking,
            position: 0,
            asked: now,
            progress: now,
            eager: 0,
            next_give_back: now,
            token: 0,
            renewal: None,
            held_until: None,
            held_since: now,
            renewed_until: None,
            long_hold: None,
            stamps: 0,
            revision: 0,
            news: News::default(),
        }
    }

    pub(crate) fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }

    pub(crate) fn id(&self) -> &HolderId {
        &self.id
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whom an event about this request names.
    pub(crate) fn who(&self) -> Who<'_> {
        Who {
            resource: self.resource.name(),
            holder_id: self.id.text(),
            ticket: self.number,
        }
    }

    /// Whether it is in line: anywhere between its first answers and its guard.
    pub(crate) fn is_in_line(&self) -> bool {
        match self.phase {
            // An attempt without waiting.
            _ if self.room == Some(0) => false,
            Phase::Outside | Phase::Waiting | Phase::Aside => true,
            Phase::Granted { .. } | Phase::Fencing { .. } => self.number.is_some(),
            Phase::Asking | Phase::Held | Phase::Ended(_) => false,
        }
    }

    /// Whether its turn may still come.
    pub(crate) fn waits(&self) -> bool {
        !matches!(self.phase, Phase::Held | Phase::Ended(_))
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How many waiters are ahead, as last heard.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// When the request last moved forward; the present while only a restart grace is in the way.
    pub(crate) fn progress(&self) -> Time {
        self.progress
    }

    /// How often it was changed.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// To be called after each change.
    pub(crate) fn take_news(&mut self) -> News {
        self.revision += 1;
        std::mem::take(&mut self.news)
    }

    /// What is left of the holder's lease, as last heard.
    pub(crate) fn holder_left(&self, now: Time) -> Option<Duration> {
        let left = |seat: &Seat| {
            seat.place
                .as_ref()?
                .holder_until
                .map(|until| until.since(now))
        };
        self.seats.iter().filter_map(left).max()
    }

    /// How many waiters the nodes that had no room told of; as many as there is room for if none was
    /// asked.
    pub(crate) fn crowd(&self) -> u64 {
        let told = self.seats.iter().filter_map(|seat| seat.crowd).max();
        told.map(u64::from).or(self.room).unwrap_or(0)
    }

    /// The nodes that gave no usable answer, and why. Once there was a verdict, also that there is no quorum, a
    /// question that is under way is no failure.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (usize, NodeError)> + '_ {
        let waits = self.phase == Phase::Asking && !self.is_cut_off();
        let failure = move |(place, seat): (usize, &Seat)| {
            let silent = seat.asked() && waits;
            let error = seat.failure.as_deref().cloned();
            Some((place, error.or(silent.then_some(NodeError::TimedOut))?))
        };
        self.seats.iter().enumerate().filter_map(failure)
    }

    /// When a node is done with what was asked of it under the id of `undo` or before.
    pub(crate) fn quiet(&self, place: usize, undo: &Undo) -> Option<Quiet> {
        match self.phase {
            Phase::Ended(_) => self.seats.get(place).map(Seat::quiet),
            // It goes on under newer ids, and hears no more of the older ones.
            _ => {
                let known = undo.places.iter().find(|(other, _)| *other == place);
                known.map(|(_, quiet)| *quiet)
            }
        }
    }

    /// Whether a node that has answered a release over `era` may yet give the vote.
    pub(crate) fn may_give(&self, place: usize, era: Era, now: Time) -> bool {
        let seat = self.seats.get(place);
        seat.is_some_and(|seat| seat.may_take(era, now))
    }

    /// Whether it still waits for the answer to `question`, and the answer matters.
    pub(crate) fn asks(&self, question: &Question) -> bool {
        let seat = self.seats.get(question.place);
        let waits = seat.is_some_and(|seat| seat.waits_for(question.stamp));
        waits && !matches!(self.phase, Phase::Ended(_))
    }

    /// Whether a question is still under way to some node.
    pub(crate) fn is_asking(&self) -> bool {
        self.seats.iter().any(Seat::asked)
    }

    /// Whether it asks for room in the line until there is some.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.phase == Phase::Outside && self.room != Some(0)
    }

    /// Whether the first round has come to nothing: too many nodes failed to make a quorum.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.phase == Phase::Asking && (!self.is_asking() || self.is_cut_off())
    }

    /// Whether it is known what `enqueue` came to: a quorum has the ticket under its agreed number, so that
    /// whoever asks from now on comes later (F1); or it is past that, or too many nodes failed.
    pub(crate) fn is_settled(&self) -> bool {
        self.phase != Phase::Waiting || self.is_recorded() || self.is_cut_off()
    }

    pub(crate) fn is_recorded(&self) -> bool {
        let recorded = |seat: &&Seat| seat.number.is_some() && seat.number == self.number;
        self.seats.iter().filter(recorded).count() >= self.nodes.quorum.size()
    }

    /// Whether too many nodes failed to answer their last question to make a quorum.
    pub(crate) fn is_cut_off(&self) -> bool {
        let failed = self.seats.iter().filter(|seat| seat.failure.is_some());
        !self.nodes.quorum.possible_without(failed.count())
    }

    /// Whether enough nodes voted, but too many of them restarted too recently.
    pub(crate) fn waits_for_grace(&self, now: Time) -> bool {
        self.majority(now).is_none() && self.majority_of(now, |_| true).is_some()
    }
}
