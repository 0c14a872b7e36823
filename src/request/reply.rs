//! What a request is told: answers, pushes, new connections.

use crate::{
    error::NodeError,
    message::{Answer, Command, Enqueue, Extend, Extended, Released, Reply, Standing},
    quorum::NodeIndex,
    request::{Cx, Outgoing, Phase, Request, node_state::NodeState},
};

impl Request {
    /// A command has ended: it was answered, or it failed.
    pub(crate) fn on_reply(
        &mut self,
        sent: &Outgoing,
        cx: Cx<'_>,
        outcome: Result<Answer<Reply>, NodeError>,
    ) {
        let outcome = self.unless_overtaken(sent, outcome, cx);
        match &sent.command {
            Command::Enqueue(enqueue) => {
                let outcome = outcome.and_then(|answer| answer.read(Reply::standing));
                self.on_enqueued(sent, enqueue, cx, outcome);
            }
            Command::Extend(extend) => {
                let outcome = outcome.and_then(|answer| answer.read(Reply::extended));
                self.on_extended(sent, extend, cx, outcome);
            }
            Command::Release(_) => {
                let outcome = outcome.and_then(|answer| answer.read(Reply::released));
                self.on_released(sent, cx, outcome);
            }
        }
    }

    fn on_enqueued(
        &mut self,
        sent: &Outgoing,
        enqueue: &Enqueue,
        cx: Cx<'_>,
        outcome: Result<Answer<Standing>, NodeError>,
    ) {
        let now = cx.now;
        self.check(now);
        let was_settled = self.is_settled();
        let Some(node) = await_end(&mut self.nodes, sent, cx, &outcome) else {
            return;
        };
        match outcome {
            Ok(answer)
                if answer.value.contradicts(enqueue.number)
                    || !cx.servers.is_plausible(answer.value.counter(), now) =>
            {
                node.fail(NodeError::Garbled);
            }
            Ok(answer) => {
                let had_vote = node.vote().is_some();
                let (asked, waiter_ttl) = (enqueue.number, sent.waiter_ttl);
                let overtaken =
                    node.on_enqueued(now, self.longest, asked, &answer, waiter_ttl, &self.config);
                let has_vote = node.vote().is_some();
                if matches!(answer.value, Standing::Granted { .. }) {
                    self.trace_late_vote();
                }
                if overtaken {
                    self.trace("a push came before its answer");
                }
                if has_vote && !had_vote {
                    self.on_first_vote();
                }
            }
            Err(error) => {
                let missed = error == NodeError::TimedOut;
                node.fail(error);
                if missed && sent.timeout < self.config.node_timeout {
                    self.note_miss(sent, now);
                }
            }
        }
        self.wake_if_ended();
        self.move_up(now);
        self.weigh(cx);
        let waits = self.is_settled() != was_settled || self.is_hopeless();
        self.news.wake |= waits || self.lease().is_some();
    }

    fn trace_late_vote(&mut self) {
        match self.phase {
            Phase::Ended(_) => self.trace("a vote came after the end"),
            Phase::Granted { .. } | Phase::Fencing { .. } | Phase::Held(_) => {
                self.trace("a vote came after the verdict");
            }
            Phase::Asking | Phase::NoRoom | Phase::Waiting | Phase::Parked => {}
        }
    }

    fn on_extended(
        &mut self,
        sent: &Outgoing,
        extend: &Extend,
        cx: Cx<'_>,
        outcome: Result<Answer<Extended>, NodeError>,
    ) {
        let now = cx.now;
        // An answer that comes when the lease has ended does not bring it back.
        self.check(now);
        let Some(node) = await_end(&mut self.nodes, sent, cx, &outcome) else {
            return;
        };
        let had_vote = node.vote().is_some();
        match outcome {
            // A repair is never refused, nor is a counter below what was just written to it. A node that says so would
            // be asked again as fast as it answers.
            Ok(answer)
                if extend.repair && answer.value == Extended::Gone
                    || !answer.value.is_at_least(extend.token)
                    || !cx.servers.is_plausible(answer.value.counter(), now) =>
            {
                node.fail(NodeError::Garbled);
            }
            Ok(answer) => node.on_extended(&answer, extend, &self.config, now),
            Err(error) => node.fail(error),
        }
        let found_gone = node.is_gone() && had_vote;
        self.wake_if_ended();
        self.on_fenced(cx);
        if self.lease().is_some() {
            if found_gone {
                self.spread_doubt(sent.node);
            }
            self.note_renewal(now);
            self.check_lease(now);
            // A caller may await an extension or a check.
            self.news.wake = true;
        }
    }

    fn on_released(
        &mut self,
        sent: &Outgoing,
        cx: Cx<'_>,
        outcome: Result<Answer<Released>, NodeError>,
    ) {
        let Some(node) = self.nodes.get_mut(sent.node) else {
            return;
        };
        if node.on_released(sent.stamp, cx.now, outcome) {
            self.news.wake = true;
        }
    }

    /// An answer, unless there is a newer connection to its node by now: what an earlier run of the server said of
    /// itself must not be taken for what the present one is (S5, L5). Releases are told apart by their connection.
    fn unless_overtaken<T>(
        &self,
        sent: &Outgoing,
        outcome: Result<Answer<T>, NodeError>,
        cx: Cx<'_>,
    ) -> Result<Answer<T>, NodeError> {
        let answer = outcome?;
        let newest = cx.servers.incarnation(sent.node).map(|now| now.epoch);
        let overtaken = newest.is_some_and(|epoch| epoch > answer.incarnation.epoch);
        match sent.command {
            Command::Enqueue(_) | Command::Extend(_) if overtaken => Err(NodeError::Broken),
            _ => Ok(answer),
        }
    }

    /// Where one vote of a lease is gone, the others may be gone by the same cause. They are confirmed before they
    /// count as proof that the lease stands. Otherwise the votes would be put back one after the other on the word
    /// of nodes not asked yet, and a lease come back whose quorum was gone.
    fn spread_doubt(&mut self, gone: NodeIndex) {
        let others = self.nodes.iter_mut().enumerate();
        for (_, node) in others.filter(|(index, _)| *index != gone) {
            node.doubt();
        }
    }

    /// A node told of a vote, or, with a `waiter_end` of 0, that the request should ask.
    pub(crate) fn on_push(
        &mut self,
        node: NodeIndex,
        id: &str,
        waiter_end: u64,
        seq: u64,
        cx: Cx<'_>,
    ) {
        let now = cx.now;
        if **self.id.text() != *id {
            return;
        }
        self.check(now);
        if waiter_end == 0 {
            self.look_again(node, now);
            return;
        }
        let Some(node) = self.nodes.get_mut(node) else {
            return;
        };
        let plausible = cx.servers.is_plausible(seq, now);
        if !plausible || !node.on_push(waiter_end, seq, &self.config, now) {
            // The vote has grown from a waiter ttl that this client has not heard of, or no longer knows: only the
            // node knows whether it still stands.
            node.urgent = true;
            self.trace("a push matches no known waiter ttl");
            return;
        }
        self.vote_stamp = self.stamps;
        if !matches!(self.phase, Phase::Asking | Phase::NoRoom | Phase::Waiting) {
            // The vote counts from here on; a holder makes it a full ttl at once.
            self.trace("a push came after the verdict");
            return;
        }
        self.weigh(cx);
    }

    /// A new connection to a node: what was believed of it has to be asked again.
    pub(crate) fn on_reconnect(&mut self, node: NodeIndex) {
        let counted = matches!(
            self.phase,
            Phase::Granted { .. } | Phase::Fencing { .. } | Phase::Held(_)
        );
        let asking = matches!(self.phase, Phase::Asking);
        let no_room = self.waits_for_room();
        let Some(node) = self.nodes.get_mut(node) else {
            return;
        };
        if asking {
            // The first round hears of a broken connection by itself, unless the node has answered before (L5).
            if node.ahead().is_some() {
                node.doubt();
            }
            return;
        }
        let had_vote = node.vote().is_some();
        node.forget(counted);
        // Without a vote there it only wants room, and the first of its client asks for that.
        node.urgent &= had_vote || !no_room;
        if counted {
            self.trace("a new connection puts a counted vote in doubt");
        }
    }

    /// A release may be waiting for just this answer.
    fn wake_if_ended(&mut self) {
        self.news.wake |= self.has_ended();
    }
}

/// The node that a command was sent to, if the request awaits the end of that command.
fn await_end<'a, T>(
    nodes: &'a mut [NodeState],
    sent: &Outgoing,
    cx: Cx<'_>,
    outcome: &Result<T, NodeError>,
) -> Option<&'a mut NodeState> {
    let node = nodes.get_mut(sent.node)?;
    // These commands never left the client.
    let unsent = matches!(outcome, Err(NodeError::Down(_) | NodeError::WrongServer(_)));
    node.end(sent.stamp, cx.now, !unsent).then_some(node)
}
