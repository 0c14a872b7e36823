//! What is warned of when a node connects, before it does harm. The other events: `tests/suite/telemetry.rs`.

// Events are heard on the thread that they are told on: the runtimes here have one.

use std::{sync::Arc, time::Duration};

use redlock_fifo::{FifoRedlock, FifoRedlockBuilder};
use tokio::time::{sleep, timeout};

#[cfg(feature = "metrics")]
use crate::recorder::{Ledger, Recorded};
use crate::{
    events::{Listener, Told},
    fake::{Act, Call, Fake, Manner, now_millis},
    process::PATIENCE,
    server::Server,
};

const EVICTS: &str = "node may evict locks";
const APART: &str = "clocks of nodes are far apart";

/// All that was told under `name`.
fn told(listener: &Listener, name: &str) -> Vec<Told> {
    let mut told = listener.told();
    told.retain(|told| told.name() == name);
    told
}

#[tokio::test]
async fn a_server_that_evicts_keys_is_warned_of_at_each_connection() {
    let (listener, _guard) = Listener::listen();
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let args = ["--maxmemory", "100mb", "--maxmemory-policy", policy];
        let server = Server::start_with(&args);
        let redlock = FifoRedlock::connect([server.url()]).await.unwrap();
        let guard = redlock.lock("r", Duration::from_secs(9)).await.unwrap();
        guard.release().await.unwrap();
        let warned = told(&listener, EVICTS).pop().unwrap();
        let expected = ("WARN", policy, 100 << 20);
        let found = (
            &*warned.level,
            warned.get("policy"),
            warned.number("maxmemory"),
        );
        assert_eq!(found, expected);
        assert!(
            server
                .url()
                .contains(warned.get("node").split('/').next_back().unwrap())
        );
        redlock.shutdown().await;
    }
    assert_eq!(told(&listener, EVICTS).len(), 2, "once for each connection");
}

#[tokio::test]
async fn a_policy_that_was_changed_is_noticed_when_the_node_is_back() {
    let server = Server::start();
    let (listener, _guard) = Listener::listen();
    let redlock = FifoRedlock::connect([server.url()]).await.unwrap();
    let set = |name: &str, value: &str| server.command(&["CONFIG", "SET", name, value]);
    let back = async |times: usize| {
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        let back = async {
            while told(&listener, "node is back").len() < times {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, back).await.unwrap();
    };
    // Each by itself evicts nothing.
    set("maxmemory-policy", "allkeys-lfu");
    back(1).await;
    set("maxmemory-policy", "noeviction");
    set("maxmemory", "100mb");
    back(2).await;
    assert!(told(&listener, EVICTS).is_empty());
    set("maxmemory-policy", "allkeys-lfu");
    back(3).await;
    assert_eq!(listener.only(EVICTS).get("policy"), "allkeys-lfu");
    redlock.shutdown().await;
}

#[tokio::test]
async fn a_handed_connection_to_a_server_that_evicts_keys_is_warned_of() {
    let server = Server::start_with(&[
        "--maxmemory",
        "100mb",
        "--maxmemory-policy",
        "volatile-random",
    ]);
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let (listener, _guard) = Listener::listen();
    let builder = FifoRedlock::builder().connection(connection);
    let redlock = builder.connect().await.unwrap();
    let warned = listener.only(EVICTS);
    assert_eq!(warned.get("node"), "connection 0");
    assert_eq!(warned.get("policy"), "volatile-random");
    redlock.shutdown().await;
}

/// A server whose clock is so many milliseconds ahead.
async fn ahead(by: u64) -> Fake {
    let manner: Manner = Arc::new(move |call: &Call| {
        if call.words[0] != "TIME" {
            return None;
        }
        let now = now_millis() + by;
        let (seconds, micros) = (now / 1000, format!("{:06}", now % 1000 * 1000));
        let answer = format!("*2\r\n$10\r\n{seconds}\r\n$6\r\n{micros}\r\n");
        Some(vec![Act::Send(answer.into_bytes())])
    });
    Fake::start(manner).await
}

fn of(nodes: &[Fake]) -> FifoRedlockBuilder {
    let builder = FifoRedlock::builder();
    nodes
        .iter()
        .fold(builder, |builder, node| builder.node(node.url()))
}

/// What a client of nodes says of their clocks: node, other, by how much the former is ahead, and the limit.
async fn said(builder: FifoRedlockBuilder) -> Vec<(String, String, i64, u64)> {
    let (listener, _guard) = Listener::listen();
    let redlock = builder.connect().await.unwrap();
    // `connect` waits for a quorum.
    let all = async {
        while told(&listener, "connected").len() < 3 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, all).await.unwrap();
    redlock.shutdown().await;
    let warned = told(&listener, APART);
    assert!(warned.iter().all(|told| told.level == "WARN"));
    let fields = warned.iter().map(|told| {
        let name = |field| told.get(field).to_owned();
        let ahead = told.get("ahead_ms").parse().unwrap();
        (name("node"), name("other"), ahead, told.number("limit_ms"))
    });
    fields.collect()
}

#[tokio::test]
async fn a_clock_far_from_the_others_is_warned_of_with_both_nodes_named() {
    let nodes = [ahead(0).await, ahead(20_000).await, ahead(1_000).await];
    let name = |place: usize| format!("{}/0", nodes[place].url());
    let said = said(of(&nodes)).await;
    // Whoever connects later is compared with those before it.
    assert!((1..=2).contains(&said.len()), "{said:?}");
    for (node, other, ahead, limit) in said {
        let forward = node == name(1);
        assert!(forward || other == name(1), "{node} {other}");
        assert!(node != other && (forward || node != name(1)));
        let ahead = if forward { ahead } else { -ahead };
        assert!((18_500..20_500).contains(&ahead), "{ahead}");
        assert_eq!(limit, 14_000);
    }
}

#[tokio::test]
async fn clocks_may_differ_as_far_as_the_grace_covers() {
    let nodes = [ahead(0).await, ahead(12_000).await, ahead(0).await];
    assert_eq!(said(of(&nodes)).await, []);
    // Nothing is ever lost without a grace.
    assert_eq!(said(of(&nodes).restart_grace(Duration::ZERO)).await, []);
    let short = of(&nodes).restart_grace(Duration::from_secs(24));
    let warned = said(short).await;
    assert!(!warned.is_empty());
    assert!(warned.iter().all(|said| said.3 == 11_000), "{warned:?}");
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn connections_are_counted_and_a_node_that_was_never_reached_has_none() {
    let ledger = Arc::new(Ledger::default());
    let recorded = Recorded(ledger.clone());
    let _recorder = metrics::set_default_local_recorder(&recorded);
    let [up, other, down] = [Server::start(), Server::start(), Server::start()];
    down.kill();
    let connections = |server: &Server| {
        let path = server.socket_url();
        let path = path.trim_start_matches("redis+unix://");
        ledger.sum(&format!("node_connections{{node=unix:{path}}}"))
    };
    let urls = [&up, &other, &down].map(Server::url);
    let redlock = FifoRedlock::connect(&urls).await.unwrap();
    assert_eq!([&up, &other, &down].map(connections), [1.0, 1.0, 0.0]);
    up.kill();
    let gone = async {
        while connections(&up) > 0.0 {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    redlock.shutdown().await;
}
