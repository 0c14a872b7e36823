//! What `extend` must do on every node.

use std::time::Duration;

use super::subject::{LEASE, Scripts, Subject, TTL, on_both, only, resource};
use crate::message::{Enqueue, Extend, Extended, Standing, Terms};

on_both!(
    a_lease_is_prolonged_and_never_shortened,
    nothing_but_a_repair_creates_a_lease,
    a_repair_takes_a_forgotten_vote_again,
    a_holder_waits_first_in_line_for_a_vote_that_another_has,
    the_counter_is_raised_to_the_token,
    a_new_counter_is_above_a_lost_one,
    s2_a_counter_from_before_this_run_of_the_server_is_not_trusted,
);

async fn a_lease_is_prolonged_and_never_shortened(s: Subject) {
    let id = s.id();
    s.join(&id).await;
    let left = async || {
        s.inspect()
            .await
            .holder
            .and_then(|(_, left)| left)
            .expect("held")
    };
    let minute = Duration::from_secs(60);
    assert!(matches!(
        s.extend(&id, minute, 0, false).await,
        Extended::Stands { .. }
    ));
    assert!(left().await > minute / 2);
    for ttl in [Duration::from_secs(1), Duration::ZERO] {
        assert!(matches!(
            s.extend(&id, ttl, 0, false).await,
            Extended::Stands { .. }
        ));
        assert!(left().await > minute / 2, "{ttl:?}");
    }
}

async fn nothing_but_a_repair_creates_a_lease(s: Subject) {
    let id = s.id();
    assert_eq!(s.extend(&id, TTL, 0, false).await, Extended::Gone);
    assert_eq!(s.holder().await, None);
    s.join(&s.id()).await;
    assert_eq!(s.extend(&id, TTL, 0, false).await, Extended::Gone);
    assert!(s.line().await.is_empty());
}

async fn a_repair_takes_a_forgotten_vote_again(s: Subject) {
    let id = s.id();
    s.join(&id).await;
    s.flush();
    assert!(matches!(
        s.extend(&id, TTL, 0, true).await,
        Extended::Stands { .. }
    ));
    assert_eq!(s.holder().await, Some(id.text().to_string()));
}

async fn a_holder_waits_first_in_line_for_a_vote_that_another_has(mut s: Subject) {
    let (holder, first, second) = (s.id(), s.id(), s.id());
    let number = s.join(&first).await;
    s.join(&second).await;
    assert_eq!(s.extend(&holder, TTL, 0, true).await, Extended::InLine);
    let ask = Enqueue {
        number: Some(number),
        ..s.ask(&first)
    };
    let outranked = s.enqueue(&ask).await;
    assert!(matches!(
        outranked,
        Standing::Granted {
            outranked: true,
            ..
        }
    ));
    s.enqueue(&Enqueue {
        id: first.next(),
        ..ask
    })
    .await;
    assert_eq!(s.holder().await, Some(holder.text().to_string()));
    // The other was told to look, so that it would give the vote back.
    assert_eq!(s.told().await, (first.text().to_string(), 0, 0));
    assert_eq!(s.told().await.0, holder.text().to_string());
    assert_eq!(s.line().await.len(), 2);
}

async fn the_counter_is_raised_to_the_token(s: Subject) {
    let id = s.id();
    let seq = s.join(&id).await;
    let raised = s.extend(&id, TTL, seq + 100, false).await;
    assert_eq!(raised, Extended::Stands { seq: seq + 100 });
    let lower = s.extend(&id, TTL, seq, false).await;
    assert_eq!(lower, Extended::Stands { seq: seq + 100 });
    s.release(&id).await;
    assert!(s.join(&s.id()).await > seq + 100);
}

async fn a_new_counter_is_above_a_lost_one(s: Subject) {
    let id = s.id();
    let before = s.join(&id).await;
    s.later(LEASE.as_millis() as u64);
    s.flush();
    assert!(s.join(&s.id()).await > before);
}

/// A server that comes back with an older state has counters that have repeated themselves by then.
async fn s2_a_counter_from_before_this_run_of_the_server_is_not_trusted(s: Subject) {
    let id = s.id();
    let before = s.join(&id).await;
    let terms = Terms {
        at: s.node.incarnation().expect("connected").up_since,
        seed: before + 1_000_000,
        lead: 0,
        ..s.terms()
    };
    let extend = |token| Extend {
        resource: resource("r"),
        id: id.clone(),
        ttl: TTL,
        token,
        repair: false,
    };
    // As if the server had started after that: the counter starts again from the clock, and is never lowered.
    for (token, least) in [
        (before, before + 1_000_000),
        (before + 3_000_000, before + 3_000_000),
    ] {
        let extended = only(s.node.extend(&[extend(token)], terms).await);
        assert_eq!(extended, Extended::Stands { seq: least });
    }
    let ask = s.ask(&s.id());
    let waiting = only(s.node.enqueue(&[ask], terms).await);
    assert!(matches!(waiting, Standing::Waiting { number, .. } if number == before + 3_000_001));
}
