//! What one request is believed to have on one node, and which commands to it are under way.
//!
//! When the node is to be asked again is not noted here. It follows from what is believed (`request::ask`): when
//! the last command was sent and ended, which send the vote or the place counts from, and what is missing.

use std::time::Duration;

use crate::{
    config::Config,
    error::NodeError,
    message::{Answer, Extend, Extended, Incarnation, Standing},
    request::Urgency,
    time::Time,
};

mod belief;
mod pending;
mod release;

pub(crate) use belief::{Belief, NodeVote, Place};
use pending::Pending;
pub(crate) use release::Outcome;
use release::Releasing;

/// One request on one node.
#[derive(Clone, Debug)]
pub(crate) struct NodeState {
    /// What the request is believed to have there.
    pub(crate) has: Belief,
    /// The number that the request has in the node's queue.
    pub(crate) number: Option<u64>,
    /// When the server started.
    pub(crate) up_since: Time,
    /// Whether it is to be asked as soon as no command is under way.
    pub(crate) urgent: bool,
    /// How urgently a command to it waits for its turn, if one does.
    pub(crate) queued: Option<Urgency>,
    /// A push that came before the answer it belongs to. Boxed, as the failure is: ten thousand requests may
    /// wait at once, and hardly any has either.
    early: Option<Box<Push>>,
    /// Why the last command was not answered.
    pub(crate) failure: Option<Box<NodeError>>,
    /// How many keep-alives in a row were not answered within the short time that a short waiter ttl leaves.
    pub(crate) misses: u8,
    /// When the last command that ended was sent, when it ended, and its number.
    pub(crate) sent: Time,
    pub(crate) ended: Time,
    pub(crate) ended_stamp: u32,
    /// The number of the last answered command about a lease, and of the last that prolonged it.
    pub(crate) checked_stamp: u32,
    pub(crate) extended_stamp: u32,
    /// When the last command that prolonged the lease was sent.
    pub(crate) extended_sent: Time,
    pending: Pending,
    /// How the release stands once the request has ended or is parked.
    release: Option<Box<Releasing>>,
}

/// What a push told of a vote.
#[derive(Clone, Copy, Debug)]
struct Push {
    waiter_end: u64,
    seq: u64,
}

impl NodeState {
    pub(crate) fn new() -> Self {
        Self {
            has: Belief::Nothing,
            number: None,
            up_since: Time::default(),
            urgent: true,
            queued: None,
            early: None,
            failure: None,
            misses: 0,
            sent: Time::default(),
            ended: Time::default(),
            ended_stamp: 0,
            checked_stamp: 0,
            extended_stamp: 0,
            extended_sent: Time::default(),
            pending: Pending::new(),
            release: None,
        }
    }

    /// A command is sent over the connection `over`. If it can take the vote or a place, then until `takes_until`.
    pub(crate) fn send(
        &mut self,
        stamp: u32,
        takes_until: Option<Time>,
        over: Option<Incarnation>,
        now: Time,
    ) {
        self.urgent = false;
        self.pending.send(stamp, takes_until, over, now);
    }

    /// The command `stamp` has ended; the caller passes its outcome on next. False if its answer is not awaited.
    pub(crate) fn end(&mut self, stamp: u32, now: Time, sent: bool) -> bool {
        let Some(awaited) = self.pending.end(stamp, sent) else {
            return false;
        };
        self.failure = None;
        if matches!(self.has, Belief::NoRoom { .. }) {
            self.has = Belief::Nothing;
        }
        self.sent = awaited.sent;
        self.ended = now;
        self.ended_stamp = stamp;
        true
    }

    /// Whether a command is under way.
    pub(crate) fn is_asked(&self) -> bool {
        self.pending.is_awaited()
    }

    /// Whether the command or the release `stamp` is under way.
    pub(crate) fn awaits(&self, stamp: u32) -> bool {
        self.pending.awaits(stamp) || self.releases(stamp)
    }

    /// Whether anything may have reached the node.
    pub(crate) fn touched(&self) -> bool {
        self.pending.touched()
    }

    fn on_answer<T>(&mut self, answer: &Answer<T>) {
        self.pending.answered();
        self.misses = 0;
        self.up_since = answer.incarnation.up_since;
    }

    /// An enqueue that was sent with the number `asked` was answered. Tells whether a push came before the answer.
    pub(crate) fn on_enqueued(
        &mut self,
        now: Time,
        ttl: Duration,
        asked: Option<u64>,
        answer: &Answer<Standing>,
        waiter_ttl: Duration,
        config: &Config,
    ) -> bool {
        self.on_answer(answer);
        match answer.value {
            Standing::Granted {
                seq,
                left,
                outranked,
            } => {
                let until = answer.sent.plus(config.validity(left));
                self.number = asked.or(self.number).or(Some(seq));
                self.has = Belief::Vote(NodeVote {
                    full_ttl: left >= ttl,
                    outranked,
                    ..NodeVote::new(until, seq, answer.sent, now)
                });
            }
            Standing::Waiting {
                number,
                ahead,
                waiter_end,
                holder_left,
            } => {
                self.number = Some(number);
                // The node answered before it gave the vote that a push has told of since. For a vote that an answer told
                // of, `pushed_end` is 0, before every end.
                if self
                    .vote()
                    .is_some_and(|vote| waiter_end <= vote.pushed_end)
                {
                    return false;
                }
                self.has = Belief::Waiting(Place {
                    ahead,
                    holder_until: holder_left.map(|left| now.plus(left)),
                    waiter_end,
                    waiter_ttl,
                    sent: answer.sent,
                });
                if let Some(early) = self.early.take() {
                    let matches = self.on_push(early.waiter_end, early.seq, config, now);
                    self.early = None;
                    return matches;
                }
            }
            Standing::Full { waiting, .. } => {
                let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
                self.has = Belief::NoRoom { waiting };
            }
            Standing::Superseded => self.has = Belief::Nothing,
        }
        false
    }

    pub(crate) fn on_extended(
        &mut self,
        answer: &Answer<Extended>,
        asked: &Extend,
        config: &Config,
        now: Time,
    ) {
        let ttl = asked.ttl;
        self.on_answer(answer);
        self.has = match answer.value {
            Extended::Stands { seq } => {
                // Nobody else can have had a vote that has been ours all the time. Its counter may have moved on: with
                // every waiter that arrives, and the token need not follow that.
                let ours = self.vote().filter(|vote| vote.until > answer.sent);
                let seq = ours.map_or(seq, |vote| vote.seq.max(asked.token));
                let until = answer.sent.plus(config.validity(ttl));
                let mut vote = NodeVote::new(until, seq, answer.sent, now);
                match self.vote() {
                    Some(known) if known.until > until => vote = *known,
                    Some(known) => vote.full_ttl = known.full_ttl,
                    None => {}
                }
                Belief::Vote(NodeVote {
                    seq,
                    full_ttl: vote.full_ttl || !ttl.is_zero(),
                    fenced: Some(seq),
                    doubtful: false,
                    ..vote
                })
            }
            Extended::InLine => Belief::Gone { in_line: true },
            Extended::Gone => Belief::Gone { in_line: false },
        };
        self.checked_stamp = self.ended_stamp;
        if !ttl.is_zero() {
            self.extended_stamp = self.ended_stamp;
            self.extended_sent = answer.sent;
        }
    }

    /// A push told of a vote. False if the vote has not grown from the waiter ttl that we know of: then the answer
    /// that it belongs to is still under way, or the push is stale, and only the node knows.
    pub(crate) fn on_push(
        &mut self,
        waiter_end: u64,
        seq: u64,
        config: &Config,
        now: Time,
    ) -> bool {
        match &self.has {
            Belief::Waiting(place) if place.waiter_end == waiter_end => {
                let until = place.sent.plus(config.validity(place.waiter_ttl));
                self.has = Belief::Vote(NodeVote {
                    pushed_end: waiter_end,
                    ..NodeVote::new(until, seq, place.sent, now)
                });
                true
            }
            _ => {
                self.early = Some(Box::new(Push { waiter_end, seq }));
                false
            }
        }
    }

    /// The command that ended last was not answered.
    pub(crate) fn fail(&mut self, error: NodeError) {
        self.pending.unanswered(may_have_run(&error));
        self.failure = Some(Box::new(error));
    }

    /// The connection is new, so what is believed of the node has to be asked again. A vote that was `counted` in a
    /// verdict keeps its validity: the lease was promised for that long, and a server that forgot the vote does
    /// not vote again before that (S5).
    pub(crate) fn forget(&mut self, counted: bool) {
        if counted {
            self.doubt();
        } else {
            self.pending.abandon();
            self.has = Belief::Nothing;
            self.early = None;
        }
        self.misses = 0;
        self.urgent = true;
    }

    /// A counted vote is to be confirmed before it counts for more; it keeps its validity. A place is to be asked for
    /// again.
    pub(crate) fn doubt(&mut self) {
        self.early = None;
        match &mut self.has {
            Belief::Vote(vote) => vote.doubtful = true,
            Belief::Waiting(_) => self.has = Belief::Nothing,
            Belief::Nothing | Belief::NoRoom { .. } | Belief::Gone { .. } => {}
        }
        self.urgent = true;
    }

    pub(crate) fn vote(&self) -> Option<&NodeVote> {
        match &self.has {
            Belief::Vote(vote) => Some(vote),
            _ => None,
        }
    }

    pub(crate) fn place(&self) -> Option<&Place> {
        match &self.has {
            Belief::Waiting(place) => Some(place),
            _ => None,
        }
    }

    /// How many waited when there was no room.
    pub(crate) fn no_room(&self) -> Option<u32> {
        match self.has {
            Belief::NoRoom { waiting } => Some(waiting),
            _ => None,
        }
    }

    /// Whether the node says that it has not got the holder's vote.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.has, Belief::Gone { .. })
    }

    /// Whether the vote lasts for the full ttl.
    pub(crate) fn has_full_ttl(&self) -> bool {
        self.vote().is_some_and(|vote| vote.full_ttl)
    }

    /// Until when the vote or the place lasts, as far as is known.
    pub(crate) fn kept_until(&self) -> Option<Time> {
        match &self.has {
            Belief::Vote(vote) => Some(vote.until),
            Belief::Waiting(place) => Some(place.sent.plus(place.waiter_ttl)),
            _ => None,
        }
    }

    /// How many waiters are ahead there; none if the vote is ours.
    pub(crate) fn ahead(&self) -> Option<u64> {
        match &self.has {
            Belief::Vote(_) => Some(0),
            Belief::Waiting(place) => Some(place.ahead),
            _ => None,
        }
    }

    /// Whether the lease can be taken to stand on this node.
    pub(crate) fn stands(&self, now: Time) -> bool {
        let stands = |vote: &NodeVote| !vote.doubtful && vote.until > now;
        self.vote().is_some_and(stands)
    }
}

/// Whether a command that ended like this may have been carried out, or may still be.
fn may_have_run(error: &NodeError) -> bool {
    matches!(
        error,
        NodeError::TimedOut | NodeError::Broken | NodeError::Garbled | NodeError::TooLong
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two answers of the same millisecond name the same end of the waiter ttl.
    #[test]
    fn l6_an_answer_from_before_a_vote_does_not_undo_the_push_that_told_of_it() {
        let now = Time::ORIGIN.plus(Duration::from_secs(9));
        let waiter_ttl = Duration::from_secs(5);
        let mut node = NodeState::new();
        let waits = |node: &mut NodeState, waiter_end| {
            let value = Standing::Waiting {
                number: 7,
                ahead: 0,
                waiter_end,
                holder_left: None,
            };
            let answer = Answer {
                sent: now,
                incarnation: Incarnation::test(1, 1),
                value,
            };
            node.on_enqueued(
                now,
                waiter_ttl,
                Some(7),
                &answer,
                waiter_ttl,
                &Config::default(),
            )
        };
        waits(&mut node, 14_000);
        assert!(node.on_push(14_000, 8, &Config::default(), now));
        waits(&mut node, 14_000);
        assert!(node.vote().is_some(), "it was given later");
        waits(&mut node, 14_001);
        assert!(node.vote().is_none(), "it has ended since");
    }
}
