//! What `enqueue` must do on every node.

use std::time::Duration;

use super::subject::{LEASE, Subject, TTL, on_both};
use crate::message::{Enqueue, Standing};

on_both!(
    a_free_resource_is_granted_for_the_full_ttl,
    a_newcomer_never_passes_a_waiter,
    a_repeated_first_request_keeps_its_number,
    tickets_are_served_by_number_not_by_arrival,
    a_full_line_takes_nobody_in,
    without_room_there_is_a_vote_or_nothing,
    a_keep_alive_keeps_a_waiter_and_silence_drops_it,
    all_dead_waiters_are_dropped_together,
    a_vote_that_expired_comes_back_with_its_number,
    a_new_generation_gives_the_vote_back_and_keeps_the_place,
    an_older_generation_is_superseded,
    a_waiter_with_a_vote_is_told_who_comes_before,
    a_key_of_another_client_holds,
);

fn numbered(ask: Enqueue, number: u64) -> Enqueue {
    Enqueue {
        number: Some(number),
        ..ask
    }
}

async fn a_free_resource_is_granted_for_the_full_ttl(s: Subject) {
    let id = s.id();
    let standing = s.enqueue(&s.ask(&id)).await;
    assert!(matches!(
        standing,
        Standing::Granted {
            left: TTL,
            outranked: false,
            ..
        }
    ));
    assert_eq!(s.holder().await, Some(id.text().to_string()));
}

async fn a_newcomer_never_passes_a_waiter(s: Subject) {
    let (holder, waiter, newcomer) = (s.id(), s.id(), s.id());
    s.join(&holder).await;
    s.join(&waiter).await;
    s.later(TTL.as_millis() as u64 / 3);
    s.join(&waiter).await;
    s.later(TTL.as_millis() as u64 / 3);
    s.join(&waiter).await;
    s.later(TTL.as_millis() as u64 / 3 + 100);
    // The holder's key has expired; nobody has passed the vote on yet.
    let standing = s.enqueue(&s.ask(&newcomer)).await;
    assert!(
        matches!(standing, Standing::Waiting { ahead: 0, .. }),
        "{standing:?}"
    );
    assert_eq!(s.holder().await, Some(waiter.text().to_string()));
}

async fn a_repeated_first_request_keeps_its_number(s: Subject) {
    let (holder, waiter, other) = (s.id(), s.id(), s.id());
    s.join(&holder).await;
    let number = s.join(&waiter).await;
    s.join(&other).await;
    assert_eq!(s.join(&waiter).await, number);
}

async fn tickets_are_served_by_number_not_by_arrival(s: Subject) {
    let (holder, first, second) = (s.id(), s.id(), s.id());
    let base = s.join(&holder).await;
    s.enqueue(&numbered(s.ask(&second), base + 20)).await;
    s.enqueue(&numbered(s.ask(&first), base + 10)).await;
    assert_eq!(
        s.line().await,
        [first.text().to_string(), second.text().to_string()]
    );
    // Whoever asks from now on gets a higher number than those that were agreed.
    assert!(s.join(&s.id()).await > base + 20);
}

async fn a_full_line_takes_nobody_in(s: Subject) {
    let (holder, waiter, late) = (s.id(), s.id(), s.id());
    s.join(&holder).await;
    s.join(&waiter).await;
    let ask = Enqueue {
        room: Some(1),
        ..s.ask(&late)
    };
    let standing = s.enqueue(&ask).await;
    assert!(matches!(
        standing,
        Standing::Full {
            waiting: 1,
            holder_left: Some(_)
        }
    ));
    s.release(&waiter).await;
    assert!(matches!(
        s.enqueue(&ask).await,
        Standing::Waiting { ahead: 0, .. }
    ));
}

async fn without_room_there_is_a_vote_or_nothing(s: Subject) {
    let (holder, other) = (s.id(), s.id());
    let ask = |id| Enqueue {
        room: Some(0),
        ..s.ask(id)
    };
    assert!(matches!(
        s.enqueue(&ask(&holder)).await,
        Standing::Granted { .. }
    ));
    assert!(matches!(
        s.enqueue(&ask(&other)).await,
        Standing::Full { waiting: 0, .. }
    ));
    assert!(s.line().await.is_empty());
}

async fn a_keep_alive_keeps_a_waiter_and_silence_drops_it(s: Subject) {
    let (holder, waiter) = (s.id(), s.id());
    s.join(&holder).await;
    let number = s.join(&waiter).await;
    for _ in 0..2 {
        s.later(LEASE.as_millis() as u64 - 500);
        let standing = s.enqueue(&numbered(s.ask(&waiter), number)).await;
        assert!(matches!(standing, Standing::Waiting { .. }), "{standing:?}");
    }
    s.later(LEASE.as_millis() as u64 + 500);
    s.join(&s.id()).await;
    assert!(!s.line().await.contains(&waiter.text().to_string()));
}

async fn all_dead_waiters_are_dropped_together(s: Subject) {
    s.join(&s.id()).await;
    for _ in 0..5 {
        s.join(&s.id()).await;
    }
    s.later(LEASE.as_millis() as u64 + 100);
    let living = s.id();
    let standing = s.enqueue(&s.ask(&living)).await;
    assert!(
        matches!(standing, Standing::Waiting { ahead: 0, .. }),
        "{standing:?}"
    );
}

async fn a_vote_that_expired_comes_back_with_its_number(s: Subject) {
    let (holder, waiter, other) = (s.id(), s.id(), s.id());
    s.join(&holder).await;
    let number = s.join(&waiter).await;
    s.release(&holder).await;
    assert_eq!(s.holder().await, Some(waiter.text().to_string()));
    let later = s.join(&other).await;
    s.later(LEASE.as_millis() as u64 + 100);
    s.enqueue(&numbered(s.ask(&other), later)).await;
    assert_eq!(s.holder().await, Some(other.text().to_string()));
    s.enqueue(&numbered(s.ask(&waiter), number)).await;
    assert_eq!(s.line().await, [waiter.text().to_string()]);
}

async fn a_new_generation_gives_the_vote_back_and_keeps_the_place(s: Subject) {
    let (early, late) = (s.id(), s.id());
    let seq = s.join(&late).await;
    s.enqueue(&numbered(s.ask(&early), seq - 1)).await;
    let again = late.next();
    let standing = s.enqueue(&numbered(s.ask(&again), seq)).await;
    assert!(
        matches!(standing, Standing::Waiting { ahead: 0, .. }),
        "{standing:?}"
    );
    assert_eq!(s.holder().await, Some(early.text().to_string()));
    assert_eq!(s.line().await, [again.text().to_string()]);
}

async fn an_older_generation_is_superseded(s: Subject) {
    let (holder, waiter) = (s.id(), s.id());
    s.join(&holder.next()).await;
    assert_eq!(s.enqueue(&s.ask(&holder)).await, Standing::Superseded);
    let number = s.join(&waiter.next()).await;
    let stale = s.enqueue(&numbered(s.ask(&waiter), number)).await;
    assert_eq!(stale, Standing::Superseded);
    // Its very first question, from before it had a number: it must not get another one.
    assert_eq!(s.enqueue(&s.ask(&waiter)).await, Standing::Superseded);
    assert_eq!(s.line().await, [waiter.next().text().to_string()]);
}

async fn a_waiter_with_a_vote_is_told_who_comes_before(s: Subject) {
    let (early, late) = (s.id(), s.id());
    let seq = s.join(&late).await;
    let mine = |standing| {
        matches!(
            standing,
            Standing::Granted {
                outranked: false,
                ..
            }
        )
    };
    assert!(mine(s.enqueue(&numbered(s.ask(&late), seq)).await));
    s.enqueue(&numbered(s.ask(&early), seq - 1)).await;
    assert!(!mine(s.enqueue(&numbered(s.ask(&late), seq)).await));
}

async fn a_key_of_another_client_holds(s: Subject) {
    assert!(s.set_nx("r", "abcde", Duration::from_secs(3)));
    let waiter = s.id();
    let number = s.join(&waiter).await;
    assert_eq!(s.holder().await, Some("abcde".to_owned()));
    s.later(3100);
    let standing = s.enqueue(&numbered(s.ask(&waiter), number)).await;
    assert!(matches!(standing, Standing::Granted { .. }), "{standing:?}");
    assert!(!s.set_nx("r", "fghij", Duration::from_secs(3)));
}
