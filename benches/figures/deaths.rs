//! What a holder costs that is killed, and what killed waiters do. Both are processes of their own.

use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use redlock_fifo::FifoRedlock;

use crate::{
    TTL, builder, runtime,
    server::Server,
    servers,
    stats::{millis, table},
};

/// Tells a child process that it is one: how many it stands in line for, the ttl in ms, the nodes.
const ORDER: &str = "REDLOCK_FIFO_DEATHS";

/// A process with places in line.
struct Victim {
    process: Child,
    says: Lines<BufReader<ChildStdout>>,
}

impl Victim {
    fn start(servers: &[Server], places: usize, ttl: Duration) -> Self {
        let urls: Vec<String> = servers.iter().map(Server::url).collect();
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .env(
                ORDER,
                format!("{places} {} {}", ttl.as_millis(), urls.join(" ")),
            )
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let says = BufReader::new(process.stdout.take().expect("piped")).lines();
        Self { process, says }
    }

    /// Waits until it says so.
    fn until(&mut self, what: &str) {
        let said = self
            .says
            .find(|line| line.as_ref().is_ok_and(|line| line == what));
        assert!(said.is_some(), "it ended before it was {what}");
    }

    fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("dead");
    }
}

/// Whether this process is a child of these figures.
pub(crate) fn is_victim() -> bool {
    std::env::var_os(ORDER).is_some()
}

/// What a child does until it is killed.
pub(crate) fn wait_for_death() {
    let order = std::env::var(ORDER).expect("an order");
    let mut words = order.split(' ');
    let mut number = || -> u64 { words.next().expect("a word").parse().expect("a number") };
    let (places, ttl) = (number(), Duration::from_millis(number()));
    runtime().block_on(async {
        let builder = FifoRedlock::builder().fifo_retry_count(None);
        let builder = words.fold(builder, redlock_fifo::FifoRedlockBuilder::node);
        let redlock = builder.connect().await.expect("nodes");
        let mut tickets = Vec::new();
        for _ in 0..places {
            tickets.push(redlock.enqueue("r", ttl).await.expect("room"));
        }
        println!("in line");
        let mut guards = Vec::new();
        for mut ticket in tickets {
            guards.push(ticket.acquire().await.expect("its turn"));
            println!("served");
        }
        std::future::pending::<()>().await;
    });
}

fn holder(ttl: Duration) -> Duration {
    let servers = servers(5);
    runtime().block_on(async {
        let redlock = builder(&servers).connect().await.expect("nodes");
        let mut holder = Victim::start(&servers, 1, ttl);
        holder.until("served");
        let mut ticket = redlock.enqueue("r", TTL).await.expect("room");
        holder.kill();
        let killed = Instant::now();
        let mut left: Vec<i64> = servers.iter().map(|s| s.number(&["PTTL", "r"])).collect();
        left.sort_unstable();
        let left = Duration::from_millis(left[servers.len() / 2].max(0).unsigned_abs());
        drop(ticket.acquire().await.expect("its turn"));
        killed.elapsed().saturating_sub(left)
    })
}

fn waiters(dead: usize) -> Duration {
    let servers = servers(5);
    runtime().block_on(async {
        let redlock = builder(&servers).connect().await.expect("nodes");
        let guard = redlock.lock("r", TTL).await.expect("free");
        let mut victim = Victim::start(&servers, dead, TTL);
        victim.until("in line");
        let mut ticket = redlock.enqueue("r", TTL).await.expect("room");
        victim.kill();
        // The servers notice that its connections are gone.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let start = Instant::now();
        let (released, next) = tokio::join!(guard.release(), ticket.acquire());
        released.expect("held");
        drop(next.expect("its turn"));
        start.elapsed()
    })
}

pub(crate) fn run() {
    let row = |ttl: u64| {
        let ttl = Duration::from_millis(ttl);
        vec![format!("{} ms", ttl.as_millis()), millis(holder(ttl))]
    };
    table(
        "A holder is killed, five nodes",
        &["ttl", "next guard after what was left of it, ms"],
        &[1_000, 3_000, 10_000].map(row),
    );
    let row = |dead: usize| vec![dead.to_string(), millis(waiters(dead))];
    table(
        "Waiters at the front are killed, five nodes",
        &["killed", "next guard after the release, ms"],
        &[0, 1, 2, 5, 50].map(row),
    );
}
