//! What is reported about requests.

use std::{sync::atomic::Ordering, time::Duration};

use tracing::{debug, trace, warn};

use super::{Limits, STEPS, TARGET, guarded, meter, millis};
use crate::{
    error::LeaseLost,
    event::{Event, EventKind, Fault, Subject},
    time::Time,
};

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

/// Reports what happened to a request, at `now`.
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
            let help = "the guard may be forgotten, or the work may hang: bound it by max_hold; if the work takes \
                        that long, raise long_hold";
            let (fencing_token, held_ms) = (token, millis(held));
            tell!(warn, subject, fencing_token, held_ms, help, "held for long");
        }
        EventKind::Split => {
            tell!(debug, subject, "votes are split, giving mine back");
            meter::count(meter::SPLIT_VOTES, None);
        }
        EventKind::Unpolled { granted } => unpolled(&subject, granted, limits.unpolled.pass(now)),
        EventKind::KeepsLeaving { times } => {
            let help = "each time, the task goes to the end of the line. To keep the place in a `select!` loop or \
                        behind a timeout, take a Ticket by `enqueue` before the loop and await `acquire` in it, \
                        or poll `&mut lock`";
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
            let help = "no lock is granted until the grace is over: restart nodes one at a time, restart_grace apart";
            for (node, left) in nodes {
                let (node, left_ms) = (name(node), millis(left));
                warn!(target: TARGET, node, left_ms, help, "node restarted, its vote does not count yet");
            }
        }
        EventKind::TooSlow { waited, waiter_ttl } => {
            let Some(suppressed) = limits.too_slow.pass(now) else {
                return;
            };
            let help = "the waiter may lose its turn to others: use a ttl and a fifo_ephemeral_ttl of several round \
                        trips";
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

/// `late` is set if this is worth a warning: to how many warnings were held back.
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
