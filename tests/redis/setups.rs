//! Servers as people set them up: passwords, users with few rights, databases, addresses, sockets.

use std::time::Duration;

use redlock_fifo::{BuildError, FifoRedlock, FifoRedlockBuilder, WrongServer};
use tokio::time::timeout;

use crate::{
    process::{PATIENCE, patient},
    server::Server,
};

const TTL: Duration = Duration::from_secs(30);

/// The page that says which rights a user needs.
const TUNING: &str = include_str!("../../src/docs/tuning.md");

async fn connect(url: &str) -> FifoRedlock {
    let connected = patient().node(url).connect().await;
    connected.unwrap_or_else(|error| panic!("{error}"))
}

async fn refusal(url: &str) -> WrongServer {
    match patient().node(url).connect().await {
        Err(BuildError::WrongServer { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

/// Everything that a client asks of a node, with a handoff that comes by push.
async fn all_works(url: &str) {
    let client = || {
        let nodes = FifoRedlockBuilder::node(patient(), url);
        nodes.fifo_retry_delay(Duration::from_secs(20)).connect()
    };
    let (one, other) = (
        client().await.expect("a node"),
        client().await.expect("a node"),
    );
    let guard = one.lock("r", TTL).await.expect("free");
    guard.extend(2 * TTL).await.expect("held");
    assert!(guard.is_valid().await.expect("answered"));
    let mut ticket = other.enqueue("r", TTL).await.expect("enqueued");
    let inspection = one.inspect("r").await.expect("answered");
    assert!(inspection.holder().is_some(), "{inspection:?}");
    guard.release().await.expect("held");
    let next = timeout(PATIENCE / 6, ticket.acquire()).await;
    let next = next.expect("told at once").expect("served");
    let last = other.enqueue("r", TTL).await.expect("enqueued");
    last.leave().await.expect("answered");
    next.release().await.expect("held");
    one.shutdown().await;
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_password() {
    let server = Server::start_tcp(&["--requirepass", "hunter2 &/@"]);
    let at = server.url().replace("redis://", "");
    all_works(&format!("redis://:hunter2%20%26%2F%40@{at}")).await;
    all_works(&format!("redis://default:hunter2%20%26%2F%40@{at}")).await;
    for wrong in ["", ":hunter3@"] {
        let refused = refusal(&format!("redis://{wrong}{at}")).await;
        assert_eq!(refused, WrongServer::NeedsAuthentication);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_with_a_password_and_a_database() {
    let server = Server::start_with(&["--requirepass", "hunter2"]);
    let url = server.socket_url();
    all_works(&format!("{url}?pass=hunter2")).await;
    all_works(&format!("{url}?pass=hunter2&db=5")).await;
    assert_eq!(refusal(&url).await, WrongServer::NeedsAuthentication);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_ipv6() {
    let (_server, port) = Server::start_at("--port", &["--bind", "::1"]);
    all_works(&format!("redis://[::1]:{port}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_of_a_server_have_locks_of_their_own() {
    let server = Server::start_tcp(&[]);
    let third = connect(&format!("{}/3", server.url())).await;
    let zeroth = connect(&server.url()).await;
    let guard = third.lock("r", TTL).await.expect("free");
    let other = zeroth.try_lock("r", TTL).await.expect("answered");
    assert!(other.is_some());
    assert!(third.try_lock("r", TTL).await.expect("answered").is_none());
    let missing = refusal(&format!("{}/99", server.url())).await;
    assert_eq!(missing, WrongServer::NoDatabase);
    let spaces = server.text(&["INFO", "keyspace"]);
    assert!(spaces.contains("db3:keys=2"), "{spaces}");
    drop((guard, other));
    third.shutdown().await;
    zeroth.shutdown().await;
}

/// The rules of the user in the documentation, one each.
fn documented() -> Vec<&'static str> {
    let (_, rules) = TUNING.split_once("ACL SETUSER lock ").expect("the user");
    let (rules, _) = rules.split_once("```").expect("the end of it");
    rules.split_whitespace().collect()
}

/// The URL for the user `lock` of `server` with the rules `rules`.
fn login(server: &Server, rules: &[&str]) -> String {
    server.command(&[&["ACL", "SETUSER", "lock", "reset"], rules].concat());
    server.url().replace("redis://", "redis://lock:password@")
}

/// What users were not allowed to do.
fn denied(server: &Server) -> Vec<String> {
    let log: Vec<Vec<redis::Value>> =
        redis::from_redis_value(server.command(&["ACL", "LOG"])).expect("a log");
    let object = |entry: Vec<redis::Value>| {
        let mut fields = entry.into_iter();
        fields
            .find(|field| matches!(field, redis::Value::BulkString(name) if name == b"object"))?;
        redis::from_redis_value(fields.next()?).ok()
    };
    log.into_iter().filter_map(object).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_exactly_the_documented_rights() {
    let server = Server::start_tcp(&[]);
    let rules = documented();
    assert!(rules.len() > 20, "{rules:?}");
    all_works(&login(&server, &rules)).await;
    // What the driver says of itself is refused, and not needed.
    let mut denied = denied(&server);
    denied.retain(|what| what != "client" && what != "client|setinfo");
    assert_eq!(denied, [""; 0]);
    // With a database one more.
    let with_select = [rules, vec!["+select"]].concat();
    all_works(&format!("{}/3", login(&server, &with_select))).await;
}

/// Each is missed, and named, but for the count of listeners, which older users may not ask for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_documented_right_is_more_than_is_needed() {
    let server = Server::start_tcp(&[]);
    let rules = documented();
    let rights = rules.iter().filter_map(|rule| rule.strip_prefix('+'));
    for right in rights.filter(|right| *right != "pubsub|numsub") {
        let rule = format!("+{right}");
        let others: Vec<&str> = rules
            .iter()
            .copied()
            .filter(|other| *other != rule)
            .collect();
        let missing = WrongServer::MissingRights {
            right: right.to_owned(),
        };
        assert_eq!(refusal(&login(&server, &others)).await, missing);
    }
}
