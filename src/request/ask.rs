//! What a request asks, of whom and when.
//!
//! When a node is due follows from what is believed of it at that moment, so a change cannot leave it waiting
//! for what was planned before: what a holder lacks is due at once, a renewal when a third of what the vote
//! has is over, counted from the send that it counts from (L6).

use std::time::Duration;

use crate::{
    error::NodeError,
    event::What,
    message::{Command, Enqueue, Extend, Release},
    quorum::Majority,
    request::{
        Cx, MISSES, Phase, Question, Renewal, Request, Urgency, is_later, node_state::NodeState,
    },
    time::Time,
};

/// The shortest wait for the end of a holder's lease: a node that always tells of one which is about to end
/// would be asked as fast as it answers.
const SHORTEST_EXPIRY: Duration = Duration::from_millis(10);

/// By how much timers may be late in all between two renewals.
const TIMERS: Duration = Duration::from_millis(5);

/// A lease with less left than this is not worth a repair.
const SHORTEST_REPAIR: Duration = Duration::from_millis(5);

/// A node that is to be asked at once.
const AT_ONCE: Option<Time> = Some(Time::ORIGIN);

impl Request {
    /// The nodes that are due, each with its urgency. They wait for their turn from here on, until they are
    /// [asked](Self::ask).
    pub(crate) fn take_due(&mut self, cx: Cx<'_>) -> Vec<(usize, Urgency)> {
        let now = cx.now;
        self.tick(cx);
        let mut due = Vec::with_capacity(self.nodes.len());
        for place in 0..self.nodes.len() {
            if self.node_due(place, cx).is_some_and(|due| due <= now) {
                let urgency = self.urgency(place, now);
                self.nodes[place].queued = Some(urgency);
                due.push((place, urgency));
            }
        }
        due
    }

    fn urgency(&self, place: usize, now: Time) -> Urgency {
        let kept = self.nodes.get(place).and_then(NodeState::kept_until);
        match self.phase {
            Phase::Granted { .. } | Phase::Fencing { .. } | Phase::Held => {
                let until = kept.unwrap_or_else(|| self.valid_until(now));
                let by = until.minus(self.config.timeout(self.ttl));
                Urgency::Keep { by }
            }
            Phase::Waiting => {
                let by = kept.map_or(now, |until| until.minus(self.keep_alive_timeout()));
                Urgency::Keep { by }
            }
            Phase::Asking | Phase::NoRoom => Urgency::Ask,
            Phase::Ended(_) | Phase::Parked => Urgency::Release,
        }
    }

    /// How long a keep-alive may take. Two of three of the parts of the waiter lease may pass, so that a waiter whose
    /// lease is near the round trip still hears of its turn.
    fn keep_alive_timeout(&self) -> Duration {
        self.config.node_timeout.min(self.lease() * 2 / 3)
    }

    /// The question to a node whose turn has come, if it still has one.
    pub(crate) fn ask(&mut self, place: usize, cx: Cx<'_>) -> Option<Question> {
        let now = cx.now;
        self.nodes.get_mut(place)?.queued = None;
        if self.node_due(place, cx).is_none_or(|due| due > now) {
            return None;
        }
        let (send, timeout) = self.what_to_send(place, now)?;
        self.stamps = self.stamps.wrapping_add(1);
        let stamp = self.stamps;
        let takes = self.takes(&send, timeout, now);
        let era = cx.servers.era(place);
        let node = self.nodes.get_mut(place)?;
        if let Command::Release(_) = send {
            node.ask_release(stamp, now);
        } else {
            node.ask(stamp, takes, era, now);
        }
        Some(Question {
            place,
            stamp,
            timeout,
            lease: self.lease(),
            send,
        })
    }

    /// The same question goes out once more, as the call it was in was not carried out, or not all of it: `perhaps`
    /// this part was. False if it is not wanted any more.
    pub(crate) fn ask_again(&mut self, question: &Question, perhaps: bool, cx: Cx<'_>) -> bool {
        let now = cx.now;
        if !self.asks(question) {
            if let Some(node) = self.nodes.get_mut(question.place)
                && node.answers(question.stamp, now, true)
            {
                node.fail(NodeError::Late);
            }
            return false;
        }
        let takes = self.takes(&question.send, question.timeout, now);
        let era = cx.servers.era(question.place);
        if let Some(node) = self.nodes.get_mut(question.place) {
            match question.send {
                Command::Release(_) => {
                    node.ask_release(question.stamp, now);
                    if perhaps {
                        node.released_perhaps();
                    }
                }
                _ => node.ask(question.stamp, takes, era, now),
            }
        }
        true
    }

    /// Until when what is sent may be carried out, if it may take the vote or a place.
    fn takes(&self, send: &Command, timeout: Duration, now: Time) -> Option<Time> {
        let takes = match send {
            Command::Enqueue(_) => true,
            Command::Extend(extend) => extend.repair,
            Command::Release(_) => false,
        };
        // The node's clock is known to within a round trip, and that takes a timeout at most.
        takes.then(|| now.plus(timeout).plus(self.config.node_timeout))
    }

    /// The user wants the lease to last `ttl` from now on, on all nodes. Questions above the number that this
    /// returns are the answer.
    pub(crate) fn wish_extended(&mut self, ttl: Duration, now: Time) -> u32 {
        self.ttl = ttl;
        self.longest = self.longest.max(ttl);
        self.wanted_until = self.wanted_until.max(now.plus(ttl));
        self.extend_wish = Some(self.stamps);
        self.stamps
    }

    /// The user wants to know whether the votes stand. Questions above the number that this returns are the
    /// answer.
    pub(crate) fn wish_checked(&mut self) -> u32 {
        self.check_wish = Some(self.stamps);
        self.stamps
    }

    /// When it wants to be looked at next; `None`: only when something is heard.
    pub(crate) fn due(&self, cx: Cx<'_>) -> Option<Time> {
        let now = cx.now;
        let nodes = (0..self.nodes.len()).filter_map(|place| self.node_due(place, cx));
        let nodes = nodes.min();
        let own = match self.phase {
            Phase::Asking => self.parks_at(),
            Phase::Parked => self.rests_until,
            Phase::NoRoom | Phase::Waiting => self.gives_back_at(),
            Phase::Granted { since } | Phase::Fencing { since, done: true } => {
                Some(since.plus(self.lease()))
            }
            Phase::Fencing { done: false, .. } => match self.majority(cx).map(Majority::until) {
                // What was asked by then may still be answered.
                None if self.is_asking() => None,
                until => Some(until.unwrap_or(now)),
            },
            Phase::Held => {
                let ends = [Some(self.valid_until(now)), self.held_until, self.long_hold];
                ends.into_iter().flatten().min()
            }
            Phase::Ended(_) => (!self.is_clean() && now < self.expires).then_some(self.expires),
        };
        nodes.into_iter().chain(own).min()
    }

    /// What passes with time alone.
    fn tick(&mut self, cx: Cx<'_>) {
        let now = cx.now;
        match self.phase {
            Phase::Asking if self.parks_at().is_some_and(|at| at <= now) => {
                self.trace("the first round has failed, and nobody asks again");
                self.stand_aside(now);
            }
            Phase::Granted { since } | Phase::Fencing { since, done: true }
                if now.since(since) >= self.lease() =>
            {
                self.tell(What::Unpolled {
                    granted: now.since(since),
                });
                self.keep_number();
                self.stand_aside(now);
            }
            Phase::Fencing { done: false, .. }
                if self.majority(cx).is_none() && !self.is_asking() =>
            {
                self.stand_again(now);
            }
            Phase::Parked if self.rests_until.is_some_and(|until| until <= now) => {
                self.rests_until = None;
                self.news.wake = true;
            }
            Phase::Held => {
                self.check_lease(now);
                self.check_hold(now);
            }
            Phase::NoRoom | Phase::Waiting if self.gives_back_at().is_some_and(|at| at <= now) => {
                self.weigh(cx);
            }
            Phase::Waiting if self.waits_for_grace(cx) => {
                self.progress = now;
                if !std::mem::replace(&mut self.told_of_grace, true) {
                    let nodes = cx.servers.in_grace(now);
                    self.tell(What::InGrace { nodes });
                }
                self.weigh(cx);
            }
            _ => {}
        }
    }

    /// When a first round that came to nothing is given up, as nobody asks again: what it has on a minority is
    /// in everybody's way (C4).
    fn parks_at(&self) -> Option<Time> {
        let open = self.is_asking() || !self.nodes.iter().any(NodeState::touched);
        let last = self.nodes.iter().map(|node| node.ended).max()?;
        (!open).then(|| last.plus(self.lease()))
    }

    /// When a node is to be asked next; `None` if it is not, or is being asked.
    fn node_due(&self, place: usize, cx: Cx<'_>) -> Option<Time> {
        let now = cx.now;
        // What has become another question does not wait where it stood before.
        let urgency = self.urgency(place, cx.now);
        let waits = |node: &&NodeState| node.queued.is_none_or(|queued| !queued.is_like(urgency));
        let node = self.nodes.get(place).filter(waits)?;
        if matches!(self.phase, Phase::Ended(_) | Phase::Parked) {
            return node.release_due().filter(|_| now < self.expires);
        }
        if node.asked() {
            return None;
        }
        match self.phase {
            Phase::Asking => AT_ONCE.filter(|_| node.urgent),
            // An attempt without waiting asks no more often than its verdict needs.
            Phase::NoRoom | Phase::Waiting if self.room == Some(0) => {
                AT_ONCE.filter(|_| self.waiter_due(node, cx) == Time::ORIGIN)
            }
            Phase::NoRoom | Phase::Waiting => Some(self.waiter_due(node, cx)),
            Phase::Fencing { done: false, .. } => Some(self.fence_due(node)),
            // Whoever asked for it finds enough left, for as long as its turn lasts (C4).
            Phase::Granted { .. } | Phase::Fencing { done: true, .. } => self.fresh_due(node),
            Phase::Held => self.holder_due(place, node, now),
            Phase::Parked | Phase::Ended(_) => None,
        }
    }

    fn fresh_due(&self, node: &NodeState) -> Option<Time> {
        if node.failure.is_some() {
            return Some(node.ended.plus(self.retry(self.config.node_timeout)));
        }
        let have = node.vote?.until.since(node.vote_sent);
        Some(next(node.vote_sent, have / 3).max(next(node.sent, have / 3)))
    }

    fn waiter_due(&self, node: &NodeState, cx: Cx<'_>) -> Time {
        let keep_alive = self.config.keep_alive(self.lease());
        let head = self.position == 0 || self.nodes.iter().any(|node| node.vote.is_some());
        let polls = head || !cx.servers.pushes(self.quorum) || self.phase == Phase::NoRoom;
        let span = if polls {
            self.config.head_poll().min(keep_alive)
        } else {
            keep_alive
        };
        if node.urgent {
            return Time::ORIGIN;
        }
        if node.failure.is_some() {
            let lapse = u32::from(node.misses.saturating_sub(MISSES).min(2));
            return match lapse {
                // What is left of the place may be less than a whole span.
                0 => next(node.ended, span).min(node.ended.plus(self.retry(span))),
                doublings => node.ended.plus(self.lease() * (1 << doublings)),
            };
        }
        let unknown = node.vote.is_none() && node.place.is_none();
        if self.phase == Phase::Waiting && (unknown || node.number != self.number) {
            return Time::ORIGIN;
        }
        let due = next(node.sent, span);
        // When the holder's lease ends nobody may be there to pass the vote on (L2), and whoever is ahead may
        // be as dead as the holder (F3).
        let expiry = node.place.as_ref().and_then(|place| place.holder_until);
        expiry.map_or(due, |until| {
            let at_once = node
                .ended
                .plus(self.config.head_poll().min(SHORTEST_EXPIRY));
            due.min(until.plus(Duration::from_millis(1)).max(at_once))
        })
    }

    fn fence_due(&self, node: &NodeState) -> Time {
        let missing = node.fenced != Some(self.token);
        if node.urgent || node.failure.is_none() && !node.gone && missing {
            return Time::ORIGIN;
        }
        node.ended.plus(self.retry(self.config.node_timeout))
    }

    fn holder_due(&self, place: usize, node: &NodeState, now: Time) -> Option<Time> {
        let renews = self.renewal != Renewal::Off;
        let wished = self.is_open(self.extend_wish, node.extended_stamp)
            || self.is_open(self.check_wish, node.ended_stamp);
        let lacks = node.vote.is_none() || !node.full_ttl || node.doubtful;
        let interval = self.interval(self.config.validity(self.ttl));
        if !renews && !wished && (!lacks || self.time_left(now) < SHORTEST_REPAIR) {
            return None;
        }
        let retry = node.ended.plus(self.retry(interval));
        if node.failure.is_some() {
            return Some(retry);
        }
        if node.urgent || wished {
            return AT_ONCE;
        }
        if !lacks {
            return self.renewal_due(node);
        }
        if node.in_line {
            // It hears of the vote by a push, which may be lost.
            return Some(node.ended.plus(self.config.head_poll().min(interval)));
        }
        if node.gone && !self.repairable(place, now) {
            return Some(retry);
        }
        AT_ONCE
    }

    /// When a vote is to be renewed: it follows from what the vote has, counted from the send that it counts
    /// from. One that has more than is asked for now is prolonged by nothing yet, and not asked about at once again.
    fn renewal_due(&self, node: &NodeState) -> Option<Time> {
        let have = node.vote?.until.since(node.vote_sent);
        let asked = self.config.validity(self.ttl);
        let due = next(node.vote_sent, self.interval(have));
        Some(due.max(next(node.extended_sent, self.interval(asked.min(have)))))
    }

    /// How long after the send that it counts from a vote that has `have` is to be renewed.
    fn interval(&self, have: Duration) -> Duration {
        match self.renewal {
            Renewal::Off | Renewal::Third => have / 3,
            // An interval of the user's own never takes the lease to its end: an answer may take a third.
            Renewal::Every(every) => every.min((have * 2 / 3).saturating_sub(TIMERS)),
        }
    }

    /// How long after a failure a node is asked again that is asked every `interval`.
    fn retry(&self, interval: Duration) -> Duration {
        let retry = self.config.retry_delay.min(interval / 2);
        retry.max(Duration::from_millis(1))
    }

    /// What is to be sent to a node now, and how long it may take.
    fn what_to_send(&self, place: usize, now: Time) -> Option<(Command, Duration)> {
        let config = &self.config;
        let (resource, id) = (self.resource.clone(), self.id.clone());
        Some(match self.phase {
            Phase::Ended(_) | Phase::Parked => {
                let id = self.id.clone();
                (
                    Command::Release(Release { resource, id }),
                    config.node_timeout,
                )
            }
            Phase::Asking | Phase::NoRoom | Phase::Waiting | Phase::Granted { .. } => {
                let timeout = match self.number {
                    Some(_) => self.keep_alive_timeout(),
                    None => config.node_timeout.min(self.ttl / 3),
                };
                let enqueue = Enqueue {
                    resource,
                    id,
                    number: self.number,
                    ttl: self.ttl,
                    room: self.room,
                };
                (Command::Enqueue(enqueue), timeout)
            }
            Phase::Fencing { .. } | Phase::Held => {
                let ttl = self.ttl_to_ask(place, now);
                let extend = Extend {
                    resource,
                    id,
                    ttl,
                    token: self.token,
                    repair: !ttl.is_zero() && self.repairable(place, now),
                };
                let ttl = if ttl.is_zero() { self.ttl } else { ttl };
                // There is time for an answer while the lease stands, also if less is asked for.
                let third = self.time_left(now) / 3;
                let timeout = config.timeout(ttl).max(third.min(config.node_timeout));
                (Command::Extend(extend), timeout)
            }
        })
    }

    /// For how long a node is asked to prolong the lease; zero only asks whether the vote stands. What a node lacks
    /// it gets for as long as the others have it, also if the user has asked for less since: nothing shortens a
    /// lease. What is not renewed gets no more than that.
    fn ttl_to_ask(&self, place: usize, now: Time) -> Duration {
        let Some(node) = self.nodes.get(place).filter(|_| self.phase == Phase::Held) else {
            return self.ttl;
        };
        let wished = self.is_open(self.extend_wish, node.extended_stamp);
        let renews = self.renewal != Renewal::Off;
        // A question that is sent anyway must not be in the way of a renewal that falls due meanwhile.
        let answered = now.plus(self.config.timeout(self.ttl));
        let renewed = renews && self.renewal_due(node).is_none_or(|due| due <= answered);
        let lacks = node.vote.is_none() || !node.full_ttl || node.doubtful;
        // An earlier wish may still be open on this node, and is not taken back by a smaller one; nor does the node get
        // more by hearing of it late, if nothing renews the lease on the others.
        let wanted = self.wanted_until.since(now);
        let least = match (wished, renews) {
            // A question that prolongs nothing would leave the wish open, and be asked again at once.
            (true, false) if !wanted.is_zero() => wanted,
            (true, false) => self.ttl,
            (true, true) => self.ttl.max(wanted),
            (false, _) => self.ttl,
        };
        let lacking = self.longest_left(now).max(wanted);
        match (lacks, wished || renews) {
            (true, true) => lacking.max(least),
            (true, false) => lacking,
            (false, _) if wished || renewed => least,
            (false, _) => Duration::ZERO,
        }
    }

    /// For how long a node is to have the lease that has it for as long as the one that has it for longest. The quorum
    /// may have it for less so far, as the answers of those that were asked for all of it are still to come.
    fn longest_left(&self, now: Time) -> Duration {
        let full = self.nodes.iter().filter(|node| node.full_ttl);
        let until = full.filter_map(|node| Some(node.vote?.until));
        let until = until.filter(|until| *until > now).max();
        until.map_or(self.longest, |until| self.config.ttl_of(until.since(now)))
    }

    /// Whether a question above `wish` is still to be asked, where `done` was the last.
    fn is_open(&self, wish: Option<u32>, done: u32) -> bool {
        wish.is_some_and(|wish| !is_later(done, wish))
    }

    fn time_left(&self, now: Time) -> Duration {
        self.valid_until(now).since(now)
    }

    /// Whether the vote may be taken again on a node that forgot it: only as long as the lease stands on
    /// a quorum without it, since a lease whose quorum is gone must not come back.
    pub(super) fn repairable(&self, place: usize, now: Time) -> bool {
        let here = self.nodes.get(place).is_some_and(|node| node.stands(now));
        let standing = self.nodes.iter().filter(|node| node.stands(now));
        self.phase == Phase::Held && !here && standing.count() >= self.quorum.size()
    }

    /// Makes all nodes due at once, those that are being asked when they have answered.
    pub(crate) fn ask_all(&mut self) {
        for node in &mut self.nodes {
            node.urgent = true;
        }
    }

    /// Asks as if nothing had been answered yet; whatever was is taken back by that.
    pub(super) fn begin_anew(&mut self) {
        self.phase = Phase::Asking;
        self.number = None;
        self.next_generation();
    }

    /// Asks those nodes again that have not answered in the first round.
    pub(crate) fn ask_first_again(&mut self) {
        if self.phase == Phase::Parked && self.number.is_none() {
            self.begin_anew();
        }
        for node in &mut self.nodes {
            if node.number.is_none() && node.crowd.is_none() {
                node.urgent = true;
                // That it failed before is no verdict on this round.
                node.failure = None;
            }
        }
    }
}

/// `span` after `from`. What is due about the same time goes out together; a short wait is not worth it.
fn next(from: Time, span: Duration) -> Time {
    let grid = if span > Duration::from_millis(40) {
        span / 8
    } else {
        Duration::ZERO
    };
    from.plus(span).aligned(grid).max(from)
}
