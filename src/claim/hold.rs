//! Granted, taken, held: the majority behind a lease, and its end.

use std::{fmt, time::Duration};

use crate::{
    claim::{Claim, End, Phase, Taken, Undo, seat::Seat},
    clock::Time,
    error::LeaseLost,
    quorum::{Majority, Vote},
    telemetry,
    validity::drift,
};

impl Claim {
    /// Takes what was granted, for a guard. Nothing is handed out that is not valid at `now`.
    pub(crate) fn take(
        &mut self,
        now: Time,
        renewal: Option<Duration>,
        max_hold: Option<Duration>,
    ) -> Taken {
        match self.phase {
            Phase::Ended(end) => return Taken::Ended(end),
            Phase::Aside => {
                // Polled again: it is first in line again, by its number.
                tracing::trace!("stood aside, and is polled again");
                self.phase = Phase::Waiting;
                self.progress = now;
                self.ask_all(now);
            }
            Phase::Granted { since } => {
                let Some(majority) = self.majority(now) else {
                    self.stand_again(now);
                    return Taken::NotYet;
                };
                // A renewal brings the full ttl; without one it has to be there before.
                let fit = |seat: &&Seat| seat.stands(now) && (renewal.is_some() || seat.full_ttl);
                let fit = self.seats.iter().filter(fit).count();
                if majority.agreed() && fit >= self.nodes.quorum.size() {
                    return Taken::Lease(self.hold(majority, now, renewal, max_hold));
                }
                self.fence(majority, since, now);
            }
            Phase::Fencing { done: true, .. } => match self.fenced_majority(now) {
                Some(majority) => {
                    return Taken::Lease(self.hold(majority, now, renewal, max_hold));
                }
                None => self.stand_again(now),
            },
            _ => {}
        }
        Taken::NotYet
    }

    /// Writes the fencing token, and the full ttl.
    fn fence(&mut self, majority: Majority, since: Time, now: Time) {
        if majority.agreed() {
            tracing::trace!("the votes are short or in doubt, extending before the guard is out");
        } else {
            tracing::trace!("counters differ, writing the fencing token");
        }
        self.token = majority.token();
        self.phase = Phase::Fencing { since, done: false };
        self.ask_all(now);
    }

    /// Sees to it that whoever asks from now on comes later, whatever becomes of this request (F1); answers
    /// whether that is so. A grant may have come before its number was on a quorum: its token must be.
    pub(crate) fn secure_place(&mut self, now: Time) -> bool {
        match self.phase {
            Phase::Granted { since } => match self.majority(now) {
                Some(majority) if majority.agreed() => {
                    self.stand_by_token(majority.token());
                    return true;
                }
                Some(majority) => self.fence(majority, since, now),
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
        renewal: Option<Duration>,
        max_hold: Option<Duration>,
    ) -> Majority {
        self.phase = Phase::Held;
        self.token = majority.token();
        self.renewal = renewal;
        self.held_until = max_hold.map(|span| now.plus(span));
        self.held_since = now;
        self.long_hold = self.nodes.config.long_hold.map(|span| now.plus(span));
        self.nodes.grace_is_over();
        telemetry::acquired(self.who(), self.token, now.since(self.asked));
        for place in 0..self.seats.len() {
            self.schedule(place, now);
        }
        majority
    }

    /// Until when the lease may be trusted; `now` if it may not.
    pub(crate) fn valid_until(&self, now: Time) -> Time {
        let votes = self.votes(now, |_| true).map(|vote| vote.until);
        let until = self.nodes.quorum.weakest(votes).unwrap_or(now);
        self.held_until.map_or(until, |end| until.min(end))
    }

    /// Whether the lease stands at `now`, by the clock alone.
    pub(crate) fn is_held(&self, now: Time) -> bool {
        self.phase == Phase::Held && self.valid_until(now) > now
    }

    /// The lease is renewed every `every` to last `ttl`, from now on.
    pub(crate) fn renew(&mut self, every: Option<Duration>, ttl: Duration, now: Time) {
        self.renewal = every;
        self.renewed_until = None;
        self.ttl = ttl;
        self.longest = self.longest.max(ttl);
        if every.is_some() {
            self.ask_all(now);
        }
    }

    pub(crate) fn renews(&self) -> bool {
        self.renewal.is_some()
    }

    /// Later renewals ask for `ttl`. An interval that follows from the ttl follows the new one.
    pub(crate) fn set_ttl(&mut self, ttl: Duration) {
        if self.renewal == Some(self.ttl / 3) {
            self.renewal = Some(ttl / 3);
        }
        self.ttl = ttl;
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
        let gone = self.seats.iter().filter(|seat| seat.gone).count();
        if self.held_until.is_some_and(|end| end <= now) {
            self.end(End::Lost(LeaseLost::MaxHold), now);
        } else if !self.nodes.quorum.possible_without(gone) {
            self.end(End::Lost(LeaseLost::QuorumLost), now);
        } else if self.valid_until(now) <= now {
            self.end(End::Lost(LeaseLost::Expired), now);
        }
    }

    /// Ends the claim, and leaves what is to be taken back.
    pub(crate) fn end(&mut self, end: End, now: Time) {
        if matches!(self.phase, Phase::Ended(_)) {
            return;
        }
        // Also of one that stands aside: what it had may not have been given up yet, and whoever leaves is told
        // when it is.
        self.news.undo = Some(self.undo(now));
        self.tell_end(end, now);
        self.phase = Phase::Ended(end);
        self.news.wake = true;
    }

    fn tell_end(&self, end: End, now: Time) {
        let held = now.since(self.held_since);
        match (self.phase, end) {
            (Phase::Held, End::Lost(why)) => {
                let overdue = now.since(self.trusted_until().unwrap_or(now));
                telemetry::lost(self.who(), self.token, held, why, overdue, Faults(self));
            }
            (Phase::Held, _) => telemetry::released(self.who(), self.token, held),
            _ if self.is_in_line() => {
                telemetry::left(self.who(), self.position, now.since(self.asked));
            }
            _ => {}
        }
    }

    /// Until when the votes may be trusted, or could have been.
    fn trusted_until(&self) -> Option<Time> {
        let votes = self.seats.iter().filter_map(|seat| seat.vote);
        self.nodes.quorum.weakest(votes.map(|vote| vote.until))
    }

    /// Tells of a renewal once a quorum has it. Nodes answer one by one, each moving the validity by a
    /// little; only half an interval in all is a renewal.
    pub(super) fn note_renewal(&mut self, now: Time) {
        let full = self.seats.iter().filter(|seat| seat.full_ttl);
        if full.count() < self.nodes.quorum.size() {
            return;
        }
        let until = self.trusted_until();
        let (Some(every), Some(before), Some(after)) = (self.renewal, self.renewed_until, until)
        else {
            self.renewed_until = until;
            return;
        };
        if after < before.plus(every / 2) {
            return;
        }
        self.renewed_until = until;
        let factor = self.nodes.config.clock_drift_factor;
        let usual = self.ttl.saturating_sub(drift(self.ttl, factor));
        telemetry::renewed(
            self.who(),
            self.token,
            before.since(now),
            usual.saturating_sub(every),
            self.ttl,
            &self.nodes.late,
            now,
        );
    }

    pub(super) fn check_hold(&mut self, now: Time) {
        if self.phase == Phase::Held && self.long_hold.take_if(|due| *due <= now).is_some() {
            telemetry::held_long(self.who(), self.token, now.since(self.held_since));
        }
    }

    pub(super) fn undo(&self, now: Time) -> Undo {
        let config = &self.nodes.config;
        let longest = self.longest.max(config.fifo_ephemeral_ttl);
        // On a node whose clock is slow it lasts longer than that.
        let longest = longest.saturating_add(drift(longest, config.clock_drift_factor));
        let touched = |(_, seat): &(usize, &Seat)| seat.touched();
        let touched = self.seats.iter().enumerate().filter(touched);
        let mut places = Vec::with_capacity(self.seats.len());
        places.extend(touched.map(|(place, seat)| (place, seat.quiet())));
        Undo {
            id: self.id.clone(),
            places,
            expires: now.plus(longest).plus(config.node_timeout),
        }
    }

    pub(super) fn majority(&self, now: Time) -> Option<Majority> {
        let grace = &self.nodes.grace;
        self.majority_of(now, |seat| grace.left(seat.up_since, now).is_zero())
    }

    /// The majority of those that have the fencing token, too: votes that came later do not count, or
    /// their counters would raise the token after it was written (S2).
    pub(super) fn fenced_majority(&self, now: Time) -> Option<Majority> {
        let grace = &self.nodes.grace;
        self.majority_of(now, |seat| {
            seat.fenced == Some(self.token) && grace.left(seat.up_since, now).is_zero()
        })
    }

    pub(super) fn majority_of(
        &self,
        now: Time,
        counts: impl Fn(&Seat) -> bool + Clone,
    ) -> Option<Majority> {
        Majority::of(self.nodes.quorum, self.votes(now, counts), now)
    }

    fn votes(
        &self,
        now: Time,
        counts: impl Fn(&Seat) -> bool + Clone,
    ) -> impl Iterator<Item = Vote> + Clone {
        let stands = move |vote: &Vote| vote.until > now;
        self.seats.iter().filter_map(move |seat| {
            let vote = seat.vote.filter(stands)?;
            counts(seat).then_some(vote)
        })
    }
}

/// What is wrong with which node; nothing if all have answered and have the vote.
struct Faults<'a>(&'a Claim);

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (node, seat) in self.0.nodes.list.iter().zip(&self.0.seats) {
            match &seat.failure {
                Some(error) => write!(f, "{separator}{}: {error}", node.name())?,
                None if seat.gone => write!(f, "{separator}{}: has it no more", node.name())?,
                None => continue,
            }
            separator = "; ";
        }
        Ok(())
    }
}
