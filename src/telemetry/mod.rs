//! What the crate reports: events and spans of `tracing`, and metrics ([`meter`]).
//!
//! All of it is listed in `docs/observability.md`, which a test compares with what is emitted. Names, levels
//! and fields are stable: people filter and alert by them. Nothing above DEBUG is emitted while all is well,
//! and each warning says what to do in its field `help`. Callers pass what they have at hand: while
//! nobody listens nothing is formatted or allocated.

use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tracing::{error, level_filters::LevelFilter, warn};

use crate::{error::ClientStopped, event::Interest, time::Time};

mod call;
pub(crate) mod meter;
mod node;
mod request;

pub(crate) use call::within;
pub(crate) use node::*;
pub(crate) use request::emit;

/// The target of all stable events. Events of protocol steps, at TRACE, have the target of their module.
const TARGET: &str = "redlock_fifo";
const STEPS: &str = "redlock_fifo::request";

/// The `help` of warnings about a node that is away.
const AWAY: &str = "there is no effect while a majority of the nodes is up; without one no lock is granted, and leases run out";

/// Limits on warnings that may concern many requests at once.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    late: Limit,
    unpolled: Limit,
    too_slow: Limit,
    /// Whether it was reported that a quorum is in its grace.
    grace: AtomicBool,
    pub(crate) unanswered: Limit,
}

/// Whether anybody may listen to the steps of the protocol, or to anything at all. This is asked before events are made,
/// and runs no user code.
pub(crate) fn interest() -> Interest {
    let most = LevelFilter::current();
    Interest {
        steps: most >= LevelFilter::TRACE,
        any: cfg!(feature = "metrics") || most != LevelFilter::OFF,
    }
}

/// Runs code that calls a user's subscriber or recorder. If that panics, the client goes on.
pub(crate) fn guarded<T>(tell: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(AssertUnwindSafe(tell)).ok()
}

/// How many more requests of this process are in line than before.
pub(crate) fn waiters(by: i32) {
    if by != 0 {
        guarded(|| meter::change(meter::WAITERS, f64::from(by), None));
    }
}

/// How many more leases of this process stand on a bare quorum than before.
pub(crate) fn bare(by: i32) {
    if by != 0 {
        guarded(|| meter::change(meter::BARE, f64::from(by), None));
    }
}

/// A ttl is longer than the restart grace.
pub(crate) fn ttl_above_grace(ttl: Duration, grace: Duration) {
    guarded(|| {
        let help = "use a shorter ttl (guards are extended anyway), or a longer restart_grace on all clients";
        let (ttl_ms, restart_grace_ms) = (millis(ttl), millis(grace));
        warn!(
            target: TARGET,
            ttl_ms,
            restart_grace_ms,
            help,
            "a lease longer than restart_grace may be given away when a node restarts"
        );
    });
}

/// The client's background task has ended although a handle, a request or a guard of the client still exists.
pub(crate) fn stopped(cause: ClientStopped) {
    guarded(|| {
        let help = "this client no longer renews or releases anything: connect a new one, on a runtime that outlives it";
        error!(target: TARGET, %cause, help, "client stopped");
    });
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Lets one warning a minute through, and counts the others.
#[derive(Debug, Default)]
pub(crate) struct Limit {
    /// In milliseconds of the client's clock; zero before the first.
    next: AtomicU64,
    suppressed: AtomicU64,
}

impl Limit {
    const PAUSE: Duration = Duration::from_secs(60);

    /// How many warnings were held back since the last one that passed; `None` if this one does not pass.
    fn pass(&self, now: Time) -> Option<u64> {
        let since = |time: Time| millis(time.since(Time::default()));
        let next = self.next.load(Ordering::Relaxed);
        let passes = next <= since(now)
            && self
                .next
                .compare_exchange(
                    next,
                    since(now.plus(Self::PAUSE)),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok();
        if passes {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Like [`pass`](Self::pass), for what happens only sometimes.
    fn pass_if(&self, happens: bool, now: Time) -> Option<u64> {
        happens.then(|| self.pass(now)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_a_minute_passes_and_tells_of_the_others() {
        let limit = Limit::default();
        let at = |seconds| Time::default().plus(Duration::from_secs(seconds));
        assert_eq!(limit.pass(at(5)), Some(0));
        assert_eq!(limit.pass(at(5)), None);
        assert_eq!(limit.pass(at(64)), None);
        assert_eq!(limit.pass(at(65)), Some(2));
        assert_eq!(limit.pass(at(125)), Some(0));
    }
}
