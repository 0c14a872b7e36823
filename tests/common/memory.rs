//! Memory nodes for the behaviours, under a clock that stands still while anything has to be done.

use std::time::Duration;

use redlock_fifo::{FifoRedlock, FifoRedlockBuilder, MemoryCluster};
use tokio::{runtime::Runtime, time::Instant};

use crate::cluster::{Nodes, now};

impl Nodes for MemoryCluster {
    const MANY: usize = 100;

    fn start(nodes: usize) -> Self {
        Self::new(nodes)
    }

    fn builder(&self) -> FifoRedlockBuilder {
        FifoRedlock::builder().memory(self)
    }

    fn stop(&self, place: usize) {
        self.node(place).stop();
    }

    fn restart(&self, place: usize) {
        self.node(place).restart();
    }

    fn pause(&self, place: usize) {
        self.node(place).pause();
    }

    fn resume(&self, place: usize) {
        self.node(place).resume();
    }

    fn flush(&self, place: usize) {
        self.node(place).flush();
    }

    fn value(&self, place: usize, key: &str) -> Option<String> {
        self.node(place).get(key)
    }

    fn ttl(&self, place: usize, key: &str) -> Option<Duration> {
        self.node(place).ttl(key)
    }

    fn delete(&self, place: usize, key: &str) {
        self.node(place).delete(key);
    }

    fn set_nx(&self, place: usize, key: &str, value: &str, ttl: Duration) -> bool {
        self.node(place).set_nx(key, value, ttl)
    }

    fn residue(&self, place: usize) -> Vec<String> {
        self.node(place).used()
    }

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime")
    }

    async fn catch_up(with: Instant) {
        let ahead = with.saturating_duration_since(now());
        if !ahead.is_zero() {
            tokio::time::advance(ahead).await;
        }
    }
}
