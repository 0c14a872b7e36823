//! From a grant to a guard: when a lease can be handed out, and with which fencing token.

use std::time::Duration;

use crate::{
    quorum::Majority,
    request::{Cx, End, Phase, Renewal, Request, may_vote, node_state::NodeState},
    time::Time,
};

/// What an attempt to take the lease comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Taken {
    /// The lease is there.
    Lease(Majority),
    /// Not yet. A parked request is in line again.
    NotYet,
    /// There is nothing to take any more.
    Ended(End),
}

impl Request {
    /// Takes what was granted, for a guard. No lease is handed out that is not valid at `now`.
    pub(crate) fn take(
        &mut self,
        cx: Cx<'_>,
        renewal: Renewal,
        max_hold: Option<Duration>,
    ) -> Taken {
        let now = cx.now;
        let majority = match self.phase {
            Phase::Ended(end) => return Taken::Ended(end),
            Phase::Parked => {
                self.come_back(now);
                return Taken::NotYet;
            }
            Phase::Granted { since } => match self.majority(cx) {
                Some(majority) if !self.is_fit(majority, renewal, cx) => {
                    self.fence(majority, since, cx);
                    return Taken::NotYet;
                }
                majority => majority,
            },
            // The ticker keeps these votes fresh while the grant lasts. The token is not written again for a late
            // caller: the grant would start anew each time, and callers that are always late would block all others
            // (C4).
            Phase::Fencing {
                done: true, token, ..
            } => self
                .fenced_majority(token, cx)
                .filter(|majority| self.lasts(*majority, Renewal::Third, now)),
            _ => return Taken::NotYet,
        };
        match majority {
            Some(majority) => Taken::Lease(self.hold(majority, now, renewal, max_hold)),
            None => {
                self.stand_again(now);
                Taken::NotYet
            }
        }
    }

    /// Whether a lease on these votes can be handed out as it is: the counters agree, none is below what an earlier
    /// run of a server may have given, and there is time for a renewal, or the full ttl where none comes.
    fn is_fit(&self, majority: Majority, renewal: Renewal, cx: Cx<'_>) -> bool {
        let now = cx.now;
        let fit = |node: &&NodeState| {
            node.stands(now) && (renewal != Renewal::Off || node.has_full_ttl())
        };
        majority.agreed()
            && majority.token() >= self.least_token(cx)
            && self.nodes.iter().filter(fit).count() >= self.quorum.size()
            && self.lasts(majority, renewal, now)
    }

    /// Whether the votes last long enough: for one renewal to be answered, or, without renewal, for the full validity
    /// less the time of one answer.
    fn lasts(&self, majority: Majority, renewal: Renewal, now: Time) -> bool {
        let config = &self.config;
        let (left, answer) = (majority.until().since(now), config.timeout(self.ttl));
        match renewal {
            Renewal::Off => left + answer >= config.validity(self.ttl),
            _ => left >= answer,
        }
    }

    /// Writes the fencing token and the full ttl.
    fn fence(&mut self, majority: Majority, since: Time, cx: Cx<'_>) {
        self.trace(if majority.agreed() {
            "the votes are short or in doubt, extending before the guard is out"
        } else {
            "counters differ, writing the fencing token"
        });
        let token = majority.token().max(self.least_token(cx));
        let done = false;
        self.phase = Phase::Fencing { since, token, done };
        self.ask_all();
    }

    /// A node has answered while the token is written.
    pub(super) fn on_fenced(&mut self, cx: Cx<'_>) {
        let Phase::Fencing {
            since,
            token,
            done: false,
        } = self.phase
        else {
            return;
        };
        // Others may have had the vote meanwhile: then their counter is the one to write.
        let fenced = |node: &NodeState| node.vote()?.fenced;
        let highest = self.nodes.iter().filter_map(fenced).max();
        let token = token.max(highest.unwrap_or(0));
        let done = self.fenced_majority(token, cx).is_some();
        // Its turn begins now: nobody could take it before, however long this took.
        let since = if done { cx.now } else { since };
        self.phase = Phase::Fencing { since, token, done };
        if done {
            self.stand_by_token(token);
            self.news.wake = true;
        }
    }

    /// What the fencing token has to be at least, by what the nodes that voted may have forgotten (S2).
    fn least_token(&self, cx: Cx<'_>) -> u64 {
        let voted = |node: &&NodeState| node.vote().is_some() && may_vote(node, cx);
        let voted = self.nodes.iter().filter(voted);
        let least = voted.map(|node| cx.servers.least_token(node.up_since));
        least.max().unwrap_or(0)
    }

    /// The majority of those that have the fencing token, too. Votes that came later do not count, or their counters
    /// would raise the token after it was written (S2).
    fn fenced_majority(&self, token: u64, cx: Cx<'_>) -> Option<Majority> {
        self.majority_of(cx.now, |node| {
            node.vote().and_then(|vote| vote.fenced) == Some(token) && may_vote(node, cx)
        })
    }

    /// Whether the fencing token can no longer be written, as the votes have ended and no answer is awaited. Nothing
    /// more is sent once they have ended: a way that is too long for the ttl would never come to an end.
    pub(super) fn is_fencing_over(&self, cx: Cx<'_>) -> bool {
        self.majority(cx).is_none() && !self.nodes.iter().any(NodeState::is_asked)
    }

    /// Makes sure that later requests come later, whatever becomes of this one (F1); tells whether that is so. A
    /// grant may have come before its number was on a quorum: then its token must be.
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

    /// The counters of a quorum have reached `token`. Lowers the number to it if that is higher: otherwise later
    /// arrivals could overtake this request. A lower number stays, since others may have come in between.
    fn stand_by_token(&mut self, token: u64) {
        self.number = Some(self.number.map_or(token, |number| number.min(token)));
    }
}
