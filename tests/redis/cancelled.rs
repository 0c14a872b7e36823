//! What is dropped on the way to a lock, on real servers.

use std::{future::Future, pin::pin, task::Poll, time::Duration};

use futures::future::poll_fn;
use redlock_fifo::{FifoRedlock, LockGuard};
use tokio::time::{sleep, timeout};

use crate::{
    process::{builder, client, residue, servers, until},
    server::Server,
};

/// Long enough to be told from a lease that was left behind, as is the waiter ttl of 5 s.
const TTL: Duration = Duration::from_secs(30);
const QUICKLY: Duration = Duration::from_secs(2);

/// Polls `future` that many times, then drops it. Its output, if it has come by then.
pub(crate) async fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut polls = 0;
    poll_fn(|context| {
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls >= times => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn first(servers: &[Server]) -> FifoRedlock {
    builder(servers)
        .client_name("first")
        .connect()
        .await
        .expect("connected")
}

/// The next caller has the lock soon.
async fn is_free(redlock: &FifoRedlock, what: &str) -> LockGuard {
    let next = timeout(QUICKLY, redlock.lock("r", TTL)).await;
    next.unwrap_or_else(|_| panic!("{what}: the next one waits"))
        .expect(what)
}

/// Nothing on the servers names the first client.
fn no_trace(servers: &[Server], what: &str) {
    for server in servers {
        let holder = server.command(&["GET", "r"]);
        let queue = server.command(&["ZRANGE", "{r}:redlock-fifo:queue", "0", "-1"]);
        let waiters = server.command(&["ZRANGE", "{r}:redlock-fifo:waiters", "0", "-1"]);
        let all = format!("{holder:?} {queue:?} {waiters:?}");
        assert!(!all.contains(":first:"), "{what}: {all}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_a_dropped_lock_leaves_nothing_on_a_free_resource() {
    let servers = servers(5);
    let second = client(&servers).await;
    for polls in 1..=8 {
        let what = format!("dropped at poll {polls}");
        let first = first(&servers).await;
        let guard = polled(first.lock("r", TTL), polls).await;
        drop(guard);
        let next = is_free(&second, &what).await;
        first.shutdown().await;
        no_trace(&servers, &what);
        next.release().await.expect("held");
    }
    second.shutdown().await;
    assert_eq!(residue(&servers, "r"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_a_dropped_lock_leaves_nothing_after_any_time() {
    let servers = servers(5);
    let second = client(&servers).await;
    for step in 0..30 {
        let after = Duration::from_micros(step * 100);
        let what = format!("dropped after {after:?}");
        let first = first(&servers).await;
        let locked = tokio::select! {
            biased;
            () = sleep(after) => None,
            locked = first.lock("r", TTL) => Some(locked.expect("free")),
        };
        drop(locked);
        let next = is_free(&second, &what).await;
        first.shutdown().await;
        no_trace(&servers, &what);
        next.release().await.expect("held");
    }
    second.shutdown().await;
    assert_eq!(residue(&servers, "r"), [""; 0]);
}

/// The first one waits behind a holder that releases about when it is dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_a_dropped_waiter_leaves_nothing_whatever_it_was_told() {
    let servers = servers(5);
    let holding = client(&servers).await;
    let second = client(&servers).await;
    for step in 0..30 {
        let first = first(&servers).await;
        let guard = is_free(&holding, "the line is empty").await;
        let waiter = tokio::spawn(first.lock("r", TTL).wait_forever());
        if step % 3 > 0 {
            let waits = |server: &Server| server.number(&["ZCARD", "{r}:redlock-fifo:queue"]) > 0;
            until("it stands in line", || servers.iter().all(waits)).await;
        }
        let after = Duration::from_micros(step / 3 * 200);
        let what = format!("dropped {after:?} after a release");
        let release = tokio::spawn(guard.release());
        sleep(after).await;
        waiter.abort();
        // It may have had the lock by then, and its output the guard.
        drop(waiter.await);
        let next = is_free(&second, &what).await;
        release.await.expect("no panic").expect("held");
        first.shutdown().await;
        no_trace(&servers, &what);
        next.release().await.expect("held");
    }
    holding.shutdown().await;
    second.shutdown().await;
    assert_eq!(residue(&servers, "r"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_a_dropped_guard_is_released() {
    let servers = servers(5);
    let second = client(&servers).await;
    for _ in 0..10 {
        let first = first(&servers).await;
        drop(first.lock("r", TTL).await.expect("free"));
        let next = is_free(&second, "the guard was dropped").await;
        first.shutdown().await;
        no_trace(&servers, "the guard was dropped");
        next.release().await.expect("held");
    }
    second.shutdown().await;
    assert_eq!(residue(&servers, "r"), [""; 0]);
}

/// A server that hangs takes what was sent to it when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_a_hung_node_is_cleaned_up_once_it_goes_on() {
    let servers = servers(5);
    let second = client(&servers).await;
    let first = first(&servers).await;
    servers[2].pause();
    for polls in 1..=6 {
        drop(polled(first.lock("r", TTL), polls).await);
        let next = is_free(&second, &format!("dropped at poll {polls}")).await;
        next.release().await.expect("held");
    }
    servers[2].resume();
    first.shutdown().await;
    second.shutdown().await;
    assert_eq!(residue(&servers, "r"), [""; 0]);
}
