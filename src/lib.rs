//! A fair (FIFO), quorum-based, auto-extending distributed lock on independent Redis or Valkey nodes, for
//! Tokio.
//!
//! ```
//! # use std::time::Duration;
//! use redlock_fifo::FifoRedlock;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // FifoRedlock::connect(["redis://a", "redis://b", "redis://c"]).await? on real servers
//! let redlock = FifoRedlock::in_memory(3);
//! let guard = redlock.lock("invoice:42", Duration::from_secs(10)).await?; // in order of arrival
//! tokio::select! {
//!     result = work(guard.fencing_token()) => result?,
//!     why = guard.lost() => return Err(why.into()),
//! }
//! guard.release().await?;
//! # async fn work(_: u64) -> Result<(), std::io::Error> { Ok(()) }
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - One holder at a time, on the usual terms of Redlock: bounded clock drift, and a guard that is checked
//!   before use. A [fencing token](LockGuard::fencing_token) for what no lock can stop.
//! - Requests are served in the order in which they arrived. No request barges, and none waits for ever behind dead
//!   ones.
//! - A lease is extended in the background until its guard is dropped, and is reported
//!   [lost](LockGuard::lost) before any node may give it away.
//! - A cancelled wait leaves nothing behind. A [`Ticket`] keeps its place across cancelled waits.
//! - A hung or dead minority of the nodes costs no time.
//!
//! Each promise has a number, and a test: see [`docs::guarantees`].
//!
//! # What it does not
//!
//! A process that is paused between a check and a write can outlive its lease: let the store compare
//! fencing tokens. Nodes that all lose their memory at once forget who holds. Several resources at once,
//! read/write locks, semaphores, re-entrance, priorities, blocking calls and guards that pass to another
//! process are not there.
//!
//! # Layout
//!
//! To read the code: this page, [`docs::protocol`], then `scripts/`, `request/`, `client/`, `acquire/`, `guard.rs`.
//!
//! - `request/` is the core: one request, what each node is believed to have of it, and what follows. It is given
//!   the time and what is known of the servers, and it sends nothing, locks nothing and reads no clock.
//! - `client/requests.rs` is the table of all requests of a client, under one lock. `client/ticker.rs` is the one
//!   background task that sends what the requests ask and hears the answers, at the pace of
//!   `client/in_flight.rs`.
//! - `acquire/` and `guard.rs` are what the waiting futures and the guards are made of.
//! - `node/` carries messages to servers of two kinds, by the trait `Node`: real ones, and tables in memory.
//!
//! # Features
//!
//! - `metrics` (off by default): metrics through the facade `metrics`; see [`docs::observability`].
//! - `tls` (off by default): `rediss://` URLs, by rustls with ring; see [`docs::tuning`].
//!
//! # Runtimes
//!
//! A client lives on the Tokio runtime on which it was connected, with time, and for servers I/O, enabled; when that
//! ends, every call says so ([`ClientStopped`]). Its futures may be polled anywhere; see [`docs::tuning`].

// Says on docs.rs which items a feature brings.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod acquire;
mod builder;
mod client;
mod config;
mod error;
mod event;
mod guard;
mod holder;
mod inspection;
mod message;
mod node;
mod quorum;
mod redlock;
mod request;
mod resource;
mod runtime;
mod servers;
mod telemetry;
mod ticket;
mod time;

#[cfg(test)]
#[path = "../tests/conformance/mod.rs"]
mod conformance;
#[cfg(test)]
#[path = "../tests/common/server.rs"]
mod server;
#[cfg(test)]
#[path = "../tests/simulation/mod.rs"]
mod simulation;

pub use acquire::LockRequest;
pub use builder::FifoRedlockBuilder;
pub use error::{
    ArgumentError, BuildError, ClientStopped, ExtendError, LeaseLost, LockError, NoQuorum,
    NodeError, NodeFailure, ReleaseError, WrongServer,
};
pub use guard::{LockGuard, Lost};
pub use inspection::{Holder, Inspection, NodeInspection, Waiter};
pub use node::memory::{MemoryCluster, MemoryNode};
pub use redlock::FifoRedlock;
pub use ticket::{Positions, Ticket};

/// The manual: how it works, what it promises, how to run it.
pub mod docs {
    #[doc = include_str!("docs/guarantees.md")]
    pub mod guarantees {}
    #[doc = include_str!("docs/protocol.md")]
    pub mod protocol {}
    #[doc = include_str!("docs/wire.md")]
    pub mod wire {}
    #[doc = include_str!("docs/failures.md")]
    pub mod failures {}
    #[doc = include_str!("docs/compare.md")]
    pub mod compare {}
    #[doc = include_str!("docs/tuning.md")]
    pub mod tuning {}
    #[doc = include_str!("docs/performance.md")]
    pub mod performance {}
    #[doc = include_str!("docs/operating.md")]
    pub mod operating {}
    #[doc = include_str!("docs/observability.md")]
    pub mod observability {}
    #[doc = include_str!("docs/testing.md")]
    pub mod testing {}
    #[doc = include_str!("docs/migration.md")]
    pub mod migration {}
}

/// The README's examples are compiled with the others.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
