//! Which server each node of one client turned out to be.
//!
//! Two addresses can lead to one server, and then one failure takes two votes. A run id names a run of a
//! server; a node claims the one it finds, and gives its former one up by that.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// The run ids that the nodes of one client have claimed.
#[derive(Debug, Default)]
pub(crate) struct Roster(Mutex<BTreeMap<usize, Claim>>);

#[derive(Debug)]
struct Claim {
    run_id: String,
    name: String,
}

impl Roster {
    /// Claims `run_id` for the node with the place `place`, or names the node that has it.
    pub(super) fn claim(&self, place: usize, name: &str, run_id: &str) -> Result<(), String> {
        let mut claims = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Its former claim goes even if the new one fails: two nodes that swapped their addresses
        // would otherwise shut each other out for ever.
        claims.remove(&place);
        if let Some(other) = claims.values().find(|claim| claim.run_id == run_id) {
            return Err(other.name.clone());
        }
        let claim = Claim {
            run_id: run_id.to_owned(),
            name: name.to_owned(),
        };
        claims.insert(place, claim);
        Ok(())
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
    fn nodes_that_swapped_their_addresses_find_each_other_again() {
        let roster = Roster::default();
        assert_eq!(roster.claim(0, "a", "x"), Ok(()));
        assert_eq!(roster.claim(1, "b", "y"), Ok(()));
        assert!(roster.claim(0, "a", "y").is_err());
        assert_eq!(roster.claim(1, "b", "x"), Ok(()));
        assert_eq!(roster.claim(0, "a", "y"), Ok(()));
    }
}
