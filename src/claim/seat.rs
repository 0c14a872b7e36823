//! What one request is believed to have on one node.

use std::time::Duration;

use crate::{
    clock::Time,
    error::NodeError,
    node::{Answer, Era, Extended, Standing},
    quorum::Vote,
    validity::valid_until,
};

/// One request on one node.
#[derive(Debug)]
pub(crate) struct Seat {
    /// When to ask again.
    pub(crate) due: Time,
    pub(crate) vote: Option<Vote>,
    /// The vote lasts for the ttl, and not just for what was left of a waiter lease.
    pub(crate) full_ttl: bool,
    /// A waiter on this node comes before us, although the vote is ours.
    pub(crate) outranked: bool,
    /// The fencing token that the node's counter was raised to.
    pub(crate) fenced: Option<u64>,
    /// The connection is new since the vote was last confirmed, or another node's vote was found gone.
    pub(crate) doubtful: bool,
    /// The node said that the vote is not there.
    pub(crate) gone: bool,
    /// The holder stands in line there for the vote that the node forgot.
    pub(crate) in_line: bool,
    /// When the server started.
    pub(crate) up_since: Time,
    pub(crate) place: Option<Place>,
    /// A push that overtook the answer it belongs to: the end of the waiter lease, and the counter. Boxed, as
    /// is the failure: a waiter is as large as its seats, and hardly ever has either.
    early: Option<Box<(u64, u64)>>,
    /// The number the node has of us.
    pub(crate) number: Option<u64>,
    /// How many waiters there were, if there was no room.
    pub(crate) crowd: Option<u32>,
    /// Why the last question went unanswered.
    pub(crate) failure: Option<Box<NodeError>>,
    /// Whether anything may have reached the node.
    touched: bool,
    /// How many questions were answered.
    heard: u32,
    /// If the last question is the first that reached the node: `loose` as it was before.
    before_first: Option<Time>,
    /// The question under way, and until when it may be carried out.
    question: Option<(u32, Time)>,
    /// Until when a question that nobody waits for any more may be carried out.
    loose: Time,
    /// The same of those, and of the question under way, that may take the vote.
    takes_until: Time,
    /// What they were asked over.
    takes_over: Over,
    /// The deadline of the question that was answered last.
    asked_until: Time,
}

/// When a node is done with all that was asked of it. A release that is sent after that is final.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet {
    /// Until then something unanswered may still be carried out.
    pub(crate) after: Time,
    /// How many answers have come: one that came after a release was sent proves nothing of their order.
    pub(crate) heard: u32,
    /// If the very first question is the last one: the same as `after`, once a release has found something,
    /// which only that question can have made.
    pub(crate) after_find: Option<Time>,
}

/// A place in the line of a node.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) ahead: u64,
    /// When the holder's lease ends, at the latest.
    pub(crate) holder_until: Option<Time>,
    /// When our waiter lease ends, by the node's clock; a push must name the same.
    lease_end: u64,
    /// When the request that this lease counts from was sent.
    sent: Time,
}

impl Seat {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            due: now,
            vote: None,
            full_ttl: false,
            outranked: false,
            fenced: None,
            doubtful: false,
            gone: false,
            in_line: false,
            up_since: Time::default(),
            place: None,
            early: None,
            number: None,
            crowd: None,
            failure: None,
            touched: false,
            heard: 0,
            before_first: Some(Time::default()),
            question: None,
            loose: Time::default(),
            takes_until: Time::default(),
            takes_over: Over::default(),
            asked_until: Time::default(),
        }
    }

    /// A question is sent over `era`. If it may take the vote or a place, then until `takes`.
    pub(crate) fn ask(&mut self, stamp: u32, takes: Option<Time>, era: Option<Era>, now: Time) {
        self.drop_question();
        if let Some(until) = takes {
            let earlier = (self.takes_until > now).then_some(self.takes_over);
            self.takes_over = Over::of(era).and(earlier);
            self.takes_until = self.takes_until.max(until);
        }
        self.before_first = (!self.touched).then_some(self.loose);
        self.question = Some((stamp, takes.unwrap_or_default()));
    }

    /// Whether a question is under way.
    pub(crate) fn asked(&self) -> bool {
        self.question.is_some()
    }

    /// Whether `stamp` is the question under way.
    pub(crate) fn waits_for(&self, stamp: u32) -> bool {
        self.question.is_some_and(|(asked, _)| asked == stamp)
    }

    /// Whether it is time to ask, and nothing is under way.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        !self.asked() && self.due <= now
    }

    /// Whether `stamp` is the question under way. Then it is no more, and what it tells comes next.
    pub(crate) fn answers(&mut self, stamp: u32) -> bool {
        let Some((_, quiet)) = self.question.take_if(|(asked, _)| *asked == stamp) else {
            return false;
        };
        self.asked_until = quiet;
        self.heard = self.heard.wrapping_add(1);
        self.failure = None;
        self.crowd = None;
        true
    }

    /// Whether the vote may yet be taken by what was asked before, when a release was answered over `era`: what
    /// was asked over that connection was carried out first, and what an earlier run was asked never will be.
    pub(crate) fn may_take(&self, era: Era, now: Time) -> bool {
        let answered = Over::of(Some(era));
        let other = self.takes_over != answered && self.takes_over.same_run(answered);
        self.takes_until > now && other
    }

    /// Whether anything may have reached the node.
    pub(crate) fn touched(&self) -> bool {
        self.touched || self.asked()
    }

    /// What may still be carried out of all that was asked.
    pub(crate) fn quiet(&self) -> Quiet {
        let asked = self
            .question
            .map_or(self.loose, |(_, until)| self.loose.max(until));
        Quiet {
            after: asked,
            heard: self.heard,
            after_find: self.before_first,
        }
    }

    /// An enqueue that was sent with the number `asked` was answered.
    pub(crate) fn hear(
        &mut self,
        now: Time,
        ttl: Duration,
        asked: Option<u64>,
        answer: &Answer<Standing>,
        lease: Duration,
        factor: f64,
    ) {
        self.touched = true;
        self.up_since = answer.era.up_since;
        self.doubtful = false;
        self.place = None;
        self.gone = false;
        self.in_line = false;
        match answer.value {
            Standing::Granted {
                seq,
                left,
                outranked,
            } => {
                let until = valid_until(answer.sent, left, factor);
                self.vote = Some(Vote { until, seq });
                self.full_ttl = left >= ttl;
                self.outranked = outranked;
                self.number = asked.or(self.number).or(Some(seq));
            }
            Standing::Waiting {
                number,
                ahead,
                lease_end,
                holder_left,
            } => {
                self.vote = None;
                self.number = Some(number);
                self.place = Some(Place {
                    ahead,
                    holder_until: holder_left.map(|left| now.plus(left)),
                    lease_end,
                    sent: answer.sent,
                });
                self.pushed_early(lease, factor);
            }
            Standing::Full { waiting, .. } => {
                self.vote = None;
                self.crowd = Some(u32::try_from(waiting).unwrap_or(u32::MAX));
            }
            Standing::Superseded => self.vote = None,
        }
        self.takes_until = self.takes_until.min(self.loose);
    }

    pub(crate) fn hear_extended(
        &mut self,
        answer: &Answer<Extended>,
        ttl: Duration,
        token: u64,
        factor: f64,
    ) {
        self.touched = true;
        self.up_since = answer.era.up_since;
        self.doubtful = false;
        self.in_line = answer.value == Extended::InLine;
        self.gone = !matches!(answer.value, Extended::Stands { .. });
        self.vote = match answer.value {
            Extended::Stands { .. } => {
                self.fenced = Some(token);
                self.full_ttl |= !ttl.is_zero();
                let until = valid_until(answer.sent, ttl, factor);
                let until = self.vote.map_or(until, |vote| vote.until.max(until));
                Some(Vote { until, seq: token })
            }
            Extended::InLine | Extended::Gone => None,
        };
        self.takes_until = self.takes_until.min(self.loose);
    }

    /// A push told of a vote. False if it has not grown from the lease that we know: then the answer that
    /// it belongs to is still under way, or it is stale, and only the node knows.
    pub(crate) fn hear_push(
        &mut self,
        lease_end: u64,
        seq: u64,
        lease: Duration,
        factor: f64,
    ) -> bool {
        let Some(place) = self.place.take_if(|place| place.lease_end == lease_end) else {
            self.early = Some(Box::new((lease_end, seq)));
            return false;
        };
        self.vote = Some(Vote {
            until: valid_until(place.sent, lease, factor),
            seq,
        });
        self.full_ttl = false;
        self.outranked = false;
        self.gone = false;
        true
    }

    /// Heeds a push that came before the answer which has just told of a place.
    fn pushed_early(&mut self, lease: Duration, factor: f64) {
        if let Some((lease_end, seq)) = self.early.take().map(|early| *early) {
            if self.hear_push(lease_end, seq, lease, factor) {
                tracing::trace!("a push came before its answer");
            }
            self.early = None;
        }
    }

    pub(crate) fn fail(&mut self, error: NodeError) {
        match error {
            // Never sent.
            NodeError::Down(_) | NodeError::WrongServer(_) => {}
            _ => self.touched = true,
        }
        // Without a proper answer it may still be carried out, until its deadline.
        if matches!(
            error,
            NodeError::TimedOut | NodeError::Broken | NodeError::Garbled | NodeError::TooLong
        ) {
            self.loose = self.loose.max(self.asked_until);
        }
        self.takes_until = self.takes_until.min(self.loose);
        self.failure = Some(Box::new(error));
    }

    /// What was believed of the node is unknown. A vote that was `counted` in a verdict keeps its validity:
    /// the lease was promised for that long, and a server that forgot it has no vote to give yet (S5).
    pub(crate) fn forget(&mut self, counted: bool, now: Time) {
        if counted {
            tracing::trace!("a new connection puts a counted vote in doubt");
            self.doubt(now);
        } else {
            self.drop_question();
            self.vote = None;
            self.outranked = false;
            self.fenced = None;
            self.doubtful = false;
            self.gone = false;
            self.in_line = false;
        }
        self.place = None;
        self.early = None;
        self.due = now;
    }

    /// Whether a counted vote still stands is to be asked before it counts for more. It keeps its validity.
    pub(crate) fn doubt(&mut self, now: Time) {
        self.doubtful = true;
        self.due = now;
    }

    /// How many waiters are ahead of us there; none if the vote is ours.
    pub(crate) fn ahead(&self) -> Option<u64> {
        match (&self.vote, &self.place) {
            (Some(_), _) => Some(0),
            (None, place) => place.as_ref().map(|place| place.ahead),
        }
    }

    /// Whether the lease can be taken to stand on this node.
    pub(crate) fn stands(&self, now: Time) -> bool {
        !self.doubtful && self.vote.is_some_and(|vote| vote.until > now)
    }

    /// Nobody waits for the question under way any more; it may be carried out all the same.
    fn drop_question(&mut self) {
        if let Some((_, deadline)) = self.question.take() {
            self.touched = true;
            self.loose = self.loose.max(deadline);
        }
    }
}

/// A run of a server and a connection to it: enough of both to tell them from others of the same second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Over {
    /// 0: any.
    run: u16,
    /// 0: not one alone.
    epoch: u16,
}

impl Over {
    fn of(era: Option<Era>) -> Self {
        era.map_or(Self::default(), |Era { run, epoch, .. }| Self {
            run: run as u16,
            epoch: epoch as u16,
        })
    }

    /// Whether both may be the same run.
    fn same_run(self, other: Self) -> bool {
        self.run == other.run || self.run == 0 || other.run == 0
    }

    /// This and, if what went over it may still be carried out, an earlier one.
    fn and(self, earlier: Option<Self>) -> Self {
        match earlier {
            Some(earlier) if earlier != self && earlier.same_run(self) => Self {
                run: if earlier.run == self.run { self.run } else { 0 },
                epoch: 0,
            },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c3_what_was_asked_is_over_if_it_went_over_the_same_connection_or_to_an_earlier_run() {
        let era = |run, epoch| Era {
            epoch,
            run,
            up_since: Time::default(),
            clock_offset: 0,
            pushes: true,
        };
        let now = Time::default().plus(Duration::from_secs(9));
        let later = now.plus(Duration::from_secs(1));
        let asked = |eras: &[Option<Era>]| {
            let mut seat = Seat::new(now);
            for (stamp, era) in (0..).zip(eras) {
                seat.ask(stamp, Some(later), *era, now);
            }
            seat
        };
        let one = asked(&[Some(era(3, 1))]);
        assert!(!one.may_take(era(3, 1), now));
        assert!(one.may_take(era(3, 2), now));
        assert!(!one.may_take(era(4, 2), now));
        assert!(!one.may_take(era(3, 2), later));
        assert!(one.may_take(era(0, 2), now), "the run is not known");
        let two = asked(&[Some(era(3, 1)), Some(era(3, 2))]);
        assert!(two.may_take(era(3, 2), now), "the first went over another");
        assert!(!two.may_take(era(4, 3), now));
        let restarted = asked(&[Some(era(3, 1)), Some(era(4, 2))]);
        assert!(!restarted.may_take(era(4, 2), now));
        let unknown = asked(&[Some(era(3, 1)), None]);
        assert!(unknown.may_take(era(3, 1), now) && unknown.may_take(era(4, 2), now));
    }
}
