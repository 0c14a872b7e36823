//! What a handshake finds, each against a real server where there is one.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use super::rig::{Rig, until};
use crate::{
    config::Config,
    error::{NodeError, WrongServer},
    node::{Node, NodeEvent},
    server::Server,
    time::Time,
};

/// Everything that the scripts and the connection need, and nothing else.
const RIGHTS: &str = "-@all +evalsha +script|load +info +time +get +incr +set +del +pttl +pexpire +zadd +zrem \
    +zcard +zrange +zrank +zrangebyscore +zscore +publish +subscribe";

/// A server with a user `ann`, and the URL to log in as her.
fn with_user(rules: &str) -> (Server, String) {
    let server = Server::start();
    // Redis 6 starts users with all channels.
    let mut command = vec![
        "ACL",
        "SETUSER",
        "ann",
        "reset",
        "resetchannels",
        "on",
        ">hunter2",
    ];
    command.extend(rules.split_whitespace());
    server.command(&command);
    let url = format!("{}?user=ann&pass=hunter2", server.url());
    (server, url)
}

async fn missing_right(rules: &str) -> String {
    let (_server, url) = with_user(rules);
    match Rig::problem(&url).await {
        WrongServer::MissingRights { right } => right,
        other => panic!("{rules}: {other:?}"),
    }
}

/// Answers every command of every connection by `answer`, given the command's words.
async fn fake(answer: fn(&[String]) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!(
        "redis://:hunter2@{}",
        listener.local_addr().expect("an address")
    );
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some(words) = read_command(&mut stream).await {
                    let reply = answer(&words);
                    if stream.write_all(reply.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

async fn read_command(stream: &mut BufReader<tokio::net::TcpStream>) -> Option<Vec<String>> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let count: usize = line.trim().strip_prefix('*')?.parse().ok()?;
    let mut words = Vec::new();
    for _ in 0..count {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let length: usize = line.trim().strip_prefix('$')?.parse().ok()?;
        let mut word = vec![0; length + 2];
        stream.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8_lossy(&word[..length]).into_owned());
    }
    Some(words)
}

#[tokio::test]
async fn a_connection_names_its_run_its_start_and_its_clock() {
    let server = Server::start();
    let before = crate::runtime::clock::Clock::Boot.now();
    let mut rig = Rig::open(&server.url()).up().await;
    let incarnation = rig.node.incarnation().expect("up");
    assert_eq!(incarnation.epoch, 1);
    assert!(incarnation.pushes);
    // It started a moment ago, and never seems older than it is by more than that.
    assert!(incarnation.up_since.since(before) < Duration::from_secs(20));
    assert!(before.since(incarnation.up_since) < Duration::from_secs(3));
    let ours = i64::try_from(rig.context.clock.unix_millis()).expect("a time") * 1000;
    let theirs = i64::try_from(incarnation.node_micros(rig.context.clock.now())).expect("a time");
    assert!((ours - theirs).abs() < 1_000_000, "{ours} {theirs}");
    assert_eq!(rig.event().await, NodeEvent::Up);
    let channels = server.command(&["PUBSUB", "CHANNELS"]);
    let channels: Vec<String> = redis::from_redis_value(channels).expect("channels");
    assert_eq!(channels, [&*rig.context.channel]);
}

#[tokio::test]
async fn a_connection_that_speaks_resp2_is_polled() {
    let server = Server::start();
    let rig = Rig::open(&format!("{}?protocol=resp2", server.url()))
        .up()
        .await;
    assert!(!rig.node.incarnation().expect("up").pushes);
    assert!(rig.enqueue("r", &rig.id()).await.is_ok());
}

#[tokio::test]
async fn the_documented_rights_suffice() {
    let (_server, url) = with_user(&format!("~* &redlock-fifo:* {RIGHTS}"));
    let rig = Rig::open(&url).up().await;
    let id = rig.id();
    rig.enqueue("r", &id).await.expect("carried out");
    rig.release("r", &id).await.expect("carried out");
}

#[tokio::test]
async fn an_idle_connection_is_asked_for_a_sign_of_life() {
    let server = Server::start();
    let rig = Rig::open(&server.url()).up().await;
    let signs = || server.commandstats()["time"];
    let before = signs();
    until(|| async { signs() > before }).await;
    assert_eq!(rig.node.incarnation().expect("up").epoch, 1);
}

#[tokio::test]
async fn rights_to_some_keys_only_suffice_for_those() {
    let (_server, url) = with_user(&format!("~app:* ~{{app:*}}* &redlock-fifo:* {RIGHTS}"));
    let rig = Rig::open(&url).up().await;
    rig.enqueue("app:r", &rig.id()).await.expect("carried out");
    let refused = rig
        .enqueue("other", &rig.id())
        .await
        .expect_err("out of reach");
    assert_eq!(refused, NodeError::Refused("NOPERM".to_owned()));
    assert!(
        rig.node.incarnation().is_ok(),
        "the other names are not affected"
    );
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let all = |less: &str| format!("~* &* +@all {less}");
    assert_eq!(missing_right(&all("-evalsha")).await, "evalsha");
    assert_eq!(missing_right(&all("-script")).await, "script|load");
    assert_eq!(missing_right(&all("-info")).await, "info");
    assert_eq!(missing_right(&all("-time")).await, "time");
    assert_eq!(missing_right(&all("-get")).await, "get");
    assert_eq!(missing_right(&all("-zrangebyscore")).await, "zrangebyscore");
    assert_eq!(missing_right(&all("-publish")).await, "publish");
    assert_eq!(missing_right(&all("-subscribe")).await, "subscribe");
    assert_eq!(
        missing_right("~* resetchannels +@all").await,
        "channel redlock-fifo:*"
    );
}

#[tokio::test]
async fn a_password_is_asked_for_and_checked() {
    let server = Server::start_with(&["--requirepass", "hunter2"]);
    let login = |rest: &str| format!("{}{rest}", server.url());
    for rest in [
        "",
        "?pass=hunter3",
        "?protocol=2",
        "?pass=hunter3&protocol=2",
        "?user=ann&pass=x",
    ] {
        assert_eq!(
            Rig::problem(&login(rest)).await,
            WrongServer::NeedsAuthentication,
            "{rest}"
        );
    }
    for rest in ["?pass=hunter2", "?pass=hunter2&protocol=2"] {
        Rig::open(&login(rest)).up().await;
    }
}

#[tokio::test]
async fn a_replica_is_refused_and_used_once_promoted() {
    let server = Server::start_with(&["--replicaof", "127.0.0.1", "1"]);
    let rig = Rig::open(&server.url());
    let replica = NodeError::WrongServer(WrongServer::Replica);
    assert_eq!(rig.node.greeted().await, Err(replica.clone()));
    assert_eq!(rig.enqueue("r", &rig.id()).await, Err(replica.clone()));
    server.command(&["REPLICAOF", "NO", "ONE"]);
    rig.back_after(0).await;
    rig.enqueue("r", &rig.id()).await.expect("carried out");

    server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_eq!(rig.enqueue("s", &rig.id()).await, Err(replica.clone()));
    until(|| async { rig.node.incarnation() == Err(replica.clone()) }).await;
}

#[tokio::test]
async fn a_node_of_a_cluster_is_refused() {
    let server = Server::start_tcp(&["--cluster-enabled", "yes"]);
    assert_eq!(Rig::problem(&server.url()).await, WrongServer::ClusterNode);
}

#[tokio::test]
async fn one_server_behind_two_addresses_is_one_node() {
    let server = Server::start_tcp(&[]);
    let roster = Arc::default();
    let open =
        |place, url: String| Rig::open_as(place, &url, Config::default(), Arc::clone(&roster));
    let first = open(0, server.url()).up().await;
    let second = open(1, server.socket_url());
    let same = WrongServer::SameServer {
        other: first.node.name().to_owned(),
    };
    assert_eq!(
        second.node.greeted().await,
        Err(NodeError::WrongServer(same))
    );
    // A restart is no second server.
    server.restart();
    first.back_after(1).await;
}

#[tokio::test]
async fn what_is_not_redis_is_refused() {
    let web = fake(|_| "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned()).await;
    assert_eq!(Rig::problem(&web).await, WrongServer::NotRedis);
    let echo = fake(|words| format!("+{}\r\n", words.join(" "))).await;
    assert_eq!(Rig::problem(&echo).await, WrongServer::NotRedis);
    let number = fake(|_| ":1\r\n".to_owned()).await;
    assert_eq!(Rig::problem(&number).await, WrongServer::NotRedis);
}

#[tokio::test]
async fn a_server_before_resp3_is_too_old() {
    let old = fake(|words| match words[0].as_str() {
        "AUTH" => "+OK\r\n".to_owned(),
        "INFO" => "$21\r\nredis_version:5.0.0\r\n\r\n".to_owned(),
        _ => "-ERR unknown command\r\n".to_owned(),
    });
    let version = "5.0.0".to_owned();
    assert_eq!(
        Rig::problem(&old.await).await,
        WrongServer::TooOld { version }
    );
    let older = fake(|words| match words[0].as_str() {
        "AUTH" => "+OK\r\n".to_owned(),
        _ => "-ERR wrong\r\n".to_owned(),
    });
    // It refuses HELLO in other words: then that is all that is known.
    let refused = Rig::open(&older.await).node.greeted().await;
    assert_eq!(
        refused,
        Err(NodeError::Down("the server refused with ERR".to_owned()))
    );
}

#[tokio::test]
async fn no_credentials_show_anywhere() {
    let echo = fake(|words| format!("-{} {}\r\n", words.concat(), words.concat())).await;
    let rig = Rig::open(&echo);
    let error = rig.node.greeted().await.expect_err("refused");
    let shown = format!("{error} {error:?} {:?} {}", rig.node, rig.node.name());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_server_that_accepts_and_is_silent_is_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("redis://{}", listener.local_addr().expect("an address"));
    let rig = Rig::open(&url);
    let connecting = rig.enqueue("r", &rig.id()).await;
    assert_eq!(connecting, Err(NodeError::Down("connecting".to_owned())));
    let silent = Err(NodeError::Down("no answer in time".to_owned()));
    assert_eq!(rig.node.greeted().await, silent);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_down_until_it_is() {
    let server = Server::start();
    server.kill();
    let rig = Rig::open(&server.url());
    assert!(matches!(rig.node.greeted().await, Err(NodeError::Down(_))));
    assert!(matches!(rig.node.incarnation(), Err(NodeError::Down(_))));
    server.restart();
    rig.back_after(0).await;
    assert_ne!(
        rig.node.incarnation().expect("up").up_since,
        Time::default()
    );
}
