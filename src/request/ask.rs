//! What a request asks, of which node, and when.
//!
//! When a node is due follows from what is believed of it at that moment, so a change cannot leave it waiting for
//! what was planned before. What a holder lacks is due at once; a renewal is due when a third of what the vote has
//! is over, counted from the send that the vote counts from (L6).

use std::time::Duration;

use crate::{
    error::NodeError,
    event::EventKind,
    message::Command,
    quorum::{Majority, NodeIndex},
    request::{
        Cx, Lease, Outgoing, Phase, Request, Urgency,
        command::lacks,
        node_state::{Belief, NodeState},
    },
    time::Time,
};

/// After more than so many keep-alives in a row that went unanswered over a live connection, a waiter lets its place on
/// that node lapse between them: a waiter that never hears of its turn must not keep it from the others (L1).
pub(super) const MISSES: u8 = 3;

/// The shortest wait for the end of a holder's lease. A node that always tells of a lease which is about to end would
/// be asked as fast as it answers.
const SHORTEST_EXPIRY: Duration = Duration::from_millis(10);

/// A lease with less left than this is not worth a repair.
const SHORTEST_REPAIR: Duration = Duration::from_millis(5);

/// A node that is to be asked at once.
const AT_ONCE: Option<Time> = Some(Time::ORIGIN);

impl Request {
    /// The nodes that are due, each with its urgency. They wait for their turn from here on, until they are
    /// [asked](Self::ask).
    pub(crate) fn take_due(&mut self, cx: Cx<'_>) -> Vec<(NodeIndex, Urgency)> {
        self.tick(cx);
        let mut due = Vec::with_capacity(self.nodes.len());
        for index in 0..self.nodes.len() {
            if self.is_due(index, cx) {
                let urgency = self.urgency(index, cx.now);
                self.nodes[index].queued = Some(urgency);
                due.push((index, urgency));
            }
        }
        due
    }

    fn is_due(&self, index: NodeIndex, cx: Cx<'_>) -> bool {
        self.node_due(index, cx).is_some_and(|due| due <= cx.now)
    }

    fn urgency(&self, index: NodeIndex, now: Time) -> Urgency {
        let kept = self.nodes.get(index).and_then(NodeState::kept_until);
        match self.phase {
            Phase::Granted { .. } | Phase::Fencing { .. } | Phase::Held(_) => {
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

    /// How long a keep-alive may take. Up to two thirds of the waiter ttl may pass, so that a waiter whose ttl is near
    /// the round trip still hears of its turn.
    pub(super) fn keep_alive_timeout(&self) -> Duration {
        self.config.node_timeout.min(self.waiter_ttl() * 2 / 3)
    }

    /// The command to a node whose turn has come, if it still has one.
    pub(crate) fn ask(&mut self, index: NodeIndex, cx: Cx<'_>) -> Option<Outgoing> {
        self.nodes.get_mut(index)?.queued = None;
        if !self.is_due(index, cx) {
            return None;
        }
        let (command, timeout) = self.command(index, cx.now)?;
        self.stamps = self.stamps.wrapping_add(1);
        let outgoing = Outgoing {
            node: index,
            stamp: self.stamps,
            timeout,
            waiter_ttl: self.waiter_ttl(),
            command,
        };
        self.note_sent(&outgoing, cx);
        Some(outgoing)
    }

    /// Decides whether to send a command again, because its call was carried out in part or not at all. `may_have_run`
    /// tells whether this command may have been carried out. False if its answer is no longer wanted.
    pub(crate) fn ask_again(
        &mut self,
        outgoing: &Outgoing,
        may_have_run: bool,
        cx: Cx<'_>,
    ) -> bool {
        if !self.wants(outgoing) {
            if let Some(node) = self.nodes.get_mut(outgoing.node)
                && node.end(outgoing.stamp, cx.now, true)
            {
                node.fail(if may_have_run {
                    NodeError::Garbled
                } else {
                    NodeError::Late
                });
            }
            return false;
        }
        self.note_sent(outgoing, cx);
        if let Command::Release(_) = outgoing.command
            && let Some(node) = self.nodes.get_mut(outgoing.node)
            && may_have_run
        {
            node.may_have_released();
        }
        true
    }

    /// Whether the answer to a command is still awaited.
    pub(crate) fn wants(&self, outgoing: &Outgoing) -> bool {
        let node = self.nodes.get(outgoing.node);
        let awaited = node.is_some_and(|node| node.awaits(outgoing.stamp));
        let gives_up = matches!(self.phase, Phase::Ended(_) | Phase::Parked);
        awaited && (!gives_up || matches!(outgoing.command, Command::Release(_)))
    }

    fn note_sent(&mut self, outgoing: &Outgoing, cx: Cx<'_>) {
        let now = cx.now;
        let takes = match &outgoing.command {
            Command::Enqueue(_) => true,
            Command::Extend(extend) => extend.repair,
            Command::Release(_) => false,
        };
        // The node's clock is known to within a round trip, and that takes a `node_timeout` at most.
        let until = now.plus(outgoing.timeout).plus(self.config.node_timeout);
        let Some(node) = self.nodes.get_mut(outgoing.node) else {
            return;
        };
        match outgoing.command {
            Command::Release(_) => node.send_release(outgoing.stamp),
            Command::Enqueue(_) | Command::Extend(_) => {
                let over = cx.servers.incarnation(outgoing.node);
                node.send(outgoing.stamp, takes.then_some(until), over, now);
            }
        }
    }

    /// When it wants to be looked at next; `None`: only when something is heard.
    pub(crate) fn due(&self, cx: Cx<'_>) -> Option<Time> {
        let now = cx.now;
        let nodes = (0..self.nodes.len()).filter_map(|index| self.node_due(index, cx));
        let nodes = nodes.min();
        let own = match &self.phase {
            Phase::Asking => self.parks_at(),
            Phase::Parked => self.rests_until,
            Phase::NoRoom | Phase::Waiting => self.gives_back_at(),
            Phase::Granted { since }
            | Phase::Fencing {
                since, done: true, ..
            } => Some(since.plus(self.waiter_ttl())),
            Phase::Fencing { done: false, .. } => match self.majority(cx).map(Majority::until) {
                // A command that is under way may still be answered.
                None if !self.is_fencing_over(cx) => None,
                until => Some(until.unwrap_or(now)),
            },
            Phase::Held(lease) => {
                let ends = lease.warns().into_iter().chain([self.valid_until(now)]);
                ends.min()
            }
            Phase::Ended(_) => (!self.is_clean() && now < self.expires).then_some(self.expires),
        };
        nodes.into_iter().chain(own).min()
    }

    /// What follows from the passing of time alone.
    fn tick(&mut self, cx: Cx<'_>) {
        let now = cx.now;
        match self.phase {
            Phase::Asking if self.parks_at().is_some_and(|at| at <= now) => {
                self.trace("the first round has failed, and nobody asks again");
                self.park(now);
            }
            Phase::Granted { since }
            | Phase::Fencing {
                since, done: true, ..
            } if now.since(since) >= self.waiter_ttl() => {
                let granted = now.since(since);
                self.emit(EventKind::Unpolled { granted });
                self.keep_number();
                self.park(now);
            }
            Phase::Fencing { done: false, .. } if self.is_fencing_over(cx) => {
                self.stand_again(now);
            }
            Phase::Parked if self.rests_until.is_some_and(|until| until <= now) => {
                self.rests_until = None;
                self.news.wake = true;
            }
            Phase::Held(_) => {
                self.check_lease(now);
                self.warn_of_long_hold(now);
            }
            Phase::NoRoom | Phase::Waiting if self.gives_back_at().is_some_and(|at| at <= now) => {
                self.weigh(cx);
            }
            Phase::Waiting if self.waits_for_grace(cx) => {
                self.progress = now;
                if !std::mem::replace(&mut self.told_of_grace, true) {
                    let nodes = cx.servers.in_grace(now);
                    self.emit(EventKind::InGrace { nodes });
                }
                self.weigh(cx);
            }
            _ => {}
        }
    }

    /// When a first round that came to nothing is given up, as no caller asks again: what it has on a minority is in
    /// everybody's way (C4).
    fn parks_at(&self) -> Option<Time> {
        let open = self.is_asking() || !self.nodes.iter().any(NodeState::touched);
        let last = self.nodes.iter().map(|node| node.ended).max()?;
        (!open).then(|| last.plus(self.waiter_ttl()))
    }

    /// When a node is to be asked next; `None` if it is not, or is being asked.
    fn node_due(&self, index: NodeIndex, cx: Cx<'_>) -> Option<Time> {
        let now = cx.now;
        let node = self.nodes.get(index)?;
        // A command of another kind does not wait where the one before it stood.
        let urgency = self.urgency(index, now);
        if node.queued.is_some_and(|queued| queued.is_like(urgency)) {
            return None;
        }
        if matches!(self.phase, Phase::Ended(_) | Phase::Parked) {
            return node.release_due().filter(|_| now < self.expires);
        }
        if node.is_asked() {
            return None;
        }
        match &self.phase {
            Phase::Asking => AT_ONCE.filter(|_| node.urgent),
            // An attempt asks no more often than its verdict needs.
            Phase::NoRoom | Phase::Waiting if self.is_attempt() => {
                AT_ONCE.filter(|_| self.waiter_due(node, cx) == Time::ORIGIN)
            }
            Phase::NoRoom | Phase::Waiting => Some(self.waiter_due(node, cx)),
            Phase::Fencing {
                done: false, token, ..
            } if self.majority(cx).is_some() => Some(self.fence_due(node, *token)),
            Phase::Fencing { done: false, .. } => None,
            // A caller who takes the grant finds enough left, for as long as its turn lasts (C4).
            Phase::Granted { .. } | Phase::Fencing { done: true, .. } => self.fresh_due(node),
            Phase::Held(lease) => self.holder_due(lease, index, node, now),
            Phase::Parked | Phase::Ended(_) => None,
        }
    }

    fn fresh_due(&self, node: &NodeState) -> Option<Time> {
        if node.failure.is_some() {
            return Some(node.ended.plus(self.retry(self.config.node_timeout)));
        }
        let vote = node.vote()?;
        let third = vote.span() / 3;
        Some(next(vote.sent, third).max(next(node.sent, third)))
    }

    fn waiter_due(&self, node: &NodeState, cx: Cx<'_>) -> Time {
        if node.urgent {
            return Time::ORIGIN;
        }
        let waiter_ttl = self.waiter_ttl();
        let keep_alive = self.config.keep_alive(waiter_ttl);
        let is_head = self.position == 0 || self.nodes.iter().any(|node| node.vote().is_some());
        let span = match self.phase {
            // It has no place to keep, and asks no more often than others do, however short its ttl is.
            Phase::NoRoom => self.config.head_poll(),
            _ if is_head || !cx.servers.pushes(self.quorum) => {
                self.config.head_poll().min(keep_alive)
            }
            _ => keep_alive,
        };
        if node.failure.is_some() {
            let lapse = u32::from(node.misses.saturating_sub(MISSES).min(2));
            return match lapse {
                // What is left of the place may be less than a whole span.
                0 => next(node.ended, span).min(node.ended.plus(self.retry(span))),
                doublings => node.ended.plus(waiter_ttl * (1 << doublings)),
            };
        }
        let unknown = node.vote().is_none() && node.place().is_none();
        let differs = unknown || node.number != self.number;
        if matches!(self.phase, Phase::Waiting) && differs {
            return Time::ORIGIN;
        }
        let due = next(node.sent, span);
        // When the holder's lease ends, nobody may be there to pass the vote on (L2), and the waiters ahead may be as
        // dead as the holder (F3).
        let expiry = node.place().and_then(|place| place.holder_until);
        expiry.map_or(due, |until| {
            let shortest = self.config.head_poll().min(SHORTEST_EXPIRY);
            let after = until.plus(Duration::from_millis(1));
            due.min(after.max(node.ended.plus(shortest)))
        })
    }

    fn fence_due(&self, node: &NodeState, token: u64) -> Time {
        let missing = match node.has {
            Belief::Vote(vote) => vote.fenced != Some(token),
            Belief::Gone { .. } => false,
            Belief::Nothing | Belief::NoRoom { .. } | Belief::Waiting(_) => true,
        };
        if node.urgent || node.failure.is_none() && missing {
            return Time::ORIGIN;
        }
        node.ended.plus(self.retry(self.config.node_timeout))
    }

    fn holder_due(
        &self,
        lease: &Lease,
        index: NodeIndex,
        node: &NodeState,
        now: Time,
    ) -> Option<Time> {
        let asked = lease.is_extension_open(node) || lease.is_check_open(node);
        let lacks = lacks(node);
        let interval = lease.interval(self.config.validity(self.ttl));
        if !lease.renews() && !asked && (!lacks || self.time_left(now) < SHORTEST_REPAIR) {
            return None;
        }
        let retry = node.ended.plus(self.retry(interval));
        if node.failure.is_some() {
            return Some(retry);
        }
        if node.urgent || asked {
            return AT_ONCE;
        }
        if !lacks {
            return self.renewal_due(lease, node);
        }
        match node.has {
            // The holder hears of the vote by a push, which may be lost.
            Belief::Gone { in_line: true } => {
                Some(node.ended.plus(self.config.head_poll().min(interval)))
            }
            Belief::Gone { in_line: false } if !self.repairable(index, now) => Some(retry),
            _ => AT_ONCE,
        }
    }

    /// When a vote is to be renewed: it follows from what the vote has, counted from the send that it counts from. A
    /// renewal does not prolong a vote that lasts longer than the present ttl, so the send of the last one counts, too.
    pub(super) fn renewal_due(&self, lease: &Lease, node: &NodeState) -> Option<Time> {
        let vote = node.vote()?;
        let (span, asked) = (vote.span(), self.config.validity(self.ttl));
        let due = next(vote.sent, lease.interval(span));
        Some(due.max(next(node.extended_sent, lease.interval(asked.min(span)))))
    }

    /// How long after a failure a node is asked again that is asked every `interval`.
    fn retry(&self, interval: Duration) -> Duration {
        let retry = self.config.retry_delay.min(interval / 2);
        retry.max(Duration::from_millis(1))
    }
}

/// `span` after `from`. What is due about the same time goes out together; a short wait is not worth that.
fn next(from: Time, span: Duration) -> Time {
    let grid = if span > Duration::from_millis(40) {
        span / 8
    } else {
        Duration::ZERO
    };
    from.plus(span).aligned(grid).max(from)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        config::Config,
        holder::{ClientId, HolderId},
        message::{Answer, Incarnation, Released, Reply},
        quorum::Quorum,
        request::End,
        resource::{Resource, Ttl},
        servers::Servers,
    };

    /// A batch was not understood, so its commands may still be under way on the connection that ends by that.
    #[test]
    fn c3_a_command_that_is_not_sent_again_may_still_be_carried_out() {
        let config = Arc::new(Config::default());
        let client = ClientId::new(uuid::Uuid::nil(), "me", true);
        let mut request = Request::new(
            config,
            Quorum::of(1),
            Arc::new(Resource::new("", "r").expect("a name")),
            HolderId::new(uuid::Uuid::nil(), &client, 0),
            Ttl::new(Duration::from_secs(10)).expect("a ttl"),
            None,
            Time::ORIGIN,
        );
        let mut servers = Servers::new(1, Duration::ZERO, false);
        servers.see(0, Some(Incarnation::test(1, 1)));
        let at = |millis| Time::ORIGIN.plus(Duration::from_millis(millis));
        let now = at(1000);
        let cx = Cx {
            now,
            servers: &servers,
        };
        request.take_due(cx);
        let enqueue = request.ask(0, cx).expect("the first round");
        request.end(End::Over, now);
        assert!(!request.ask_again(&enqueue, true, cx), "it has ended");
        // The release is confirmed over a new connection, while the first is still to run out.
        servers.see(0, Some(Incarnation::test(1, 2)));
        let mut release = |now| {
            let cx = Cx {
                now,
                servers: &servers,
            };
            request.take_due(cx);
            let release = request.ask(0, cx)?;
            let value = Reply::Released(Released::Nothing);
            let incarnation = Incarnation::test(1, 2);
            let answer = Answer {
                sent: now,
                incarnation,
                value,
            };
            request.on_reply(&release, cx, Ok(answer));
            Some(request.is_clean())
        };
        assert_eq!(release(at(1010)), Some(false));
        assert_eq!(release(at(3000)), Some(true));
    }
}
