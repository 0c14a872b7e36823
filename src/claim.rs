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
    node::{Answer, Enqueue, Extend, Extended, Standing},
    nodes::Nodes,
    quorum::{Majority, Vote},
    resource::Resource,
};

mod seat;

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
    room: Option<u64>,
    number: Option<u64>,
    seats: Box<[Seat]>,
    phase: Phase,
    position: u64,
    /// When the request last moved forward.
    progress: Time,
    eager: u8,
    token: u64,
    /// How often a held lease is renewed; `None`: not at all.
    renewal: Option<Duration>,
    held_until: Option<Time>,
    /// Numbers the requests, so that an answer finds the question.
    stamps: u64,
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
    pub(crate) lost: Option<LeaseLost>,
    pub(crate) undo: Option<Undo>,
}

/// What is to be taken back, on all nodes that were asked anything.
#[derive(Clone, Debug)]
pub(crate) struct Undo {
    /// This generation and the older ones.
    pub(crate) id: HolderId,
    pub(crate) places: Vec<usize>,
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
    pub(crate) stamp: u64,
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
            room,
            number: None,
            phase: Phase::Asking,
            position: 0,
            progress: now,
            eager: 0,
            token: 0,
            renewal: None,
            held_until: None,
            stamps: 0,
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

    pub(crate) fn take_news(&mut self) -> News {
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

    /// How many waiters the nodes that had no room told of.
    pub(crate) fn crowd(&self) -> u64 {
        self.seats
            .iter()
            .filter_map(|seat| seat.crowd)
            .max()
            .unwrap_or(0)
    }

    /// The nodes that gave no usable answer, and why.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (usize, NodeError)> + '_ {
        let failure = |(place, seat): (usize, &Seat)| {
            let error = seat
                .failure
                .clone()
                .or(seat.asked().then_some(NodeError::TimedOut))?;
            Some((place, error))
        };
        self.seats.iter().enumerate().filter_map(failure)
    }

    /// Until when something that was asked of a node may still be carried out there.
    pub(crate) fn quiet_after(&self, place: usize) -> Time {
        self.seats
            .get(place)
            .map_or(Time::default(), Seat::quiet_after)
    }

    /// The same, once a release has found something there.
    pub(crate) fn quiet_after_find(&self, place: usize) -> Time {
        let seat = self.seats.get(place);
        seat.map_or(Time::default(), Seat::quiet_after_find)
    }

    /// Whether a question is still under way to some node.
    pub(crate) fn is_asking(&self) -> bool {
        self.seats.iter().any(Seat::asked)
    }

    /// Whether the first round has come to nothing: too many nodes failed to make a quorum.
    pub(crate) fn is_hopeless(&self) -> bool {
        let failed = self
            .seats
            .iter()
            .filter(|seat| seat.failure.is_some())
            .count();
        self.phase == Phase::Asking
            && (!self.is_asking() || !self.nodes.quorum.possible_without(failed))
    }

    /// Whether enough nodes voted, but too many of them restarted too recently.
    pub(crate) fn waits_for_grace(&self, now: Time) -> bool {
        self.majority(now).is_none() && self.majority_of(now, |_, _| true).is_some()
    }

    /// Another first round: asks the nodes that gave no answer once more.
    pub(crate) fn ask_again(&mut self, now: Time) {
        self.ask_all(now);
    }

    /// The questions that are due.
    pub(crate) fn questions(&mut self, now: Time) -> Vec<Question> {
        self.tick(now);
        let mut questions = Vec::new();
        for place in 0..self.seats.len() {
            let Some(send) = self.send(place, now) else {
                continue;
            };
            let timeout = self.timeout(&send);
            questions.push(self.question(place, timeout, send, now));
        }
        questions
    }

    /// When it wants to be looked at next; `None`: only when something is heard.
    pub(crate) fn due(&self, now: Time) -> Option<Time> {
        let seats = self
            .seats
            .iter()
            .filter(|seat| !seat.asked())
            .map(|seat| seat.due);
        match self.phase {
            Phase::Ended(_) | Phase::Aside => None,
            Phase::Asking | Phase::Outside | Phase::Waiting => seats.min(),
            Phase::Granted { since } => Some(since.plus(self.nodes.config.fifo_ephemeral_ttl)),
            Phase::Fencing { since, done } => {
                let end = since.plus(self.nodes.config.fifo_ephemeral_ttl);
                let asks = if done { None } else { seats.min() };
                let votes = self.majority(now).map_or(now, Majority::until);
                asks.into_iter().chain([end, votes]).min()
            }
            Phase::Held => {
                let end = self.valid_until(now);
                let asks = if self.renewal.is_some() {
                    seats.min()
                } else {
                    None
                };
                asks.into_iter().chain([end]).chain(self.held_until).min()
            }
        }
    }

    /// An enqueue was answered.
    pub(crate) fn hear_standing(
        &mut self,
        question: &Question,
        now: Time,
        outcome: Result<Answer<Standing>, NodeError>,
    ) {
        let (factor, ttl) = (self.nodes.config.clock_drift_factor, self.ttl);
        let Question { place, stamp, .. } = *question;
        let asked = match &question.send {
            Send::Enqueue(enqueue) => enqueue.number,
            Send::Extend(_) => return,
        };
        let Some(seat) = self.seats.get_mut(place) else {
            return;
        };
        if !seat.answers(stamp) {
            return;
        }
        match outcome {
            Ok(answer) => {
                let first_vote = seat.vote.is_none();
                seat.hear(now, ttl, asked, &answer, factor);
                if first_vote && seat.vote.is_some() {
                    self.eager = EAGER_ROUNDS;
                }
            }
            Err(error) => seat.fail(error),
        }
        self.move_up(now);
        self.schedule(place, now);
        self.weigh(now);
    }

    /// An extend was answered.
    pub(crate) fn hear_extended(
        &mut self,
        question: &Question,
        now: Time,
        outcome: Result<Answer<Extended>, NodeError>,
    ) {
        let factor = self.nodes.config.clock_drift_factor;
        let (token, place) = (self.token, question.place);
        let Send::Extend(Extend { ttl, .. }) = question.send else {
            return;
        };
        let Some(seat) = self.seats.get_mut(place) else {
            return;
        };
        if !seat.answers(question.stamp) {
            return;
        }
        match outcome {
            Ok(answer) => seat.hear_extended(&answer, ttl, token, factor),
            Err(error) => seat.fail(error),
        }
        self.schedule(place, now);
        match self.phase {
            Phase::Fencing { since, done: false } if self.fenced_majority(now).is_some() => {
                self.phase = Phase::Fencing { since, done: true };
                self.news.wake = true;
            }
            Phase::Held => self.check_lease(now),
            _ => {}
        }
    }

    /// A node told of a vote.
    pub(crate) fn hear_push(
        &mut self,
        place: usize,
        id: &str,
        lease_end: u64,
        seq: u64,
        now: Time,
    ) {
        let factor = self.nodes.config.clock_drift_factor;
        let lease = self.nodes.config.fifo_ephemeral_ttl;
        let soon = now.plus(self.nodes.poll());
        if **self.id.text() != *id {
            return;
        }
        let Some(seat) = self.seats.get_mut(place) else {
            return;
        };
        if !matches!(self.phase, Phase::Waiting | Phase::Outside) {
            // A holder's repair got through, or a vote came after the verdict: the node is asked.
            seat.due = now;
            return;
        }
        if !seat.hear_push(lease_end, seq, lease, factor) {
            // Grown from a waiter lease that this client did not hear of, or no longer: only the node
            // knows whether the vote still stands.
            seat.due = now;
            return;
        }
        for seat in &mut self.seats {
            seat.due = seat.due.min(soon);
        }
        self.weigh(now);
    }

    /// A new connection to a node: what was believed of it is unknown.
    pub(crate) fn hear_up(&mut self, place: usize, now: Time) {
        let held = matches!(self.phase, Phase::Held | Phase::Fencing { .. });
        if let Some(seat) = self.seats.get_mut(place) {
            seat.forget(held, now);
        }
    }

    /// Takes what was granted, for a guard. Nothing is handed out that is not valid at `now`.
    pub(crate) fn take(
        &mut self,
        now: Time,
        renewal: Option<Duration>,
        max_hold: Option<Duration>,
    ) -> Taken {
        match self.phase {
            Phase::Ended(end) => return Taken::Ended(end),
            Phase::Aside => {
                // Polled again: it is first in line again, by its number.
                self.phase = Phase::Waiting;
                self.progress = now;
                self.ask_all(now);
            }
            Phase::Granted { since } => {
                let Some(majority) = self.majority(now) else {
                    self.stand_again(now);
                    return Taken::NotYet;
                };
                let full = self
                    .seats
                    .iter()
                    .filter(|seat| seat.full_ttl && seat.stands(now))
                    .count();
                if majority.agreed() && (renewal.is_some() || full >= self.nodes.quorum.size()) {
                    return Taken::Lease(self.hold(majority, now, renewal, max_hold));
                }
                self.token = majority.token();
                self.phase = Phase::Fencing { since, done: false };
                self.ask_all(now);
            }
            Phase::Fencing { done: true, .. } => match self.fenced_majority(now) {
                Some(majority) => {
                    return Taken::Lease(self.hold(majority, now, renewal, max_hold));
                }
                None => self.stand_again(now),
            },
            _ => {}
        }
        Taken::NotYet
    }

    /// Until when the lease may be trusted; `now` if it may not.
    pub(crate) fn valid_until(&self, now: Time) -> Time {
        let votes = self.votes(now, |_, _| true).map(|vote| vote.until);
        let until = self.nodes.quorum.weakest(votes).unwrap_or(now);
        self.held_until.map_or(until, |end| until.min(end))
    }

    /// Whether the lease stands at `now`, by the clock alone.
    pub(crate) fn is_held(&self, now: Time) -> bool {
        self.phase == Phase::Held && self.valid_until(now) > now
    }

    /// The lease is renewed every `every` to last `ttl`, from now on.
    pub(crate) fn renew(&mut self, every: Option<Duration>, ttl: Duration, now: Time) {
        self.renewal = every;
        self.ttl = ttl;
        if every.is_some() {
            self.ask_all(now);
        }
    }

    pub(crate) fn renews(&self) -> bool {
        self.renewal.is_some()
    }

    /// Later renewals ask for `ttl`. An interval that follows from the ttl follows the new one.
    pub(crate) fn set_ttl(&mut self, ttl: Duration) {
        if self.renewal == Some(self.ttl / 3) {
            self.renewal = Some(ttl / 3);
        }
        self.ttl = ttl;
    }

    /// Questions of an extend by hand: to all nodes, whatever is under way.
    pub(crate) fn extend_now(&mut self, ttl: Duration, now: Time) -> Vec<Question> {
        self.ask_all(now);
        let timeout = self
            .nodes
            .config
            .timeout(if ttl.is_zero() { self.ttl } else { ttl });
        let mut questions = Vec::new();
        for place in 0..self.seats.len() {
            let send = Send::Extend(self.extend_of(place, ttl, now));
            questions.push(self.question(place, timeout, send, now));
        }
        questions
    }

    /// Declares the lease lost if it is; returns why.
    pub(crate) fn check(&mut self, now: Time) -> Option<LeaseLost> {
        if self.phase == Phase::Held {
            self.check_lease(now);
        }
        match self.phase {
            Phase::Ended(End::Lost(why)) => Some(why),
            Phase::Ended(_) => Some(LeaseLost::Released),
            _ => None,
        }
    }

    /// Ends the claim, and leaves what is to be taken back.
    pub(crate) fn end(&mut self, end: End, now: Time) {
        if matches!(self.phase, Phase::Ended(_)) {
            return;
        }
        if self.phase != Phase::Aside {
            self.news.undo = Some(self.undo(now));
        }
        if self.phase == Phase::Held {
            self.news.lost = Some(match end {
                End::Lost(why) => why,
                End::Over | End::ShutDown => LeaseLost::Released,
            });
        }
        self.phase = Phase::Ended(end);
        self.news.wake = true;
    }

    fn question(&mut self, place: usize, timeout: Duration, send: Send, now: Time) -> Question {
        self.stamps += 1;
        let makes = match &send {
            Send::Enqueue(_) => true,
            Send::Extend(extend) => extend.repair,
        };
        if let Some(seat) = self.seats.get_mut(place) {
            let quiet = if makes {
                now.plus(timeout)
            } else {
                Time::default()
            };
            seat.ask(self.stamps, quiet);
        }
        Question {
            place,
            stamp: self.stamps,
            timeout,
            send,
        }
    }

    /// What passes with time alone.
    fn tick(&mut self, now: Time) {
        let unclaimed = self.nodes.config.fifo_ephemeral_ttl;
        match self.phase {
            Phase::Granted { since } | Phase::Fencing { since, done: true }
                if now.since(since) >= unclaimed =>
            {
                tracing::debug!(
                    resource = self.resource.name(),
                    "granted, but nobody took it"
                );
                self.news.undo = Some(self.undo(now));
                self.next_generation(now);
                self.phase = Phase::Aside;
            }
            Phase::Fencing { done: false, .. } if self.majority(now).is_none() => {
                self.stand_again(now);
            }
            Phase::Held => self.check_lease(now),
            Phase::Waiting if self.waits_for_grace(now) => {
                self.progress = now;
                self.nodes.warn_of_grace(now);
                self.weigh(now);
            }
            _ => {}
        }
    }

    fn check_lease(&mut self, now: Time) {
        let gone = self.seats.iter().filter(|seat| seat.gone).count();
        if self.held_until.is_some_and(|end| end <= now) {
            self.end(End::Lost(LeaseLost::MaxHold), now);
        } else if !self.nodes.quorum.possible_without(gone) {
            self.end(End::Lost(LeaseLost::QuorumLost), now);
        } else if self.valid_until(now) <= now {
            self.end(End::Lost(LeaseLost::Expired), now);
        }
    }

    /// Draws the conclusion of what is known while no lease is held.
    fn weigh(&mut self, now: Time) {
        if !matches!(self.phase, Phase::Asking | Phase::Outside | Phase::Waiting) {
            return;
        }
        if self.majority(now).is_some() {
            self.phase = Phase::Granted { since: now };
            self.position = 0;
            self.news.wake = true;
            return;
        }
        if self
            .seats
            .iter()
            .any(|seat| seat.vote.is_some() && seat.outranked)
        {
            self.give_back(now);
            return;
        }
        self.agree(now);
        self.hurry(now);
    }

    /// The ticket: the maximum over a quorum of the numbers, once that many have come.
    fn agree(&mut self, now: Time) {
        if self.number.is_none() {
            let proposals = self.seats.iter().filter_map(|seat| seat.number);
            let quorum = self.nodes.quorum;
            let numbered = proposals.clone().count();
            if numbered < quorum.size() {
                let full = self
                    .seats
                    .iter()
                    .filter(|seat| seat.crowd.is_some())
                    .count();
                let told = full > 0 && !self.is_asking() && numbered + full >= quorum.size();
                if self.phase == Phase::Asking && (told || !quorum.possible_without(full)) {
                    self.phase = Phase::Outside;
                    self.news.wake = true;
                }
                return;
            }
            self.number = proposals.max();
            self.phase = Phase::Waiting;
            self.progress = now;
            self.news.wake = true;
        }
        for seat in &mut self.seats {
            if !seat.asked() && seat.failure.is_none() && seat.number != self.number {
                seat.due = now;
            }
        }
    }

    fn move_up(&mut self, now: Time) {
        let mut ahead: Vec<u64> = self.seats.iter().filter_map(Seat::ahead).collect();
        ahead.sort_unstable();
        let Some(&position) = ahead.get(self.nodes.quorum.size() - 1).or(ahead.last()) else {
            return;
        };
        if position < self.position {
            self.progress = now;
        }
        self.position = position;
    }

    /// With some votes, but no quorum: whoever comes first must be found out by asking, a few times in
    /// a row; a round is over when nothing is under way.
    fn hurry(&mut self, now: Time) {
        let split = self.seats.iter().any(|seat| seat.vote.is_some());
        if split && self.eager > 0 && self.phase == Phase::Waiting && !self.is_asking() {
            self.eager -= 1;
            self.ask_all(now);
        }
    }

    /// Gives all votes back: the nodes get a new generation in their place, with the same ticket.
    fn give_back(&mut self, now: Time) {
        tracing::debug!(
            resource = self.resource.name(),
            "votes are split, giving mine back"
        );
        self.next_generation(now);
        self.ask_all(now);
    }

    /// What was granted has expired: stands in line again.
    fn stand_again(&mut self, now: Time) {
        self.give_back(now);
        self.phase = if self.number.is_some() {
            Phase::Waiting
        } else {
            Phase::Outside
        };
    }

    fn next_generation(&mut self, now: Time) {
        self.number = self
            .number
            .or(self.seats.iter().filter_map(|seat| seat.number).max());
        self.id = self.id.next();
        for seat in &mut self.seats {
            seat.forget(false, now);
            seat.number = None;
        }
    }

    fn hold(
        &mut self,
        majority: Majority,
        now: Time,
        renewal: Option<Duration>,
        max_hold: Option<Duration>,
    ) -> Majority {
        self.phase = Phase::Held;
        self.token = majority.token();
        self.renewal = renewal;
        self.held_until = max_hold.map(|span| now.plus(span));
        self.nodes.grace_is_over();
        for place in 0..self.seats.len() {
            self.schedule(place, now);
        }
        majority
    }

    fn ask_all(&mut self, now: Time) {
        for seat in &mut self.seats {
            seat.due = now;
        }
    }

    /// What is to be sent to a node now.
    fn send(&self, place: usize, now: Time) -> Option<Send> {
        let seat = self
            .seats
            .get(place)
            .filter(|seat| !seat.asked() && seat.due <= now)?;
        match self.phase {
            Phase::Asking if seat.number.is_some() || seat.crowd.is_some() => None,
            Phase::Asking | Phase::Outside | Phase::Waiting => Some(Send::Enqueue(Enqueue {
                resource: self.resource.clone(),
                id: self.id.clone(),
                number: self.number,
                ttl: self.ttl,
                room: self.room,
            })),
            Phase::Held if self.renewal.is_none() => None,
            Phase::Fencing { done: false, .. } | Phase::Held => {
                Some(Send::Extend(self.extend_of(place, self.ttl, now)))
            }
            _ => None,
        }
    }

    fn extend_of(&self, place: usize, ttl: Duration, now: Time) -> Extend {
        Extend {
            resource: self.resource.clone(),
            id: self.id.clone(),
            ttl,
            token: self.token,
            repair: !ttl.is_zero() && self.repairable(place, now),
        }
    }

    /// Whether the vote may be taken again on a node that forgot it: only as long as the lease stands on
    /// a quorum without it, since a lease whose quorum is gone must not come back.
    fn repairable(&self, place: usize, now: Time) -> bool {
        let stands = |(_, seat): &(usize, &Seat)| seat.stands(now);
        let (here, others): (Vec<_>, Vec<_>) = self
            .seats
            .iter()
            .enumerate()
            .filter(stands)
            .partition(|(other, _)| *other == place);
        self.phase == Phase::Held && here.is_empty() && others.len() >= self.nodes.quorum.size()
    }

    fn timeout(&self, send: &Send) -> Duration {
        let config = &self.nodes.config;
        match send {
            // A keep-alive is about the waiter lease, which may be longer than the ttl.
            Send::Enqueue(enqueue) if enqueue.number.is_some() => {
                config.timeout(config.fifo_ephemeral_ttl)
            }
            Send::Enqueue(enqueue) => config.timeout(enqueue.ttl),
            Send::Extend(extend) => config.timeout(extend.ttl),
        }
    }

    /// When a node is to be asked again.
    fn schedule(&mut self, place: usize, now: Time) {
        let nodes = self.nodes.clone();
        let waits = |span: Duration| {
            // What is due about the same time goes out together; a short wait is not worth it.
            let grid = if span > Duration::from_millis(40) {
                span / 8
            } else {
                Duration::ZERO
            };
            now.plus(span).aligned(grid).max(now)
        };
        let head = self.position == 0 || self.seats.iter().any(|seat| seat.vote.is_some());
        let (phase, renewal) = (self.phase, self.renewal);
        let retry = |interval: Duration| {
            nodes
                .config
                .retry_delay
                .min(interval / 2)
                .max(Duration::from_millis(1))
        };
        let repairable = self.repairable(place, now);
        let Some(seat) = self.seats.get_mut(place) else {
            return;
        };
        seat.due = match (phase, renewal) {
            (Phase::Held, Some(every)) if seat.failure.is_some() => waits(retry(every)),
            (Phase::Held, Some(every)) if seat.gone && !seat.in_line => {
                if repairable {
                    now
                } else {
                    waits(retry(every))
                }
            }
            (Phase::Held, Some(_)) if seat.vote.is_some() && !seat.full_ttl => now,
            (Phase::Held, Some(every)) => waits(every),
            (Phase::Fencing { .. }, _) => waits(retry(nodes.config.node_timeout)),
            _ => {
                let polls = head || !nodes.pushes() || phase == Phase::Outside;
                let span = if polls {
                    nodes.poll()
                } else {
                    nodes.keep_alive()
                };
                let due = waits(span.min(nodes.keep_alive()));
                // When the holder's lease ends nobody may be there to pass the vote on (L2).
                let heard = seat.failure.is_none();
                let expiry = seat
                    .place
                    .as_ref()
                    .filter(|place| heard && place.ahead == 0);
                let expiry = expiry.and_then(|place| place.holder_until);
                expiry.map_or(due, |until| {
                    due.min(until.plus(Duration::from_millis(1)).max(now))
                })
            }
        };
    }

    fn majority(&self, now: Time) -> Option<Majority> {
        let grace = &self.nodes.grace;
        self.majority_of(now, |place, seat| {
            grace.left(place, seat.up_since, now).is_zero()
        })
    }

    /// The majority of those that have the fencing token, too: votes that came later do not count, or
    /// their counters would raise the token after it was written (S2).
    fn fenced_majority(&self, now: Time) -> Option<Majority> {
        let grace = &self.nodes.grace;
        self.majority_of(now, |place, seat| {
            seat.fenced == Some(self.token) && grace.left(place, seat.up_since, now).is_zero()
        })
    }

    fn majority_of(&self, now: Time, counts: impl Fn(usize, &Seat) -> bool) -> Option<Majority> {
        let votes: Vec<Vote> = self.votes(now, counts).collect();
        Majority::of(self.nodes.quorum, votes.into_iter(), now)
    }

    fn votes(
        &self,
        now: Time,
        counts: impl Fn(usize, &Seat) -> bool,
    ) -> impl Iterator<Item = Vote> {
        let seats = self.seats.iter().enumerate();
        seats
            .filter(move |(place, seat)| counts(*place, seat))
            .filter_map(|(_, seat)| seat.vote)
            .filter(move |vote| vote.until > now)
    }

    fn undo(&self, now: Time) -> Undo {
        let longest = self.ttl.max(self.nodes.config.fifo_ephemeral_ttl);
        let touched = |(_, seat): &(usize, &Seat)| seat.touched();
        Undo {
            id: self.id.clone(),
            places: self
                .seats
                .iter()
                .enumerate()
                .filter(touched)
                .map(|(place, _)| place)
                .collect(),
            expires: now.plus(longest).plus(self.nodes.config.node_timeout),
        }
    }
}
