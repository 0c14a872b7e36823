//! The span of a call that may wait, and how it ends.

use std::{
    future::{Future, poll_fn},
    pin::pin,
};

use tracing::{Span, debug, debug_span, field::Empty, warn};

use super::{Limit, TARGET, guarded, meter};
use crate::{error::LockError, runtime::clock::Clock, time::Time};

/// Carries a call out that may wait, within a span of its own. `token` finds the fencing token in its result.
pub(crate) async fn within<T>(
    call: &'static str,
    resource: &str,
    limit: &Limit,
    clock: Clock,
    carry_out: impl Future<Output = Result<T, LockError>>,
    token: impl Fn(&T) -> Option<u64>,
) -> Result<T, LockError> {
    let open = || debug_span!(target: TARGET, "lock", call, resource, fencing_token = Empty);
    let span = Guarded(guarded(open).unwrap_or_else(Span::none));
    // A call that is dropped gives up within the span, too.
    let _leave = OnDrop(|| span.leave());
    let mut carry_out = pin!(carry_out);
    let _enter = OnDrop(|| span.enter());
    let outcome = poll_fn(|cx| span.within(|| carry_out.as_mut().poll(cx))).await;
    match &outcome {
        Ok(value) => {
            guarded(|| span.0.record("fencing_token", token(value)));
        }
        Err(error) => span.within(|| {
            guarded(|| refused(resource, error, limit, clock.now()));
        }),
    }
    outcome
}

/// A span whose subscriber may panic without doing harm.
struct Guarded(Span);

impl Guarded {
    fn within<T>(&self, run: impl FnOnce() -> T) -> T {
        self.enter();
        let _leave = OnDrop(|| self.leave());
        run()
    }

    fn enter(&self) {
        guarded(|| self.0.with_subscriber(|(id, to)| to.enter(id)));
    }

    fn leave(&self) {
        guarded(|| self.0.with_subscriber(|(id, to)| to.exit(id)));
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let span = std::mem::replace(&mut self.0, Span::none());
        guarded(|| drop(span));
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A call ended without a guard.
fn refused(resource: &str, error: &LockError, limit: &Limit, now: Time) {
    let unanswered = matches!(error, LockError::NoQuorum(_));
    if let Some(suppressed) = limit.pass_if(unanswered, now) {
        let help = "no lock is granted until a majority of the nodes answers; `error` has the cause for each node";
        warn!(target: TARGET, resource, %error, suppressed, help, "no quorum");
    } else {
        debug!(target: TARGET, resource, %error, "no lock");
    }
    let reason = match error {
        LockError::TimedOut { .. } => "timed_out",
        LockError::QueueFull { .. } => "queue_full",
        LockError::NoQuorum(_) => "no_quorum",
        LockError::ShutDown => "shut_down",
        LockError::Stopped(_) => "stopped",
        LockError::LeaseLost(_) | LockError::TicketSpent | LockError::Argument(_) => return,
    };
    meter::count(meter::REFUSALS, Some(("reason", reason)));
}
