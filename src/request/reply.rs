//! What a request is told: answers, pushes, new connections; and what follows while no lease is held.

use std::{cmp::Reverse, time::Duration};

use crate::{
    error::NodeError,
    event::What,
    message::{Answer, Command, Extend, Extended, Released, Reply, Standing},
    quorum::Vote,
    request::{
        Cx, EAGER_ROUNDS, End, MISSED_TURNS, MISSES, Phase, Question, Request, is_later,
        node_state::NodeState,
    },
    time::Time,
};

/// How often votes may be given back that are in the way of others, however seldom their waiter polls.
const GIVE_BACK_EVERY: Duration = Duration::from_millis(10);

impl Request {
    /// A question was answered, or was not.
    pub(crate) fn on_reply(
        &mut self,
        question: &Question,
        cx: Cx<'_>,
        outcome: Result<Answer<Reply>, NodeError>,
    ) {
        match question.send {
            Command::Enqueue(_) => {
                let outcome = outcome.and_then(|answer| answer.read(Reply::standing));
                self.on_enqueued(question, cx, outcome);
            }
            Command::Extend(_) => {
                let outcome = outcome.and_then(|answer| answer.read(Reply::extended));
                self.on_extended(question, cx, outcome);
            }
            Command::Release(_) => {
                let outcome = outcome.and_then(|answer| answer.read(Reply::released));
                self.on_released(question, cx, outcome);
            }
        }
    }

    fn on_enqueued(
        &mut self,
        question: &Question,
        cx: Cx<'_>,
        outcome: Result<Answer<Standing>, NodeError>,
    ) {
        let now = cx.now;
        let factor = self.config.clock_drift_factor;
        let longest = self.longest;
        let Question {
            place,
            stamp,
            lease,
            ..
        } = *question;
        let asked = match &question.send {
            Command::Enqueue(enqueue) => enqueue.number,
            Command::Extend(_) | Command::Release(_) => return,
        };
        self.check(now);
        let was_settled = self.is_settled();
        let outcome = self.unless_overtaken(place, outcome, cx);
        let Some(node) = self.nodes.get_mut(place) else {
            return;
        };
        if !node.answers(stamp, now, was_sent(&outcome)) {
            return;
        }
        let mut step = None;
        match outcome {
            Ok(answer)
                if answer.value.contradicts(asked)
                    || !cx.servers.is_plausible(answer.value.counter(), now) =>
            {
                node.fail(NodeError::Garbled);
            }
            Ok(answer) => {
                let first_vote = node.vote.is_none();
                if matches!(answer.value, Standing::Granted { .. }) {
                    step = match self.phase {
                        Phase::Ended(_) => Some("a vote came after the end"),
                        Phase::Granted { .. } | Phase::Fencing { .. } | Phase::Held => {
                            Some("a vote came after the verdict")
                        }
                        _ => None,
                    };
                }
                if node.hear(now, longest, asked, &answer, lease, factor) {
                    step = Some("a push came before its answer");
                }
                if first_vote && node.vote.is_some() {
                    self.eager = EAGER_ROUNDS;
                    self.vote_stamp = self.stamps;
                }
            }
            Err(error) => {
                let missed = error == NodeError::TimedOut;
                node.fail(error);
                if missed && question.timeout < self.config.node_timeout {
                    self.note_miss(place, question);
                }
            }
        }
        if let Some(words) = step {
            self.trace(words);
        }
        self.hear_while_ending();
        self.move_up(now);
        self.weigh(cx);
        let waits = self.is_settled() != was_settled || self.is_hopeless();
        self.news.wake |= waits || self.phase == Phase::Held;
    }

    fn on_extended(
        &mut self,
        question: &Question,
        cx: Cx<'_>,
        outcome: Result<Answer<Extended>, NodeError>,
    ) {
        let now = cx.now;
        let factor = self.config.clock_drift_factor;
        let place = question.place;
        let Command::Extend(Extend {
            ttl, repair, token, ..
        }) = question.send
        else {
            return;
        };
        // What comes when the lease has ended does not bring it back.
        self.check(now);
        let outcome = self.unless_overtaken(place, outcome, cx);
        let Some(node) = self.nodes.get_mut(place) else {
            return;
        };
        if !node.answers(question.stamp, now, was_sent(&outcome)) {
            return;
        }
        let had = node.vote.is_some() && !node.gone;
        match outcome {
            // A repair is never refused, nor is a counter below what was just written to it. A node that says so would
            // be asked again as fast as it answers.
            Ok(answer)
                if repair && answer.value == Extended::Gone
                    || !answer.value.is_at_least(token)
                    || !cx.servers.is_plausible(answer.value.counter(), now) =>
            {
                node.fail(NodeError::Garbled);
            }
            Ok(answer) => node.on_extended(&answer, ttl, factor),
            Err(error) => node.fail(error),
        }
        let found_gone = node.gone && had;
        self.hear_while_ending();
        if matches!(self.phase, Phase::Fencing { done: false, .. }) {
            // Others may have had the vote meanwhile: then it is their counter that is to be written.
            let highest = self.nodes.iter().filter_map(|node| node.fenced).max();
            self.token = self.token.max(highest.unwrap_or(0));
        }
        match self.phase {
            Phase::Fencing { done: false, .. } if self.fenced_majority(cx).is_some() => {
                // However long that took, whoever waits for it has not been able to take it before now.
                let (since, done) = (now, true);
                self.phase = Phase::Fencing { since, done };
                self.stand_by_token(self.token);
                self.news.wake = true;
            }
            Phase::Held => {
                if found_gone {
                    self.spread_doubt(place);
                }
                self.note_renewal(now);
                self.check_lease(now);
                // A check or an extend by hand may be waited for.
                self.news.wake = true;
            }
            _ => {}
        }
    }

    fn on_released(
        &mut self,
        question: &Question,
        cx: Cx<'_>,
        outcome: Result<Answer<Released>, NodeError>,
    ) {
        let Some(node) = self.nodes.get_mut(question.place) else {
            return;
        };
        if node.on_released(question.stamp, cx.now, outcome) {
            self.news.wake = true;
        }
    }

    /// An answer, unless there is a newer connection to that node by now: what an earlier run said of itself must not
    /// be taken for what this one is (S5, L5).
    fn unless_overtaken<T>(
        &self,
        place: usize,
        outcome: Result<Answer<T>, NodeError>,
        cx: Cx<'_>,
    ) -> Result<Answer<T>, NodeError> {
        let answer = outcome?;
        let now = cx.servers.era(place);
        match now {
            Some(era) if era.epoch > answer.era.epoch => Err(NodeError::Broken),
            _ => Ok(answer),
        }
    }

    /// Where one vote of a lease is gone, the others may be, by the same cause. They are asked again before
    /// they are taken for proof that the lease stands, or one after the other would be put back on the
    /// word of those not asked yet, and a lease come back whose quorum was gone.
    fn spread_doubt(&mut self, place: usize) {
        let others = self.nodes.iter_mut().enumerate();
        for (_, node) in others.filter(|(other, _)| *other != place) {
            node.doubt();
        }
    }

    /// A waiter lease may be too short for the way to the nodes.
    fn note_miss(&mut self, place: usize, question: &Question) {
        let Some(node) = self.nodes.get_mut(place) else {
            return;
        };
        node.misses = node.misses.saturating_add(1);
        if node.misses == MISSES + 1 {
            let (waited, lease) = (question.timeout, question.lease);
            self.tell(What::TooSlow { waited, lease });
        }
    }

    /// A node told of a vote.
    pub(crate) fn on_push(&mut self, place: usize, id: &str, lease_end: u64, seq: u64, cx: Cx<'_>) {
        let now = cx.now;
        let factor = self.config.clock_drift_factor;
        if **self.id.text() != *id {
            return;
        }
        self.check(now);
        let Some(node) = self.nodes.get_mut(place) else {
            return;
        };
        if lease_end == 0 {
            // It should look: somebody ahead may be dead, or a holder wants the vote back.
            node.urgent = true;
            return;
        }
        let plausible = cx.servers.is_plausible(seq, now);
        if !plausible || !node.on_push(lease_end, seq, factor, now) {
            // Grown from a waiter lease that this client did not hear of, or no longer: only the node
            // knows whether the vote still stands.
            node.urgent = true;
            self.trace("a push matches no known lease");
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

    /// A new connection to a node: what was believed of it is unknown.
    pub(crate) fn on_reconnect(&mut self, place: usize) {
        let counted = matches!(
            self.phase,
            Phase::Granted { .. } | Phase::Fencing { .. } | Phase::Held
        );
        let Some(node) = self.nodes.get_mut(place) else {
            return;
        };
        if self.phase == Phase::Asking {
            // The first round hears of a broken connection by itself, unless it has heard of the vote before (L5).
            if node.vote.is_some() {
                node.doubt();
            }
            return;
        }
        node.forget(counted);
        if counted {
            self.trace("a new connection puts a counted vote in doubt");
        }
    }

    /// What is answered while it ends may be what the end waits for.
    fn hear_while_ending(&mut self) {
        self.news.wake |= matches!(self.phase, Phase::Ended(_));
    }

    /// Draws the conclusion of what is known while no lease is held.
    pub(super) fn weigh(&mut self, cx: Cx<'_>) {
        let now = cx.now;
        if !matches!(self.phase, Phase::Asking | Phase::NoRoom | Phase::Waiting) {
            return;
        }
        if self.majority(cx).is_some() {
            self.phase = Phase::Granted { since: now };
            self.news.moved |= self.position != 0;
            self.position = 0;
            self.news.wake = true;
            return;
        }
        if self.is_outranked() && self.may_give_back(now) {
            self.give_back();
            return;
        }
        if self.phase == Phase::Waiting && self.hears_too_late(now) {
            self.stand_again(now);
            return;
        }
        if self.phase == Phase::Asking && self.is_asking() && self.waits_for_grace(cx) {
            // The votes that count may be among those still to come.
            return;
        }
        self.agree(now);
        self.hurry();
        self.stay_outside(now);
        self.end_attempt(cx);
    }

    /// Whether a quorum gives its votes, but they have ended by the time of the answers, and those still to come make
    /// none without them: the way is too long for so short a lease.
    fn hears_too_late(&self, now: Time) -> bool {
        let has = |node: &&NodeState| {
            let stands = |vote: Vote| node.dead_on_arrival || vote.until > now;
            node.vote.is_some_and(stands)
        };
        let has = self.nodes.iter().filter(has).count();
        let late = self.nodes.iter().filter(|node| {
            let late = node.vote.is_some() && node.dead_on_arrival;
            late || node.failure.is_some()
        });
        let over = !self.is_asking() || !self.quorum.possible_without(late.count());
        over && has >= self.quorum.size() && self.majority_of(now, |_| true).is_none()
    }

    /// An attempt without waiting ends with its verdict, whether anybody is there to hear it or not: what it
    /// has on a minority is in everybody's way.
    fn end_attempt(&mut self, cx: Cx<'_>) {
        let now = cx.now;
        let refused = matches!(self.phase, Phase::NoRoom | Phase::Waiting);
        if self.room != Some(0) || !refused {
            return;
        }
        let over = !self.is_asking();
        if self.is_answered(cx) && (over || self.phase == Phase::NoRoom) {
            self.end(End::NotFree, now);
        } else if over || self.is_cut_off() {
            self.end(End::Unanswered, now);
        }
    }

    /// The ticket: the maximum over a quorum of the numbers, once that many have come.
    fn agree(&mut self, now: Time) {
        if self.number.is_none() {
            let proposals = self.nodes.iter().filter_map(|node| node.number);
            let quorum = self.quorum;
            let numbered = proposals.clone().count();
            if numbered < quorum.size() {
                let full = self
                    .nodes
                    .iter()
                    .filter(|node| node.crowd.is_some())
                    .count();
                let told = full > 0 && !self.is_asking() && numbered + full >= quorum.size();
                if self.phase == Phase::Asking && (told || !quorum.possible_without(full)) {
                    self.stand_outside();
                }
                return;
            }
            self.number = proposals.clone().max();
            let differ = proposals.min() != self.number;
            if differ {
                self.trace("numbers differ, the highest is written back");
            }
            self.phase = Phase::Waiting;
            self.progress = now;
            self.news.wake = true;
            self.tell(What::InLine {
                position: self.position,
            });
        }
    }

    /// Others of this client wait for room in the line: so does this, unless it is not to wait at all.
    pub(crate) fn find_no_room(&mut self, now: Time) {
        if self.room == Some(0) {
            self.end(End::NotFree, now);
        } else {
            self.stand_outside();
        }
    }

    /// There is no room: asks again until there is.
    fn stand_outside(&mut self) {
        self.trace("no room in the line");
        self.phase = Phase::NoRoom;
        self.news.wake = true;
    }

    fn move_up(&mut self, now: Time) {
        let ahead = self.nodes.iter().filter_map(NodeState::ahead);
        let agreed = self.quorum.weakest(ahead.clone().map(Reverse));
        let Some(position) = agreed.map(|Reverse(ahead)| ahead).or(ahead.max()) else {
            return;
        };
        if position < self.position {
            self.progress = now;
        }
        self.news.moved |= position != self.position;
        self.position = position;
    }

    /// With some votes, but no quorum: whoever comes first must be found out by asking, a few times in
    /// a row; a round is over when nothing is under way.
    fn hurry(&mut self) {
        let split = self.nodes.iter().any(|node| node.vote.is_some());
        if split && self.eager > 0 && self.phase == Phase::Waiting && !self.is_asking() {
            self.trace("some votes and no quorum, asking again");
            self.eager -= 1;
            self.ask_all();
        }
    }

    /// Without a place in line a vote is in everybody's way: it is given back with the next question, once all
    /// nodes have been asked after it came.
    fn stay_outside(&mut self, now: Time) {
        if self.is_in_the_way() && self.may_give_back(now) {
            self.trace("no place in the line, giving a vote back");
            self.next_generation();
        }
    }

    fn is_in_the_way(&self) -> bool {
        let votes = self.nodes.iter().any(|node| node.vote.is_some());
        let round = self.vote_stamp;
        let over = |node: &NodeState| is_later(node.ended_stamp, round);
        self.phase == Phase::NoRoom && votes && self.nodes.iter().all(over)
    }

    /// Whether it has the vote of a node where another waiter comes first.
    fn is_outranked(&self) -> bool {
        let outranked = |node: &NodeState| node.vote.is_some() && node.outranked;
        self.nodes.iter().any(outranked)
    }

    /// When it may give back what is in the way of others, if it has any of that.
    pub(super) fn gives_back_at(&self) -> Option<Time> {
        let waits = matches!(self.phase, Phase::NoRoom | Phase::Waiting);
        let owes = waits && (self.is_outranked() || self.is_in_the_way());
        let at_once = GIVE_BACK_EVERY * u32::from(EAGER_ROUNDS - 1);
        owes.then(|| self.next_give_back.minus(at_once))
    }

    /// At once a few times in a row, and then no more often than that: each time all nodes are asked anew, and one that lies
    /// would have that done as fast as it answers, before the votes of the others are in.
    fn may_give_back(&mut self, now: Time) -> bool {
        let next = self.next_give_back.max(now).plus(GIVE_BACK_EVERY);
        let may = next.since(now) <= GIVE_BACK_EVERY * u32::from(EAGER_ROUNDS);
        if may {
            self.next_give_back = next;
        }
        may
    }

    /// Gives all votes back: the nodes get a new generation in their place, with the same ticket.
    fn give_back(&mut self) {
        self.tell(What::Split);
        self.next_generation();
    }

    /// What was granted has expired: stands in line again. One whose votes end again and again before they can be
    /// taken, as the way to the nodes is too long for so short a lease, makes way for the others in between (L1).
    pub(super) fn stand_again(&mut self, now: Time) {
        self.trace("the votes ended before they were taken");
        self.missed_turns = self.missed_turns.saturating_add(1);
        if self.room == Some(0) {
            // An attempt without waiting begins anew: it has no place to keep.
            if self.missed_turns < MISSED_TURNS {
                self.begin_anew();
            } else {
                self.end(End::Unanswered, now);
            }
            return;
        }
        self.keep_number();
        if self.missed_turns < MISSED_TURNS {
            self.give_back();
            self.phase = Phase::Waiting;
            return;
        }
        let (waited, lease) = (self.config.timeout(self.ttl), self.lease());
        self.tell(What::TooSlow { waited, lease });
        self.stand_aside(now);
        let doublings = (self.missed_turns - MISSED_TURNS + 1).min(4);
        self.rests_until = Some(now.plus(lease * (1 << doublings)));
    }

    /// What was granted at once had no ticket yet; from now on its first counters are its number.
    pub(super) fn keep_number(&mut self) {
        let numbers = self.nodes.iter().filter_map(|node| node.number);
        self.number = self.number.or(numbers.max());
    }

    pub(super) fn next_generation(&mut self) {
        self.id = self.id.next();
        for node in &mut self.nodes {
            node.forget(false);
            node.number = None;
            node.resume();
        }
    }
}

/// Whether a question may have been carried out that this came of.
fn was_sent<T>(outcome: &Result<T, NodeError>) -> bool {
    !matches!(outcome, Err(NodeError::Down(_) | NodeError::WrongServer(_)))
}
