//! What needs real servers and real processes, through the public API.

// A test may fail by panicking, and measures the time that the code under test must not read.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../common/server.rs"]
#[allow(dead_code)]
mod server;

mod cancelled;
mod counts;
mod deaths;
mod end_to_end;
mod handoff;
mod node_loss;
mod peers;
mod process;
