//! What is reported about nodes.

use std::{future::Future, sync::Arc, time::Duration};

use futures::TryFutureExt;
use tracing::{debug, info, warn};

use super::{AWAY, TARGET, guarded, meter, millis};
use crate::error::{NodeError, WrongServer};

/// Passes the outcome of a call to `node` on, and reports a failure. A call that came too late is sent again, and
/// reported when its sender gives up.
pub(crate) fn watched<T>(
    node: Arc<str>,
    call: impl Future<Output = Result<T, NodeError>>,
) -> impl Future<Output = Result<T, NodeError>> {
    call.inspect_err(move |error| {
        if *error != NodeError::Late {
            node_failed(&node, error);
        }
    })
}

/// A call to a node failed.
pub(crate) fn node_failed(node: &str, error: &NodeError) {
    guarded(|| {
        let kind = match error {
            NodeError::Down(_) => "down",
            NodeError::TimedOut => "timed_out",
            NodeError::Broken => "broken",
            NodeError::Refused(_) => "refused",
            NodeError::Garbled => "garbled",
            NodeError::TooLong => "too_long",
            NodeError::Late => "late",
            NodeError::RestartGrace { .. } => "restart_grace",
            NodeError::WrongServer(_) => "wrong_server",
        };
        // This was already reported when the node went down.
        if !matches!(error, NodeError::Down(_) | NodeError::WrongServer(_)) {
            debug!(target: TARGET, node, %error, "call failed");
        }
        meter::count_node_error(node, kind);
    });
}

/// A client has this node, whether it can be reached or not.
pub(crate) fn node_known(node: &str) {
    guarded(|| {
        meter::change(meter::NODES_UP, 0.0, Some(("node", node)));
    });
}

/// A connection stands; the metric counts it until this is dropped.
pub(crate) struct Connected(Arc<str>);

impl Connected {
    /// `after` is how long the node was away, if it was.
    pub(crate) fn new(node: Arc<str>, epoch: u64, after: Option<Duration>) -> Self {
        guarded(|| {
            match after.map(millis) {
                Some(away_ms) => {
                    info!(target: TARGET, node = &*node, epoch, away_ms, "node is back")
                }
                None => debug!(target: TARGET, node = &*node, epoch, "connected"),
            }
            meter::change(meter::NODES_UP, 1.0, Some(("node", &*node)));
        });
        Self(node)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        guarded(|| meter::change(meter::NODES_UP, -1.0, Some(("node", &*self.0))));
    }
}

/// A connection ended.
pub(crate) fn node_lost(node: &str, cause: &str) {
    guarded(|| {
        warn!(target: TARGET, node, cause, help = AWAY, "node lost");
    });
}

/// The server at a node's address cannot be used as a node.
pub(crate) fn not_a_node(node: &str, problem: &WrongServer) {
    guarded(|| {
        let help = "this node does not vote until its setup is changed";
        warn!(target: TARGET, node, %problem, help, "not a node");
    });
}

/// A server that connected drops keys when its memory is full.
pub(crate) fn may_evict(node: &str, policy: &str, maxmemory: u64) {
    guarded(|| {
        let help = "an evicted key is a forgotten vote: set maxmemory-policy to noeviction, or keep locks on servers of \
                    their own";
        warn!(target: TARGET, node, policy, maxmemory, help, "node may evict locks");
    });
}

/// The clock of a node that connected is `ahead` microseconds ahead of that of `other`, or behind if negative.
pub(crate) fn clocks_apart(node: &str, other: &str, ahead: i64, limit: Duration) {
    guarded(|| {
        let help = "a node that loses its memory may repeat fencing tokens: set the clocks by a time daemon, or use a \
                    longer restart_grace on all clients";
        let (ahead_ms, limit_ms) = (ahead / 1000, millis(limit));
        warn!(target: TARGET, node, other, ahead_ms, limit_ms, help, "clocks of nodes are far apart");
    });
}

/// There is no connection to a node: the first failure of an outage, or a later one.
pub(crate) fn not_reachable(node: &str, cause: &NodeError, news: bool) {
    guarded(|| {
        if news {
            warn!(target: TARGET, node, %cause, help = AWAY, "node not reachable");
        } else {
            debug!(target: TARGET, node, %cause, "attempt failed");
        }
    });
}
