//! A master that a sentinel watches, as a node, before and after a failover.

use std::{collections::HashMap, slice};

use redis::{
    FromRedisValue,
    aio::MultiplexedConnection,
    sentinel::{SentinelClient, SentinelServerType},
};
use redlock_fifo::ReleaseError;

use super::{TTL, left_over, no_quorum, over, port, serves_in_order};
use crate::{process::until, server::Server};

/// What the sentinel calls the master.
const SERVICE: &str = "locks";

/// A master, its replica, and a sentinel that may replace the one by the other.
struct Watched {
    master: Server,
    replica: Server,
    sentinel: Server,
}

impl Watched {
    async fn start() -> Self {
        let master = Server::start_tcp(&["--repl-diskless-sync-delay", "0"]);
        let replica = Server::start_tcp(&["--replicaof", "127.0.0.1", &port(&master)]);
        let sentinel = Server::start_tcp(&["--sentinel"]);
        // A sentinel looks for replicas at once, and then only every ten seconds.
        until("the replica is in step", || {
            master
                .text(&["INFO", "replication"])
                .contains("state=online")
        })
        .await;
        sentinel.command(&[
            "SENTINEL",
            "MONITOR",
            SERVICE,
            "127.0.0.1",
            &port(&master),
            "1",
        ]);
        for (setting, millis) in [
            ("down-after-milliseconds", "500"),
            ("failover-timeout", "2000"),
        ] {
            sentinel.command(&["SENTINEL", "SET", SERVICE, setting, millis]);
        }
        let watched = Self {
            master,
            replica,
            sentinel,
        };
        until("the sentinel knows the replica", || {
            let replicas: Vec<HashMap<String, String>> = watched.ask("REPLICAS");
            let fit = |replica: &HashMap<String, String>| {
                replica["flags"] == "slave" && replica["master-link-status"] == "ok"
            };
            matches!(&replicas[..], [replica] if fit(replica))
        })
        .await;
        watched
    }

    fn ask<T: FromRedisValue>(&self, what: &str) -> T {
        let answer = self.sentinel.command(&["SENTINEL", what, SERVICE]);
        redis::from_redis_value(answer).expect("an answer of this type")
    }

    /// A connection to whoever is the master now.
    async fn connection(&self) -> MultiplexedConnection {
        let (sentinels, name) = (vec![self.sentinel.url()], SERVICE.to_owned());
        let client = SentinelClient::build(sentinels, name, None, SentinelServerType::Master);
        let connection = client.expect("urls").get_async_connection().await;
        connection.expect("connected")
    }

    /// Parts the replica from the master for good: what is written from now on does not reach it.
    fn part(&self) {
        self.replica.pause();
        assert_eq!(
            self.master.number(&["CLIENT", "KILL", "TYPE", "replica"]),
            1
        );
    }

    /// Kills the master and waits until the replica, which may be paused, has taken its place.
    async fn fail_over(&self) {
        self.master.kill();
        self.replica.resume();
        until("the replica is the master", || {
            // Not the replica, whose connections are closed as it is promoted, nor the address alone, which
            // the sentinel gives before it is done.
            let known: HashMap<String, String> = self.ask("MASTER");
            known["port"] == port(&self.replica) && known["flags"] == "master"
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_sentinels_master_serves_in_order() {
    let watched = Watched::start().await;
    let connect = || async { over(watched.connection().await).await };
    let clients = [connect().await, connect().await, connect().await];
    serves_in_order(&clients, "r").await;
    for client in clients {
        client.shutdown().await;
    }
    let master = slice::from_ref(&watched.master);
    assert_eq!(left_over(master), [""; 0]);
    assert_eq!(watched.master.keys(), ["{r}:redlock-fifo:seq"]);
}

/// Replication is asynchronous: what a replica did not get before it was promoted is forgotten, and its
/// uptime does not tell. This shows what is then void, so that nobody relies on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_voids_s1_and_s2() {
    let watched = Watched::start().await;
    let old = over(watched.connection().await).await;
    old.lock("r", TTL)
        .await
        .expect("free")
        .release()
        .await
        .expect("held");
    // So that a slow failover does not find it expired.
    watched.master.command(&["PERSIST", "{r}:redlock-fifo:seq"]);
    // As on servers that have been up for long: a counter from about the start of a server is not trusted.
    watched
        .master
        .command(&["INCRBY", "{r}:redlock-fifo:seq", "60000000"]);
    let counter = |server: &Server| {
        let keys = server.keys();
        let stays = keys == ["{r}:redlock-fifo:seq"] && server.number(&["PTTL", &keys[0]]) == -1;
        stays.then(|| server.text(&["GET", &keys[0]]))
    };
    until("the replica has the counter", || {
        let raised = counter(&watched.master);
        raised.is_some() && counter(&watched.replica) == raised
    })
    .await;

    watched.part();
    // Longer than any failover takes.
    let guard = old.lock("r", 20 * TTL).await.expect("free");
    watched.fail_over().await;

    // The old connection leads to the dead master for ever.
    let tally = no_quorum(&old, "other").await;
    assert_eq!((tally.needed(), tally.answered()), (1, 0), "{tally}");
    let new = over(watched.connection().await).await;
    let second = new.try_lock("r", TTL).await.expect("answered");
    let second = second.expect("forgotten, so free");
    assert!(guard.is_held() && second.is_held(), "two holders");
    assert_eq!(guard.fencing_token(), second.fencing_token());
    let unconfirmed = guard.release().await;
    assert!(
        matches!(unconfirmed, Err(ReleaseError::Unconfirmed(_))),
        "{unconfirmed:?}"
    );
    second.release().await.expect("held");
}
