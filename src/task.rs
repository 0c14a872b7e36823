//! The only way to a background task of the core.
//!
//! The simulation wraps what is spawned, so that the tasks of a client stop with it when it is paused or
//! crashes.

use std::future::Future;

/// Runs `task` in the background, on the runtime of whoever calls.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    #[cfg(test)]
    if let Some(wrap) = WRAP.get() {
        tokio::spawn(wrap(Box::pin(task)));
        return;
    }
    tokio::spawn(task);
}

#[cfg(test)]
type Task = futures::future::BoxFuture<'static, ()>;

#[cfg(test)]
type Wrap = fn(Task) -> Task;

#[cfg(test)]
thread_local! {
    /// What each task of this thread is wrapped in, if anything is set.
    pub(crate) static WRAP: std::cell::Cell<Option<Wrap>> = const { std::cell::Cell::new(None) };
}
