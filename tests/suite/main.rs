//! Tests on memory nodes: no server is needed, and time is virtual.

// A test may fail by panicking, and measures the time that the code under test must not read.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../common/cluster.rs"]
mod cluster;
#[path = "../common/events.rs"]
mod events;
#[path = "../common/memory.rs"]
mod nodes;
#[cfg(feature = "metrics")]
#[path = "../common/recorder.rs"]
mod recorder;

mod asked_back;
#[path = "../behaviour/mod.rs"]
mod behaviour;
mod bounds;
mod builder;
mod cancellation;
mod counters;
mod faults;
mod graces;
mod guarantees;
mod handoff;
mod late;
mod latency;
mod layering;
mod memory;
#[cfg(feature = "metrics")]
mod metrics;
mod newcomers;
mod panics;
mod patience;
mod renewals;
mod rig;
mod runtimes;
mod settings;
mod sharing;
mod standing;
mod telemetry;
mod turns;
mod wire;

/// The nodes that the behaviours run on here.
type Kind = redlock_fifo::MemoryCluster;
