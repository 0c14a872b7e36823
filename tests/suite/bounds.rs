//! What users may rely on at compile time.

use std::{error::Error, future::Future};

use redlock_fifo::{
    ArgumentError, BuildError, ExtendError, FifoRedlock, FifoRedlockBuilder, LeaseLost, LockError,
    LockGuard, LockRequest, Lost, MemoryCluster, Positions, ReleaseError, Ticket,
};

fn shared<T: Send + Sync + 'static>() {}
fn moved<T: Send + Unpin + 'static>() {}
fn cloned<T: Clone>() {}
fn awaited<T: Future>() {}
fn failed<T: Error + Send + Sync + 'static>() {}

#[test]
fn handles_can_be_shared_and_moved() {
    shared::<FifoRedlock>();
    cloned::<FifoRedlock>();
    shared::<LockGuard>();
    shared::<Ticket>();
    shared::<MemoryCluster>();
    moved::<LockRequest>();
    awaited::<LockRequest>();
    moved::<Lost>();
    awaited::<Lost>();
    moved::<Positions>();
    moved::<FifoRedlockBuilder>();
}

#[test]
fn errors_can_be_boxed() {
    failed::<BuildError>();
    failed::<LockError>();
    failed::<ExtendError>();
    failed::<ReleaseError>();
    failed::<ArgumentError>();
    failed::<LeaseLost>();
}

/// Python kept a random generator in memory, and processes forked from one another shared its ids. Ours
/// come from the system at each call; the one feature that would change that brings `rand` into `uuid`.
#[test]
fn ids_do_not_come_from_memory_that_a_fork_copies() {
    let lock = include_str!("../../Cargo.lock");
    let mut packages = lock.split("[[package]]");
    let uuid = packages.find(|package| package.contains("name = \"uuid\""));
    assert!(!uuid.expect("it is used").contains("rand\""));
}
