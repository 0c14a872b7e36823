//! How a node weathers the faults of its server.

use super::subject::Scripts;
use std::{collections::BTreeMap, time::Duration};

use futures::future;

use super::rig::{Rig, impatient, until};
use crate::{
    error::NodeError,
    message::{Released, Standing},
    node::{Node, NodeEvent},
    server::Server,
};

#[tokio::test]
async fn a_forgotten_script_costs_one_round_trip() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    let id = rig.id();
    rig.enqueue("r", &id).await.expect("carried out");
    server.command(&["SCRIPT", "FLUSH"]);
    let before = server.commandstats();
    // Not carried out; whoever asked asks again.
    assert_eq!(rig.enqueue("r", &id).await, Err(NodeError::Late));
    assert!(matches!(
        rig.enqueue("r", &id).await,
        Ok(Standing::Granted { .. })
    ));
    assert_eq!(rig.release("r", &id).await, Ok(Released::Vote));
    assert_eq!(rig.enqueue("r", &id).await.map(drop), Ok(()));
    let after = server.commandstats();
    // Redis 6 counts all subcommands as one.
    let loads = |stats: &BTreeMap<String, u64>| {
        let count = stats.get("script|load").or(stats.get("script"));
        *count.expect("some were loaded")
    };
    // All are learned at once, with the call that follows.
    assert_eq!(loads(&after) - loads(&before), 5);
    assert_eq!(after["evalsha"] - before["evalsha"], 4);
    assert_eq!(rig.node.incarnation().expect("up").epoch, 1);
}

#[tokio::test]
async fn a_call_that_runs_late_does_nothing() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    server.pause();
    let terms = rig.terms_until(Duration::from_millis(30));
    let late = rig.enqueue_by(terms, "late", &rig.id()).await;
    assert_eq!(late, Err(NodeError::TimedOut));
    server.resume();
    // One connection keeps the order, so the late one has run by the time this one is answered.
    rig.enqueue("timely", &rig.id()).await.expect("carried out");
    assert_eq!(server.keys(), ["timely", "{timely}:redlock-fifo:seq"]);
}

#[tokio::test]
async fn a_release_runs_however_late() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    let id = rig.id();
    rig.enqueue("r", &id).await.expect("carried out");
    server.pause();
    let terms = rig.terms_until(Duration::from_millis(30));
    let unheard = rig.release_by(terms, "r", &id).await;
    assert_eq!(unheard, Err(NodeError::TimedOut));
    server.resume();
    until(|| async { server.keys() == ["{r}:redlock-fifo:seq"] }).await;
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_and_found_again() {
    let server = Server::start();
    let rig = Rig::open_with(&server.url(), impatient()).up().await;
    server.pause();
    for _ in 0..3 {
        assert_eq!(rig.enqueue("r", &rig.id()).await, Err(NodeError::TimedOut));
    }
    let started = rig.context.clock.now();
    let down = Err(NodeError::Down("no answer in time".to_owned()));
    assert_eq!(rig.enqueue("r", &rig.id()).await, down);
    assert!(rig.context.clock.now().since(started) < Duration::from_millis(50));
    server.resume();
    rig.back_after(1).await;
    assert!(matches!(
        rig.enqueue("r", &rig.id()).await,
        Ok(Standing::Granted { .. })
    ));
    assert_eq!(server.number(&["ZCARD", "{r}:redlock-fifo:queue"]), 0);
}

#[tokio::test]
async fn a_silent_server_is_found_out_without_a_call() {
    let server = Server::start();
    let rig = Rig::open_with(&server.url(), impatient()).up().await;
    server.pause();
    until(|| async { rig.node.incarnation().is_err() }).await;
    server.resume();
    rig.back_after(1).await;
}

#[tokio::test]
async fn leases_too_short_for_the_way_say_nothing_about_the_connection() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    server.pause();
    for _ in 0..5 {
        let terms = rig.terms_until(Duration::from_millis(3));
        let timed_out = rig.enqueue_by(terms, "r", &rig.id()).await;
        assert_eq!(timed_out, Err(NodeError::TimedOut));
    }
    server.resume();
    assert!(rig.enqueue("r", &rig.id()).await.is_ok());
    assert_eq!(rig.node.incarnation().expect("up").epoch, 1);
}

#[tokio::test]
async fn a_restart_is_a_new_era() {
    let server = Server::start();
    let mut rig = Rig::open(&server.url()).up().await;
    assert_eq!(rig.event().await, NodeEvent::Up);
    let before = rig.node.incarnation().expect("up");
    server.pause();
    let call = rig.node.enqueue(&[rig.ask("r", &rig.id())], rig.terms());
    let (call, ()) = future::join(call, async { server.kill() }).await;
    assert_eq!(call.map(|answer| answer.value), Err(NodeError::Broken));
    until(|| async { matches!(rig.node.incarnation(), Err(NodeError::Down(_))) }).await;
    server.restart();
    assert_eq!(rig.event().await, NodeEvent::Up);
    let after = rig.node.incarnation().expect("up");
    assert_eq!(after.epoch, before.epoch + 1);
    assert!(after.up_since > before.up_since);
    let grace = rig.context.config.restart_grace;
    assert!(!after.grace_left(rig.context.clock.now(), grace).is_zero());
}

#[tokio::test]
async fn somebody_elses_key_is_refused_by_its_code() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    server.command(&["RPUSH", "r", "x"]);
    let refused = rig.enqueue("r", &rig.id()).await;
    assert_eq!(refused, Err(NodeError::Refused("WRONGTYPE".to_owned())));
    server.command(&["SET", "s", "x"]);
    server.command(&["SET", "{s}:redlock-fifo:seq", "99999999999999999"]);
    assert_eq!(rig.enqueue("s", &rig.id()).await, Err(NodeError::Garbled));
    assert_eq!(
        rig.node.incarnation().expect("up").epoch,
        1,
        "the connection is not to blame"
    );
}
