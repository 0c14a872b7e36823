//! What the crate tells of itself: events and spans of `tracing`, and metrics ([`meter`]).
//!
//! All of it is listed in `docs/observability.md`, which a test compares with what is emitted. Names, levels
//! and fields are stable: people filter and alert by them. Nothing above DEBUG is emitted while all is well,
//! and each warning says what to do in its field `help`. Whoever calls this passes what it has at hand: while
//! nobody listens nothing is formatted or allocated.

use std::{
    fmt::Display,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, TryFutureExt};
use tracing::{Instrument, debug, debug_span, field::Empty, info, warn};

use crate::{
    clock::{Clock, Time},
    error::{LeaseLost, LockError, NodeError, WrongServer},
};

pub(crate) mod meter;

/// The target of all stable events. Those of the steps of the protocol, at TRACE, have their module's.
const TARGET: &str = "redlock_fifo";

/// What follows when a node is away.
const AWAY: &str =
    "nothing else as long as a majority is up; without one nobody gets a lock, and leases run out";

/// Whom an event is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who<'a> {
    pub(crate) resource: &'a str,
    pub(crate) holder_id: &'a str,
    /// The number of its ticket; none if it never stood in line.
    pub(crate) ticket: Option<u64>,
}

/// An event about a request, with the fields that all of these have.
macro_rules! tell {
    ($level:ident, $who:expr, $($rest:tt)*) => {
        $level!(
            target: TARGET,
            resource = $who.resource,
            holder_id = $who.holder_id,
            ticket = $who.ticket,
            $($rest)*
        )
    };
}

/// Carries a call out that may wait, within a span of its own. `token` finds the fencing token in what it
/// comes to.
pub(crate) fn within<T>(
    call: &'static str,
    resource: &str,
    limit: &Limit,
    clock: Clock,
    carry_out: impl Future<Output = Result<T, LockError>>,
    token: impl Fn(&T) -> Option<u64>,
) -> impl Future<Output = Result<T, LockError>> {
    let span = debug_span!(target: TARGET, "lock", call, resource, fencing_token = Empty);
    let within = carry_out.instrument(span.clone());
    within.inspect(move |outcome| match outcome {
        Ok(value) => {
            span.record("fencing_token", token(value));
        }
        Err(error) => span.in_scope(|| refused(resource, error, limit, clock.now())),
    })
}

/// A quorum agreed on the ticket.
pub(crate) fn in_line(who: Who<'_>, position: u64) {
    tell!(debug, who, position, "in line");
    meter::observe(meter::AHEAD, position as f64, None);
}

/// A guard is out.
pub(crate) fn acquired(who: Who<'_>, token: u64, wait: Duration) {
    let wait_ms = millis(wait);
    tell!(debug, who, fencing_token = token, wait_ms, "lock acquired");
    let end = Some(("end", "acquired"));
    meter::observe(meter::WAIT, wait.as_secs_f64(), end);
    meter::change(meter::HOLDERS, 1.0, None);
    if who.ticket.is_some() {
        meter::count(meter::HANDOFFS, None);
    }
}

/// A request ended before its turn: its future or ticket was dropped, left, or timed out.
pub(crate) fn left(who: Who<'_>, position: u64, wait: Duration) {
    tell!(
        debug,
        who,
        position,
        wait_ms = millis(wait),
        "left the line"
    );
    meter::observe(meter::WAIT, wait.as_secs_f64(), Some(("end", "left")));
}

/// How many more requests of this process are in line than before.
pub(crate) fn waiters(before: bool, after: bool) {
    if before != after {
        meter::change(meter::WAITERS, if after { 1.0 } else { -1.0 }, None);
    }
}

/// A guard was released or dropped.
pub(crate) fn released(who: Who<'_>, token: u64, held: Duration) {
    let held_ms = millis(held);
    tell!(debug, who, fencing_token = token, held_ms, "lock released");
    given_up(held, "released");
}

/// A lease ended under its guard; `faults` says what was wrong with which node, `overdue` how long after
/// the end of the validity that was noticed.
pub(crate) fn lost(
    who: Who<'_>,
    token: u64,
    held: Duration,
    why: LeaseLost,
    overdue: Duration,
    faults: impl Display,
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
        who,
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

/// A release found that a quorum did not have the lease any more.
pub(crate) fn lost_unnoticed(who: Who<'_>, token: u64) {
    let help = "the work may have overlapped another holder's: keys were deleted or evicted, or servers lost \
                their memory";
    tell!(
        warn,
        who,
        fencing_token = token,
        help,
        "lease was lost before its release"
    );
    loss(LeaseLost::QuorumLost);
}

/// A renewal got through to a quorum when `margin` of the lease was left; `usual` is what is left if it
/// gets through at the first try.
pub(crate) fn renewed(
    who: Who<'_>,
    token: u64,
    margin: Duration,
    usual: Duration,
    ttl: Duration,
    limit: &Limit,
    now: Time,
) {
    let margin_ms = millis(margin);
    tell!(
        debug,
        who,
        fencing_token = token,
        margin_ms,
        "lease renewed"
    );
    meter::count(meter::RENEWALS, None);
    let ratio = margin.as_secs_f64() / ttl.as_secs_f64();
    meter::observe(meter::MARGIN, ratio, None);
    if margin < usual / 2
        && let Some(suppressed) = limit.pass(now)
    {
        let help = "nodes answer slowly or not at all, or this process is held up: the next delay may cost the \
                    lease";
        let usual_ms = millis(usual);
        tell!(
            warn,
            who,
            fencing_token = token,
            margin_ms,
            usual_ms,
            suppressed,
            help,
            "lease renewed late"
        );
    }
}

/// A lease is held for longer than `long_hold`.
pub(crate) fn held_long(who: Who<'_>, token: u64, held: Duration) {
    let help = "a guard that is forgotten, or work that hangs? Bound it by max_hold; if the work takes that long, \
                set long_hold";
    let held_ms = millis(held);
    tell!(
        warn,
        who,
        fencing_token = token,
        held_ms,
        help,
        "held for long"
    );
}

/// Votes were given back to whoever comes first.
pub(crate) fn split(who: Who<'_>) {
    tell!(debug, who, "votes are split, giving mine back");
    meter::count(meter::SPLIT_VOTES, None);
}

/// A grant was passed on, since nobody polled for it.
pub(crate) fn unpolled(who: Who<'_>, granted: Duration, limit: &Limit, now: Time) {
    let granted_ms = millis(granted);
    meter::count(meter::UNPOLLED, None);
    let Some(suppressed) = limit.pass(now) else {
        tell!(debug, who, granted_ms, "granted, but nobody took it");
        return;
    };
    let help = "a lock future or ticket is kept but not polled, or the runtime is blocked: await it in a task of \
                its own, or drop it";
    tell!(
        warn,
        who,
        granted_ms,
        suppressed,
        help,
        "granted, but nobody took it"
    );
}

/// The same task has left the line of a resource again and again.
pub(crate) fn keeps_leaving(who: Who<'_>, times: u32) {
    let help = "each time it goes to the end of the line. In a `select!` loop, or behind a timeout, keep the place: \
                take a Ticket by `enqueue` before the loop and await `acquire` in it, or poll `&mut lock`";
    tell!(
        warn,
        who,
        times,
        help,
        "the same task keeps leaving the line"
    );
}

/// A call ended without a guard.
fn refused(resource: &str, error: &LockError, limit: &Limit, now: Time) {
    let unanswered = matches!(error, LockError::NoQuorum(_));
    if let Some(suppressed) = unanswered.then(|| limit.pass(now)).flatten() {
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
        LockError::LeaseLost(_) | LockError::TicketSpent | LockError::Argument(_) => return,
    };
    meter::count(meter::REFUSALS, Some(("reason", reason)));
}

/// Hands on what a call to `node` comes to, and tells if it failed.
pub(crate) fn watched<T>(
    node: Arc<str>,
    call: impl Future<Output = Result<T, NodeError>>,
) -> impl Future<Output = Result<T, NodeError>> {
    call.inspect_err(move |error| node_failed(&node, error))
}

/// A call to a node failed.
pub(crate) fn node_failed(node: &str, error: &NodeError) {
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
}

/// A client has this node, whether it can be reached or not.
pub(crate) fn node_known(node: &str) {
    meter::change(meter::NODES_UP, 0.0, Some(("node", node)));
}

/// A connection stands; the metric counts it until this is dropped.
pub(crate) struct Connected(Arc<str>);

impl Connected {
    /// `after` is how long the node was away, if it was.
    pub(crate) fn new(node: Arc<str>, epoch: u64, after: Option<Duration>) -> Self {
        match after.map(millis) {
            Some(away_ms) => info!(target: TARGET, node = &*node, epoch, away_ms, "node is back"),
            None => debug!(target: TARGET, node = &*node, epoch, "connected"),
        }
        meter::change(meter::NODES_UP, 1.0, Some(("node", &*node)));
        Self(node)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        meter::change(meter::NODES_UP, -1.0, Some(("node", &*self.0)));
    }
}

/// A connection ended.
pub(crate) fn node_lost(node: &str, cause: &str) {
    warn!(target: TARGET, node, cause, help = AWAY, "node lost");
}

/// A server answered that cannot be a node.
pub(crate) fn not_a_node(node: &str, problem: &WrongServer) {
    let help = "it has no vote until it is set up differently";
    warn!(target: TARGET, node, %problem, help, "not a node");
}

/// A server that connected drops keys when its memory is full.
pub(crate) fn may_evict(node: &str, policy: &str, maxmemory: u64) {
    let help = "an evicted key is a forgotten vote: set maxmemory-policy to noeviction, or keep locks on servers of \
                their own";
    warn!(target: TARGET, node, policy, maxmemory, help, "node may evict locks");
}

/// The clock of a node that connected is `ahead` microseconds ahead of that of `other`, or behind if negative.
pub(crate) fn clocks_apart(node: &str, other: &str, ahead: i64, limit: Duration) {
    let help = "a node that loses its memory may repeat fencing tokens: set the clocks by a time daemon, or use a \
                longer restart_grace on all clients";
    let (ahead_ms, limit_ms) = (ahead / 1000, millis(limit));
    warn!(target: TARGET, node, other, ahead_ms, limit_ms, help, "clocks of nodes are far apart");
}

/// There is no connection to a node: the first failure of an outage, or a later one.
pub(crate) fn not_reachable(node: &str, cause: &NodeError, news: bool) {
    if news {
        warn!(target: TARGET, node, %cause, help = AWAY, "node not reachable");
    } else {
        debug!(target: TARGET, node, %cause, "attempt failed");
    }
}

/// A quorum is missing because of restarts.
pub(crate) fn in_grace(node: &str, left: Duration) {
    let help = "no locks are given until the grace is over: restart nodes one at a time, restart_grace apart";
    let left_ms = millis(left);
    warn!(target: TARGET, node, left_ms, help, "node restarted, its vote does not count yet");
}

/// A lease is longer than what a restarted node waits for.
pub(crate) fn ttl_above_grace(ttl: Duration, grace: Duration) {
    let help =
        "use a shorter ttl (guards are extended anyway), or a longer restart_grace on all clients";
    let (ttl_ms, restart_grace_ms) = (millis(ttl), millis(grace));
    warn!(
        target: TARGET,
        ttl_ms,
        restart_grace_ms,
        help,
        "a lease longer than restart_grace may be given away when a node restarts"
    );
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
