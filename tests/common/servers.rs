//! Real servers for the behaviours, in real time.

use std::{thread, time::Duration};

use redis::{FromRedisValue, Value};
use redlock_fifo::{FifoRedlock, FifoRedlockBuilder};
use tokio::{runtime::Runtime, time::Instant};

use crate::{cluster::Nodes, server::Server};

/// Servers of one test.
#[derive(Debug)]
pub(crate) struct Servers(Vec<Server>);

impl Servers {
    pub(crate) fn urls(&self) -> Vec<String> {
        self.0.iter().map(Server::url).collect()
    }

    fn server(&self, place: usize) -> &Server {
        self.0.get(place).expect("such a node")
    }

    fn command<T: FromRedisValue>(&self, place: usize, words: &[&str]) -> T {
        let answer: Value = self.server(place).command(words);
        redis::from_redis_value(answer).expect("an answer of this type")
    }
}

impl Nodes for Servers {
    const MANY: usize = 5;

    fn start(nodes: usize) -> Self {
        let starting: Vec<_> = (0..nodes).map(|_| thread::spawn(Server::start)).collect();
        let start = |server: thread::JoinHandle<Server>| server.join().expect("it starts");
        Self(starting.into_iter().map(start).collect())
    }

    fn builder(&self) -> FifoRedlockBuilder {
        let urls = self.urls();
        urls.iter()
            .fold(FifoRedlock::builder(), |builder, url| builder.node(url))
    }

    fn stop(&self, place: usize) {
        self.server(place).kill();
    }

    fn restart(&self, place: usize) {
        self.server(place).restart();
    }

    fn pause(&self, place: usize) {
        self.server(place).pause();
    }

    fn resume(&self, place: usize) {
        self.server(place).resume();
    }

    fn flush(&self, place: usize) {
        self.server(place).command(&["FLUSHALL"]);
    }

    fn value(&self, place: usize, key: &str) -> Option<String> {
        self.command(place, &["GET", key])
    }

    fn ttl(&self, place: usize, key: &str) -> Option<Duration> {
        let left: i64 = self.command(place, &["PTTL", key]);
        u64::try_from(left).ok().map(Duration::from_millis)
    }

    fn delete(&self, place: usize, key: &str) {
        self.server(place).command(&["DEL", key]);
    }

    fn set_nx(&self, place: usize, key: &str, value: &str, ttl: Duration) -> bool {
        let ttl = ttl.as_millis().to_string();
        let set: Option<String> = self.command(place, &["SET", key, value, "NX", "PX", &ttl]);
        set.is_some()
    }

    fn residue(&self, place: usize) -> Vec<String> {
        let keys = self.server(place).keys();
        let counter = |key: &String| key.ends_with(":redlock-fifo:seq");
        keys.into_iter().filter(|key| !counter(key)).collect()
    }

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime")
    }

    async fn catch_up(_: Instant) {}
}
