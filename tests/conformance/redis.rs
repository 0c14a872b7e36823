//! What only a Redis node can do wrong.

use super::subject::Scripts;
use std::time::Duration;

use super::rig::{Rig, resource, until};
use crate::{
    message::{Extended, Release, Released, Standing},
    node::Node,
    server::Server,
};

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

/// Such an answer would end the connection, and with it what others ask.
#[tokio::test]
async fn a_foreign_value_of_any_length_is_no_reason_to_disconnect() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    server.command(&["SET", "r", &"x".repeat(2 << 20)]);
    let deadline = rig.terms().deadline;
    let report = rig.node.inspect(&resource("r"), deadline).await;
    let (holder, _) = report.expect("answered").value.holder.expect("held");
    assert_eq!(holder, "x".repeat(1024));
    assert_eq!(rig.node.incarnation().expect("up").epoch, 1);
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
    let inspection = rig.node.inspect(&resource("r"), rig.terms().deadline);
    inspection.await.expect("carried out");
    assert_eq!(server.keys(), [""; 0]);
}

/// Else it would stay for ever, if nobody asked for the name again.
#[tokio::test]
async fn c1_a_queue_that_somebody_deleted_has_an_end_when_it_comes_back() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    let (holder, waiter, next) = (rig.id(), rig.id(), rig.id());
    for id in [&holder, &waiter] {
        rig.enqueue("r", id).await.expect("carried out");
    }
    let keys = ["{r}:redlock-fifo:queue", "{r}:redlock-fifo:waiters"];
    server.command(&["PEXPIRE", keys[1], "60000"]);
    server.command(&["DEL", keys[0]]);
    rig.enqueue("r", &next).await.expect("carried out");
    for key in keys {
        assert!(server.number(&["PTTL", key]) > 0, "{key}");
    }
}
