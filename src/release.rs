//! A release that its caller waits for: of a guard or of a ticket.
//!
//! Sends it at once and counts what the nodes confirm. Whatever is left is the janitor's (`cleanup`).

use crate::{
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
            match outcome {
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
