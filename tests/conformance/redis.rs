//! Each script once, on a real server.

use std::time::Duration;

use super::rig::{LEASE, Rig, TTL, resource, until};
use crate::{
    node::{Event, Extended, Node, Release, Released, Standing},
    server::Server,
};

#[tokio::test]
async fn a_release_hands_over_and_tells() {
    let server = Server::start();
    let mut rig = Rig::open(&server.url()).up().await;
    assert_eq!(rig.event().await, Event::Up);
    let (first, second) = (rig.id(), rig.id());

    let granted = rig.enqueue("r", &first).await.expect("carried out");
    let Standing::Granted {
        seq,
        left,
        outranked: false,
    } = granted
    else {
        panic!("{granted:?}");
    };
    assert_eq!(left, TTL);

    let waiting = rig.enqueue("r", &second).await.expect("carried out");
    let Standing::Waiting {
        number,
        ahead: 0,
        lease_end,
        holder_left: Some(holder_left),
    } = waiting
    else {
        panic!("{waiting:?}");
    };
    assert!(number > seq && holder_left <= TTL);

    assert_eq!(rig.release("r", &first).await, Ok(Released::Vote));
    let Event::Granted {
        id,
        lease_end: told_end,
        seq: told_seq,
    } = rig.event().await
    else {
        panic!("not told");
    };
    assert_eq!(id, **second.text());
    assert_eq!(told_end, lease_end);
    assert!(told_seq > number);

    let granted = rig.enqueue("r", &second).await.expect("carried out");
    assert!(
        matches!(granted, Standing::Granted { seq, left, .. } if seq == told_seq && left <= LEASE)
    );
    assert_eq!(rig.release("r", &second).await, Ok(Released::Vote));
    assert_eq!(rig.release("r", &second).await, Ok(Released::Nothing));
    assert_eq!(server.keys(), ["{r}:redlock-fifo:seq"]);
}

#[tokio::test]
async fn a_full_line_and_a_waiter_that_leaves_are_told() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    let (holder, waiter) = (rig.id(), rig.id());
    rig.enqueue("r", &holder).await.expect("carried out");
    rig.enqueue("r", &waiter).await.expect("carried out");
    let mut third = rig.ask("r", &rig.id());
    third.room = Some(1);
    let full = rig
        .node
        .enqueue(&[third.clone()], rig.terms())
        .await
        .expect("carried out");
    assert!(matches!(
        full.value[..],
        [Standing::Full {
            waiting: 1,
            holder_left: Some(_)
        }]
    ));
    assert_eq!(rig.release("r", &waiter).await, Ok(Released::Ticket));
    let waits = rig
        .node
        .enqueue(&[third], rig.terms())
        .await
        .expect("carried out");
    assert!(matches!(
        waits.value[..],
        [Standing::Waiting { ahead: 0, .. }]
    ));
}

#[tokio::test]
async fn an_older_generation_is_superseded() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    let id = rig.id();
    assert!(matches!(
        rig.enqueue("r", &id.next()).await,
        Ok(Standing::Granted { .. })
    ));
    assert_eq!(rig.enqueue("r", &id).await, Ok(Standing::Superseded));
}

#[tokio::test]
async fn an_extension_prolongs_and_never_shortens() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    let (holder, other) = (rig.id(), rig.id());
    rig.enqueue("r", &holder).await.expect("carried out");

    let minute = Duration::from_secs(60);
    assert!(matches!(
        rig.extend("r", &holder, minute).await,
        Ok(Extended::Stands { .. })
    ));
    assert!(server.number(&["PTTL", "r"]) > 50_000);
    assert!(matches!(
        rig.extend("r", &holder, Duration::ZERO).await,
        Ok(Extended::Stands { .. })
    ));
    assert!(server.number(&["PTTL", "r"]) > 50_000);

    assert_eq!(rig.extend("r", &other, minute).await, Ok(Extended::Gone));
    // Asking about a lease that somebody made endless must not end it.
    server.command(&["PERSIST", "r"]);
    assert!(matches!(
        rig.extend("r", &holder, Duration::ZERO).await,
        Ok(Extended::Stands { .. })
    ));
    assert_eq!(server.text(&["GET", "r"]), **holder.text());
}

#[tokio::test]
async fn a_report_lists_the_holder_and_the_line() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    let ids = [rig.id(), rig.id(), rig.id()];
    let empty = rig
        .node
        .inspect(&resource("r"))
        .await
        .expect("carried out")
        .value;
    assert_eq!((empty.holder, empty.seq, empty.waiting), (None, None, 0));
    for id in &ids {
        rig.enqueue("r", id).await.expect("carried out");
    }
    let report = rig
        .node
        .inspect(&resource("r"))
        .await
        .expect("carried out")
        .value;
    let (holder, left) = report.holder.expect("held");
    assert_eq!(holder, **ids[0].text());
    assert!(left.is_some_and(|left| left <= TTL));
    assert_eq!(report.waiting, 2);
    let line: Vec<&str> = report.line.iter().map(|waiter| &*waiter.id).collect();
    assert_eq!(line, [&**ids[1].text(), &**ids[2].text()]);
    assert!(report.line[0].number < report.line[1].number);
    assert!(
        report
            .line
            .iter()
            .all(|waiter| waiter.lease_end > report.clock)
    );
    assert!(report.seq.is_some());
}

#[tokio::test]
async fn a_batch_is_one_command_and_answers_in_order() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    rig.enqueue("b", &rig.id()).await.expect("carried out");
    let before = server.commandstats()["evalsha"];
    let batch: Vec<_> = ["a", "b", "c"].map(|name| rig.ask(name, &rig.id())).into();
    let answer = rig
        .node
        .enqueue(&batch, rig.terms())
        .await
        .expect("carried out");
    assert!(matches!(
        answer.value[..],
        [
            Standing::Granted { .. },
            Standing::Waiting { .. },
            Standing::Granted { .. }
        ]
    ));
    let releases: Vec<_> = batch
        .iter()
        .map(|ask| Release {
            resource: ask.resource.clone(),
            id: ask.id.clone(),
        })
        .collect();
    let answer = rig
        .node
        .release(&releases, rig.terms())
        .await
        .expect("carried out");
    assert_eq!(
        answer.value,
        [Released::Vote, Released::Ticket, Released::Vote]
    );
    assert_eq!(server.commandstats()["evalsha"], before + 2);
}

#[tokio::test]
async fn a_node_that_is_dropped_leaves_no_connection() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    let clients = || server.text(&["CLIENT", "LIST"]).lines().count();
    assert_eq!(clients(), 2);
    drop(rig);
    until(|| async { clients() == 1 }).await;
}

#[tokio::test]
async fn a_call_that_is_never_polled_sends_nothing() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    drop(rig.node.enqueue(&[rig.ask("r", &rig.id())], rig.terms()));
    rig.node.inspect(&resource("r")).await.expect("carried out");
    assert_eq!(server.keys(), [""; 0]);
}
