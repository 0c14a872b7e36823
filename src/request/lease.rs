//! Granted, taken, held: the majority behind a lease, and its end.

use std::time::Duration;

use crate::{
    error::LeaseLost,
    event::{Fault, What},
    quorum::{Majority, Vote},
    request::{Cx, End, Phase, Renewal, Request, Taken, is_later, node_state::NodeState},
    time::Time,
};

/// What a round of questions about a lease came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// On a quorum.
    Stands,
    /// A quorum has it no more.
    Gone,
    /// Too few have answered.
    Unknown,
}

impl Request {
    /// Takes what was granted, for a guard. Nothing is handed out that is not valid at `now`.
    pub(crate) fn take(
        &mut self,
        cx: Cx<'_>,
        renewal: Renewal,
        max_hold: Option<Duration>,
    ) -> Taken {
        let now = cx.now;
        match self.phase {
            Phase::Ended(end) => return Taken::Ended(end),
            Phase::Parked if self.rests_until.is_some() => {}
            Phase::Parked if self.room == Some(0) => self.begin_anew(),
            Phase::Parked => {
                // Polled again: it is first in line again, by its number.
                self.trace("stood aside, and is polled again");
                self.phase = Phase::Waiting;
                self.progress = now;
                self.next_generation();
            }
            Phase::Granted { since } => {
                let Some(majority) = self.majority(cx) else {
                    self.stand_again(now);
                    return Taken::NotYet;
                };
                // A renewal brings the full ttl, where there is time for one; else it has to be there before.
                let fit = |node: &&NodeState| {
                    node.stands(now) && (renewal != Renewal::Off || node.full_ttl)
                };
                let fit = self.nodes.iter().filter(fit).count() >= self.quorum.size();
                let high = majority.token() >= self.least_token(cx);
                if majority.agreed() && high && fit && self.lasts(majority, renewal, now) {
                    return Taken::Lease(self.hold(majority, now, renewal, max_hold));
                }
                self.fence(majority, since, cx);
            }
            Phase::Fencing { done: true, .. } => match self.fenced_majority(cx) {
                // It is kept fresh for as long as its turn lasts. To write it once more for whoever comes late would
                // go on as long as somebody does, and keep all others waiting (C4).
                Some(majority) if self.lasts(majority, Renewal::Third, now) => {
                    return Taken::Lease(self.hold(majority, now, renewal, max_hold));
                }
                _ => self.stand_again(now),
            },
            _ => {}
        }
        Taken::NotYet
    }

    /// Whether enough is left of the votes: time for a renewal to be answered, or, where none comes, all but that.
    fn lasts(&self, majority: Majority, renewal: Renewal, now: Time) -> bool {
        let config = &self.config;
        let (left, answer) = (majority.until().since(now), config.timeout(self.ttl));
        match renewal {
            Renewal::Off => left + answer >= config.validity(self.ttl),
            _ => left >= answer,
        }
    }

    /// Writes the fencing token, and the full ttl.
    fn fence(&mut self, majority: Majority, since: Time, cx: Cx<'_>) {
        self.trace(if majority.agreed() {
            "the votes are short or in doubt, extending before the guard is out"
        } else {
            "counters differ, writing the fencing token"
        });
        self.token = majority.token().max(self.least_token(cx));
        self.phase = Phase::Fencing { since, done: false };
        for node in &mut self.nodes {
            node.fenced = None;
        }
        self.ask_all();
    }

    /// What its fencing token has to be at least, by what the nodes that voted may have forgotten.
    fn least_token(&self, cx: Cx<'_>) -> u64 {
        let counts = |node: &&NodeState| {
            node.vote.is_some() && cx.servers.grace_left(node.up_since, cx.now).is_zero()
        };
        let least = self
            .nodes
            .iter()
            .filter(counts)
            .map(|node| cx.servers.least_token(node.up_since));
        least.max().unwrap_or(0)
    }

    /// Sees to it that whoever asks from now on comes later, whatever becomes of this request (F1); answers
    /// whether that is so. A grant may have come before its number was on a quorum: its token must be.
    pub(crate) fn secure_place(&mut self, cx: Cx<'_>) -> bool {
        let now = cx.now;
        match self.phase {
            Phase::Granted { since } => match self.majority(cx) {
                Some(majority) if majority.agreed() => {
                    self.stand_by_token(majority.token());
                    return true;
                }
                Some(majority) => self.fence(majority, since, cx),
                None => self.stand_again(now),
            },
            Phase::Fencing { done: false, .. } => {}
            _ => return self.is_settled(),
        }
        false
    }

    /// The counters of a quorum are at `token` or past it. A higher number would let those come first who ask
    /// from now on. A lower one stays: others may have come in between.
    pub(super) fn stand_by_token(&mut self, token: u64) {
        self.number = Some(self.number.map_or(token, |number| number.min(token)));
    }

    fn hold(
        &mut self,
        majority: Majority,
        now: Time,
        renewal: Renewal,
        max_hold: Option<Duration>,
    ) -> Majority {
        self.phase = Phase::Held;
        self.missed_turns = 0;
        self.token = majority.token();
        self.renewal = renewal;
        self.held_until = max_hold.map(|span| now.plus(span));
        self.held_since = now;
        self.long_hold = self.config.long_hold.map(|span| now.plus(span));
        self.tell(What::Acquired {
            token: self.token,
            wait: now.since(self.asked),
        });
        majority
    }

    /// Until when the lease may be trusted; `now` if it may not.
    pub(crate) fn valid_until(&self, now: Time) -> Time {
        let votes = self.votes(now, |_| true).map(|vote| vote.until);
        let until = self.quorum.weakest(votes).unwrap_or(now);
        self.held_until.map_or(until, |end| until.min(end))
    }

    /// Whether the lease stands at `now`, by the clock alone.
    pub(crate) fn is_held(&self, now: Time) -> bool {
        self.phase == Phase::Held && self.valid_until(now) > now
    }

    /// The lease is renewed every `every` to last `ttl`, from now on.
    pub(crate) fn renew(&mut self, every: Duration, ttl: Duration, now: Time) {
        self.renewal = Renewal::Every(every);
        self.renewed_until = None;
        self.wish_extended(ttl, now);
    }

    /// The lease is not renewed any more.
    pub(crate) fn stop_renewing(&mut self) {
        self.renewal = Renewal::Off;
        self.renewed_until = None;
    }

    /// What the nodes have answered to questions above `wish`, once that is certain: those that prolong the lease
    /// if it is to be `extended`.
    pub(crate) fn round(&self, wish: u32, extended: bool) -> Option<Round> {
        let (mut stand, mut gone, mut open) = (0, 0, false);
        for node in &self.nodes {
            let answered = if extended {
                node.extended_stamp
            } else {
                node.checked_stamp
            };
            if is_later(answered, wish) {
                let stands = node.vote.is_some();
                stand += usize::from(stands);
                gone += usize::from(!stands);
            } else {
                let failed = node.failure.is_some() && is_later(node.ended_stamp, wish);
                open |= !failed;
            }
        }
        let quorum = self.quorum;
        if stand >= quorum.size() {
            Some(Round::Stands)
        } else if !quorum.possible_without(gone) {
            Some(Round::Gone)
        } else {
            (!open).then_some(Round::Unknown)
        }
    }

    pub(crate) fn renews(&self) -> bool {
        self.renewal != Renewal::Off
    }

    /// Declares the lease lost if it is; returns why.
    pub(crate) fn check(&mut self, now: Time) -> Option<LeaseLost> {
        if self.phase == Phase::Held {
            self.check_lease(now);
        }
        self.ended()
    }

    /// Why there is no lease any more, if it ended.
    pub(crate) fn ended(&self) -> Option<LeaseLost> {
        match self.phase {
            Phase::Ended(End::Lost(why)) => Some(why),
            Phase::Ended(_) => Some(LeaseLost::Released),
            _ => None,
        }
    }

    pub(super) fn check_lease(&mut self, now: Time) {
        let gone = self.nodes.iter().filter(|node| node.gone).count();
        if self.held_until.is_some_and(|end| end <= now) {
            self.end(End::Lost(LeaseLost::MaxHold), now);
        } else if !self.quorum.possible_without(gone) {
            self.end(End::Lost(LeaseLost::QuorumLost), now);
        } else if self.valid_until(now) <= now {
            self.end(End::Lost(LeaseLost::Expired), now);
        }
    }

    /// Ends the request. What it has on the nodes is taken back from here on.
    pub(crate) fn end(&mut self, end: End, now: Time) {
        if matches!(self.phase, Phase::Ended(_)) {
            return;
        }
        self.tell_end(end, now);
        self.phase = Phase::Ended(end);
        self.news.wake = true;
        // Also of one that stands aside: what it had may not have been given up yet.
        self.start_undoing(now);
    }

    fn tell_end(&mut self, end: End, now: Time) {
        let (held, token) = (now.since(self.held_since), self.token);
        let what = match (self.phase, end) {
            (Phase::Held, End::Lost(why)) => What::Lost {
                token,
                held,
                why,
                overdue: now.since(self.trusted_until().unwrap_or(now)),
                faults: self.faults(),
            },
            (Phase::Held, _) => What::Released { token, held },
            _ if self.is_in_line() => What::Left {
                position: self.position,
                wait: now.since(self.asked),
            },
            _ => return,
        };
        self.tell(what);
    }

    /// Until when the votes may be trusted, or could have been.
    fn trusted_until(&self) -> Option<Time> {
        let votes = self.nodes.iter().filter_map(|node| node.vote);
        self.quorum.weakest(votes.map(|vote| vote.until))
    }

    /// Tells of a renewal once a quorum has it. Nodes answer one by one, each moving the validity by a
    /// little; only half an interval in all is a renewal.
    pub(super) fn note_renewal(&mut self, now: Time) {
        let full = self.nodes.iter().filter(|node| node.full_ttl);
        if full.count() < self.quorum.size() {
            return;
        }
        let until = self.trusted_until();
        let validity = self.config.validity(self.ttl);
        let every = match self.renewal {
            Renewal::Off => None,
            Renewal::Third => Some(validity / 3),
            Renewal::Every(every) => Some(every),
        };
        let (Some(every), Some(before), Some(after)) = (every, self.renewed_until, until) else {
            self.renewed_until = until;
            return;
        };
        if after < before.plus(every / 2) {
            return;
        }
        self.renewed_until = until;
        self.tell(What::Renewed {
            token: self.token,
            margin: before.since(now),
            usual: validity.saturating_sub(every),
            ttl: self.ttl,
        });
    }

    pub(super) fn check_hold(&mut self, now: Time) {
        if self.phase == Phase::Held && self.long_hold.take_if(|due| *due <= now).is_some() {
            self.tell(What::HeldLong {
                token: self.token,
                held: now.since(self.held_since),
            });
        }
    }

    pub(super) fn majority(&self, cx: Cx<'_>) -> Option<Majority> {
        let now = cx.now;
        self.majority_of(now, |node| {
            cx.servers.grace_left(node.up_since, now).is_zero()
        })
    }

    /// The majority of those that have the fencing token, too: votes that came later do not count, or
    /// their counters would raise the token after it was written (S2).
    pub(super) fn fenced_majority(&self, cx: Cx<'_>) -> Option<Majority> {
        let now = cx.now;
        self.majority_of(now, |node| {
            node.fenced == Some(self.token) && cx.servers.grace_left(node.up_since, now).is_zero()
        })
    }

    pub(super) fn majority_of(
        &self,
        now: Time,
        counts: impl Fn(&NodeState) -> bool + Clone,
    ) -> Option<Majority> {
        Majority::of(self.quorum, self.votes(now, counts), now)
    }

    fn votes(
        &self,
        now: Time,
        counts: impl Fn(&NodeState) -> bool + Clone,
    ) -> impl Iterator<Item = Vote> + Clone {
        let stands = move |vote: &Vote| vote.until > now;
        self.nodes.iter().filter_map(move |node| {
            let vote = node.vote.filter(stands)?;
            counts(node).then_some(vote)
        })
    }

    /// Whether the lease stands on a quorum and no node more, so that one fault may end it.
    pub(crate) fn is_bare(&self, now: Time) -> bool {
        let standing = self.nodes.iter().filter(|node| node.stands(now)).count();
        self.phase == Phase::Held
            && standing <= self.quorum.size()
            && self.nodes.len() > self.quorum.size()
    }

    /// What is wrong with which node; nothing if all have answered and have the vote.
    fn faults(&self) -> Vec<Fault> {
        let fault = |(place, node): (usize, &NodeState)| match &node.failure {
            Some(error) => Some((place, Some((**error).clone()))),
            None => node.gone.then_some((place, None)),
        };
        self.nodes.iter().enumerate().filter_map(fault).collect()
    }
}
