//! What a claim asks, of whom and when.

use std::time::Duration;

use crate::{
    claim::{Claim, Phase, Question, Send},
    clock::Time,
    node::{Enqueue, Extend},
    quorum::Majority,
    telemetry,
};

/// The shortest wait for the end of a holder's lease: a node that always tells of one which is about to end
/// would be asked as fast as it answers.
const SHORTEST_EXPIRY: Duration = Duration::from_millis(10);

impl Claim {
    /// The questions that are due.
    pub(crate) fn questions(&mut self, now: Time) -> Vec<Question> {
        self.tick(now);
        let due = self.seats.iter().filter(|seat| seat.is_due(now));
        let mut questions = Vec::with_capacity(due.count());
        for place in 0..self.seats.len() {
            let Some(send) = self.send(place, now) else {
                continue;
            };
            let timeout = self.timeout(&send);
            questions.push(self.question(place, timeout, send, now));
        }
        questions
    }

    /// Questions of an extend by hand: to all nodes, whatever is under way.
    pub(crate) fn extend_now(&mut self, ttl: Duration, now: Time) -> Vec<Question> {
        if !ttl.is_zero() {
            self.ask_all(now);
        }
        self.longest = self.longest.max(ttl);
        let timeout = self
            .nodes
            .config
            .timeout(if ttl.is_zero() { self.ttl } else { ttl });
        let mut questions = Vec::with_capacity(self.seats.len());
        for place in 0..self.seats.len() {
            let send = Send::Extend(self.extend_of(place, ttl, now));
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
            // The first round is its caller's.
            Phase::Asking | Phase::Ended(_) | Phase::Aside => None,
            Phase::Outside if !self.waits_for_room() => None,
            Phase::Outside | Phase::Waiting => seats.min(),
            Phase::Granted { since } => Some(since.plus(self.nodes.config.fifo_ephemeral_ttl)),
            Phase::Fencing { since, done } => {
                if done {
                    // Only whoever takes it, or gives it up, can do something about votes that have ended.
                    return Some(since.plus(self.nodes.config.fifo_ephemeral_ttl));
                }
                let votes = self.majority(now).map_or(now, Majority::until);
                seats.chain([votes]).min()
            }
            Phase::Held => {
                let end = self.valid_until(now);
                let asks = if self.renewal.is_some() {
                    seats.min()
                } else {
                    None
                };
                let ends = [Some(end), self.held_until, self.long_hold];
                asks.into_iter().chain(ends.into_iter().flatten()).min()
            }
        }
    }

    /// What passes with time alone.
    fn tick(&mut self, now: Time) {
        let unclaimed = self.nodes.config.fifo_ephemeral_ttl;
        match self.phase {
            Phase::Granted { since } | Phase::Fencing { since, done: true }
                if now.since(since) >= unclaimed =>
            {
                telemetry::unpolled(self.who(), now.since(since), &self.nodes.unpolled, now);
                self.news.undo = Some(self.undo(now));
                self.keep_number();
                self.next_generation(now);
                self.phase = Phase::Aside;
            }
            Phase::Fencing { done: false, .. } if self.majority(now).is_none() => {
                self.stand_again(now);
            }
            Phase::Held => {
                self.check_lease(now);
                self.check_hold(now);
            }
            Phase::Waiting if self.waits_for_grace(now) => {
                self.progress = now;
                self.nodes.warn_of_grace(now);
                self.weigh(now);
            }
            _ => {}
        }
    }

    fn question(&mut self, place: usize, timeout: Duration, send: Send, now: Time) -> Question {
        self.stamps = self.stamps.wrapping_add(1);
        let takes = match &send {
            Send::Enqueue(_) => true,
            Send::Extend(extend) => extend.repair,
        };
        // The node's clock is known to within a round trip, and that takes a timeout at most.
        let takes = takes.then(|| now.plus(timeout).plus(self.nodes.config.node_timeout));
        let node = self.nodes.list.get(place).filter(|_| takes.is_some());
        let era = node.and_then(|node| node.era().ok());
        if let Some(seat) = self.seats.get_mut(place) {
            seat.ask(self.stamps, takes, era, now);
        }
        Question {
            place,
            stamp: self.stamps,
            timeout,
            send,
        }
    }

    /// What is to be sent to a node now.
    fn send(&self, place: usize, now: Time) -> Option<Send> {
        let seat = self.seats.get(place).filter(|seat| seat.is_due(now))?;
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
    pub(super) fn repairable(&self, place: usize, now: Time) -> bool {
        let here = self.seats.get(place).is_some_and(|seat| seat.stands(now));
        let standing = self.seats.iter().filter(|seat| seat.stands(now));
        self.phase == Phase::Held && !here && standing.count() >= self.nodes.quorum.size()
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
    pub(super) fn schedule(&mut self, place: usize, now: Time) {
        let nodes = self.nodes.clone();
        let phase = self.phase;
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
        let renewal = self.renewal;
        let retry = |interval: Duration| {
            nodes
                .config
                .retry_delay
                .min(interval / 2)
                .max(Duration::from_millis(1))
        };
        let repairable = self.repairable(place, now);
        let token = self.token;
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
            (Phase::Held, Some(_)) if seat.vote.is_some() && (!seat.full_ttl || seat.doubtful) => {
                now
            }
            (Phase::Held, Some(every)) => waits(every),
            // An earlier question was under way when the token was to be written.
            (Phase::Fencing { .. }, _)
                if seat.failure.is_none() && !seat.gone && seat.fenced != Some(token) =>
            {
                now
            }
            (Phase::Fencing { .. }, _) => waits(retry(nodes.config.node_timeout)),
            _ => {
                let polls = head || !nodes.pushes() || phase == Phase::Outside;
                let span = if polls {
                    nodes.poll()
                } else {
                    nodes.keep_alive()
                };
                let due = waits(span.min(nodes.keep_alive()));
                // When the holder's lease ends nobody may be there to pass the vote on (L2), and whoever is
                // ahead may be as dead as the holder (F3).
                let heard = seat.failure.is_none();
                let place = seat.place.as_ref().filter(|_| heard);
                let expiry = place.and_then(|place| place.holder_until);
                expiry.map_or(due, |until| {
                    let at_once = now.plus(nodes.poll().min(SHORTEST_EXPIRY));
                    due.min(until.plus(Duration::from_millis(1)).max(at_once))
                })
            }
        };
    }

    /// Makes all nodes due at once, but for those that a question is under way to.
    pub(crate) fn ask_all(&mut self, now: Time) {
        for seat in &mut self.seats {
            seat.due = now;
        }
    }
}
