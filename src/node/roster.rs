//! What the nodes of one client know of each other: which server each turned out to be, and its clock.
//!
//! Two addresses can lead to one server, and then one failure takes two votes. A run id names a run of a server: a node
//! claims the run id that it finds, and gives up its former one. When a node connects, its clock is compared with the
//! clocks of the nodes that are connected; the clock of a node that is away may have been set meanwhile.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use super::node_clock::NodeClock;
use crate::time::Time;

/// The run ids that the nodes of one client have claimed, and their clocks.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    claims: Mutex<BTreeMap<usize, Claim>>,
    clocks: Mutex<BTreeMap<usize, Known>>,
}

#[derive(Debug)]
struct Claim {
    run_id: String,
    name: String,
}

#[derive(Debug)]
struct Known {
    name: Arc<str>,
    /// Ends with the connection.
    clock: Weak<NodeClock>,
}

impl Roster {
    /// Claims `run_id` for the node `index`, or names the node that has it.
    pub(super) fn claim(&self, index: usize, name: &str, run_id: &str) -> Result<(), String> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        // The former claim ends even if the new one fails: otherwise two nodes that swapped their addresses would shut
        // each other out for ever.
        claims.remove(&index);
        if let Some(other) = claims.values().find(|claim| claim.run_id == run_id) {
            return Err(other.name.clone());
        }
        let claim = Claim {
            run_id: run_id.to_owned(),
            name: name.to_owned(),
        };
        claims.insert(index, claim);
        Ok(())
    }

    /// Stores the clock of the node `index`, and finds the node whose clock differs most from it: returns that node's
    /// name, and by how many microseconds the clock of `index` is ahead. `None` if no clock certainly differs by more
    /// than `limit`.
    pub(super) fn compare(
        &self,
        index: usize,
        name: &Arc<str>,
        clock: &Arc<NodeClock>,
        limit: Duration,
        now: Time,
    ) -> Option<(Arc<str>, i64)> {
        let known = Known {
            name: name.clone(),
            clock: Arc::downgrade(clock),
        };
        let mut clocks = self.clocks.lock().unwrap_or_else(PoisonError::into_inner);
        clocks.insert(index, known);
        let others = clocks.iter().filter(|(other, _)| **other != index);
        let apart = others.filter_map(|(_, other)| {
            let (ahead, doubt) = clock.ahead_of(&*other.clock.upgrade()?, now);
            let surely = ahead.unsigned_abs().saturating_sub(doubt.unsigned_abs());
            (u128::from(surely) > limit.as_micros()).then(|| (other.name.clone(), ahead))
        });
        apart.max_by_key(|(_, ahead)| ahead.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_claimed_by_one_node_only() {
        let roster = Roster::default();
        assert_eq!(roster.claim(0, "a", "x"), Ok(()));
        assert_eq!(roster.claim(1, "b", "x"), Err("a".to_owned()));
        assert_eq!(roster.claim(0, "a", "x"), Ok(()));
        assert_eq!(roster.claim(0, "a", "y"), Ok(()));
        assert_eq!(roster.claim(1, "b", "x"), Ok(()));
    }

    #[test]
    fn clocks_are_compared_with_those_of_standing_connections() {
        let roster = Roster::default();
        let now = Time::default();
        let clock = |seconds: u64| Arc::new(NodeClock::read(1000 * seconds, now, now));
        let compare = |index, name: &str, clock: &Arc<NodeClock>| {
            let found = roster.compare(index, &name.into(), clock, Duration::from_secs(14), now);
            found.map(|(other, ahead)| (other.to_string(), ahead / 1_000_000))
        };
        let (a, b, c) = (clock(100), clock(110), clock(130));
        assert_eq!(compare(0, "a", &a), None);
        assert_eq!(compare(1, "b", &b), None);
        assert_eq!(compare(2, "c", &c), Some(("a".to_owned(), 30)));
        assert_eq!(compare(1, "b", &b), Some(("c".to_owned(), -20)));
        drop(c);
        assert_eq!(compare(0, "a", &a), None);
        // Part of the difference may be the error of the readings.
        for (millis, far) in [(114_002, false), (114_003, true)] {
            let clock = Arc::new(NodeClock::read(millis, now, now));
            assert_eq!(compare(1, "b", &clock).is_some(), far, "{millis}");
        }
        let guess = Arc::new(NodeClock::guess(1000, now));
        assert_eq!(compare(2, "c", &guess), None);
    }

    #[test]
    fn nodes_that_swapped_their_addresses_find_each_other_again() {
        let roster = Roster::default();
        assert_eq!(roster.claim(0, "a", "x"), Ok(()));
        assert_eq!(roster.claim(1, "b", "y"), Ok(()));
        assert!(roster.claim(0, "a", "y").is_err());
        assert_eq!(roster.claim(1, "b", "x"), Ok(()));
        assert_eq!(roster.claim(0, "a", "y"), Ok(()));
    }
}
