//! Which command a node is sent, and how long it may take.

use std::time::Duration;

use crate::{
    message::{Command, Enqueue, Extend, Release},
    quorum::NodeIndex,
    request::{Lease, Phase, Request, node_state::NodeState},
    time::Time,
};

/// The least time that a release is given, unless `node_timeout` is shorter.
const LEAST_FOR_RELEASE: Duration = Duration::from_millis(500);

impl Request {
    /// The command to a node at this moment, and how long it may take.
    pub(super) fn command(&self, index: NodeIndex, now: Time) -> Option<(Command, Duration)> {
        let config = &self.config;
        let (resource, id) = (self.resource.clone(), self.id.clone());
        Some(match &self.phase {
            Phase::Ended(_) | Phase::Parked => {
                let release = Release { resource, id };
                (Command::Release(release), self.release_timeout())
            }
            Phase::Asking | Phase::NoRoom | Phase::Waiting | Phase::Granted { .. } => {
                let timeout = match self.number {
                    Some(_) => self.keep_alive_timeout(),
                    None => config.node_timeout.min(self.ttl / 3),
                };
                let enqueue = Enqueue {
                    resource,
                    id,
                    number: self.number,
                    ttl: self.ttl,
                    room: self.room,
                };
                (Command::Enqueue(enqueue), timeout)
            }
            Phase::Fencing { token, .. } => {
                let extend = Extend {
                    resource,
                    id,
                    ttl: self.ttl,
                    token: *token,
                    repair: false,
                };
                (Command::Extend(extend), self.extend_timeout(self.ttl, now))
            }
            Phase::Held(lease) => {
                let ttl = self.ttl_to_ask(lease, self.nodes.get(index)?, now);
                let extend = Extend {
                    resource,
                    id,
                    ttl,
                    token: lease.token(),
                    repair: !ttl.is_zero() && self.repairable(index, now),
                };
                let ttl = if ttl.is_zero() { self.ttl } else { ttl };
                (Command::Extend(extend), self.extend_timeout(ttl, now))
            }
        })
    }

    /// A release is carried out whenever it arrives, so even a short ttl leaves it time.
    fn release_timeout(&self) -> Duration {
        let third = (self.longest / 3).max(LEAST_FOR_RELEASE);
        self.config.node_timeout.min(third)
    }

    /// There is time for an answer while the lease stands, also if less is asked for.
    fn extend_timeout(&self, ttl: Duration, now: Time) -> Duration {
        let config = &self.config;
        let third = self.time_left(now) / 3;
        config.timeout(ttl).max(third.min(config.node_timeout))
    }

    /// For how long a node is asked to prolong the lease; zero only asks whether the vote stands. What a node lacks
    /// it gets for as long as the others have it, also if the user has asked for less since: nothing shortens a
    /// lease. A lease that is not renewed gets no more than that.
    fn ttl_to_ask(&self, lease: &Lease, node: &NodeState, now: Time) -> Duration {
        let asked = lease.is_extension_open(node);
        let renews = lease.renews();
        // A check that is sent anyway must not be in the way of a renewal that falls due meanwhile.
        let answered = now.plus(self.config.timeout(self.ttl));
        let renewed = renews
            && self
                .renewal_due(lease, node)
                .is_none_or(|due| due <= answered);
        // A later, smaller extension does not cancel a larger one that is still open here. Without renewal, a node that
        // hears late of an extension gets only what is left of it, so that it does not outlast the other nodes.
        let wanted = lease.wanted_until().since(now);
        let least = match (asked, renews) {
            // A command that prolongs nothing would leave the extension open, and be sent again at once.
            (true, false) if !wanted.is_zero() => wanted,
            (true, true) => self.ttl.max(wanted),
            _ => self.ttl,
        };
        let lacking = self.longest_left(now).max(wanted);
        match (lacks(node), asked || renews) {
            (true, true) => lacking.max(least),
            (true, false) => lacking,
            (false, _) if asked || renewed => least,
            (false, _) => Duration::ZERO,
        }
    }

    /// For how long the node has the lease that has it for longest. The quorum may have it for less so far, while the
    /// answers of the nodes that were asked for all of it are still to come.
    fn longest_left(&self, now: Time) -> Duration {
        let votes = self.nodes.iter().filter_map(NodeState::vote);
        let full = votes.filter(|vote| vote.full_ttl && vote.until > now);
        let until = full.map(|vote| vote.until).max();
        until.map_or(self.longest, |until| self.config.ttl_of(until.since(now)))
    }

    /// Whether the vote may be taken again on a node that forgot it. That is only as long as the lease stands on a
    /// quorum without that node, since a lease whose quorum is gone must not come back.
    pub(super) fn repairable(&self, index: NodeIndex, now: Time) -> bool {
        let here = self.nodes.get(index).is_some_and(|node| node.stands(now));
        let standing = self.nodes.iter().filter(|node| node.stands(now));
        self.lease().is_some() && !here && standing.count() >= self.quorum.size()
    }
}

/// Whether a holder lacks the vote of this node for its full ttl, or is not sure of it.
pub(super) fn lacks(node: &NodeState) -> bool {
    node.vote()
        .is_none_or(|vote| !vote.full_ttl || vote.doubtful)
}
