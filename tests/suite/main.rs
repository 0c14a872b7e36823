//! Tests on memory nodes: no server is needed, and time is virtual.

// A test may fail by panicking, and measures the time that the code under test must not read.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod bounds;
mod faults;
mod guarantees;
mod layering;
mod lock;
