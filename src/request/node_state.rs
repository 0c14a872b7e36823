//! What one request is believed to have on one node, and what is under way to it.
//!
//! When a node is to be asked again is not noted here but follows from what is believed (`request::ask`): when
//! the last question was sent and ended, what the vote or the place counts from, and what is missing.

use std::time::Duration;

use crate::{
    error::NodeError,
    message::{Answer, Era, Extended, Standing},
    quorum::Vote,
    request::Urgency,
    time::Time,
    validity::valid_until,
};

mod over;
mod release;

use over::Over;
pub(crate) use release::Outcome;
use release::Releasing;

/// One request on one node.
#[derive(Clone, Debug)]
pub(crate) struct NodeState {
    pub(crate) vote: Option<Vote>,
    /// When the request was sent that the vote counts from.
    pub(crate) vote_sent: Time,
    /// The end of the waiter lease that a pushed vote has grown from; 0 if an answer told of the vote.
    pushed_end: u64,
    /// The vote lasts for the ttl, and not just for what was left of a waiter lease.
    pub(crate) full_ttl: bool,
    /// It had ended, as far as it can be trusted, when the answer or the push that told of it came.
    pub(crate) dead_on_arrival: bool,
    /// A waiter on this node comes before us, although the vote is ours.
    pub(crate) outranked: bool,
    /// The fencing token that the node's counter was raised to.
    pub(crate) fenced: Option<u64>,
    /// The connection is new since the vote was last confirmed, or another node's vote was found gone.
    pub(crate) doubtful: bool,
    /// The node said that the vote is not there.
    pub(crate) gone: bool,
    /// The holder stands in line there for the vote that the node gave to another.
    pub(crate) in_line: bool,
    /// To be asked as soon as nothing is under way, whatever was asked before.
    pub(crate) urgent: bool,
    /// How urgently it waits for its turn to be asked, if it does.
    pub(crate) queued: Option<Urgency>,
    /// When the server started.
    pub(crate) up_since: Time,
    pub(crate) place: Option<Place>,
    /// A push that overtook the answer it belongs to: the end of the waiter lease, and the counter. Boxed, as
    /// is the failure: a waiter is as large as its nodes, and hardly ever has either.
    early: Option<Box<(u64, u64)>>,
    /// The number the node has of us.
    pub(crate) number: Option<u64>,
    /// How many waiters there were, if there was no room.
    pub(crate) crowd: Option<u32>,
    /// Why the last question went unanswered.
    pub(crate) failure: Option<Box<NodeError>>,
    /// How many questions in a row were not answered within the short time that a short waiter lease leaves, over one
    /// connection.
    pub(crate) misses: u8,
    /// When the last question that ended was sent, when it ended, and its number.
    pub(crate) sent: Time,
    pub(crate) ended: Time,
    pub(crate) ended_stamp: u32,
    /// The numbers of the last question about a lease that was answered, and of the last that prolonged it.
    pub(crate) checked_stamp: u32,
    pub(crate) extended_stamp: u32,
    /// When that was sent.
    pub(crate) extended_sent: Time,
    /// Whether anything may have reached the node.
    touched: bool,
    /// How many questions were answered.
    heard: u32,
    /// If the last question is the first that reached the node: `loose` as it was before.
    before_first: Option<Time>,
    /// The question under way.
    question: Option<Asked>,
    /// Until when a question that nobody waits for any more may be carried out.
    loose: Time,
    /// The same of those, and of the question under way, that may take the vote.
    takes_until: Time,
    /// What they were asked over.
    takes_over: Over,
    /// The deadline of the question that was answered last.
    asked_until: Time,
    /// How the release stands, once the request has ended or stands aside. Boxed: most have none.
    release: Option<Box<Releasing>>,
}

/// A question under way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    stamp: u32,
    sent: Time,
    /// Until when it may be carried out, if it may take the vote or a place.
    takes: Time,
}

/// When a node is done with all that was asked of it. A release that is sent after that is final.
#[derive(Clone, Copy, Debug)]
struct Settled {
    /// Until then something unanswered may still be carried out.
    after: Time,
    /// How many answers have come: one that came after a release was sent proves nothing of their order.
    heard: u32,
    /// If the very first question is the last one: the same as `after`, once a release has found something,
    /// which only that question can have made.
    after_find: Option<Time>,
}

/// A place in the line of a node.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) ahead: u64,
    /// When the holder's lease ends, at the latest.
    pub(crate) holder_until: Option<Time>,
    /// When our waiter lease ends, by the node's clock; a push must name the same.
    lease_end: u64,
    /// How long that lease is.
    lease: Duration,
    /// When the request that this lease counts from was sent.
    sent: Time,
}

impl NodeState {
    pub(crate) fn new() -> Self {
        Self {
            vote: None,
            vote_sent: Time::default(),
            pushed_end: 0,
            full_ttl: false,
            dead_on_arrival: false,
            outranked: false,
            fenced: None,
            doubtful: false,
            gone: false,
            in_line: false,
            urgent: true,
            queued: None,
            up_since: Time::default(),
            place: None,
            early: None,
            number: None,
            crowd: None,
            failure: None,
            misses: 0,
            sent: Time::default(),
            ended: Time::default(),
            ended_stamp: 0,
            checked_stamp: 0,
            extended_stamp: 0,
            extended_sent: Time::default(),
            touched: false,
            heard: 0,
            before_first: Some(Time::default()),
            question: None,
            loose: Time::default(),
            takes_until: Time::default(),
            takes_over: Over::default(),
            asked_until: Time::default(),
            release: None,
        }
    }

    /// A question is sent over `era`. If it may take the vote or a place, then until `takes`.
    pub(crate) fn ask(&mut self, stamp: u32, takes: Option<Time>, era: Option<Era>, now: Time) {
        self.drop_question();
        self.urgent = false;
        if let Some(until) = takes {
            let earlier = (self.takes_until > now).then_some(self.takes_over);
            self.takes_over = Over::of(era).and(earlier);
            self.takes_until = self.takes_until.max(until);
        }
        self.before_first = (!self.touched).then_some(self.loose);
        self.question = Some(Asked {
            stamp,
            sent: now,
            takes: takes.unwrap_or_default(),
        });
    }

    /// Whether a question is under way.
    pub(crate) fn asked(&self) -> bool {
        self.question.is_some()
    }

    /// Whether `stamp` is the question or the release under way.
    pub(crate) fn waits_for(&self, stamp: u32) -> bool {
        self.question.is_some_and(|asked| asked.stamp == stamp) || self.releases(stamp)
    }

    /// Whether `stamp` is the question under way. Then it is no more, and what it tells comes next; whether it was
    /// `sent` at all says the node.
    pub(crate) fn answers(&mut self, stamp: u32, now: Time, sent: bool) -> bool {
        let Some(asked) = self.question.take_if(|asked| asked.stamp == stamp) else {
            return false;
        };
        self.asked_until = if sent { asked.takes } else { Time::default() };
        self.touched |= sent;
        self.heard = self.heard.wrapping_add(1);
        self.failure = None;
        self.crowd = None;
        self.sent = asked.sent;
        self.ended = now;
        self.ended_stamp = stamp;
        true
    }

    /// Whether the vote may yet be taken by what was asked before, when a release was answered over `era`: what
    /// was asked over that connection was carried out first, and what an earlier run was asked never will be.
    fn may_take(&self, era: Era, now: Time) -> bool {
        let answered = Over::of(Some(era));
        let other = self.takes_over != answered && self.takes_over.same_run(answered);
        self.takes_until > now && other
    }

    /// Whether anything may have reached the node.
    pub(crate) fn touched(&self) -> bool {
        self.touched || self.asked()
    }

    /// What may still be carried out of all that was asked.
    fn quiet(&self) -> Settled {
        let asked = self
            .question
            .map_or(self.loose, |asked| self.loose.max(asked.takes));
        Settled {
            after: asked,
            heard: self.heard,
            after_find: self.before_first,
        }
    }

    /// An enqueue that was sent with the number `asked` was answered. Tells whether a push came before it.
    pub(crate) fn hear(
        &mut self,
        now: Time,
        ttl: Duration,
        asked: Option<u64>,
        answer: &Answer<Standing>,
        lease: Duration,
        factor: f64,
    ) -> bool {
        self.touched = true;
        self.misses = 0;
        self.up_since = answer.era.up_since;
        self.doubtful = false;
        self.place = None;
        self.gone = false;
        self.in_line = false;
        let mut overtaken = false;
        match answer.value {
            Standing::Granted {
                seq,
                left,
                outranked,
            } => {
                let until = valid_until(answer.sent, left, factor);
                self.vote = Some(Vote { until, seq });
                self.vote_sent = answer.sent;
                self.dead_on_arrival = until <= now;
                self.pushed_end = 0;
                self.full_ttl = left >= ttl;
                self.outranked = outranked;
                self.number = asked.or(self.number).or(Some(seq));
            }
            // It was answered before the vote was given that a push has told of since.
            Standing::Waiting {
                number, lease_end, ..
            } if self.vote.is_some() && lease_end <= self.pushed_end => {
                self.number = Some(number);
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
                    lease,
                    sent: answer.sent,
                });
                if let Some((lease_end, seq)) = self.early.take().map(|early| *early) {
                    overtaken = self.on_push(lease_end, seq, factor, now);
                    self.early = None;
                }
            }
            Standing::Full { waiting, .. } => {
                self.vote = None;
                self.crowd = Some(u32::try_from(waiting).unwrap_or(u32::MAX));
            }
            Standing::Superseded => self.vote = None,
        }
        self.takes_until = self.takes_until.min(self.loose);
        overtaken
    }

    pub(crate) fn on_extended(&mut self, answer: &Answer<Extended>, ttl: Duration, factor: f64) {
        self.touched = true;
        self.misses = 0;
        self.up_since = answer.era.up_since;
        self.doubtful = false;
        self.in_line = answer.value == Extended::InLine;
        self.gone = !matches!(answer.value, Extended::Stands { .. });
        self.place = None;
        match answer.value {
            Extended::Stands { seq } => {
                self.fenced = Some(seq);
                self.full_ttl |= !ttl.is_zero();
                let until = valid_until(answer.sent, ttl, factor);
                let known = self.vote.filter(|vote| vote.until > until);
                if known.is_none() {
                    self.vote_sent = answer.sent;
                    self.pushed_end = 0;
                }
                let until = known.map_or(until, |vote| vote.until);
                self.vote = Some(Vote { until, seq });
            }
            Extended::InLine | Extended::Gone => self.vote = None,
        }
        self.checked_stamp = self.ended_stamp;
        if !ttl.is_zero() {
            self.extended_stamp = self.ended_stamp;
            self.extended_sent = answer.sent;
        }
        self.takes_until = self.takes_until.min(self.loose);
    }

    /// A push told of a vote. False if it has not grown from the lease that we know: then the answer that
    /// it belongs to is still under way, or it is stale, and only the node knows.
    pub(crate) fn on_push(&mut self, lease_end: u64, seq: u64, factor: f64, now: Time) -> bool {
        let Some(place) = self.place.take_if(|place| place.lease_end == lease_end) else {
            self.early = Some(Box::new((lease_end, seq)));
            return false;
        };
        let until = valid_until(place.sent, place.lease, factor);
        self.vote = Some(Vote { until, seq });
        self.fenced = None;
        self.vote_sent = place.sent;
        self.pushed_end = lease_end;
        self.dead_on_arrival = until <= now;
        self.full_ttl = false;
        self.outranked = false;
        self.gone = false;
        true
    }

    pub(crate) fn fail(&mut self, error: NodeError) {
        // Without a proper answer it may still be carried out, until its deadline.
        if may_be_done(&error) {
            self.loose = self.loose.max(self.asked_until);
        }
        self.takes_until = self.takes_until.min(self.loose);
        self.failure = Some(Box::new(error));
    }

    /// What was believed of the node is unknown. A vote that was `counted` in a verdict keeps its validity:
    /// the lease was promised for that long, and a server that forgot it has no vote to give yet (S5).
    pub(crate) fn forget(&mut self, counted: bool) {
        if counted {
            self.doubt();
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
        self.misses = 0;
        self.urgent = true;
    }

    /// Whether a counted vote still stands is to be asked before it counts for more. It keeps its validity.
    pub(crate) fn doubt(&mut self) {
        self.doubtful = true;
        self.urgent = true;
    }

    /// Until when the vote or the place lasts, as far as is known.
    pub(crate) fn kept_until(&self) -> Option<Time> {
        let place = self
            .place
            .as_ref()
            .map(|place| place.sent.plus(place.lease));
        self.vote.map(|vote| vote.until).or(place)
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
        if let Some(asked) = self.question.take() {
            self.touched = true;
            self.loose = self.loose.max(asked.takes);
        }
    }
}

/// Whether what came to this may have been carried out, or may still be.
fn may_be_done(error: &NodeError) -> bool {
    matches!(
        error,
        NodeError::TimedOut | NodeError::Broken | NodeError::Garbled | NodeError::TooLong
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERA: Era = Era {
        epoch: 1,
        run: 1,
        up_since: Time::ORIGIN,
        up_before: Time::ORIGIN,
        clock_offset: 0,
        pushes: true,
    };

    /// Two answers of the same millisecond name the same end of the waiter lease.
    #[test]
    fn l6_an_answer_from_before_a_vote_does_not_undo_the_push_that_told_of_it() {
        let now = Time::ORIGIN.plus(Duration::from_secs(9));
        let lease = Duration::from_secs(5);
        let mut node = NodeState::new();
        let waits = |node: &mut NodeState, lease_end| {
            let value = Standing::Waiting {
                number: 7,
                ahead: 0,
                lease_end,
                holder_left: None,
            };
            let answer = Answer {
                sent: now,
                era: ERA,
                value,
            };
            node.hear(now, lease, Some(7), &answer, lease, 0.01)
        };
        waits(&mut node, 14_000);
        assert!(node.on_push(14_000, 8, 0.01, now));
        waits(&mut node, 14_000);
        assert!(node.vote.is_some(), "it was given later");
        waits(&mut node, 14_001);
        assert!(node.vote.is_none(), "it has ended since");
    }

    #[test]
    fn c3_what_was_asked_is_over_if_it_went_over_the_same_connection_or_to_an_earlier_run() {
        let era = |run, epoch| Era {
            epoch,
            run,
            up_since: Time::default(),
            up_before: Time::default(),
            clock_offset: 0,
            pushes: true,
        };
        let now = Time::default().plus(Duration::from_secs(9));
        let later = now.plus(Duration::from_secs(1));
        let asked = |eras: &[Option<Era>]| {
            let mut node = NodeState::new();
            for (stamp, era) in (0..).zip(eras) {
                node.ask(stamp, Some(later), *era, now);
            }
            node
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
