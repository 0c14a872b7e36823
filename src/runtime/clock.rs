//! The only source of time.
//!
//! Every other module takes [`Time`] as an argument or asks the client's [`Clock`], so that a run under a paused clock
//! replays exactly. Real nodes are timed by a clock that keeps running while the machine sleeps, because leases do so,
//! too: closing a laptop must not make a lease look younger than it is (S3).

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::mpsc,
    task::Poll,
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Handle, Id},
    sync::oneshot,
    task::yield_now,
    time::Instant,
};

use crate::time::Time;

/// How often a sleeping task looks at the clock, as the machine may have slept meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where a client's time comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// For real nodes: monotonic, and running while the machine is suspended.
    Boot,
    /// For memory nodes: tokio's clock, which tests can pause.
    Tokio {
        /// The origin of this clock.
        origin: Instant,
    },
}

impl Clock {
    /// A clock that follows tokio's, with its origin here and now.
    pub(crate) fn tokio() -> Self {
        Self::Tokio {
            origin: instant_now(),
        }
    }

    /// The clock with the earlier origin, of two that follow tokio's.
    pub(crate) fn earlier(self, other: Self) -> Self {
        match (self, other) {
            (Self::Tokio { origin: one }, Self::Tokio { origin: two }) if two < one => other,
            _ => self,
        }
    }

    /// The present moment.
    pub(crate) fn now(&self) -> Time {
        match self {
            Self::Boot => Time::ORIGIN.plus(boot_time()),
            Self::Tokio { origin } => {
                Time::ORIGIN.plus(instant_now().saturating_duration_since(*origin))
            }
        }
    }

    /// Sleeps until `deadline`; at once if it has passed. The timer is that of the runtime that polls this.
    ///
    /// Timers stand still while the machine sleeps, and the clock of real nodes does not. So this looks at the clock
    /// again and again; otherwise the end of a lease would be reported late by as much as the machine slept (S3).
    pub(crate) async fn sleep_until(&self, deadline: Time) {
        let mut timer: Option<Timer> = None;
        let mut apart = false;
        poll_fn(|cx| {
            loop {
                let span = match self {
                    Self::Boot => deadline.since(self.now()).min(LOOK_AGAIN),
                    Self::Tokio { .. } => deadline.since(self.now()),
                };
                if span.is_zero() {
                    return Poll::Ready(());
                }
                let here = Handle::try_current().ok().map(|runtime| runtime.id());
                let here = here.filter(|_| !apart);
                // The timer of another runtime may never fire, and must not be polled once that runtime has ended.
                let ours = timer.take().filter(|timer| timer.runtime == here);
                let polled = catch_unwind(AssertUnwindSafe(|| {
                    let mut ours = ours.unwrap_or_else(|| Timer::start(here, span));
                    let over = ours.sleep.as_mut().poll(cx).is_ready();
                    (!over).then_some(ours)
                }));
                match polled {
                    Ok(None) => {}
                    Ok(ours) => {
                        timer = ours;
                        return Poll::Pending;
                    }
                    // Tokio's timer panics on a runtime that shuts down or has no timer.
                    Err(_) => apart = true,
                }
            }
        })
        .await;
    }

    /// Milliseconds since 1970, for people to read; no decision is made on it.
    pub(crate) fn unix_millis(&self) -> u64 {
        match self {
            Self::Boot => unix_millis(),
            Self::Tokio { .. } => {
                MEMORY_EPOCH_MILLIS
                    + u64::try_from(self.now().since(Time::default()).as_millis())
                        .unwrap_or_default()
            }
        }
    }
}

/// A timer of the runtime that it was made on, if that was on one.
struct Timer {
    runtime: Option<Id>,
    sleep: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl Timer {
    fn start(runtime: Option<Id>, span: Duration) -> Self {
        let sleep: Pin<Box<dyn Future<Output = ()> + Send + Sync>> = match runtime {
            Some(_) => Box::pin(tokio::time::sleep(span)),
            None => Box::pin(sleep_in_thread(span)),
        };
        Self { runtime, sleep }
    }
}

/// A future that is polled outside of any runtime has no timer: a thread sleeps instead, until the time is over or
/// nobody waits for it. If no thread can be started, the waiting task looks at the clock again and again.
async fn sleep_in_thread(span: Duration) {
    let (over, slept) = oneshot::channel();
    let (_waiting, wanted) = mpsc::channel::<()>();
    let sleep = move || {
        let _ = wanted.recv_timeout(span);
        let _ = over.send(());
    };
    if thread::Builder::new().spawn(sleep).is_ok() {
        let _ = slept.await;
    } else {
        yield_now().await;
    }
}

/// When the wall clock of memory nodes starts (a round moment in 2023): a run under a paused clock is
/// the same on every day.
pub(crate) const MEMORY_EPOCH_MILLIS: u64 = 1_700_000_000_000;

#[allow(clippy::disallowed_methods)]
fn instant_now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods)]
fn unix_millis() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |span| {
            u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
        })
}

/// How far before the boot of this machine the origin of its clock lies: a server elsewhere may be up for
/// longer, and must not seem to have started at the boot.
const BEFORE_BOOT: Duration = Duration::from_secs(100 * 365 * 86_400);

#[cfg(any(target_os = "linux", target_os = "android"))]
fn boot_time() -> Duration {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let since_boot = Duration::new(
        u64::try_from(at.tv_sec).unwrap_or_default(),
        u32::try_from(at.tv_nsec).unwrap_or_default(),
    );
    BEFORE_BOOT + since_boot
}

/// Elsewhere std's monotonic clock has to do; on macOS and Windows it may stand still while the machine
/// sleeps, which the docs say.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(clippy::disallowed_methods)]
fn boot_time() -> Duration {
    use std::{sync::OnceLock, time::Instant};
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    BEFORE_BOOT + ORIGIN.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_clock_rises() {
        let first = Clock::Boot.now();
        assert!(Clock::Boot.now() >= first);
        assert!(Clock::Boot.unix_millis() > MEMORY_EPOCH_MILLIS);
    }
}
