//! Servers that are hostile or sick, beside real ones: they get nobody the lock, and cost nobody anything.

use std::{
    panic,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, future::join_all, stream};
use redlock_fifo::{FifoRedlock, FifoRedlockBuilder, LockError};
use tokio::time::timeout;

use crate::{
    fake::{Act, Fake, Manner},
    misbehaviour,
    process::{PATIENCE, builder, now, servers, until},
    server::Server,
};

/// Of leases and of waiter ttls: what a hostile node does not confirm is given up after that.
const TTL: Duration = Duration::from_secs(1);

/// Counts the panics of tasks, which nobody else would hear of. Those of tests have their own way out.
fn panics() -> usize {
    static WATCH: Once = Once::new();
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    WATCH.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let of_a_test = |place: &panic::Location| place.file().starts_with("tests/");
            if !info.location().is_some_and(of_a_test) {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            report(info);
        }));
    });
    PANICS.load(Ordering::Relaxed)
}

/// A client of `honest` and `fakes`. Fakes say that they started just now, whenever that is.
fn beside(honest: &[Server], fakes: &[Fake]) -> FifoRedlockBuilder {
    let builder = fakes
        .iter()
        .map(Fake::url)
        .fold(builder(honest), FifoRedlockBuilder::node);
    builder
        .restart_grace(Duration::ZERO)
        .fifo_ephemeral_ttl(TTL)
}

async fn fakes<const N: usize>(manner: &Manner) -> [Fake; N] {
    join_all((0..N).map(|_| Fake::start(manner.clone())))
        .await
        .try_into()
        .unwrap()
}

/// The median and the worst of so many locks and releases.
async fn cycles(redlock: &FifoRedlock, times: usize, what: &str) -> (Duration, Duration) {
    let mut took = Vec::new();
    let mut last = 0;
    for _ in 0..times {
        let asked = now();
        let lock = redlock.lock(what, TTL).wait_timeout(PATIENCE).await;
        let guard = lock.unwrap_or_else(|error| panic!("{what:?}: {error}"));
        assert!(guard.is_held(), "{what:?}");
        assert!(guard.fencing_token() > last, "{what:?}: S2");
        last = guard.fencing_token();
        guard
            .release()
            .await
            .unwrap_or_else(|error| panic!("{what:?}: {error}"));
        took.push(now() - asked);
    }
    took.sort();
    (took[times / 2], took[times - 1])
}

/// All that is left on `honest`, but counters.
fn left(honest: &[Server]) -> Vec<String> {
    let keys = honest.iter().flat_map(Server::keys);
    keys.filter(|key| !key.ends_with(":redlock-fifo:seq"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l4_one_hostile_node_of_three_costs_nothing() {
    let before = panics();
    let honest = servers(2);
    let third = servers(1);
    let healthy = builder(&honest)
        .node(third[0].url())
        .connect()
        .await
        .unwrap();
    let (usual, _) = cycles(&healthy, 50, "healthy").await;
    healthy.shutdown().await;
    // Half of what a node is waited for, and far more than what a busy machine adds.
    let most = Duration::from_millis(250);

    let mut ends = Vec::new();
    let mut slowest = (Duration::ZERO, String::new());
    for (name, manner) in misbehaviour::all() {
        let hostile: [Fake; 1] = fakes(&manner).await;
        let redlock = beside(&honest, &hostile).connect().await.unwrap();
        let (median, worst) = cycles(&redlock, 15, &plain(&name)).await;
        assert!(median < most, "{name:?}: {median:?}, without it {usual:?}");
        if worst > slowest.0 {
            slowest = (worst, name.clone());
        }
        // A waiter is served as soon as the holder is gone.
        let guard = redlock.lock(plain(&name), TTL).await.unwrap();
        let mut ticket = redlock.enqueue(plain(&name), TTL).await.unwrap();
        guard.release().await.unwrap();
        let asked = now();
        let next = timeout(PATIENCE, ticket.acquire()).await;
        let next = next.unwrap_or_else(|_| panic!("{name:?}: the next one waits"));
        let waited = now() - asked;
        assert!(waited < most, "{name:?}: {waited:?}");
        drop(next.unwrap());
        assert!(hostile[0].requests() > 0, "{name:?}: it was never asked");
        ends.push(async move {
            redlock.shutdown().await;
            drop(hostile);
        });
    }
    println!(
        "lock and release: {usual:?} without, at worst {:?} with {:?}",
        slowest.0, slowest.1
    );
    timeout(PATIENCE, join_all(ends))
        .await
        .expect("all shut down");
    assert_eq!(left(&honest), [""; 0]);
    assert_eq!(panics(), before, "a task panicked");
}

/// A name that a resource may have.
fn plain(name: &str) -> String {
    let sound = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '-'
        }
    };
    name.chars()
        .map(sound)
        .take(60)
        .chain("x".chars())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_two_hostile_nodes_of_three_get_nobody_the_lock() {
    let before = panics();
    let honest = servers(1);
    let attempt = async |(name, manner): (String, Manner)| {
        let hostile: [Fake; 2] = fakes(&manner).await;
        let redlock = beside(&honest, &hostile).connect().await.unwrap();
        let resource = plain(&name);
        let tried = redlock.try_lock(&resource, TTL).await;
        assert!(matches!(tried, Ok(None) | Err(_)), "{name:?}: {tried:?}");
        let locked = redlock.lock(&resource, TTL).wait_timeout(TTL).await;
        let refused = matches!(
            locked,
            Err(LockError::NoQuorum { .. } | LockError::TimedOut { .. })
        );
        assert!(refused, "{name:?}: {locked:?}");
        if let Ok(mut ticket) = redlock.enqueue(&resource, TTL).await {
            let acquired = timeout(TTL, ticket.acquire()).await;
            assert!(!matches!(acquired, Ok(Ok(_))), "{name:?}: {acquired:?}");
            // Not left: it is dropped, in the middle of things.
        }
        assert!(
            hostile.iter().all(|fake| fake.requests() > 0),
            "{name:?}: never asked"
        );
        redlock.shutdown().await;
    };
    // Not all at once: what a machine cannot do in a second looks like a hung node.
    let mut attempts = stream::iter(misbehaviour::all())
        .map(attempt)
        .buffer_unordered(24);
    while timeout(PATIENCE, attempts.next())
        .await
        .expect("in time")
        .is_some()
    {}
    assert_eq!(left(&honest), [""; 0]);
    assert_eq!(panics(), before, "a task panicked");
}

/// The tasks of this runtime but for those of a fake.
fn tasks(fake: &Fake) -> usize {
    let all = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    all.saturating_sub(fake.counts.open.load(Ordering::Relaxed))
}

/// However hard it is used meanwhile, and whether or not it still takes what it is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_node_does_not_pile_up_requests() {
    /// What a node is given up after: `node_timeout` for the first calls, and a silent one is asked thrice.
    const FOUND_OUT: f64 = 1.5;
    const LOCKERS: usize = 50;
    let honest = servers(2);
    for how in [Act::Hang, Act::Stop] {
        let manner = misbehaviour::requests(move |_| vec![how.clone()]);
        let [hung] = fakes(&manner).await;
        let redlock = beside(&honest, std::slice::from_ref(&hung))
            .connect()
            .await
            .unwrap();
        let idle = tasks(&hung);
        let (start, span) = (now(), Duration::from_secs(4));
        let most = AtomicUsize::new(0);
        let work = async |place: usize| {
            let mut cycles = 0;
            while now() - start < span {
                let guard = redlock.lock(format!("r{place}"), TTL).await.unwrap();
                guard.release().await.unwrap();
                most.fetch_max(tasks(&hung), Ordering::Relaxed);
                cycles += 1;
            }
            cycles
        };
        let cycles: usize = join_all((0..LOCKERS).map(work)).await.iter().sum();
        redlock.shutdown().await;
        let took = (now() - start).as_secs_f64();

        let counts = &hung.counts;
        let [connections, deepest] =
            [&counts.connections, &counts.deepest].map(|count| count.load(Ordering::Relaxed));
        let tasks_at_most = most.load(Ordering::Relaxed);
        println!(
            "{cycles} cycles beside it: {connections} connections, at most {deepest} requests on one, \
             {tasks_at_most} tasks"
        );
        assert!(deepest > 0, "it was never asked");
        // A lock and a release each, as long as it is not found out; with the releases that it still owes.
        let calls = 2.0 * cycles as f64 / span.as_secs_f64();
        let owed = calls / 2.0 * TTL.as_secs_f64();
        assert!(
            (deepest as f64) < calls * FOUND_OUT + owed,
            "{deepest} unanswered, {calls} a second"
        );
        // Each costs it a `node_timeout`.
        assert!(
            (connections as f64) < took / 0.5 + 2.0,
            "{connections} in {took} s"
        );
        // One for each call that is not waited for any more.
        assert!((tasks_at_most as f64) < calls, "{tasks_at_most} tasks");
        // The client's own task was there from the start.
        until("the tasks are gone", || tasks(&hung) <= idle + 2).await;
    }
    assert_eq!(left(&honest), [""; 0]);
}

/// Whoever contradicts itself must not be asked as fast as it answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lies_without_end_is_not_asked_without_end() {
    let honest = servers(2);
    for (name, manner) in misbehaviour::restless() {
        let [hostile] = fakes(&manner).await;
        let redlock = beside(&honest, std::slice::from_ref(&hostile))
            .connect()
            .await
            .unwrap();
        let guard = redlock.lock("r", TTL).await.unwrap();
        let mut ticket = redlock.enqueue("r", TTL).await.unwrap();
        let before = hostile.requests();
        assert!(timeout(2 * TTL, ticket.acquire()).await.is_err(), "{name}");
        let asked = hostile.requests() - before;
        println!("{name}: asked {asked} times in {:?}", 2 * TTL);
        assert!(asked < 300, "{name}: asked {asked} times in {:?}", 2 * TTL);
        assert!(guard.is_held(), "{name}");
        drop(guard);
        drop(ticket.acquire().await.unwrap());
        redlock.shutdown().await;
    }
    assert_eq!(left(&honest), [""; 0]);
}

/// A number just below 2^53 that is taken for a ticket would be written to the counters of all nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_near_the_end_of_the_numbers_does_not_use_up_the_counters() {
    let honest = servers(2);
    let manner = misbehaviour::lines(|call| {
        let number = misbehaviour::asked_number(call).max((1 << 53) - 1);
        let ends = crate::fake::now_millis() + 5000;
        let place = format!("*5\r\n:2\r\n:{number}\r\n:0\r\n:{ends}\r\n:9000\r\n");
        vec![Act::Send(call.envelope(&place))]
    });
    let hostile: [Fake; 1] = fakes(&manner).await;
    let redlock = beside(&honest, &hostile).connect().await.unwrap();
    let other = builder(&honest).connect().await.unwrap();
    let guard = other.lock("r", TTL).auto_extend(false).await.unwrap();
    // A slow one, so that the hostile one is among the first two that answer.
    honest[1].pause();
    let refused = redlock.enqueue("r", TTL).await;
    honest[1].resume();
    assert!(
        matches!(refused, Err(LockError::NoQuorum(_))),
        "{refused:?}"
    );
    drop(guard);
    redlock.shutdown().await;
    let next = other.lock("r", TTL).wait_timeout(3 * TTL).await;
    let token = next.expect("its turn").fencing_token();
    assert!(token < 1 << 52, "{token}");
}
