//! What the page `operating` says: every line of `redis-cli` there is run, and has the effect it states.

mod page;

use std::{collections::BTreeSet, time::Duration};

use redis::Value;
use redlock_fifo::{FifoRedlock, LeaseLost, LockGuard, Ticket};

use crate::{
    process::{Worker, builder, now, until},
    server::Server,
};
use page::{Answer, Vars, blocks, run};

const NAME: &str = "invoice:42";
const TTL: Duration = Duration::from_secs(6);

/// One renewal, and what a busy machine may add.
const RENEWAL: Duration = Duration::from_millis(2000 + 1000);

const STATE: &str = "Who holds, who waits";
const WHO: &str = "Who that is, and since when";
const STUCK: &str = "A lock that is stuck";
const WAITER: &str = "A waiter that is in the way";
const DELETED: &str = "When somebody deletes a key by hand";
const LOST: &str = "A lease that was lost";

/// The blocks that the tests below run.
const RUN: [(&str, usize); 8] = [
    (STATE, 0),
    (STATE, 1),
    (WHO, 0),
    (STUCK, 0),
    (STUCK, 1),
    (WAITER, 0),
    (DELETED, 0),
    (LOST, 0),
];

#[test]
fn every_line_of_redis_cli_is_in_a_block_that_is_run() {
    let mut seen = Vec::new();
    let mut lines = 0;
    for (heading, block) in blocks() {
        let calls = block.matches("redis-cli -u").count();
        if calls > 0 {
            let before = seen.iter().filter(|(other, _)| *other == heading).count();
            seen.push((heading, before));
        }
        lines += calls;
    }
    assert_eq!(seen, RUN);
    let page = include_str!("../../../src/docs/operating.md");
    assert_eq!(page.matches("redis-cli -u").count(), lines, "in no block");
}

/// Three servers on ports, as `redis-cli` takes them.
fn nodes() -> Vec<Server> {
    (0..3).map(|_| Server::start_tcp(&[])).collect()
}

async fn named(servers: &[Server], name: &str) -> FifoRedlock {
    let client = builder(servers).client_name(name).connect().await;
    client.expect("connected")
}

async fn locked(redlock: &FifoRedlock) -> LockGuard {
    let lock = redlock.lock(NAME, TTL).wait_forever();
    lock.await.expect("locked")
}

/// The state as the page has it looked up: one answer a line, of one node.
struct State {
    holder: Option<String>,
    left: i64,
    queue: Vec<(String, u64)>,
    waiters: Vec<(String, u64)>,
    clock: u64,
    seq: Option<u64>,
}

fn state(servers: &[Server]) -> Vec<State> {
    let lines = run(servers, STATE, 1, &Vars::named(NAME));
    let node = |lines: &[Answer]| {
        let [holder, left, queue, waiters, time, seq] = lines else {
            panic!("six lines a node: {lines:?}");
        };
        let (seconds, micros): (u64, u64) = time.read();
        State {
            holder: holder.read(),
            left: left.read(),
            queue: queue.read(),
            waiters: waiters.read(),
            clock: seconds * 1000 + micros / 1000,
            seq: seq.read(),
        }
    };
    lines.chunks(6).map(node).collect()
}

/// The holder id that stands on all nodes.
async fn holder(servers: &[Server]) -> String {
    let mut found = None;
    until("all nodes name one holder", || {
        let holders: BTreeSet<_> = state(servers).into_iter().map(|node| node.holder).collect();
        found = holders.first().cloned().flatten();
        found.is_some() && holders.len() == 1
    })
    .await;
    found.expect("a holder")
}

/// The line of all nodes, once each has `count` waiters.
async fn line(servers: &[Server], count: usize) -> Vec<(String, u64)> {
    let mut lines = Vec::new();
    until("all nodes have the same line", || {
        lines = state(servers).into_iter().map(|node| node.queue).collect();
        lines
            .iter()
            .all(|line| line.len() == count && *line == lines[0])
    })
    .await;
    lines.swap_remove(0)
}

/// A holder, and two of another client in line. Whoever is first asks all the time; the second only sends
/// keep-alives.
struct Scene {
    guard: LockGuard,
    tickets: [Ticket; 2],
    /// As all nodes had it.
    line: Vec<(String, u64)>,
}

impl Scene {
    async fn set(servers: &[Server]) -> Self {
        let holding = named(servers, "holder").await;
        let waiting = named(servers, "waiter").await;
        let guard = locked(&holding).await;
        let first = waiting.enqueue(NAME, TTL).await.expect("in line");
        let second = waiting.enqueue(NAME, TTL).await.expect("in line");
        Self {
            guard,
            tickets: [first, second],
            line: line(servers, 2).await,
        }
    }

    /// All are served, one after the other.
    async fn play(self) {
        self.guard.release().await.expect("held");
        for mut ticket in self.tickets {
            let guard = ticket.acquire().await.expect("served");
            guard.release().await.expect("held");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_of_a_resource_is_told() {
    let servers = nodes();
    let before = std::time::SystemTime::now();
    let (holding, waiting) = (
        named(&servers, "web-1:1").await,
        named(&servers, "web-2").await,
    );
    let guard = locked(&holding).await;
    let _ticket = waiting.enqueue(NAME, TTL).await.expect("in line");

    let id = holder(&servers).await;
    let line = line(&servers, 1).await;
    for node in state(&servers) {
        assert!((1..=6000).contains(&node.left), "{}", node.left);
        assert_eq!(node.queue, line);
        let (waiter, end) = &node.waiters[0];
        assert_eq!(*waiter, line[0].0);
        assert!((node.clock + 1..=node.clock + 5000).contains(end));
        assert!(node.seq.expect("a counter") >= guard.fencing_token());
    }
    for line in run(&servers, STATE, 0, &Vars::named(NAME)) {
        assert_eq!(
            line.read::<Vec<String>>(),
            ["{invoice:42}:redlock-fifo:seq"]
        );
    }

    // What an id encodes.
    assert!(id.contains(":0:web-1:1:"), "{id}");
    assert_eq!(&id[14..15], "8");
    let (_, asked) = id.rsplit_once(':').expect("a time");
    let asked = Duration::from_millis(asked.parse().expect("ms"));
    let before = before.duration_since(std::time::UNIX_EPOCH).expect("later");
    assert!(asked + Duration::from_millis(1) > before && asked < before + Duration::from_secs(60));

    guard.release().await.expect("held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_seen_to_be_connected() {
    let servers = nodes();
    let mut worker = Worker::start(&servers);
    worker.order(&format!("lock {NAME} 60000"));
    worker.expect("locked");
    let id = holder(&servers).await;
    let vars = Vars {
        holder: &id,
        ..Vars::named(NAME)
    };
    let heard = || -> Vec<i64> {
        let lines = run(&servers, WHO, 0, &vars);
        let count = |line: &Answer| line.read::<(String, i64)>().1;
        lines.iter().map(count).collect()
    };
    assert_eq!(heard(), [1, 1, 1]);
    worker.kill();
    until("its connections are gone", || heard() == [0, 0, 0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_a_lease_is_taken_away_before_the_next_is_served() {
    let servers = nodes();
    let (holding, waiting) = (
        named(&servers, "holder").await,
        named(&servers, "waiter").await,
    );
    let guard = locked(&holding).await;
    let token = guard.fencing_token();
    let id = holder(&servers).await;
    let waiter = tokio::spawn(async move { locked(&waiting).await });
    line(&servers, 1).await;

    let vars = Vars {
        holder: &id,
        ..Vars::named(NAME)
    };
    let taken = now();
    for line in run(&servers, STUCK, 0, &vars) {
        assert_eq!(line.0, Value::Okay, "{line:?}");
    }
    assert_eq!(guard.lost().await, LeaseLost::QuorumLost);
    let told = now() - taken;
    assert!(told < RENEWAL, "{told:?}");
    assert!(!waiter.is_finished(), "nobody is served before it is told");
    let next = waiter.await.expect("served");
    let served = now() - taken;
    println!("told after {told:?}, the next served after {served:?}");
    assert!(served < TTL + Duration::from_millis(1200), "{served:?}");
    assert!(next.fencing_token() > token);

    // The same again takes nothing from whoever has it now.
    for line in run(&servers, STUCK, 0, &vars) {
        assert_eq!(line.0, Value::Int(0), "{line:?}");
    }
    next.release().await.expect("held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_deleted_goes_to_the_first_in_line() {
    let servers = nodes();
    let (holding, waiting) = (
        named(&servers, "holder").await,
        named(&servers, "waiter").await,
    );
    let guard = locked(&holding).await;
    let id = holder(&servers).await;
    let waiter = tokio::spawn(async move { locked(&waiting).await });
    line(&servers, 1).await;

    let vars = Vars {
        holder: &id,
        ..Vars::named(NAME)
    };
    let deleted = now();
    for line in run(&servers, STUCK, 1, &vars) {
        assert_eq!(line.0, Value::Int(1), "{line:?}");
    }
    let next = waiter.await.expect("served");
    let served = now() - deleted;
    println!("the next was served after {served:?}");
    assert!(served < Duration::from_millis(200 + 700), "{served:?}");
    assert_eq!(guard.lost().await, LeaseLost::QuorumLost);
    let told = now() - deleted;
    assert!(told < RENEWAL, "{told:?}");
    assert!(next.fencing_token() > guard.fencing_token());
    for line in run(&servers, STUCK, 1, &vars) {
        assert_eq!(line.0, Value::Int(0), "{line:?}");
    }
    assert!(next.is_valid().await.expect("all answer"));
    next.release().await.expect("held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_waiter_is_dropped() {
    let servers = nodes();
    let holding = named(&servers, "holder").await;
    let guard = locked(&holding).await;
    // Long enough that only the line of the page can be what drops it.
    let mut dead = Worker::start_with_lease(&servers, Duration::from_secs(300));
    dead.order(&format!("lock {NAME} 6000"));
    let (waiter, _) = line(&servers, 1).await.remove(0);
    dead.kill();
    for dropped in run(
        &servers,
        WAITER,
        0,
        &Vars {
            waiter: &waiter,
            ..Vars::named(NAME)
        },
    ) {
        assert_eq!(dropped.0, Value::Int(1), "{dropped:?}");
    }
    line(&servers, 0).await;
    guard.release().await.expect("held");
    let next = holding.try_lock(NAME, TTL).await.expect("all answer");
    next.expect("nobody is in the way")
        .release()
        .await
        .expect("held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_waiter_that_is_dropped_comes_back() {
    let servers = nodes();
    let scene = Scene::set(&servers).await;
    let dropped = now();
    run(
        &servers,
        WAITER,
        0,
        &Vars {
            waiter: &scene.line[1].0,
            ..Vars::named(NAME)
        },
    );
    assert_eq!(line(&servers, 2).await, scene.line, "the same places");
    let back = now() - dropped;
    println!("back in line after {back:?}");
    assert!(back < Duration::from_millis(1700 + 700), "{back:?}");
    scene.play().await;
}

/// Runs those lines of the section that delete `key`.
fn delete(servers: &[Server], key: &str) {
    let lines = page::lines(servers, DELETED, 0, &Vars::named(NAME));
    let wanted: Vec<_> = lines.iter().filter(|line| line.words[1] == key).collect();
    assert_eq!(wanted.len(), servers.len(), "{lines:?}");
    for line in wanted {
        assert_eq!(line.run(servers).0, Value::Int(1), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_deleted_on_one_node_is_put_back() {
    let servers = nodes();
    let redlock = named(&servers, "holder").await;
    let guard = locked(&redlock).await;
    let id = holder(&servers).await;
    let deleted = now();
    delete(&servers[..1], NAME);
    assert_eq!(holder(&servers).await, id);
    let back = now() - deleted;
    println!("put back after {back:?}");
    assert!(back < RENEWAL, "{back:?}");
    guard.release().await.expect("held all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_whose_keys_are_deleted_is_told() {
    let servers = nodes();
    let redlock = named(&servers, "holder").await;
    let guard = locked(&redlock).await;
    holder(&servers).await;
    let deleted = now();
    delete(&servers, NAME);
    assert_eq!(guard.lost().await, LeaseLost::QuorumLost);
    let told = now() - deleted;
    assert!(told < RENEWAL, "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_whose_line_is_deleted_stand_in_it_again() {
    for key in [
        "{invoice:42}:redlock-fifo:queue",
        "{invoice:42}:redlock-fifo:waiters",
    ] {
        let servers = nodes();
        let scene = Scene::set(&servers).await;
        let deleted = now();
        delete(&servers, key);
        until("all have their leases again", || {
            let state = state(&servers);
            state
                .iter()
                .all(|node| node.queue == scene.line && node.waiters.len() == 2)
        })
        .await;
        let back = now() - deleted;
        println!("{key}: in line again after {back:?}");
        assert!(back < Duration::from_millis(1700 + 700), "{back:?}");
        scene.play().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_is_void_when_the_counter_is_deleted() {
    let servers = nodes();
    let redlock = named(&servers, "holder").await;
    let guard = locked(&redlock).await;
    let token = guard.fencing_token();
    guard.release().await.expect("held");
    // Ahead of the clock, as one that was created in a restart grace.
    let key = "{invoice:42}:redlock-fifo:seq";
    for server in &servers {
        server.command(&["SET", key, &(token + 10_000_000).to_string(), "PX", "75000"]);
    }
    let guard = locked(&redlock).await;
    let ahead = guard.fencing_token();
    assert!(ahead > token + 10_000_000);
    guard.release().await.expect("held");

    delete(&servers, key);
    let guard = locked(&redlock).await;
    assert!(guard.fencing_token() < ahead, "the page warns of this");
    guard.release().await.expect("held");
}

/// The number after `field` in what `INFO` answered.
fn field(info: &str, field: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| line.strip_prefix(field))?;
    let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_a_lease_is_told_afterwards() {
    let servers = nodes();
    let look = || -> Vec<Answer> { run(&servers[..1], LOST, 0, &Vars::named(NAME)) };
    let text = |answers: &[Answer], line: usize| answers[line].read::<String>();

    let quiet = look();
    assert!(field(&text(&quiet, 0), "uptime_in_seconds:").is_some());
    assert_eq!(field(&text(&quiet, 1), "evicted_keys:"), Some(0));
    assert_eq!(field(&text(&quiet, 2), "cmdstat_flushall:calls="), None);
    assert_eq!(field(&text(&quiet, 2), "cmdstat_flushdb:calls="), None);
    assert_eq!(quiet[4].read::<(String, String)>().1, "noeviction");

    servers[0].command(&["FLUSHALL"]);
    servers[0].command(&["FLUSHDB"]);
    let busy = "local n = 0 for i = 1, 2e7 do n = n + i end return 'busy'";
    servers[0].command(&["EVAL", busy, "0"]);
    servers[0].command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
    servers[0].command(&["SET", "k", &"v".repeat(100_000)]);
    servers[0].command(&["CONFIG", "SET", "maxmemory", "1"]);
    until("its only key is evicted", || servers[0].keys().is_empty()).await;

    let told = look();
    assert_eq!(field(&text(&told, 1), "evicted_keys:"), Some(1));
    assert_eq!(field(&text(&told, 2), "cmdstat_flushall:calls="), Some(1));
    assert_eq!(field(&text(&told, 2), "cmdstat_flushdb:calls="), Some(1));
    let slow: Vec<(u64, u64, u64, Vec<String>, String, String)> = told[3].read();
    let entry = slow.iter().find(|entry| entry.3.contains(&busy.to_owned()));
    let (_, since, micros, ..) = entry.expect("what took long is there");
    assert!(*since > 1_600_000_000 && *micros > 10_000, "{entry:?}");
    assert_eq!(told[4].read::<(String, String)>().1, "allkeys-random");

    until("a second has passed", || {
        field(&text(&look(), 0), "uptime_in_seconds:") >= Some(2)
    })
    .await;
    servers[0].restart();
    assert!(field(&text(&look(), 0), "uptime_in_seconds:") < Some(2));
}
