//! Restart grace (S5): whether a node's vote counts.
//!
//! A server that restarted may have forgotten leases that still stand. So its vote counts only once the node has been
//! up for `restart_grace`, the longest lease of any client that it can have forgotten; the ttl of the present request
//! would be too short. Nodes that all started together are a new deployment with nothing to forget, unless the user
//! wants the grace then as well.

use std::time::Duration;

use crate::{message::Incarnation, quorum::NodeIndex, time::Time};

/// Starts that surely lie this close together are one deployment. An uptime is in whole seconds and takes
/// time to arrive, so each start is only known as a range, and all of the ranges must fit into this span.
const TOGETHER: Duration = Duration::from_secs(5);

/// What is known of the starts of a client's nodes.
#[derive(Clone, Debug)]
pub(crate) struct Grace {
    period: Duration,
    /// Whether nodes that started together are in grace, too.
    cold: bool,
    /// What the last connection to each node has told of its start, if it was ever reached.
    starts: Vec<Option<Start>>,
}

/// Between which moments a node started.
#[derive(Clone, Copy, Debug)]
struct Start {
    epoch: u64,
    earliest: Time,
    latest: Time,
}

impl Grace {
    /// For `nodes` nodes that were not reached yet.
    pub(crate) fn new(nodes: usize, period: Duration, cold: bool) -> Self {
        Self {
            period,
            cold,
            starts: vec![None; nodes],
        }
    }

    /// Notes what a connection has told of its node's start, whether the node votes or not: the nodes that vote may have
    /// started together when others did not. Earlier connections than the last are ignored.
    pub(crate) fn learn(&mut self, index: NodeIndex, incarnation: &Incarnation) {
        if let Some(start) = self.starts.get_mut(index)
            && start.is_none_or(|known| known.epoch <= incarnation.epoch)
        {
            *start = Some(Start {
                epoch: incarnation.epoch,
                earliest: incarnation.up_before,
                latest: incarnation.up_since,
            });
        }
    }

    /// How long the vote of a node that is up since `up_since` still does not count. This is asked for every vote again
    /// and again, so for a node that is up for long the others are not looked at.
    pub(crate) fn left(&self, up_since: Time, now: Time) -> Duration {
        let left = self.period.saturating_sub(now.since(up_since));
        if left.is_zero() || self.cold || !self.started_together(up_since) {
            return left;
        }
        Duration::ZERO
    }

    /// When the restart grace of a node ends; `None` if the node is not subject to it.
    pub(crate) fn votes_from(&self, up_since: Time) -> Option<Time> {
        let fresh = !self.cold && self.started_together(up_since);
        (!fresh).then(|| up_since.plus(self.period))
    }

    fn started_together(&self, up_since: Time) -> bool {
        let reached = || self.starts.iter().flatten();
        let first = reached().map(|start| start.earliest).min();
        // Its own start need not be among them: a connection may break before it is seen.
        let last = reached().map(|start| start.latest).chain([up_since]).max();
        let (first, last) = (first.unwrap_or(up_since), last.unwrap_or(up_since));
        last.since(first) <= TOGETHER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Time {
        Time::default().plus(Duration::from_secs(seconds))
    }

    fn incarnation(epoch: u64, up_since: Time) -> Incarnation {
        Incarnation {
            up_since,
            up_before: up_since.minus(Duration::from_secs(2)),
            ..Incarnation::test(1, epoch)
        }
    }

    fn left(grace: &mut Grace, index: NodeIndex, up_since: Time, now: Time) -> Duration {
        grace.learn(index, &incarnation(1, up_since));
        grace.left(up_since, now)
    }

    #[test]
    fn a_node_that_restarted_alone_gives_no_vote_until_its_grace_is_over() {
        let mut grace = Grace::new(3, GRACE, false);
        assert_eq!(left(&mut grace, 0, at(0), at(100)), Duration::ZERO);
        assert_eq!(
            left(&mut grace, 1, at(100), at(110)),
            Duration::from_secs(20)
        );
        assert_eq!(left(&mut grace, 1, at(100), at(130)), Duration::ZERO);
    }

    #[test]
    fn nodes_that_started_together_vote_at_once() {
        let mut grace = Grace::new(3, GRACE, false);
        assert_eq!(left(&mut grace, 0, at(100), at(101)), Duration::ZERO);
        assert_eq!(left(&mut grace, 1, at(103), at(105)), Duration::ZERO);
    }

    #[test]
    fn what_an_earlier_connection_tells_late_ends_no_grace() {
        let mut grace = Grace::new(2, GRACE, false);
        assert_eq!(left(&mut grace, 0, at(0), at(1)), Duration::ZERO);
        grace.learn(1, &incarnation(2, at(100)));
        grace.learn(1, &incarnation(1, at(0)));
        assert_eq!(grace.left(at(100), at(105)), Duration::from_secs(25));
    }

    #[test]
    fn nodes_that_restarted_shortly_after_each_other_are_no_new_deployment() {
        let mut grace = Grace::new(3, GRACE, false);
        grace.learn(0, &incarnation(1, at(0)));
        assert_eq!(
            left(&mut grace, 1, at(100), at(105)),
            Duration::from_secs(25)
        );
        assert_eq!(
            left(&mut grace, 2, at(104), at(105)),
            Duration::from_secs(29)
        );
    }

    #[test]
    fn a_cold_start_grace_holds_for_them_too() {
        let mut grace = Grace::new(1, GRACE, true);
        assert_eq!(
            left(&mut grace, 0, at(100), at(101)),
            Duration::from_secs(29)
        );
    }

    /// A node started, answered, and was gone again before its new connection was seen.
    #[test]
    fn s5_a_start_that_was_not_learned_is_not_together_with_those_that_were() {
        let mut grace = Grace::new(3, GRACE, false);
        for index in 0..3 {
            grace.learn(index, &incarnation(1, at(0)));
        }
        assert!(grace.left(at(0), at(1)).is_zero());
        assert_eq!(grace.left(at(100), at(101)), GRACE - Duration::from_secs(1));
    }
}
