//! Who holds, who waits: the answer to [`FifoRedlock::inspect`](crate::FifoRedlock::inspect).

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use crate::{
    error::NodeError,
    holder::Parts,
    message::{Report, Waiting},
    quorum::Quorum,
};

/// What the nodes know of a resource, each for itself and merged.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    resource: String,
    holder: Option<Holder>,
    waiters: Vec<Waiter>,
    nodes: Vec<NodeInspection>,
}

impl Inspection {
    pub(crate) fn merge(resource: &str, quorum: Quorum, nodes: Vec<NodeInspection>) -> Self {
        let known: Vec<&NodeView> = nodes
            .iter()
            .filter_map(|node| node.view.as_ref().ok())
            .collect();
        let mut votes: BTreeMap<&str, Vec<&Holder>> = BTreeMap::new();
        let mut places: BTreeMap<&str, Vec<&Waiter>> = BTreeMap::new();
        for view in &known {
            if let Some(holder) = &view.holder {
                votes.entry(&holder.id).or_default().push(holder);
            }
            for waiter in &view.waiters {
                places.entry(&waiter.id).or_default().push(waiter);
            }
        }
        let holder = votes
            .into_values()
            .find(|votes| votes.len() >= quorum.size());
        let holder = holder.and_then(|votes| {
            let token = known.iter().filter_map(|view| view.seq).max();
            // The lease stands as long as a quorum has it: the weakest of the best.
            let left = quorum.weakest(votes.iter().map(|vote| vote.ttl)).flatten();
            let first = votes.first().map(|vote| (*vote).clone())?;
            Some(Holder {
                ttl: left,
                fencing_token: token,
                ..first
            })
        });
        let mut waiters: Vec<Waiter> = places
            .into_values()
            .filter_map(|places| {
                places
                    .into_iter()
                    .max_by_key(|waiter| waiter.number)
                    .cloned()
            })
            .filter(|waiter| holder.as_ref().is_none_or(|holder| holder.id != waiter.id))
            .collect();
        waiters.sort_by(|a, b| (a.number, &a.id).cmp(&(b.number, &b.id)));
        Self {
            resource: resource.to_owned(),
            holder,
            waiters,
            nodes,
        }
    }

    /// The name that was asked for.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// Who has the votes of a quorum, if anyone.
    pub fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// The waiters in order: of each node at most the first 1000.
    pub fn waiters(&self) -> &[Waiter] {
        &self.waiters
    }

    /// Each node's own view, in the order in which the nodes were given.
    pub fn nodes(&self) -> &[NodeInspection] {
        &self.nodes
    }
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    id: String,
    ttl: Option<Duration>,
    fencing_token: Option<u64>,
}

impl Holder {
    /// The holder id: the value of the lock key.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of its client; `None` if another Redlock client wrote the key.
    pub fn client_name(&self) -> Option<&str> {
        Parts::of(&self.id).map(|parts| parts.name)
    }

    /// When it asked for the lock, by its own clock.
    pub fn since(&self) -> Option<SystemTime> {
        since(&self.id)
    }

    /// What is left of the lease; `None` if the key has no end.
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// The resource's counter. The holder's fencing token is this or lower, as nodes do not keep the token apart. The
    /// counter is higher once others have asked, and far higher after a node lost its memory or the counter expired,
    /// a minute after the last request. `None` if no client of this crate has asked lately.
    pub fn fencing_token(&self) -> Option<u64> {
        self.fencing_token
    }
}

/// Who waits for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiter {
    id: String,
    number: u64,
    lease: Duration,
}

impl Waiter {
    /// The holder id under which it stands in line.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name of its client.
    pub fn client_name(&self) -> Option<&str> {
        Parts::of(&self.id).map(|parts| parts.name)
    }

    /// When it asked for the lock, by its own clock.
    pub fn since(&self) -> Option<SystemTime> {
        since(&self.id)
    }

    /// The number of its ticket.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How long it stays in line if it is not heard of again.
    pub fn lease(&self) -> Duration {
        self.lease
    }
}

/// One node's view.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeInspection {
    node: String,
    view: Result<NodeView, NodeError>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct NodeView {
    holder: Option<Holder>,
    seq: Option<u64>,
    waiting: u64,
    waiters: Vec<Waiter>,
}

impl NodeInspection {
    pub(crate) fn new(node: &str, report: Result<Report, NodeError>) -> Self {
        Self {
            node: node.to_owned(),
            view: report.map(NodeView::new),
        }
    }

    /// Its address, without credentials.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Why it gave no answer, if it did not.
    pub fn error(&self) -> Option<&NodeError> {
        self.view.as_ref().err()
    }

    /// Who has its vote.
    pub fn holder(&self) -> Option<&Holder> {
        self.view.as_ref().ok()?.holder.as_ref()
    }

    /// How many wait on it.
    pub fn waiting(&self) -> u64 {
        self.view.as_ref().map_or(0, |view| view.waiting)
    }

    /// Who waits on it, in order: at most the first 1000.
    pub fn waiters(&self) -> &[Waiter] {
        self.view.as_ref().map_or(&[], |view| &view.waiters)
    }
}

impl NodeView {
    fn new(report: Report) -> Self {
        let waiter = |Waiting {
                          id,
                          number,
                          waiter_end,
                      }: Waiting| Waiter {
            id,
            number,
            lease: Duration::from_millis(waiter_end.saturating_sub(report.clock)),
        };
        Self {
            holder: report.holder.map(|(id, ttl)| Holder {
                id,
                ttl,
                fencing_token: report.seq,
            }),
            seq: report.seq,
            waiting: report.waiting,
            // Number 0 is not a waiter: it is the holder, in line for a vote that the node forgot.
            waiters: report
                .line
                .into_iter()
                .filter(|waiting| waiting.number > 0)
                .map(waiter)
                .collect(),
        }
    }
}

fn since(id: &str) -> Option<SystemTime> {
    let millis = Parts::of(id)?.unix_millis;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}
