//! What `release` must do on every node.

use super::subject::{LEASE, Subject, on_both};
use crate::{
    holder::{ClientId, HolderId},
    message::{Enqueue, Released, Standing},
    runtime::rng::Rng,
};

on_both!(
    a_release_hands_over_and_tells,
    a_release_twice_or_of_another_is_harmless,
    a_waiter_leaves,
    older_generations_go_too_and_newer_ones_stay,
    a_dead_head_is_passed_over,
    a_vote_that_nobody_heard_of_is_short,
    the_waiters_of_a_process_that_does_not_hear_end_together,
    a_waiter_behind_many_of_other_dead_processes_is_told_to_look,
    nothing_but_the_counter_is_left,
);

async fn a_release_hands_over_and_tells(mut s: Subject) {
    let (holder, waiter) = (s.id(), s.id());
    let seq = s.join(&holder).await;
    let Standing::Waiting {
        waiter_end, number, ..
    } = s.enqueue(&s.ask(&waiter)).await
    else {
        panic!("not waiting");
    };
    assert_eq!(s.release(&holder).await, Released::Vote);
    let (id, told_end, told_seq) = s.told().await;
    assert_eq!((id.as_str(), told_end), (&**waiter.text(), waiter_end));
    assert!(told_seq > number && number > seq);
    let (held, left) = s.inspect().await.holder.expect("handed over");
    assert_eq!(held, **waiter.text());
    assert!(left.is_some_and(|left| left <= LEASE));
}

async fn a_release_twice_or_of_another_is_harmless(s: Subject) {
    let (holder, other) = (s.id(), s.id());
    s.join(&holder).await;
    assert_eq!(s.release(&other).await, Released::Nothing);
    assert_eq!(s.holder().await, Some(holder.text().to_string()));
    assert_eq!(s.release(&holder).await, Released::Vote);
    s.join(&other).await;
    assert_eq!(s.release(&holder).await, Released::Nothing);
    assert_eq!(s.holder().await, Some(other.text().to_string()));
}

async fn a_waiter_leaves(s: Subject) {
    let (holder, waiter) = (s.id(), s.id());
    s.join(&holder).await;
    s.join(&waiter).await;
    assert_eq!(s.release(&waiter).await, Released::Ticket);
    assert!(s.line().await.is_empty());
    assert_eq!(s.holder().await, Some(holder.text().to_string()));
}

async fn older_generations_go_too_and_newer_ones_stay(s: Subject) {
    let (holder, waiter) = (s.id(), s.id());
    s.join(&holder).await;
    s.join(&waiter).await;
    assert_eq!(s.release(&waiter.next()).await, Released::Ticket);
    assert_eq!(s.release(&holder.next()).await, Released::Vote);
    s.join(&holder.next()).await;
    assert_eq!(s.release(&holder).await, Released::Nothing);
    assert_eq!(s.holder().await, Some(holder.next().text().to_string()));
}

async fn a_dead_head_is_passed_over(s: Subject) {
    let (holder, dead, living) = (s.id(), s.id(), s.id());
    s.join(&holder).await;
    s.join(&dead).await;
    s.later(LEASE.as_millis() as u64 - 500);
    s.join(&living).await;
    s.later(1000);
    s.release(&holder).await;
    assert_eq!(s.holder().await, Some(living.text().to_string()));
}

/// A client of the same kind that is gone: its channel has no listener.
fn gone() -> ClientId {
    ClientId::new(Rng.uuid(), "gone", true)
}

async fn a_vote_that_nobody_heard_of_is_short(s: Subject) {
    let holder = s.id();
    let gone = HolderId::new(Rng.uuid(), &gone(), 0);
    s.join(&holder).await;
    s.join(&gone).await;
    s.release(&holder).await;
    let (held, left) = s.inspect().await.holder.expect("handed over");
    assert_eq!(held, **gone.text());
    assert!(
        left.is_some_and(|left| left <= s.terms().unheard),
        "{left:?}"
    );
}

async fn the_waiters_of_a_process_that_does_not_hear_end_together(mut s: Subject) {
    let (holder, living) = (s.id(), s.id());
    let process = gone();
    let dead: [_; 3] = std::array::from_fn(|_| HolderId::new(Rng.uuid(), &process, 0));
    s.join(&holder).await;
    s.join(&dead[0]).await;
    s.join(&dead[1]).await;
    s.join(&living).await;
    let number = Some(s.join(&dead[2]).await);
    let before = s.inspect().await.line;
    s.release(&holder).await;
    let (told, ..) = s.told().await;
    assert_eq!(*told, **living.text(), "it is to look when the vote ends");
    let report = s.inspect().await;
    let unheard = s.terms().unheard.as_millis() as u64;
    let ends: Vec<u64> = report
        .line
        .iter()
        .map(|waiting| waiting.waiter_end)
        .collect();
    let soon = report.clock + unheard;
    assert!(
        ends[0] <= soon && ends[2] <= soon,
        "{ends:?}, at {}",
        report.clock
    );
    assert_eq!(ends[1], before[2].waiter_end, "of another process");
    // One of them is alive after all, and asks in time.
    let number = Enqueue {
        number,
        ..s.ask(&dead[2])
    };
    s.enqueue(&number).await;
    s.later(unheard + 1);
    s.release(&holder).await;
    assert_eq!(s.holder().await, Some(living.text().to_string()));
    assert_eq!(s.line().await, [dead[2].text().to_string()]);
}

async fn a_waiter_behind_many_of_other_dead_processes_is_told_to_look(mut s: Subject) {
    let (holder, living) = (s.id(), s.id());
    s.join(&holder).await;
    for process in [gone(), gone(), gone()] {
        for _ in 0..20 {
            s.join(&HolderId::new(Rng.uuid(), &process, 0)).await;
        }
    }
    s.join(&living).await;
    s.release(&holder).await;
    let (told, ..) = s.told().await;
    assert_eq!(*told, **living.text());
}

async fn nothing_but_the_counter_is_left(s: Subject) {
    let (holder, waiter) = (s.id(), s.id());
    s.join(&holder).await;
    s.join(&waiter).await;
    s.release(&waiter).await;
    s.release(&holder).await;
    let report = s.inspect().await;
    assert_eq!((report.holder, report.waiting), (None, 0));
    assert!(report.seq.is_some());
    s.later(61_000);
    assert_eq!(s.inspect().await.seq, None);
}
