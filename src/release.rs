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
    quorum::Quorum,
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
        let mut open = Vec::new();
        cleanup::send(leftover);
        while let Some((place, outcome)) = cleanup::next(leftover).await {
            let era = leftover.confirmed.last().map(|(_, last)| last.era);
            let may_give =
                |claim: &Claim, now| era.is_some_and(|era| claim.may_give(place, era, now));
            match outcome {
                // What is under way on an earlier connection may take the vote again.
                Ok(had) if leftover.request.look_now(may_give) => open.push((place, had)),
                Ok(had) => tally.count(had),
                Err(error) => tally.failed.push((place, error)),
            }
            if tally.votes.max(tally.others) >= quorum.size()
                || !quorum.possible_without(tally.nothing)
            {
                break;
            }
        }
        // Only if they are needed: the wait is one for what hung.
        for (place, had) in open {
            if tally.is_quorum(quorum) {
                break;
            }
            match cleanup::again(leftover, place).await {
                Ok(()) => tally.count(had),
                Err(error) => tally.failed.push((place, error)),
            }
        }
        tally
    }
}

impl Tally {
    fn count(&mut self, had: Released) {
        match had {
            Released::Vote => self.votes += 1,
            Released::Nothing => self.nothing += 1,
            Released::Ticket => self.others += 1,
        }
    }

    fn is_quorum(&self, quorum: Quorum) -> bool {
        self.votes + self.nothing + self.others >= quorum.size()
    }

    /// Whether a quorum confirmed, whatever it was that they gave up.
    pub(crate) fn confirmed(self, nodes: &Nodes) -> Result<(), ReleaseError> {
        if self.is_quorum(nodes.quorum) {
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

    /// How long what was asked may yet be carried out: a `node_timeout`, by a clock that is known to within one.
    const QUIET: Duration = Duration::from_secs(1);

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
            let start = redlock.client.nodes.clock.now();
            let tally = TakingBack::new(leftover).tally().await;
            tally.confirmed(&redlock.client.nodes).unwrap();
            let waited = redlock.client.nodes.clock.now().since(start);
            let expected = if answered { Duration::ZERO } else { QUIET };
            assert_eq!(waited, expected);
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
        let start = nodes.clock.now();
        TakingBack::new(leftover)
            .tally()
            .await
            .confirmed(nodes)
            .unwrap();
        assert_eq!(nodes.clock.now().since(start), QUIET, "that of the first");
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
        let release = tokio::spawn(guard.release());
        tokio::time::sleep(QUIET / 4).await;
        assert_eq!(cluster.node(0).get("r"), None);
        // It is carried out, now that the lock is free there.
        cluster.node(0).pause();
        cluster.node(0).resume();
        assert!(cluster.node(0).get("r").is_some());
        release.await.unwrap().unwrap();
        assert_eq!(cluster.node(0).get("r"), None);
    }
}
