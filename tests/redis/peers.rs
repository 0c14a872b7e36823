//! Other implementations of Redlock on the same servers, by the bare commands that they send.

use std::time::Duration;

use redis::Value;

use crate::{
    process::{client, now, servers, until},
    server::Server,
};

const TTL: Duration = Duration::from_secs(10);

const UNLOCK: &str = r#"if redis.call("get",KEYS[1]) == ARGV[1] then return redis.call("del",KEYS[1]) else return 0 end"#;

/// What redlock-py and its kin send to lock; whether this server granted it.
fn peer_locks(server: &Server, ttl: &str) -> bool {
    server.command(&["SET", "r", "a peer", "NX", "PX", ttl]) == Value::Okay
}

/// What they send to unlock; whether the lock was theirs.
fn peer_unlocks(server: &Server) -> bool {
    server.number(&["EVAL", UNLOCK, "1", "r", "a peer"]) == 1
}

fn waits(server: &Server) -> bool {
    server.number(&["ZCARD", "{r}:redlock-fifo:queue"]) > 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_a_peer_that_unlocks_lets_our_waiters_in() {
    let servers = servers(5);
    let redlock = client(&servers).await;
    let held = &servers[..3];
    assert!(held.iter().all(|server| peer_locks(server, "60000")));
    let tried = redlock.try_lock("r", TTL).await.expect("all answer");
    assert!(tried.is_none(), "{tried:?}");

    let waiter = tokio::spawn(redlock.lock("r", TTL).wait_forever());
    until("it stands in line", || held.iter().all(waits)).await;
    assert!(held[..2].iter().all(peer_unlocks));
    // On one more the peer still has it: now a quorum is ours to have.
    let guard = waiter.await.expect("no panic").expect("served");
    assert!(guard.is_held());
    assert!(
        peer_unlocks(&servers[2]),
        "what the peer had was left alone"
    );
    guard.release().await.expect("held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_a_peer_that_dies_lets_our_waiters_in_when_its_keys_expire() {
    let servers = servers(5);
    let redlock = client(&servers).await;
    let locked = now();
    assert!(servers.iter().all(|server| peer_locks(server, "1000")));
    let guard = redlock.lock("r", TTL).wait_forever().await.expect("served");
    let waited = now() - locked;
    println!("served {waited:?} after a peer locked for a second");
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    // One poll of the head, and what a busy machine may add.
    let most = Duration::from_millis(1000 + 200 + 700);
    assert!(waited <= most, "{waited:?}");
    guard.release().await.expect("held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_our_guard_excludes_a_peer() {
    let servers = servers(5);
    let redlock = client(&servers).await;
    let guard = redlock.lock("r", TTL).await.expect("free");
    let granted = servers.iter().filter(|server| peer_locks(server, "60000"));
    assert!(granted.count() < 3, "no quorum for the peer");
    let unlocked = servers.iter().filter(|server| peer_unlocks(server));
    assert!(unlocked.count() < 3);
    assert!(guard.is_valid().await.expect("all answer"));
    guard.release().await.expect("held");
    redlock.shutdown().await;
    assert!(servers.iter().all(|server| peer_locks(server, "60000")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_value_is_no_text_is_told_as_the_holder() {
    let servers = servers(3);
    let redlock = client(&servers).await;
    // As rslock, whose values are random bytes.
    let lock = r#"return redis.call("set", KEYS[1], "a\255\0", "NX", "PX", 60000)"#;
    for server in &servers {
        assert_eq!(server.command(&["EVAL", lock, "1", "r"]), Value::Okay);
    }
    let tried = redlock.try_lock("r", TTL).await.expect("all answer");
    assert!(tried.is_none(), "{tried:?}");
    let inspection = redlock.inspect("r").await.expect("all answer");
    let holder = inspection.holder().expect("the peer");
    assert_eq!((holder.id(), holder.client_name()), ("a\\xff\\x00", None));
}
