//! Restart grace (S5): whether a node's vote counts.
//!
//! A server that restarted may have forgotten leases that still stand. So a vote counts only once the
//! node has been up for `restart_grace`, the longest lease of anyone that it can have forgotten; the
//! asker's own ttl would be too short. Nodes that all started together are a new deployment that has
//! nothing to forget, unless the user wants the grace then as well.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::clock::Time;

/// Starts that seem to lie this close together are one deployment. Uptime is counted in whole seconds, so in truth
/// they are less than five seconds apart.
const TOGETHER: Duration = Duration::from_secs(4);

/// What is known of the starts of a client's nodes.
#[derive(Debug)]
pub(crate) struct Grace {
    period: Duration,
    /// Whether nodes that started together are in grace, too.
    cold: bool,
    /// When each node started, if it was ever reached.
    starts: Mutex<Vec<Option<Time>>>,
}

impl Grace {
    /// For `nodes` nodes that were not reached yet.
    pub(crate) fn new(nodes: usize, period: Duration, cold: bool) -> Self {
        Self {
            period,
            cold,
            starts: Mutex::new(vec![None; nodes]),
        }
    }

    /// The node with the place `place` is up since `up_since`, whether it votes or not: those that vote may have
    /// started together where others did not.
    pub(crate) fn learn(&self, place: usize, up_since: Time) {
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(start) = starts.get_mut(place) {
            *start = Some(up_since);
        }
    }

    /// How long the vote of a node that is up since `up_since`, as was [learned](Self::learn), still does not
    /// count. Asked for every vote again and again, so whoever is up for long costs no look at the others.
    pub(crate) fn left(&self, up_since: Time, now: Time) -> Duration {
        let left = self.period.saturating_sub(now.since(up_since));
        if left.is_zero() || self.cold {
            return left;
        }
        let starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = || starts.iter().flatten();
        let first = reached().min().copied().unwrap_or(up_since);
        let last = reached().max().copied().unwrap_or(up_since);
        if last.since(first) <= TOGETHER {
            Duration::ZERO
        } else {
            left
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Time {
        Time::default().plus(Duration::from_secs(seconds))
    }

    fn left(grace: &Grace, place: usize, up_since: Time, now: Time) -> Duration {
        grace.learn(place, up_since);
        grace.left(up_since, now)
    }

    #[test]
    fn a_node_that_restarted_alone_gives_no_vote_until_its_grace_is_over() {
        let grace = Grace::new(3, GRACE, false);
        assert_eq!(left(&grace, 0, at(0), at(100)), Duration::ZERO);
        assert_eq!(left(&grace, 1, at(100), at(110)), Duration::from_secs(20));
        assert_eq!(left(&grace, 1, at(100), at(130)), Duration::ZERO);
    }

    #[test]
    fn nodes_that_started_together_vote_at_once() {
        let grace = Grace::new(3, GRACE, false);
        assert_eq!(left(&grace, 0, at(100), at(101)), Duration::ZERO);
        assert_eq!(left(&grace, 1, at(104), at(105)), Duration::ZERO);
    }

    #[test]
    fn nodes_that_restarted_shortly_after_each_other_are_no_new_deployment() {
        let grace = Grace::new(3, GRACE, false);
        grace.learn(0, at(0));
        assert_eq!(left(&grace, 1, at(100), at(105)), Duration::from_secs(25));
        assert_eq!(left(&grace, 2, at(104), at(105)), Duration::from_secs(29));
    }

    #[test]
    fn a_cold_start_grace_holds_for_them_too() {
        let grace = Grace::new(1, GRACE, true);
        assert_eq!(left(&grace, 0, at(100), at(101)), Duration::from_secs(29));
    }
}
