//! What a claim is told: answers, pushes, new connections; and what follows while no lease is held.

use std::cmp::Reverse;

use crate::{
    claim::{Claim, EAGER_ROUNDS, Phase, Question, Send, seat::Seat},
    clock::Time,
    error::NodeError,
    node::{Answer, Extend, Extended, Standing},
    telemetry,
};

impl Claim {
    /// An enqueue was answered.
    pub(crate) fn hear_standing(
        &mut self,
        question: &Question,
        now: Time,
        outcome: Result<Answer<Standing>, NodeError>,
    ) {
        let config = &self.nodes.config;
        let (factor, lease) = (config.clock_drift_factor, config.fifo_ephemeral_ttl);
        let ttl = self.ttl;
        let Question { place, stamp, .. } = *question;
        let asked = match &question.send {
            Send::Enqueue(enqueue) => enqueue.number,
            Send::Extend(_) => return,
        };
        let was_settled = self.is_settled();
        let Some(seat) = self.seats.get_mut(place) else {
            return;
        };
        if !seat.answers(stamp) {
            return;
        }
        match outcome {
            Ok(answer)
                if answer.value.contradicts(asked)
                    || !self.nodes.is_plausible(answer.value.counter()) =>
            {
                seat.fail(NodeError::Garbled);
            }
            Ok(answer) => {
                let first_vote = seat.vote.is_none();
                if matches!(answer.value, Standing::Granted { .. }) {
                    match self.phase {
                        Phase::Ended(_) => tracing::trace!("a vote came after the end"),
                        Phase::Granted { .. } | Phase::Fencing { .. } | Phase::Held => {
                            tracing::trace!("a vote came after the verdict");
                        }
                        _ => {}
                    }
                }
                self.nodes.grace.learn(place, answer.era.up_since);
                seat.hear(now, ttl, asked, &answer, lease, factor);
                if first_vote && seat.vote.is_some() {
                    self.eager = EAGER_ROUNDS;
                }
            }
            Err(error) => seat.fail(error),
        }
        self.tell_janitor();
        self.move_up(now);
        self.schedule(place, now);
        self.weigh(now);
        self.news.wake |= self.is_settled() != was_settled;
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
        let Send::Extend(Extend { ttl, repair, .. }) = question.send else {
            return;
        };
        let Some(seat) = self.seats.get_mut(place) else {
            return;
        };
        if !seat.answers(question.stamp) {
            return;
        }
        let was_gone = seat.gone;
        match outcome {
            // A repair is never refused. A node that does would be asked again as fast as it answers.
            Ok(answer) if repair && answer.value == Extended::Gone => {
                seat.fail(NodeError::Garbled);
            }
            Ok(answer) => {
                self.nodes.grace.learn(place, answer.era.up_since);
                seat.hear_extended(&answer, ttl, token, factor);
            }
            Err(error) => seat.fail(error),
        }
        let found_gone = seat.gone && !was_gone;
        // What only asked has renewed nothing: what was due, or under way before it, still is.
        let renews = !ttl.is_zero() || seat.gone;
        self.tell_janitor();
        if renews {
            self.schedule(place, now);
        }
        match self.phase {
            Phase::Fencing { done: false, .. } if self.fenced_majority(now).is_some() => {
                // However long that took, whoever waits for it has not been able to take it before now.
                let (since, done) = (now, true);
                self.phase = Phase::Fencing { since, done };
                self.stand_by_token(self.token);
                self.news.wake = true;
            }
            Phase::Held => {
                if found_gone {
                    self.spread_doubt(place, now);
                } else {
                    self.go_on_repairing(now);
                }
                self.note_renewal(now);
                self.check_lease(now);
            }
            _ => {}
        }
    }

    /// Where one vote of a lease is gone, the others may be, by the same cause. They are asked again before
    /// they are taken for proof that the lease stands, or one after the other would be put back on the
    /// word of those not asked yet, and a lease come back whose quorum was gone.
    fn spread_doubt(&mut self, place: usize, now: Time) {
        let others = self.seats.iter_mut().enumerate();
        for (_, seat) in others.filter(|(other, _)| *other != place) {
            seat.doubt(now);
        }
    }

    /// What was just answered may be what the repair of another node waited for.
    fn go_on_repairing(&mut self, now: Time) {
        for place in 0..self.seats.len() {
            let waits =
                |seat: &Seat| seat.gone && !seat.in_line && !seat.asked() && seat.failure.is_none();
            if self.seats.get(place).is_some_and(waits) && self.repairable(place, now) {
                self.schedule(place, now);
            }
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
        if !matches!(self.phase, Phase::Asking | Phase::Outside | Phase::Waiting) {
            // A holder's repair got through, or a vote came after the verdict: the node is asked.
            tracing::trace!("a push came after the verdict");
            seat.due = now;
            return;
        }
        if !self.nodes.is_plausible(seq) || !seat.hear_push(lease_end, seq, lease, factor) {
            // Grown from a waiter lease that this client did not hear of, or no longer: only the node
            // knows whether the vote still stands.
            tracing::trace!("a push matches no known lease");
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
        if self.phase == Phase::Asking {
            // The first round hears of a broken connection by itself.
            return;
        }
        let counted = matches!(
            self.phase,
            Phase::Granted { .. } | Phase::Fencing { .. } | Phase::Held
        );
        if let Some(seat) = self.seats.get_mut(place) {
            seat.forget(counted, now);
        }
    }

    /// Whoever takes back what an ended claim left waits for the questions that were still under way.
    fn tell_janitor(&mut self) {
        self.news.wake |= matches!(self.phase, Phase::Ended(_));
    }

    /// Draws the conclusion of what is known while no lease is held.
    pub(super) fn weigh(&mut self, now: Time) {
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
            && self.may_give_back(now)
        {
            self.give_back(now);
            return;
        }
        self.agree(now);
        self.hurry(now);
        self.stay_outside(now);
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
                    self.stand_outside();
                }
                return;
            }
            self.number = proposals.clone().max();
            if proposals.min() != self.number {
                tracing::trace!("numbers differ, the highest is written back");
            }
            self.phase = Phase::Waiting;
            self.progress = now;
            self.news.wake = true;
            telemetry::in_line(self.who(), self.position);
        }
        for seat in &mut self.seats {
            if !seat.asked() && seat.failure.is_none() && seat.number != self.number {
                seat.due = now;
            }
        }
    }

    /// There is no room: asks again until there is.
    pub(crate) fn stand_outside(&mut self) {
        tracing::trace!("no room in the line");
        self.phase = Phase::Outside;
        self.news.wake = true;
    }

    fn move_up(&mut self, now: Time) {
        let ahead = self.seats.iter().filter_map(Seat::ahead);
        let agreed = self.nodes.quorum.weakest(ahead.clone().map(Reverse));
        let Some(position) = agreed.map(|Reverse(ahead)| ahead).or(ahead.max()) else {
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
            tracing::trace!("some votes and no quorum, asking again");
            self.eager -= 1;
            self.ask_all(now);
        }
    }

    /// Without a place in line a vote is in everybody's way: it is given back with the next question.
    fn stay_outside(&mut self, now: Time) {
        let votes = self.seats.iter().any(|seat| seat.vote.is_some());
        if self.phase == Phase::Outside && votes && !self.is_asking() {
            tracing::trace!("no place in the line, giving a vote back");
            self.next_generation(now);
            for place in 0..self.seats.len() {
                self.schedule(place, now);
            }
        }
    }

    /// At once a few times in a row, and then once per poll: each time all nodes are asked anew, and one that lies
    /// would have that done as fast as it answers, before the votes of the others are in.
    fn may_give_back(&mut self, now: Time) -> bool {
        let poll = self.nodes.poll();
        let next = self.next_give_back.max(now).plus(poll);
        let may = next.since(now) <= poll * u32::from(EAGER_ROUNDS);
        if may {
            self.next_give_back = next;
        }
        may
    }

    /// Gives all votes back: the nodes get a new generation in their place, with the same ticket.
    fn give_back(&mut self, now: Time) {
        telemetry::split(self.who());
        self.next_generation(now);
        self.ask_all(now);
    }

    /// What was granted has expired: stands in line again.
    pub(super) fn stand_again(&mut self, now: Time) {
        tracing::trace!("the votes ended before they were taken");
        self.keep_number();
        self.give_back(now);
        self.phase = Phase::Waiting;
    }

    /// What was granted at once had no ticket yet; from now on its first counters are its number.
    pub(super) fn keep_number(&mut self) {
        let numbers = self.seats.iter().filter_map(|seat| seat.number);
        self.number = self.number.or(numbers.max());
    }

    pub(super) fn next_generation(&mut self, now: Time) {
        self.id = self.id.next();
        for seat in &mut self.seats {
            seat.forget(false, now);
            seat.number = None;
        }
    }
}
