//! More dead waiters than one call drops.

use std::time::Duration;

use super::subject::{LEASE, Scripts, Subject, on_both, only};
use crate::message::{Enqueue, Standing, Terms};

on_both!(
    f4_a_newcomer_passes_no_waiter_behind_many_dead,
    f3_a_waiter_behind_many_dead_hears_that_nobody_holds,
);

/// A free lock, so many dead waiters, and a live one behind them.
async fn line(subject: &Subject, dead: usize) -> Enqueue {
    assert!(subject.set_nx("r", "foreign", LEASE));
    for _ in 0..dead {
        subject.join(&subject.id()).await;
    }
    let ask = subject.ask(&subject.id());
    let terms = Terms {
        waiter_ttl: 12 * LEASE,
        ..subject.terms()
    };
    let Standing::Waiting { number, .. } = only(
        subject
            .node
            .enqueue(std::slice::from_ref(&ask), terms)
            .await,
    ) else {
        panic!("not in line");
    };
    subject.later(LEASE.as_millis() as u64 + 1000);
    Enqueue {
        number: Some(number),
        ..ask
    }
}

async fn f4_a_newcomer_passes_no_waiter_behind_many_dead(subject: Subject) {
    line(&subject, 2500).await;
    let newcomer = subject.enqueue(&subject.ask(&subject.id())).await;
    assert!(
        !matches!(newcomer, Standing::Granted { .. }),
        "F4: {newcomer:?}"
    );
}

async fn f3_a_waiter_behind_many_dead_hears_that_nobody_holds(subject: Subject) {
    let live = line(&subject, 2500).await;
    let Standing::Waiting { holder_left, .. } = subject.enqueue(&live).await else {
        return;
    };
    assert_eq!(holder_left, Some(Duration::ZERO), "F3: it is to ask again");
}
