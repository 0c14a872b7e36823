//! What needs real servers and real processes, through the public API.

// A test may fail by panicking, and measures the time that the code under test must not read.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../common/chance.rs"]
mod chance;
#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/events.rs"]
mod events;
#[path = "../common/servers.rs"]
mod nodes;
#[cfg(feature = "metrics")]
#[path = "../common/recorder.rs"]
mod recorder;
#[path = "../common/server.rs"]
#[allow(dead_code)]
mod server;

mod answers;
#[path = "../behaviour/mod.rs"]
mod behaviour;
mod bursts;
mod cancelled;
mod chaos;
mod clocks;
mod counts;
mod deaths;
mod end_to_end;
mod endless;
mod examples;
mod fake;
mod handed;
mod handoff;
mod hostile;
mod left_over;
mod links;
mod listeners;
mod lost_updates;
mod memory_full;
mod misbehaviour;
mod node_loss;
mod operating;
mod peers;
mod process;
mod refused_writes;
mod runtimes;
mod services;
mod setups;
mod snapshots;
mod soak;
mod standing;
mod telemetry;
#[cfg(feature = "tls")]
mod tls;
mod unpolled;
mod votes;
mod worker;

/// The nodes that the behaviours run on here.
type Kind = nodes::Servers;
