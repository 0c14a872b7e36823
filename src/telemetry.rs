//! What the crate tells of itself: events and spans of `tracing`, and metrics ([`meter`]).
//!
//! All of it is listed in `docs/observability.md`, which a test compares with what is emitted. Names, levels
//! and fields are stable: people filter and alert by them. Nothing above DEBUG is emitted while all is well,
//! and each warning says what to do in its field `help`. Callers pass what they have at hand: while
//! nobody listens nothing is formatted or allocated.

use std::{
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::TryFutureExt;
use tracing::{
    Span, debug, debug_span, error, field::Empty, info, level_filters::LevelFilter, trace, warn,
};

use crate::{
    error::{ClientStopped, LeaseLost, LockError, NodeError, WrongServer},
    event::{Event, EventKind, Fault, Interest, Subject},
    runtime::clock::Clock,
    time::Time,
};

pub(crate) mod meter;

/// The target of all stable events. Those of the steps of the protocol, at TRACE, have their module's.
const TARGET: &str = "redlock_fifo";
const STEPS: &str = "redlock_fifo::request";

/// What follows when a node is away.
const AWAY: &str =
    "nothing else as long as a majority is up; without one nobody gets a lock, and leases run out";

/// How often what may happen to many requests at once is warned of.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    late: Limit,
    unpolled: Limit,
    too_slow: Limit,
    /// Whether it was told that a quorum is in its grace.
    grace: AtomicBool,
    pub(crate) unanswered: Limit,
}

/// Whether anybody may hear the steps of the protocol, or anything at all: asked before they are made, without asking
/// a user's code.
pub(crate) fn interest() -> Interest {
    let most = LevelFilter::current();
    Interest {
        steps: most >= LevelFilter::TRACE,
        any: cfg!(feature = "metrics") || most != LevelFilter::OFF,
    }
}

/// An event about a request, with the fields that all of these have.
macro_rules! tell {
    ($level:ident, $subject:expr, $($rest:tt)*) => {
        $level!(
            target: TARGET,
            resource = $subject.resource.name(),
            holder_id = &*$subject.holder_id,
            ticket = $subject.ticket,
            $($rest)*
        )
    };
}

/// Tells of what happened to a request, at `now`.
pub(crate) fn emit<'a>(event: Event, name: impl Fn(usize) -> &'a str, limits: &Limits, now: Time) {
    guarded(|| emit_unguarded(event, name, limits, now));
}

fn emit_unguarded<'a>(event: Event, name: impl Fn(usize) -> &'a str, limits: &Limits, now: Time) {
    let Event { subject, kind } = event;
    match kind {
        EventKind::Step(words) => trace!(target: STEPS, holder_id = &*subject.holder_id, "{words}"),
        EventKind::InLine { position } => {
            tell!(debug, subject, position, "in line");
            meter::observe(meter::AHEAD, position as f64, None);
        }
        EventKind::Acquired { token, wait } => {
            limits.grace.store(false, Ordering::Relaxed);
            let wait_ms = millis(wait);
            tell!(
                debug,
                subject,
                fencing_token = token,
                wait_ms,
                "lock acquired"
            );
            let end = Some(("end", "acquired"));
            meter::observe(meter::WAIT, wait.as_secs_f64(), end);
            meter::change(meter::HOLDERS, 1.0, None);
            if subject.ticket.is_some() {
                meter::count(meter::HANDOFFS, None);
            }
        }
        EventKind::Left { position, wait } => {
            let wait_ms = millis(wait);
            tell!(debug, subject, position, wait_ms, "left the line");
            meter::observe(meter::WAIT, wait.as_secs_f64(), Some(("end", "left")));
        }
        EventKind::Released { token, held } => {
            let held_ms = millis(held);
            tell!(
                debug,
                subject,
                fencing_token = token,
                held_ms,
                "lock released"
            );
            given_up(held, "released");
        }
        EventKind::Lost {
            token,
            held,
            why,
            overdue,
            faults,
        } => {
            lost(
                &subject,
                token,
                held,
                why,
                overdue,
                &described(&faults, name),
            );
        }
        EventKind::LostUnnoticed { token } => {
            let help = "the work may have overlapped another holder's: keys were deleted or evicted, or servers \
                        lost their memory";
            let fencing_token = token;
            tell!(
                warn,
                subject,
                fencing_token,
                help,
                "lease was lost before its release"
            );
            loss(LeaseLost::QuorumLost);
        }
        EventKind::Renewed {
            token,
            margin,
            usual,
            ttl,
        } => renewed(
            &subject,
            token,
            margin,
            usual,
            ttl,
            limits.late.pass_if(margin < usual / 2, now),
        ),
        EventKind::HeldLong { token, held } => {
            let help = "a guard that is forgotten, or work that hangs? Bound it by max_hold; if the work takes \
                        that long, set long_hold";
            let (fencing_token, held_ms) = (token, millis(held));
            tell!(warn, subject, fencing_token, held_ms, help, "held for long");
        }
        EventKind::Split => {
            tell!(debug, subject, "votes are split, giving mine back");
            meter::count(meter::SPLIT_VOTES, None);
        }
        EventKind::Unpolled { granted } => unpolled(&subject, granted, limits.unpolled.pass(now)),
        EventKind::KeepsLeaving { times } => {
            let help = "each time it goes to the end of the line. In a `select!` loop, or behind a timeout, keep \
                        the place: take a Ticket by `enqueue` before the loop and await `acquire` in it, or poll \
                        `&mut lock`";
            tell!(
                warn,
                subject,
                times,
                help,
                "the same task keeps leaving the line"
            );
        }
        EventKind::InGrace { nodes } => {
            // Once, until a lock is had again.
            if limits.grace.swap(true, Ordering::Relaxed) {
                return;
            }
            let help = "no locks are given until the grace is over: restart nodes one at a time, restart_grace apart";
            for (node, left) in nodes {
                let (node, left_ms) = (name(node), millis(left));
                warn!(target: TARGET, node, left_ms, help, "node restarted, its vote does not count yet");
            }
        }
        EventKind::TooSlow { waited, waiter_ttl } => {
            let Some(suppressed) = limits.too_slow.pass(now) else {
                return;
            };
            let help = "its place lapses in between, so others may be served first: use a ttl and a \
                        fifo_ephemeral_ttl of several times the round trip";
            let (waited_ms, lease_ms) = (millis(waited), millis(waiter_ttl));
            tell!(
                warn,
                subject,
                waited_ms,
                lease_ms,
                suppressed,
                help,
                "nodes answer too slowly for so short a lease"
            );
        }
    }
}

/// Runs what calls a user's subscriber or recorder. Should that panic, nothing of the client's goes down with it.
pub(crate) fn guarded<T>(tell: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(AssertUnwindSafe(tell)).ok()
}

/// Carries a call out that may wait, within a span of its own. `token` finds the fencing token in what it
/// comes to.
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
    // Dropped half-way, the call gives up within the span as well.
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

/// A span whose subscriber may panic, and harms nothing but what it hears by that.
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

fn described<'a>(faults: &[Fault], name: impl Fn(usize) -> &'a str) -> String {
    let described = faults.iter().map(|(node, fault)| match fault {
        Some(error) => format!("{}: {error}", name(*node)),
        None => format!("{}: has it no more", name(*node)),
    });
    described.collect::<Vec<_>>().join("; ")
}

fn lost(
    subject: &Subject,
    token: u64,
    held: Duration,
    why: LeaseLost,
    overdue: Duration,
    faults: &str,
) {
    let help = match why {
        LeaseLost::MaxHold => "the work hangs, or max_hold is too short for it",
        LeaseLost::QuorumLost => {
            "keys were deleted or evicted, or servers lost their memory: see their logs and maxmemory-policy"
        }
        _ => {
            "see `faults` for the nodes that did not answer; if there are none, this process stood still: \
             look for blocking calls and pauses, or raise the ttl"
        }
    };
    tell!(
        warn,
        subject,
        fencing_token = token,
        held_ms = millis(held),
        overdue_ms = millis(overdue),
        cause = %why,
        %faults,
        help,
        "lease lost"
    );
    given_up(held, "lost");
    loss(why);
}

/// `late` if it is to be warned of: how many warnings were held back.
fn renewed(
    subject: &Subject,
    token: u64,
    margin: Duration,
    usual: Duration,
    ttl: Duration,
    late: Option<u64>,
) {
    let margin_ms = millis(margin);
    let fencing_token = token;
    tell!(debug, subject, fencing_token, margin_ms, "lease renewed");
    meter::count(meter::RENEWALS, None);
    let ratio = margin.as_secs_f64() / ttl.as_secs_f64();
    meter::observe(meter::MARGIN, ratio, None);
    if let Some(suppressed) = late {
        let help = "nodes answer slowly or not at all, or this process is held up: the next delay may cost the \
                    lease";
        let usual_ms = millis(usual);
        tell!(
            warn,
            subject,
            fencing_token,
            margin_ms,
            usual_ms,
            suppressed,
            help,
            "lease renewed late"
        );
    }
}

fn unpolled(subject: &Subject, granted: Duration, warned: Option<u64>) {
    let granted_ms = millis(granted);
    meter::count(meter::UNPOLLED, None);
    let Some(suppressed) = warned else {
        tell!(debug, subject, granted_ms, "granted, but nobody took it");
        return;
    };
    let help = "a lock future or ticket is kept but not polled, or the runtime is blocked: await it in a task of \
                its own, or drop it";
    tell!(
        warn,
        subject,
        granted_ms,
        suppressed,
        help,
        "granted, but nobody took it"
    );
}

/// A call ended without a guard.
fn refused(resource: &str, error: &LockError, limit: &Limit, now: Time) {
    let unanswered = matches!(error, LockError::NoQuorum(_));
    if let Some(suppressed) = limit.pass_if(unanswered, now) {
        let help = "nobody gets a lock until a majority of the nodes answers: `error` says what each of them said";
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

/// Hands on what a call to `node` comes to, and tells if it failed. What came too late is sent once more, and told
/// of by the caller that gives up.
pub(crate) fn watched<T>(
    node: Arc<str>,
    call: impl Future<Output = Result<T, NodeError>>,
) -> impl Future<Output = Result<T, NodeError>> {
    call.inspect_err(move |error| {
        if *error != NodeError::Late {
            node_failed(&node, error);
        }
    })
}

/// A call to a node failed.
pub(crate) fn node_failed(node: &str, error: &NodeError) {
    guarded(|| {
        let kind = match error {
            NodeError::Down(_) => "down",
            NodeError::TimedOut => "timed_out",
            NodeError::Broken => "broken",
            NodeError::Refused(_) => "refused",
            NodeError::Garbled => "garbled",
            NodeError::TooLong => "too_long",
            NodeError::Late => "late",
            NodeError::RestartGrace { .. } => "restart_grace",
            NodeError::WrongServer(_) => "wrong_server",
        };
        // That it is down was told when it went down.
        if !matches!(error, NodeError::Down(_) | NodeError::WrongServer(_)) {
            debug!(target: TARGET, node, %error, "call failed");
        }
        meter::count_node_error(node, kind);
    });
}

/// A client has this node, whether it can be reached or not.
pub(crate) fn node_known(node: &str) {
    guarded(|| {
        meter::change(meter::NODES_UP, 0.0, Some(("node", node)));
    });
}

/// A connection stands; the metric counts it until this is dropped.
pub(crate) struct Connected(Arc<str>);

impl Connected {
    /// `after` is how long the node was away, if it was.
    pub(crate) fn new(node: Arc<str>, epoch: u64, after: Option<Duration>) -> Self {
        guarded(|| {
            match after.map(millis) {
                Some(away_ms) => {
                    info!(target: TARGET, node = &*node, epoch, away_ms, "node is back")
                }
                None => debug!(target: TARGET, node = &*node, epoch, "connected"),
            }
            meter::change(meter::NODES_UP, 1.0, Some(("node", &*node)));
        });
        Self(node)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        guarded(|| meter::change(meter::NODES_UP, -1.0, Some(("node", &*self.0))));
    }
}

/// A connection ended.
pub(crate) fn node_lost(node: &str, cause: &str) {
    guarded(|| {
        warn!(target: TARGET, node, cause, help = AWAY, "node lost");
    });
}

/// A server answered that cannot be a node.
pub(crate) fn not_a_node(node: &str, problem: &WrongServer) {
    guarded(|| {
        let help = "it has no vote until it is set up differently";
        warn!(target: TARGET, node, %problem, help, "not a node");
    });
}

/// A server that connected drops keys when its memory is full.
pub(crate) fn may_evict(node: &str, policy: &str, maxmemory: u64) {
    guarded(|| {
        let help = "an evicted key is a forgotten vote: set maxmemory-policy to noeviction, or keep locks on servers of \
                    their own";
        warn!(target: TARGET, node, policy, maxmemory, help, "node may evict locks");
    });
}

/// The clock of a node that connected is `ahead` microseconds ahead of that of `other`, or behind if negative.
pub(crate) fn clocks_apart(node: &str, other: &str, ahead: i64, limit: Duration) {
    guarded(|| {
        let help = "a node that loses its memory may repeat fencing tokens: set the clocks by a time daemon, or use a \
                    longer restart_grace on all clients";
        let (ahead_ms, limit_ms) = (ahead / 1000, millis(limit));
        warn!(target: TARGET, node, other, ahead_ms, limit_ms, help, "clocks of nodes are far apart");
    });
}

/// There is no connection to a node: the first failure of an outage, or a later one.
pub(crate) fn not_reachable(node: &str, cause: &NodeError, news: bool) {
    guarded(|| {
        if news {
            warn!(target: TARGET, node, %cause, help = AWAY, "node not reachable");
        } else {
            debug!(target: TARGET, node, %cause, "attempt failed");
        }
    });
}

/// A lease is longer than what a restarted node waits for.
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

/// The client's background task has ended although requests or guards still need it.
pub(crate) fn stopped(cause: ClientStopped) {
    guarded(|| {
        let help = "nothing is renewed, released or heard any more: connect a new client, on a runtime that lasts";
        error!(target: TARGET, %cause, help, "client stopped");
    });
}

fn given_up(held: Duration, end: &'static str) {
    meter::observe(meter::HOLD, held.as_secs_f64(), Some(("end", end)));
    meter::change(meter::HOLDERS, -1.0, None);
}

fn loss(why: LeaseLost) {
    let cause = match why {
        LeaseLost::Expired => "expired",
        LeaseLost::QuorumLost => "quorum_lost",
        LeaseLost::MaxHold => "max_hold",
        LeaseLost::Released => return,
    };
    meter::count(meter::LOST, Some(("cause", cause)));
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

    /// How many were held back since the last one that passed; `None` if this one does not pass.
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

    /// As [`pass`](Self::pass), of what happens only sometimes.
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
