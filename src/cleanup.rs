//! The janitor: takes back what requests left on the nodes.
//!
//! One task per client. It outlives the futures, tickets and guards that were dropped: each leaves what is
//! to be undone in the outbox, and the janitor releases it on every node that was ever asked, again and
//! again on nodes that fail, until each has confirmed or everything has expired by itself (C1, C3). A
//! request that was never answered may still be carried out until its deadline; the release is repeated
//! after that (S4).

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};

use crate::{
    claim::{Quiet, Undo},
    clock::Clock,
    error::NodeError,
    lease::{Confirmed, Leftover, Pending, Request},
    node::{Answer, Node, Release, Released, punctual},
    quorum::FanOut,
};

/// The pause before a node that failed is asked again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Empties the outbox until everyone who could put something there is gone and all is done.
pub(crate) async fn run(mut outbox: mpsc::UnboundedReceiver<Leftover>) {
    let mut jobs = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            leftover = outbox.recv() => match leftover {
                Some(leftover) => jobs.push(take_back(leftover)),
                None => break,
            },
            Some(()) = jobs.next() => {}
        }
    }
    while let Some(()) = jobs.next().await {}
}

/// Sends the releases of `leftover` to all its nodes.
pub(crate) fn send(leftover: &mut Leftover) {
    let nodes = leftover.request.nodes.clone();
    let ask = [ask(&leftover.request, &leftover.undo)];
    let terms = nodes.terms(nodes.config.node_timeout);
    let heard =
        |(place, _): &(usize, Quiet)| (*place, heard(&leftover.request, &leftover.undo, *place));
    leftover.heard = leftover.undo.places.iter().map(heard).collect();
    let call = |(place, _): &(usize, Quiet)| {
        let node = nodes.list.get(*place)?;
        Some((*place, node.release(&ask, terms)))
    };
    let calls = leftover.undo.places.iter().filter_map(call);
    leftover.calls = Some(FanOut::of(calls, nodes.clock, terms.deadline));
}

/// The next answer to what [`send`] sent; `None` when all have come.
pub(crate) async fn next(leftover: &mut Leftover) -> Option<(usize, Result<Released, NodeError>)> {
    let (place, outcome) = leftover.calls.as_mut()?.next().await?;
    if let Ok(answer) = &outcome {
        let heard = leftover.heard.iter().find(|(node, _)| *node == place);
        let confirmed = Confirmed {
            sent: answer.sent,
            heard: heard.map_or(0, |(_, heard)| *heard),
            had: answer.value,
            era: answer.era,
        };
        leftover.confirmed.push((place, confirmed));
    }
    Some((place, outcome.map(|answer| answer.value)))
}

/// Releases on a node once more, when nothing that was asked of it before can be carried out any more.
pub(crate) async fn again(leftover: &mut Leftover, place: usize) -> Result<(), NodeError> {
    let Leftover { request, undo, .. } = leftover;
    let clock = request.nodes.clock;
    let quiet = request.look(|claim| claim.quiet(place, undo));
    let (Some(quiet), Some(node)) = (quiet, request.nodes.list.get(place)) else {
        return Ok(());
    };
    clock.sleep_until(quiet.after).await;
    let latest = release(request, undo, place, node).await?;
    let before = leftover.confirmed.iter_mut().find(|it| it.0 == place);
    if let Some((_, before)) = before {
        *before = latest;
    }
    Ok(())
}

/// Releases on one node.
async fn release(
    request: &Request,
    undo: &Undo,
    place: usize,
    node: &Arc<dyn Node>,
) -> Result<Confirmed, NodeError> {
    let nodes = &request.nodes;
    let terms = nodes.terms(nodes.config.node_timeout);
    let heard = heard(request, undo, place);
    let call = node.release(&[ask(request, undo)], terms);
    let Answer { sent, era, value } = punctual(nodes.clock, terms.deadline, call).await?;
    let had = value.first().copied().unwrap_or(Released::Nothing);
    Ok(Confirmed {
        sent,
        heard,
        had,
        era,
    })
}

/// Whether every node has confirmed for good.
pub(crate) fn is_done(leftover: &Leftover) -> bool {
    let Leftover {
        request,
        undo,
        confirmed,
        ..
    } = leftover;
    undo.places.iter().all(|&(place, _)| {
        let confirmed = confirmed.iter().find(|(node, _)| *node == place);
        confirmed.is_some_and(|(_, confirmed)| {
            let quiet = request.look(|claim| claim.quiet(place, undo));
            quiet.is_none_or(|quiet| is_final(*confirmed, quiet))
        })
    })
}

async fn take_back(mut leftover: Leftover) {
    if leftover.calls.is_none() {
        send(&mut leftover);
    }
    while next(&mut leftover).await.is_some() {}
    if is_done(&leftover) {
        return;
    }
    let Leftover {
        request,
        undo,
        confirmed,
        ..
    } = leftover;
    join_all(undo.places.iter().map(|&(place, _)| {
        let confirmed = confirmed.iter().find(|(node, ..)| *node == place);
        let confirmed = confirmed.map(|(_, confirmed)| *confirmed);
        insist(&request, &undo, place, confirmed)
    }))
    .await;
}

/// Releases on one node until that is confirmed for good, or no longer needed. `confirmed` is when a
/// release was sent that was confirmed already, and what it gave up.
async fn insist(request: &Request, undo: &Undo, place: usize, mut confirmed: Option<Confirmed>) {
    let nodes = &request.nodes;
    let Some(node) = nodes.list.get(place) else {
        return;
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let mut rung = pin!(request.wake.notified());
        rung.as_mut().enable();
        let now = nodes.clock.now();
        let Some(quiet) = request.look(|claim| claim.quiet(place, undo)) else {
            return;
        };
        match confirmed {
            Some(confirmed) if is_final(confirmed, quiet) => return,
            Some(_) if quiet.after > now => {
                tokio::select! {
                    biased;
                    () = rung => {}
                    () = nodes.clock.sleep_until(quiet.after) => {}
                }
                continue;
            }
            Some(_) => {}
            None if now >= undo.expires => return,
            None => {}
        }
        match release(request, undo, place, node).await {
            Ok(latest) => confirmed = Some(latest),
            Err(_) => {
                confirmed = None;
                nodes.clock.sleep_until(nodes.clock.now().plus(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Whether nothing that was asked before can be carried out after that release.
fn is_final(confirmed: Confirmed, quiet: Quiet) -> bool {
    let Confirmed {
        sent, heard, had, ..
    } = confirmed;
    let in_order = quiet.after <= sent && quiet.heard == heard;
    let found = had != Released::Nothing && quiet.after_find.is_some_and(|after| after <= sent);
    in_order || found
}

fn heard(request: &Request, undo: &Undo, place: usize) -> u32 {
    request.look(|claim| claim.quiet(place, undo).map_or(0, |quiet| quiet.heard))
}

fn ask(request: &Request, undo: &Undo) -> Release {
    Release {
        resource: request.look(|claim| claim.resource().clone()),
        id: undo.id.clone(),
    }
}

/// Waits until everything that was left so far is taken back, or has expired: a release may be its caller's, who
/// need not poll it any more.
pub(crate) async fn idle(clock: Clock, pending: &watch::Sender<Pending>) {
    let expires = pending.borrow().expires;
    let mut pending = pending.subscribe();
    tokio::select! {
        biased;
        // The sender lives as long as this borrow, so the wait cannot fail.
        _ = pending.wait_for(|pending| pending.count == 0) => {}
        () = clock.sleep_until(expires) => {}
    }
}
