//! How those who await something of a request are woken, and wait.

use std::{
    pin::pin,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use crate::{error::LeaseLost, runtime::clock::Clock, telemetry, time::Time};

/// What a look at a request comes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Look<T> {
    Done(T),
    /// Look again when the request has changed, or at this moment.
    Again(Option<Time>),
}

impl<T> Default for Look<T> {
    fn default() -> Self {
        Self::Again(None)
    }
}

/// Wakes those who await something of a request.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    changed: Notify,
    /// Whether somebody follows how many waiters are ahead.
    followed: AtomicBool,
    /// Why the lease ended. It stays here when the request is gone from the table.
    lost: OnceLock<LeaseLost>,
}

impl Notifier {
    /// Wakes those who wait. Their wakers are user code, which may panic.
    pub(super) fn notify(&self) {
        telemetry::guarded(|| self.changed.notify_waiters());
    }

    /// Notifies also when the number of waiters ahead changes.
    pub(super) fn follow(&self) {
        self.followed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_followed(&self) -> bool {
        self.followed.load(Ordering::Relaxed)
    }

    /// The request has ended.
    pub(super) fn note_end(&self, why: LeaseLost) {
        let _ = self.lost.set(why);
    }

    pub(super) fn lost(&self) -> Option<LeaseLost> {
        self.lost.get().copied()
    }

    /// Looks now, at each change, and at the moment that the last look named, until a look comes to something.
    pub(super) async fn wait<T>(&self, clock: Clock, look: impl Fn() -> Look<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before the look, so that no change in between is missed.
            changed.as_mut().enable();
            match look() {
                Look::Done(done) => return done,
                Look::Again(None) => changed.await,
                Look::Again(Some(until)) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = clock.sleep_until(until) => {}
                },
            }
        }
    }
}
