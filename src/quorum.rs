//! What counts as a majority of the nodes.

use crate::time::Time;

/// The index of a node in its client's list.
pub(crate) type NodeIndex = usize;

/// How many nodes there are, and so how many make a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quorum {
    nodes: usize,
}

impl Quorum {
    pub(crate) fn of(nodes: usize) -> Self {
        Self { nodes }
    }

    pub(crate) fn nodes(self) -> usize {
        self.nodes
    }

    /// N/2+1.
    pub(crate) fn size(self) -> usize {
        self.nodes / 2 + 1
    }

    /// Whether a quorum is still possible when `out` nodes cannot be part of it.
    pub(crate) fn possible_without(self, out: usize) -> bool {
        self.nodes.saturating_sub(out) >= self.size()
    }

    /// The largest value that at least a quorum of `values` reaches.
    ///
    /// For a handful of nodes it is cheaper to count again for each of them than to make a list.
    pub(crate) fn weakest<T: Ord>(self, values: impl Iterator<Item = T> + Clone) -> Option<T> {
        // Most often so, while answers come in.
        if values.clone().count() < self.size() {
            return None;
        }
        let shared = |value: &T| values.clone().filter(|other| other >= value).count();
        let shared_by_quorum = |value: &T| shared(value) >= self.size();
        values.clone().filter(shared_by_quorum).max()
    }
}

/// One node's vote, as the client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vote {
    /// Until when it may be trusted.
    pub(crate) until: Time,
    /// The node's counter when it was given.
    pub(crate) seq: u64,
}

/// Proof that a quorum voted for one request. Only this module makes one, and `Request::hold` needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Majority {
    until: Time,
    token: u64,
    agreed: bool,
}

impl Majority {
    /// The majority that `votes` make at `now`, if they do.
    pub(crate) fn of(
        quorum: Quorum,
        votes: impl Iterator<Item = Vote> + Clone,
        now: Time,
    ) -> Option<Self> {
        let valid = votes.filter(|vote| vote.until > now);
        let until = quorum.weakest(valid.clone().map(|vote| vote.until))?;
        let token = valid.clone().map(|vote| vote.seq).max()?;
        let agreed = valid.filter(|vote| vote.seq == token).count() >= quorum.size();
        Some(Self {
            until,
            token,
            agreed,
        })
    }

    /// Until when a quorum of the votes may be trusted.
    pub(crate) fn until(self) -> Time {
        self.until
    }

    /// The highest counter among the votes: the fencing token.
    pub(crate) fn token(self) -> u64 {
        self.token
    }

    /// Whether a quorum has that counter already. If not, it must be written to one first (S2).
    pub(crate) fn agreed(self) -> bool {
        self.agreed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn vote(millis: u64, seq: u64) -> Vote {
        Vote {
            until: Time::default().plus(Duration::from_millis(millis)),
            seq,
        }
    }

    #[test]
    fn a_quorum_is_more_than_half() {
        for (nodes, size) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (100, 51)] {
            assert_eq!(Quorum::of(nodes).size(), size, "{nodes}");
        }
        assert!(Quorum::of(5).possible_without(2));
        assert!(!Quorum::of(5).possible_without(3));
    }

    #[test]
    fn a_majority_lasts_as_long_as_its_weakest_vote() {
        let votes = [vote(10, 7), vote(30, 7), vote(20, 7)];
        let majority = Majority::of(Quorum::of(3), votes.into_iter(), Time::default());
        assert_eq!(majority.map(Majority::until), Some(vote(20, 0).until));
    }

    #[test]
    fn expired_votes_make_no_majority() {
        let votes = [vote(10, 7), vote(30, 7)];
        assert_eq!(
            Majority::of(Quorum::of(3), votes.into_iter(), vote(10, 0).until),
            None
        );
    }

    #[test]
    fn unequal_counters_are_not_agreed_and_the_highest_is_the_token() {
        let votes = [vote(10, 7), vote(10, 9)];
        let majority =
            Majority::of(Quorum::of(3), votes.into_iter(), Time::default()).expect("two of three");
        assert_eq!(majority.token(), 9);
        assert!(!majority.agreed());
    }
}
