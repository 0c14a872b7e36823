//! A majority of the nodes: what counts as one, and asking all nodes at once.
//!
//! Calls go to all nodes concurrently and come back as they are answered, so that the verdict falls as
//! soon as it is certain and a hung node costs nothing. Whoever has its verdict hands the rest to the
//! background: a request that was never sent would leave a slow node without it.

use std::{
    future,
    task::{Context, Poll, ready},
};

use futures::{FutureExt, future::BoxFuture};

use crate::{
    clock::{Clock, Time},
    error::NodeError,
    node::{Answer, Call},
    task,
};

/// How many nodes there are, and so how many make a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quorum {
    nodes: usize,
}

impl Quorum {
    pub(crate) fn of(nodes: usize) -> Self {
        Self { nodes }
    }

    /// N/2+1.
    pub(crate) fn size(self) -> usize {
        self.nodes / 2 + 1
    }

    /// Whether a quorum is still possible when `out` nodes cannot be part of it.
    pub(crate) fn possible_without(self, out: usize) -> bool {
        self.nodes.saturating_sub(out) >= self.size()
    }

    /// The quorum-th best of `values`, the best first: what a quorum has at least.
    ///
    /// For a handful of nodes it is cheaper to count again for each of them than to make a list.
    pub(crate) fn weakest<T: Ord>(self, values: impl Iterator<Item = T> + Clone) -> Option<T> {
        // As most often, while answers come in.
        if values.clone().count() < self.size() {
            return None;
        }
        let shared = |value: &T| values.clone().filter(|other| other >= value).count();
        let shared_by_quorum = |value: &T| shared(value) >= self.size();
        values.clone().filter(shared_by_quorum).max()
    }
}

/// One node's vote as its receiver knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vote {
    /// Until when it may be trusted.
    pub(crate) until: Time,
    /// The node's counter when it was given.
    pub(crate) seq: u64,
}

/// Proof that a quorum voted for one request. Only this module makes one, and a guard needs one.
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

/// One request under way to several nodes, each under a key of the asker's.
///
/// They are few, so all of them are looked at whenever one may have been answered: cheaper than to note which.
pub(crate) struct FanOut<T> {
    calls: Vec<(usize, Call<Vec<T>>)>,
    clock: Clock,
    /// Of all the calls.
    deadline: Time,
    /// Set by the first look that leaves something open.
    timer: Option<BoxFuture<'static, ()>>,
}

impl<T: Send + 'static> FanOut<T> {
    /// Waits for all of `calls`, each a batch of one, until the `deadline` that they have.
    pub(crate) fn of(
        calls: impl Iterator<Item = (usize, Call<Vec<T>>)>,
        clock: Clock,
        deadline: Time,
    ) -> Self {
        Self {
            calls: calls.collect(),
            clock,
            deadline,
            timer: None,
        }
    }

    /// The next outcome, under its key; `None` when all have come.
    pub(crate) async fn next(&mut self) -> Option<(usize, Result<Answer<T>, NodeError>)> {
        let (key, outcome) = future::poll_fn(|cx| self.poll_next(cx)).await?;
        let only = |answer: Answer<Vec<T>>| {
            let value = answer.value.into_iter().next().ok_or(NodeError::Garbled)?;
            Ok(Answer {
                sent: answer.sent,
                era: answer.era,
                value,
            })
        };
        Some((key, outcome.and_then(only)))
    }

    /// Waits for what is left in the background and hands it to `heed`.
    pub(crate) fn finish_late(
        mut self,
        mut heed: impl FnMut(usize, Result<Answer<T>, NodeError>) + Send + 'static,
    ) {
        if self.calls.is_empty() {
            return;
        }
        task::spawn(async move {
            while let Some((key, outcome)) = self.next().await {
                heed(key, outcome);
            }
        });
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Outcome<T>>> {
        loop {
            for place in 0..self.calls.len() {
                if let Poll::Ready(outcome) = self.calls[place].1.as_mut().poll(cx) {
                    let (key, _) = self.calls.remove(place);
                    return Poll::Ready(Some((key, outcome)));
                }
            }
            if self.calls.is_empty() {
                return Poll::Ready(None);
            }
            let (clock, deadline) = (self.clock, self.deadline);
            let timer = || async move { clock.sleep_until(deadline).await }.boxed();
            ready!(self.timer.get_or_insert_with(timer).as_mut().poll(cx));
            self.timer = None;
        }
    }
}

type Outcome<T> = (usize, Result<Answer<Vec<T>>, NodeError>);

impl<T> std::fmt::Debug for FanOut<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FanOut({})", self.calls.len())
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
