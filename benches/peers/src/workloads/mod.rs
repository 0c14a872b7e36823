//! The workloads. Subjects take turns in rounds on the same servers, so that what else the machine does hits all
//! alike; each round begins with another one.

pub(crate) mod contended;
pub(crate) mod sick;
pub(crate) mod tune;
pub(crate) mod uncontended;

use crate::{catalog::Entry, plot::Plot, server::Server};

/// What all workloads need to know.
pub(crate) struct Plan {
    pub(crate) entries: Vec<&'static Entry>,
    pub(crate) quick: bool,
}

/// What a workload has found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) tables: String,
    pub(crate) plots: Vec<(&'static str, Plot)>,
}

/// Servers over TCP, which all subjects can use.
pub(crate) fn servers(nodes: usize) -> Vec<Server> {
    (0..nodes).map(|_| Server::start_tcp(&[])).collect()
}

/// The places of `count` in a round.
pub(crate) fn turns(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| (place + round * 7) % count)
}
