//! A fair (FIFO), quorum-based, auto-extending distributed lock.

mod acquire;
mod builder;
mod claim;
mod cleanup;
mod client;
mod clock;
mod config;
mod error;
mod grace;
mod guard;
mod holder;
mod inspection;
mod keepalive;
mod lease;
mod node;
mod nodes;
mod quorum;
mod redlock;
mod resource;
mod rng;
mod roll;
mod ticket;
mod validity;

#[cfg(test)]
#[path = "../tests/conformance/mod.rs"]
mod conformance;
#[cfg(test)]
#[path = "../tests/common/server.rs"]
mod server;

pub use acquire::Lock;
pub use builder::FifoRedlockBuilder;
pub use error::{
    ArgumentError, BuildError, ExtendError, LeaseLost, LockError, NoQuorum, NodeError, NodeFailure,
    ReleaseError, WrongServer,
};
pub use guard::{LockGuard, Lost};
pub use inspection::{Holder, Inspection, NodeInspection, Waiter};
pub use node::memory::{MemoryCluster, MemoryNode};
pub use redlock::FifoRedlock;
pub use ticket::{Positions, Ticket};
