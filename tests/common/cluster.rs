//! Nodes of either kind under one name, so that a behaviour is written once and runs on both.
//!
//! The binary that includes this file says which kind it is for: its `Kind` implements [`Nodes`]. [`run`]
//! ends every behaviour with a shutdown of its clients, and no node may have a key left then.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redlock_fifo::{FifoRedlock, FifoRedlockBuilder};
use tokio::{runtime::Runtime, time::Instant};

use crate::Kind;

/// How long a condition is waited for; on real nodes the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Independent nodes that can be made to fail. A place is a number from 0.
pub(crate) trait Nodes: Send + Sync {
    /// How many nodes a test of a large quorum takes.
    const MANY: usize;

    /// This many fresh nodes.
    fn start(nodes: usize) -> Self;

    /// A builder that has all nodes.
    fn builder(&self) -> FifoRedlockBuilder;

    /// Kills the node; calls fail at once.
    fn stop(&self, place: usize);

    /// Starts it again, empty, whether it was stopped or not.
    fn restart(&self, place: usize);

    /// Hangs it: connections stay and nothing is answered.
    fn pause(&self, place: usize);

    /// Lets it go on.
    fn resume(&self, place: usize);

    /// Has it forget all keys.
    fn flush(&self, place: usize);

    /// The value of the lock key `key`.
    fn value(&self, place: usize, key: &str) -> Option<String>;

    /// What is left until the lock key `key` expires.
    fn ttl(&self, place: usize, key: &str) -> Option<Duration>;

    /// The bare `DEL key`.
    fn delete(&self, place: usize, key: &str);

    /// The bare `SET key value NX PX ttl` of other Redlock clients.
    fn set_nx(&self, place: usize, key: &str, value: &str, ttl: Duration) -> bool;

    /// What is there besides the counters.
    fn residue(&self, place: usize) -> Vec<String>;

    /// A runtime whose time is right for these nodes.
    fn runtime() -> Runtime;

    /// Brings this runtime's clock up to another one's, where each has its own.
    async fn catch_up(with: Instant);
}

/// Nodes, and the clients that were made on them.
pub(crate) struct Cluster {
    nodes: Kind,
    clients: Mutex<Vec<FifoRedlock>>,
    states: Mutex<Vec<State>>,
    somebody_died: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Down,
    Paused,
}

/// Runs a behaviour on a cluster of `nodes` nodes, and sees that it leaves nothing behind.
pub(crate) fn run(nodes: usize, behaviour: impl AsyncFnOnce(&Cluster)) {
    Kind::runtime().block_on(async {
        let cluster = Cluster::start(nodes);
        behaviour(&cluster).await;
        cluster.assert_no_residue().await;
    });
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = now() + PATIENCE;
    while !holds().await {
        assert!(now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The present moment of this runtime.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

impl Cluster {
    pub(crate) fn start(nodes: usize) -> Self {
        Self {
            nodes: Kind::start(nodes),
            clients: Mutex::default(),
            states: Mutex::new(vec![State::Up; nodes]),
            somebody_died: AtomicBool::new(false),
        }
    }

    /// A client with all settings at their defaults.
    pub(crate) async fn client(&self) -> FifoRedlock {
        self.client_with(|builder| builder).await
    }

    /// A client with other settings.
    pub(crate) async fn client_with(
        &self,
        tweak: impl FnOnce(FifoRedlockBuilder) -> FifoRedlockBuilder,
    ) -> FifoRedlock {
        let client = tweak(self.nodes.builder()).connect().await;
        let client = client.expect("a quorum is up");
        lock(&self.clients).push(client.clone());
        client
    }

    /// Runs `work` in a process of its own, as far as the nodes can tell, and then has it die without a
    /// word: the runtime goes first, so nothing that `work` returns can be given back.
    pub(crate) async fn dies<T: Send>(
        &self,
        tweak: impl FnOnce(FifoRedlockBuilder) -> FifoRedlockBuilder + Send,
        work: impl AsyncFnOnce(FifoRedlock) -> T + Send,
    ) {
        self.somebody_died.store(true, Ordering::Relaxed);
        let birth = now();
        let live = || {
            let runtime = Kind::runtime();
            let (client, left, death) = runtime.block_on(async {
                Kind::catch_up(birth).await;
                let client = tweak(self.nodes.builder()).connect().await;
                let client = client.expect("a quorum is up");
                (client.clone(), work(client).await, now())
            });
            drop(runtime);
            drop((client, left));
            death
        };
        let death = std::thread::scope(|scope| scope.spawn(live).join());
        Kind::catch_up(death.expect("it died a natural death")).await;
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.states).len()
    }

    pub(crate) fn stop(&self, place: usize) {
        self.nodes.stop(place);
        self.is_now(place, State::Down);
    }

    pub(crate) fn restart(&self, place: usize) {
        self.nodes.restart(place);
        self.is_now(place, State::Up);
    }

    pub(crate) fn pause(&self, place: usize) {
        self.nodes.pause(place);
        self.is_now(place, State::Paused);
    }

    pub(crate) fn resume(&self, place: usize) {
        self.nodes.resume(place);
        self.is_now(place, State::Up);
    }

    pub(crate) fn flush(&self, place: usize) {
        self.nodes.flush(place);
    }

    pub(crate) fn value(&self, place: usize, key: &str) -> Option<String> {
        self.nodes.value(place, key)
    }

    /// The values on all nodes.
    pub(crate) fn values(&self, key: &str) -> Vec<Option<String>> {
        (0..self.len())
            .map(|place| self.value(place, key))
            .collect()
    }

    pub(crate) fn ttl(&self, place: usize, key: &str) -> Option<Duration> {
        self.nodes.ttl(place, key)
    }

    pub(crate) fn delete(&self, place: usize, key: &str) {
        self.nodes.delete(place, key);
    }

    pub(crate) fn set_nx(&self, place: usize, key: &str, value: &str, ttl: Duration) -> bool {
        self.nodes.set_nx(place, key, value, ttl)
    }

    /// Waits until `client` has an answer of every node.
    pub(crate) async fn until_all_answer(&self, client: &FifoRedlock) {
        until("all nodes answer", async || {
            let inspection = client.inspect("nobody's").await;
            inspection.is_ok_and(|all| all.nodes().iter().all(|node| node.error().is_none()))
        })
        .await;
    }

    /// Waits until the lock of `resource` stands on all nodes, and not just on a quorum.
    pub(crate) async fn until_everywhere(&self, resource: &str) {
        until("all nodes have it", async || {
            let values = self.values(resource);
            values
                .iter()
                .all(|value| value.is_some() && value == &values[0])
        })
        .await;
    }

    /// Waits until `count` wait for `resource`.
    pub(crate) async fn until_waiting(&self, client: &FifoRedlock, resource: &str, count: usize) {
        until("all are in line", async || {
            let inspection = client.inspect(resource).await;
            inspection.is_ok_and(|all| all.waiters().len() == count)
        })
        .await;
    }

    /// Shuts all clients down. Then no node that is up may have anything left but counters, unless
    /// somebody died: what the dead left behind expires.
    pub(crate) async fn assert_no_residue(&self) {
        let states = lock(&self.states).clone();
        for (place, state) in states.iter().enumerate() {
            if *state == State::Paused {
                self.resume(place);
            }
        }
        let clients = std::mem::take(&mut *lock(&self.clients));
        for client in clients {
            client.shutdown().await;
        }
        let up = (0..states.len()).filter(|&place| states[place] != State::Down);
        for place in up {
            if self.somebody_died.load(Ordering::Relaxed) {
                let clean = async || self.nodes.residue(place).is_empty();
                until("what the dead had expires", clean).await;
            }
            let left = self.nodes.residue(place);
            assert!(left.is_empty(), "node {place} still has {left:?}");
        }
    }

    fn is_now(&self, place: usize, state: State) {
        if let Some(old) = lock(&self.states).get_mut(place) {
            *old = state;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
