//! A release that its caller waits for: of a guard or of a ticket.
//!
//! Sends it at once and counts what the nodes confirm. Whatever is left is the janitor's (`cleanup`).

use crate::{
    claim::Claim,
    cleanup,
    error::{NodeError, ReleaseError},
    lease::Leftover,
    node::Released,
    nodes::Nodes,
};

/// A release that its caller waits for. Whenever it is dropped, the janitor goes on with it.
pub(crate) struct TakingBack {
    leftover: Option<Leftover>,
}

/// What the nodes answered to a release.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    votes: usize,
    pub(crate) nothing: usize,
    others: usize,
    failed: Vec<(usize, NodeError)>,
}

impl TakingBack {
    pub(crate) fn new(leftover: Leftover) -> Self {
        Self {
            leftover: Some(leftover),
        }
    }

    /// Releases on all nodes, until the verdict is certain.
    pub(crate) async fn tally(mut self) -> Tally {
        let mut tally = Tally::default();
        let Some(leftover) = &mut self.leftover else {
            return tally;
        };
        let quorum = leftover.request.nodes.quorum;
        cleanup::send(leftover);
        while let Some((place, outcome)) = cleanup::next(leftover).await {
            let era = leftover.confirmed.last().map(|(_, last)| last.era);
            let may_give =
                |claim: &Claim, now| era.is_some_and(|era| claim.may_give(place, era, now));
            let open = leftover.request.look_now(may_give);
            match outcome {
                // What is under way on an earlier connection may take the vote again.
                Ok(_) if open => tally.failed.push((place, NodeError::TimedOut)),
                Ok(Released::Vote) => tally.votes += 1,
                Ok(Released::Nothing) => tally.nothing += 1,
                Ok(Released::Ticket) => tally.others += 1,
                Err(error) => tally.failed.push((place, error)),
            }
            if tally.votes.max(tally.others) >= quorum.size()
                || !quorum.possible_without(tally.nothing)
            {
                break;
            }
        }
        tally
    }
}

impl Tally {
    /// Whether a quorum confirmed, whatever it was that they gave up.
    pub(crate) fn confirmed(self, nodes: &Nodes) -> Result<(), ReleaseError> {
        if self.votes + self.nothing + self.others >= nodes.quorum.size() {
            return Ok(());
        }
        let failed = self.failed.into_iter();
        Err(ReleaseError::Unconfirmed(nodes.no_quorum(failed)))
    }
}

impl Drop for TakingBack {
    fn drop(&mut self) {
        let open = |leftover: &Leftover| !cleanup::is_done(leftover);
        if let Some(leftover) = self.leftover.take().filter(open) {
            let request = leftover.request.clone();
            request.leave(leftover);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        FifoRedlock, MemoryCluster,
        claim::{Question, Send, Taken},
        lease::Request,
        node::Answer,
    };

    const TTL: Duration = Duration::from_secs(10);

    /// A lease on all nodes of `redlock`, and the questions of an extend that nobody waits for any more, which
    /// takes the vote of the first node again if that has forgotten it.
    async fn repairing(redlock: &FifoRedlock) -> (Arc<Request>, Vec<Question>) {
        let request = redlock.client.request("r", TTL, None).unwrap();
        request.ask(|_| {}).await;
        while request.look(Claim::is_asking) {
            tokio::task::yield_now().await;
        }
        let taken = request.update(|claim, now| claim.take(now, None, None));
        assert!(matches!(taken, Taken::Lease(_)));
        let questions = request.update(|claim, now| {
            claim.hear_up(0, now);
            claim.extend_now(TTL, now)
        });
        let repairs = |question: &&Question| match &question.send {
            Send::Extend(extend) => extend.repair,
            Send::Enqueue(_) => false,
        };
        assert_eq!(questions.iter().filter(repairs).count(), 1);
        (request, questions)
    }

    #[tokio::test(start_paused = true)]
    async fn c3_a_node_that_may_take_the_vote_again_has_not_confirmed() {
        for answered in [false, true] {
            let cluster = MemoryCluster::new(3);
            let redlock = FifoRedlock::builder().memory(&cluster).connect().await;
            let redlock = redlock.unwrap();
            let (request, questions) = repairing(&redlock).await;
            if answered {
                let late = || Err(NodeError::Late);
                request.update(|claim, now| claim.hear_extended(&questions[0], now, late()));
            }
            cluster.node(0).reconnect();
            cluster.node(2).stop();
            let leftover = request.take_back().expect("held");
            let tally = TakingBack::new(leftover).tally().await;
            let confirmed = tally.confirmed(&redlock.client.nodes);
            assert_eq!(confirmed.is_ok(), answered, "{confirmed:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn c3_a_repair_over_a_newer_connection_does_not_hide_an_older_one() {
        let cluster = MemoryCluster::new(3);
        let redlock = FifoRedlock::builder().memory(&cluster).connect().await;
        let redlock = redlock.unwrap();
        let (request, _unanswered) = repairing(&redlock).await;
        cluster.node(0).reconnect();
        let questions = request.update(|claim, now| {
            claim.hear_up(0, now);
            claim.extend_now(TTL, now)
        });
        let Send::Extend(ask) = &questions[0].send else {
            unreachable!("it extends");
        };
        assert!(ask.repair);
        let nodes = &redlock.client.nodes;
        let terms = nodes.terms(Duration::from_millis(500));
        let call = nodes.list[0].extend(std::slice::from_ref(ask), terms);
        let Answer { sent, era, value } = call.await.unwrap();
        let value = value[0];
        let answer = Ok(Answer { sent, era, value });
        request.update(|claim, now| claim.hear_extended(&questions[0], now, answer));
        cluster.node(2).stop();
        let leftover = request.take_back().expect("held");
        let tally = TakingBack::new(leftover).tally().await;
        let confirmed = tally.confirmed(nodes);
        assert!(
            confirmed.is_err(),
            "the first repair may yet be carried out"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn c3_a_node_that_may_yet_give_the_vote_has_not_confirmed() {
        let cluster = MemoryCluster::new(3);
        let redlock = FifoRedlock::builder().memory(&cluster).connect().await;
        cluster.node(0).pause();
        let guard = redlock.unwrap().lock("r", TTL).await.unwrap();
        // The first request is under way on the old connection.
        cluster.node(0).reconnect();
        cluster.node(2).stop();
        let confirmed = guard.release().await;
        assert!(confirmed.is_err(), "{confirmed:?}");
    }
}
