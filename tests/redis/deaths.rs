//! Processes that are killed while they hold or wait.

use std::time::Duration;

use redlock_fifo::FifoRedlock;

use crate::{
    process::{Worker, client, now, servers, until},
    server::Server,
};

/// What a busy machine may add to a promised time.
const SLACK: Duration = Duration::from_millis(700);

/// One poll of the head, with the default settings.
const POLL: Duration = Duration::from_millis(200);

/// What is left of the lease of `r` on each of the servers, the shortest first.
fn left(servers: &[Server]) -> Vec<Duration> {
    let left = |server: &Server| {
        let millis = server.number(&["PTTL", "r"]);
        Duration::from_millis(u64::try_from(millis).unwrap_or_default())
    };
    let mut left: Vec<_> = servers.iter().map(left).collect();
    left.sort();
    left
}

/// Has a worker ask for `r`, and waits until all servers know of its ticket.
async fn stand_in_line(worker: &mut Worker, servers: &[Server], place: i64) {
    worker.order("lock r 10000");
    until("it stands in line", || waiting(servers) == place).await;
}

/// A holder of `r`, `waiters` in line for it, and one more behind them, who are each a process.
async fn line(
    servers: &[Server],
    lease: Duration,
    waiters: usize,
) -> (Worker, Vec<Worker>, Worker) {
    let mut holder = Worker::start_with_lease(servers, lease);
    holder.order("lock r 10000");
    locked_at(&holder);
    let mut line: Vec<Worker> = (0..=waiters)
        .map(|_| Worker::start_with_lease(servers, lease))
        .collect();
    for (place, worker) in (1..).zip(&mut line) {
        stand_in_line(worker, servers, place).await;
    }
    let last = line.pop().expect("one more");
    (holder, line, last)
}

/// How many wait for `r` on the server with the shortest line.
fn waiting(servers: &[Server]) -> i64 {
    let waiting = |server: &Server| server.number(&["ZCARD", "{r}:redlock-fifo:queue"]);
    servers.iter().map(waiting).min().expect("servers")
}

/// When a worker got its lock.
fn locked_at(worker: &Worker) -> Duration {
    let report = worker.expect("locked");
    Duration::from_nanos(report[0].parse().expect("a time"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_a_dead_holder_costs_what_is_left_of_its_lease() {
    let servers = servers(5);
    let (mut holder, mut next) = (Worker::start(&servers), Worker::start(&servers));
    holder.order("lock r 2000");
    locked_at(&holder);
    stand_in_line(&mut next, &servers, 1).await;

    let killed = now();
    holder.kill();
    let (asked, left) = (now(), left(&servers));
    let waited = locked_at(&next) - killed;
    println!("served {waited:?} after the kill, with {left:?} left on the nodes");
    assert!(
        waited >= left[2],
        "S1: a quorum still had the lease for {left:?}: {waited:?}"
    );
    let most = (asked - killed) + left[4] + POLL + SLACK;
    assert!(waited <= most, "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f3_dead_waiters_cost_one_ephemeral_ttl_together() {
    let lease = Duration::from_secs(2);
    let servers = servers(5);
    let (mut holder, mut dead, next) = line(&servers, lease, 5).await;

    let killed = now();
    dead.iter_mut().for_each(Worker::kill);
    holder.order("release r");
    holder.expect("released");
    let waited = locked_at(&next) - killed;
    println!("served {waited:?} after the kill of five waiters, {lease:?} each");
    assert!(waited <= lease + POLL + SLACK, "{waited:?}");
}

/// How many clients the servers can tell of their turn; the most of any server.
fn listeners(servers: &[Server]) -> i64 {
    let channels = "return #redis.call('PUBSUB', 'CHANNELS', 'redlock-fifo:*')";
    let listeners = |server: &Server| server.number(&["EVAL", channels, "0"]);
    servers.iter().map(listeners).max().expect("servers")
}

/// However long the waiter ttl is: who is not heard of is passed over, and the next one looks in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f3_waiters_that_died_before_their_turn_cost_two_polls_each() {
    let lease = Duration::from_secs(30);
    let servers = servers(5);
    let (mut holder, mut dead, next) = line(&servers, lease, 3).await;

    dead.iter_mut().for_each(Worker::kill);
    until("the servers notice", || listeners(&servers) == 2).await;
    let released = now();
    holder.order("release r");
    holder.expect("released");
    let waited = locked_at(&next) - released;
    println!("served {waited:?} after the release, behind three that were killed");
    assert!(waited <= 3 * 2 * POLL + POLL + SLACK, "{waited:?}");
}

/// The same of waiters whose processes are stopped: their connections stand, so they seem to listen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_stopped_waiters_cost_one_ephemeral_ttl_together_and_keep_their_order() {
    let lease = Duration::from_secs(2);
    let servers = servers(5);
    let (mut holder, mut stopped, mut next) = line(&servers, lease, 3).await;

    let since = now();
    stopped.iter().for_each(Worker::pause);
    holder.order("release r");
    holder.expect("released");
    let waited = locked_at(&next) - since;
    println!("served {waited:?} after three waiters were stopped, {lease:?} each");
    assert!(waited <= lease + POLL + SLACK, "{waited:?}");

    stopped.iter().for_each(Worker::resume);
    next.order("held r");
    assert_eq!(next.expect("held"), ["true"], "S1");
    // Their tickets have the lowest numbers, so they are in line again before anyone new.
    until("they stand in line again", || waiting(&servers) == 3).await;
    next.order("release r");
    next.expect("released");
    for worker in &mut stopped {
        locked_at(worker);
        worker.order("release r");
        worker.expect("released");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_died_long_ago_costs_nothing() {
    let lease = Duration::from_secs(1);
    let servers = servers(5);
    let (mut holder, mut dead, mut next) = (
        Worker::start_with_lease(&servers, lease),
        Worker::start_with_lease(&servers, lease),
        Worker::start_with_lease(&servers, lease),
    );
    holder.order("lock r 10000");
    locked_at(&holder);
    stand_in_line(&mut dead, &servers, 1).await;
    stand_in_line(&mut next, &servers, 2).await;
    dead.kill();
    until("it is dropped", || waiting(&servers) == 1).await;

    let released = now();
    holder.order("release r");
    holder.expect("released");
    let waited = locked_at(&next) - released;
    println!("served {waited:?} after the release");
    assert!(waited <= SLACK, "{waited:?}");
}

/// The uuid of the request that holds each of these resources.
fn holders(server: &Server, resources: &[String]) -> Vec<String> {
    let holder = |resource: &String| server.text(&["GET", resource]);
    let uuid = |id: String| id.split(':').next().expect("a uuid").to_owned();
    resources.iter().map(holder).map(uuid).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_holder_ids_of_all_processes_differ() {
    let servers = servers(1);
    let mut workers = [Worker::start(&servers), Worker::start(&servers)];
    let mut resources = Vec::new();
    for (place, worker) in workers.iter_mut().enumerate() {
        for number in 0..50 {
            let resource = format!("r{place}-{number}");
            worker.order(&format!("lock {resource} 10000"));
            locked_at(worker);
            resources.push(resource);
        }
    }
    let parent: FifoRedlock = client(&servers).await;
    let _guard = parent
        .lock("own", Duration::from_secs(10))
        .await
        .expect("free");
    resources.push("own".to_owned());
    let mut holders = holders(&servers[0], &resources);
    // The channel of each client, on which it hears of its votes.
    let mut channels: Vec<_> = holders.iter().map(|uuid| uuid[24..].to_owned()).collect();
    let requests = holders.len();
    holders.sort();
    holders.dedup();
    assert_eq!(holders.len(), requests);
    channels.sort();
    channels.dedup();
    assert_eq!(channels.len(), 3);
}
