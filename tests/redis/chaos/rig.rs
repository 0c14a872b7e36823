//! Servers, processes, and what stands between them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::runtime::Runtime;

use super::{
    EPHEMERAL, GRACE, NODE_TIMEOUT, NODES, SLOTS, faults::Fault, history::History, proxy::Link,
};
use crate::{
    chance::Chance,
    links::link,
    process::{PATIENCE, Worker, now},
    server::Server,
};

/// What the faults act on.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) servers: Vec<Server>,
    /// By process and node.
    pub(crate) links: Vec<Vec<Link>>,
    pub(crate) history: Arc<Mutex<History>>,
    faults: Mutex<Vec<Fault>>,
    /// The nodes that a fault has hold of.
    taken: Mutex<BTreeSet<usize>>,
    given_back: Condvar,
    /// Carries the links.
    _runtime: Runtime,
}

impl Rig {
    pub(crate) fn start() -> Self {
        let args = debug_allowed();
        let start = |_| thread::spawn(|| Server::start_with(args));
        let starting: Vec<_> = (0..NODES).map(start).collect();
        let started = |server: JoinHandle<Server>| server.join().expect("it starts");
        let servers: Vec<Server> = starting.into_iter().map(started).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let to = |server: &Server| link(&runtime, server);
        let links = (0..SLOTS).map(|_| servers.iter().map(to).collect());
        Self {
            links: links.collect(),
            servers,
            history: Arc::default(),
            faults: Mutex::default(),
            taken: Mutex::default(),
            given_back: Condvar::new(),
            _runtime: runtime,
        }
    }

    /// Takes a node that no other fault has hold of.
    pub(crate) fn take_node(&self, chance: &mut Chance) -> usize {
        let mut taken = lock(&self.taken);
        loop {
            let free: Vec<usize> = (0..NODES).filter(|node| !taken.contains(node)).collect();
            if !free.is_empty() {
                let node = free[chance.place(free.len())];
                taken.insert(node);
                return node;
            }
            taken = self.given_back.wait(taken).expect("sound");
        }
    }

    pub(crate) fn give_back(&self, node: usize) {
        lock(&self.taken).remove(&node);
        self.given_back.notify_all();
    }

    pub(crate) fn note(&self, fault: Fault) {
        lock(&self.faults).push(fault);
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        lock(&self.faults).clone()
    }

    /// All that is left on the servers but counters: what it is and whose.
    pub(crate) fn residue(&self) -> Vec<String> {
        self.servers.iter().flat_map(residue).collect()
    }

    /// What of that was left by processes that came to an end in order.
    pub(crate) fn forgotten(&self) -> Vec<String> {
        let lives = &lock(&self.history).lives;
        let dead = |life: &usize| lives[*life].killed.is_some();
        let dead: Vec<String> = (0..lives.len()).filter(dead).map(name).collect();
        let of_the_dead =
            |left: &String| dead.iter().any(|name| left.contains(&format!(":{name}:")));
        let mut left = self.residue();
        left.retain(|left| !of_the_dead(left));
        left
    }
}

/// How the process of a life is named in what it leaves behind.
fn name(life: usize) -> String {
    format!("life-{life}")
}

fn residue(server: &Server) -> Vec<String> {
    let keys = server.keys();
    let keys = keys
        .iter()
        .filter(|key| !key.ends_with(":redlock-fifo:seq"));
    let left = |key: &String| {
        let listed = server.command(&["EVAL", LIST, "1", key]);
        let ids: Vec<String> = redis::from_redis_value(listed).expect("texts");
        ids.into_iter()
            .map(|id| format!("{key} {id}"))
            .collect::<Vec<_>>()
    };
    keys.flat_map(left).collect()
}

/// The holder ids under a key.
const LIST: &str = "
    if redis.call('TYPE', KEYS[1]).ok == 'zset' then return redis.call('ZRANGE', KEYS[1], 0, -1) end
    return { redis.call('GET', KEYS[1]) or nil }";

/// A process that contends, and what reads its reports.
#[derive(Debug)]
pub(crate) struct Contestant {
    pub(crate) worker: Worker,
    pub(crate) slot: usize,
    life: usize,
    history: Arc<Mutex<History>>,
    reader: JoinHandle<bool>,
}

impl Contestant {
    /// Starts one in the place `slot`, and lets it contend.
    pub(crate) fn start(rig: &Rig, slot: usize, seed: u64) -> Self {
        let urls: Vec<String> = rig.links[slot]
            .iter()
            .map(|link| link.url().to_owned())
            .collect();
        let [lease, grace, timeout] = [EPHEMERAL, GRACE, NODE_TIMEOUT].map(|span| span.as_millis());
        let history = rig.history.clone();
        let life = lock(&history).born(slot);
        let name = name(life);
        let settings = format!("name={name},lease={lease},grace={grace},timeout={timeout}");
        let mut worker = Worker::start_at(&urls, &settings);
        worker.order(&format!("contend {seed}"));
        let (reports, log) = (worker.take_reports(), history.clone());
        let reader = thread::spawn(move || {
            for words in reports {
                if words[0] == "done" {
                    return true;
                }
                lock(&log).enter(life, &words);
            }
            false
        });
        Self {
            worker,
            slot,
            life,
            history,
            reader,
        }
    }

    /// Kills it, and waits until everything that it reported before is read.
    pub(crate) fn kill(mut self) {
        // Before the signal: what it does until it is gone is not said to be left behind.
        let at = now();
        self.worker.kill();
        lock(&self.history).lives[self.life].killed = Some(at);
        self.reader.join().expect("it reads all");
    }

    /// Lets it finish what it does.
    pub(crate) fn stop(&mut self) {
        self.worker.order("stop");
    }

    /// Waits until it has come to its end in order.
    pub(crate) fn join(self) {
        let most = now() + PATIENCE;
        while !self.reader.is_finished() {
            assert!(
                now() < most,
                "L1: life {} waits, and nothing fails any more",
                self.life
            );
            pass(Duration::from_millis(5));
        }
        assert!(
            self.reader.join().expect("it reads all"),
            "it died by itself"
        );
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("sound")
}

/// What it takes for a server to heed `DEBUG`: from version 7 on it has to be allowed, and before that the
/// setting is not known.
fn debug_allowed() -> &'static [&'static str] {
    let info = Server::start().text(&["INFO", "server"]);
    let version = info
        .split_once("redis_version:")
        .and_then(|(_, rest)| rest.split('.').next());
    match version.expect("a version").parse().expect("a number") {
        0..7 => &[],
        _ => &["--enable-debug-command", "local"],
    }
}

/// Lets time pass: how long a fault lasts is part of it.
pub(crate) fn pass(time: Duration) {
    thread::sleep(time);
}
