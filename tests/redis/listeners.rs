//! Strangers that listen on every channel, as monitoring does.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use crate::{
    links::socket,
    process::{Worker, client, now, servers, until},
    server::Server,
};

/// What a busy machine may add to a promised time. Sixteen waiters that cost two polls each would take 6.4 s, and
/// a waiter ttl 5 s.
const SLACK: Duration = Duration::from_millis(1500);
const DEAD: i64 = 16;

/// One poll of the head, with the default settings.
const POLL: Duration = Duration::from_millis(200);

/// A connection that is told of all that is published, for as long as it lives.
fn listen_to_everything(server: &Server) -> UnixStream {
    let mut stream = UnixStream::connect(socket(server)).expect("connected");
    stream.write_all(b"PSUBSCRIBE *\r\n").expect("sent");
    let mut sign = [0];
    stream.read_exact(&mut sign).expect("subscribed");
    stream
}

/// How many wait for `r` on the server with the shortest line.
fn waiting(servers: &[Server]) -> i64 {
    let waiting = |server: &Server| server.number(&["ZCARD", "{r}:redlock-fifo:queue"]);
    servers.iter().map(waiting).min().expect("servers")
}

/// How many clients the servers can tell of their turn; the most of any server.
fn listeners(servers: &[Server]) -> i64 {
    let channels = "return #redis.call('PUBSUB', 'CHANNELS', 'redlock-fifo:*')";
    let listeners = |server: &Server| server.number(&["EVAL", channels, "0"]);
    servers.iter().map(listeners).max().expect("servers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f3_a_dead_process_costs_two_polls_in_all_also_beside_a_stranger_that_hears_everything() {
    let ttl = Duration::from_secs(10);
    let servers = servers(3);
    let _strangers: Vec<_> = servers.iter().map(listen_to_everything).collect();
    let redlock = client(&servers).await;
    let held = redlock.lock("r", ttl).await.expect("free");
    let mut dies = Worker::start(&servers);
    for place in 1..=DEAD {
        dies.order("lock r 10000");
        until("it stands in line", || waiting(&servers) == place).await;
    }
    let mut next = redlock.enqueue("r", ttl).await.expect("enqueued");
    until("all are in line", || waiting(&servers) == DEAD + 1).await;
    dies.kill();
    until("the servers notice", || listeners(&servers) == 1).await;
    let released = now();
    held.release().await.expect("held");
    let guard = next.acquire().await.expect("served");
    let waited = now() - released;
    println!("served {waited:?} after the release, behind {DEAD} waiters of a dead process");
    assert!(waited <= 2 * POLL + SLACK, "F3: {waited:?}");
    guard.release().await.expect("held");
}
