//! What a child process does.

use std::{
    collections::BTreeMap,
    env,
    io::{self, Write},
    process::exit,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use redlock_fifo::{BuildError, FifoRedlock, FifoRedlockBuilder, LockGuard};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    chaos, lost_updates,
    process::{Acquisition, now, patient},
};

/// Says to a child that it is one, and what its nodes and its settings are.
pub(crate) const ORDER: &str = "REDLOCK_FIFO_WORKER";

/// In front of every report, since what goes wrong is told on the same pipe.
pub(crate) const MARK: &str = "@ ";

/// What a child runs; nothing where there is no order.
#[test]
fn worker_process() {
    let Ok(order) = env::var(ORDER) else {
        return;
    };
    let (sender, orders) = tokio::sync::mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            let words = line.split(' ').map(str::to_owned).collect();
            sender.send(words).expect("it listens");
        }
        exit(0);
    });
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work(&order, orders));
}

type Guards = Arc<Mutex<BTreeMap<String, LockGuard>>>;

async fn work(order: &str, mut orders: tokio::sync::mpsc::UnboundedReceiver<Vec<String>>) {
    let redlock = connect(order).await;
    let guards = Guards::default();
    let mut toil = Toil::default();
    report("connected");
    while let Some(words) = orders.recv().await {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            // Asks for a lock and keeps it.
            ["lock", resource, ttl] => {
                let ttl = Duration::from_millis(ttl.parse().expect("ms"));
                let lock = redlock.lock(resource, ttl).wait_forever();
                let (resource, guards) = (resource.to_owned(), guards.clone());
                tokio::spawn(async move {
                    let guard = lock.await.expect("locked");
                    let (at, token) = (now().as_nanos(), guard.fencing_token());
                    guards.lock().expect("sound").insert(resource, guard);
                    report(&format!("locked {at} {token}"));
                });
            }
            // Whether the lease is still to be trusted.
            ["held", resource] => {
                let held = guards.lock().expect("sound")[resource].is_held();
                report(&format!("held {held}"));
            }
            ["release", resource] => {
                let guard = guards.lock().expect("sound").remove(resource);
                guard.expect("locked").release().await.expect("released");
                report("released");
            }
            // Locks again and again in many tasks at once, every second time by a ticket.
            ["load", resource, tasks, times] => {
                let (tasks, times) = (tasks.parse().expect("tasks"), times.parse().expect("times"));
                load(&redlock, resource, tasks, times).await;
                redlock.shutdown().await;
                report("done");
            }
            // Contends as `chaos` has it.
            ["contend", seed] => {
                let seed = seed.parse().expect("a seed");
                chaos::contend(&redlock, seed, &mut toil);
            }
            // Adds to shared sets as `lost_updates` has it.
            ["add", store, lease] => {
                let lease = Duration::from_millis(lease.parse().expect("ms"));
                lost_updates::add(&redlock, store, lease, &mut toil).await;
            }
            ["stop"] => {
                toil.stop().await;
                redlock.shutdown().await;
                report("done");
            }
            _ => panic!("not an order: {words:?}"),
        }
    }
}

/// Tasks that go on until they are told to stop.
#[derive(Debug, Default)]
pub(crate) struct Toil {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Toil {
    /// Starts a task, which is to end soon after [`stopped`](Self::stopped) says so.
    pub(crate) fn start(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Whether to stop.
    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Lets every task finish what it does.
    async fn stop(&mut self) {
        self.stop.send_replace(true);
        while let Some(task) = self.tasks.join_next().await {
            task.expect("no panic");
        }
    }
}

/// Connects, as soon as a quorum can be reached.
async fn connect(order: &str) -> FifoRedlock {
    let (settings, urls) = order.split_once(' ').expect("urls");
    let settings = || settings.split(',').filter(|setting| !setting.is_empty());
    loop {
        let builder = urls.split(' ').fold(patient(), FifoRedlockBuilder::node);
        match settings().fold(builder, set).connect().await {
            Err(BuildError::NoQuorum(_)) => {}
            connected => return connected.expect("connected"),
        }
    }
}

/// Makes a setting: a name, or a span in milliseconds.
fn set(builder: FifoRedlockBuilder, setting: &str) -> FifoRedlockBuilder {
    let (name, value) = setting.split_once('=').expect("a value");
    let span = || Duration::from_millis(value.parse().expect("ms"));
    match name {
        "name" => builder.client_name(value),
        "lease" => builder.fifo_ephemeral_ttl(span()),
        // Of the first start as well: servers that restart soon after it are no new deployment.
        "grace" => builder.restart_grace(span()).cold_start_grace(true),
        "timeout" => builder.node_timeout(span()),
        _ => panic!("not a setting: {setting}"),
    }
}

async fn load(redlock: &FifoRedlock, resource: &str, tasks: usize, times: usize) {
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let (redlock, resource) = (redlock.clone(), resource.to_owned());
            tokio::spawn(async move {
                for time in 0..times {
                    acquire(&redlock, &resource, (task + time) % 2 == 0).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
}

async fn acquire(redlock: &FifoRedlock, resource: &str, by_ticket: bool) {
    const TTL: Duration = Duration::from_secs(10);
    let asked = now();
    let (guard, recorded) = if by_ticket {
        let mut ticket = redlock.enqueue(resource, TTL).await.expect("enqueued");
        let recorded = now();
        (ticket.acquire().await.expect("acquired"), Some(recorded))
    } else {
        let lock = redlock.lock(resource, TTL).wait_forever();
        (lock.await.expect("locked"), None)
    };
    let acquired = now();
    // Whoever else believes to have the lock gets a chance to say so.
    tokio::task::yield_now().await;
    assert!(guard.is_held());
    let (released, token) = (now(), guard.fencing_token());
    guard.release().await.expect("released");
    let served = Acquisition {
        asked,
        recorded,
        acquired,
        released,
        token,
    };
    report(&served.write());
}

/// Tells the parent.
pub(crate) fn report(words: &str) {
    let line = format!("{MARK}{words}\n");
    // The parent may be gone.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}
