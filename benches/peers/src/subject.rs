//! What every subject does: lock, hold, release.

use std::{
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::future::BoxFuture;

/// How long a crashed holder blocks the others, alike for all.
pub(crate) const TTL: Duration = Duration::from_secs(10);

/// How long a node may take to answer, where a subject lets its user say so.
pub(crate) const NODE_TIMEOUT: Duration = Duration::from_millis(500);

/// One acquisition, in nanoseconds of the clock that all processes of this machine share.
#[derive(Clone, Debug)]
pub(crate) struct Cycle {
    /// The lock was called for.
    pub(crate) asked: u64,
    /// The caller holds it.
    pub(crate) served: u64,
    /// Its release has returned.
    pub(crate) done: u64,
    /// What the release complained of.
    pub(crate) trouble: Option<String>,
}

/// A client of some lock, shared by all tasks of a process.
pub(crate) trait Subject: Send + Sync + 'static {
    /// Locks `resource`, holds it for `span` and releases it. Nobody waits for the result after `until`: who
    /// polls in a thread of its own must end by then, everything else is dropped.
    fn cycle<'a>(
        &'a self,
        resource: &'a str,
        span: Duration,
        until: u64,
    ) -> BoxFuture<'a, Result<Cycle, String>>;
}

pub(crate) fn clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.expect("after 1970").as_nanos()).expect("before 2554")
}

/// Holds the lock; the moment when that began. A thread sleeps, since Tokio's timer makes two milliseconds of one.
pub(crate) async fn hold(span: Duration) -> u64 {
    let served = clock();
    if !span.is_zero() {
        let slept = tokio::task::spawn_blocking(move || thread::sleep(span)).await;
        slept.expect("a sleep does not panic");
    }
    served
}

/// The same for a subject that blocks its thread.
pub(crate) fn hold_thread(span: Duration) -> u64 {
    let served = clock();
    if !span.is_zero() {
        thread::sleep(span);
    }
    served
}

/// Runs a cycle of a blocking subject on a thread where it may block. Its times are taken there.
pub(crate) fn on_thread(
    cycle: impl FnOnce() -> Result<Cycle, String> + Send + 'static,
) -> BoxFuture<'static, Result<Cycle, String>> {
    Box::pin(async move {
        let done = tokio::task::spawn_blocking(cycle).await;
        done.unwrap_or_else(|error| Err(format!("panicked: {error}")))
    })
}

/// The end of a cycle.
pub(crate) fn ended<E: std::fmt::Display>(
    asked: u64,
    served: u64,
    released: Result<(), E>,
) -> Result<Cycle, String> {
    Ok(Cycle {
        asked,
        served,
        done: clock(),
        trouble: released.err().map(|error| format!("release: {error}")),
    })
}
