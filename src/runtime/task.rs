//! The only ways to a background task.
//!
//! The simulation wraps what the core spawns, so that the tasks of a client stop with it when it is paused or
//! crashes.

use std::future::Future;

use tokio::task::AbortHandle;

/// Runs `task` in the background, on the runtime of the caller.
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    #[cfg(test)]
    if let Some(wrap) = WRAP.get() {
        tokio::spawn(wrap(Box::pin(task)));
        return;
    }
    tokio::spawn(task);
}

/// A task of a node's, which ends with its owner.
#[derive(Debug)]
pub(crate) struct Owned(AbortHandle);

impl Owned {
    /// Starts `task`. Needs a runtime.
    pub(crate) fn start(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
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
