//! Whether a connection still serves.

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use tokio::sync::Notify;

use crate::{error::NodeError, time::Time};

/// After so many timeouts in a row the connection counts as dead. One timeout may be chance; and commands that pile up
/// on a hung server all run later.
const MAX_TIMEOUTS: u32 = 3;

/// The end of a session by an answer that was not read to its end.
pub(crate) const TOO_LONG: &str = "an answer was too long";

/// The end of a session and the signs of it. Shared with the closure that hears pushes.
#[derive(Debug, Default)]
pub(crate) struct Health {
    lost: OnceLock<&'static str>,
    notify: Notify,
    timeouts: AtomicU32,
    last: Mutex<Time>,
    /// Whether the client knows of the session.
    open: AtomicBool,
}

impl Health {
    /// Ends the session, for the first cause given.
    pub(crate) fn lose(&self, cause: &'static str) {
        if self.lost.set(cause).is_ok() {
            self.notify.notify_one();
        }
    }

    /// The client knows of the session: what the server tells unasked is news from here on.
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Why the session ended, if it did.
    pub(crate) fn cause(&self) -> Option<&'static str> {
        self.lost.get().copied()
    }

    /// The real cause of a failure: all that the driver knows is that the connection broke.
    pub(crate) fn explain(&self, failure: NodeError) -> NodeError {
        match failure {
            NodeError::Broken if self.cause() == Some(TOO_LONG) => NodeError::TooLong,
            other => other,
        }
    }

    /// Waits for the end. For one waiter, the supervisor.
    pub(crate) async fn lost(&self) -> &'static str {
        loop {
            if let Some(cause) = self.cause() {
                return cause;
            }
            self.notify.notified().await;
        }
    }

    /// When the server was last heard.
    pub(crate) fn last(&self) -> Time {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a sign of life.
    pub(crate) fn heard(&self, now: Time) {
        self.timeouts.store(0, Ordering::Relaxed);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = now.max(*last);
    }

    /// Notes a call that was sent at `sent` and not answered in time. Where other answers have come since, the
    /// server is slow and not gone: a new connection would put all leases in doubt, and make it slower yet.
    pub(crate) fn unanswered(&self, sent: Time) {
        if self.last() > sent {
            return;
        }
        if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_TIMEOUTS {
            self.lose("no answer in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_timeouts_in_a_row_end_a_session() {
        let (health, sent) = (Health::default(), Time::default());
        health.unanswered(sent);
        health.unanswered(sent);
        health.heard(sent);
        health.unanswered(sent);
        health.unanswered(sent);
        assert_eq!(health.cause(), None);
        health.unanswered(sent);
        assert_eq!(health.cause(), Some("no answer in time"));
    }

    #[test]
    fn a_server_that_answers_other_calls_is_slow_and_not_gone() {
        let (health, sent) = (Health::default(), Time::default());
        let later = sent.plus(Duration::from_millis(1));
        health.heard(later);
        for _ in 0..10 {
            health.unanswered(sent);
        }
        assert_eq!(health.cause(), None);
        for _ in 0..3 {
            health.unanswered(later);
        }
        assert_eq!(health.cause(), Some("no answer in time"));
    }

    #[test]
    fn the_first_cause_stands_and_wakes_the_supervisor() {
        let health = Health::default();
        let mut lost = tokio_test::task::spawn(health.lost());
        tokio_test::assert_pending!(lost.poll());
        health.lose("first");
        health.lose("second");
        assert!(lost.is_woken());
        assert_eq!(tokio_test::assert_ready!(lost.poll()), "first");
    }

    #[test]
    fn signs_of_life_that_arrive_out_of_order_do_not_age_it() {
        let health = Health::default();
        let later = Time::default().plus(Duration::from_secs(1));
        health.heard(later);
        health.heard(Time::default());
        assert_eq!(health.last(), later);
    }
}
