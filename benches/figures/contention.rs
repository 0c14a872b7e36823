//! Many who want one resource: tasks of one process, and processes.
//!
//! Counted are handoffs to another task, for a lock that its last holder takes straight back is not fair;
//! an inversion is an acquisition by somebody who asked after another one was recorded and was served before it.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use redlock_fifo::FifoRedlock;
use tokio::task::JoinSet;

use crate::{
    TTL, client,
    floor::Floor,
    runtime, servers,
    stats::{Sample, millis, ratio, table},
};

/// Tells a child process that it is one: its nodes, the hold in µs, and when to end in unix ms.
const ORDER: &str = "REDLOCK_FIFO_FIGURES";
const SPAN: Duration = Duration::from_secs(4);

/// One acquisition.
#[derive(Clone, Copy)]
struct Served {
    who: u64,
    /// Nanoseconds of the clock that all processes share.
    asked: u64,
    /// When its place was sure to be recorded; the moment of service for those that do not know.
    recorded: u64,
    served: u64,
}

/// What came of a run.
struct Outcome {
    per_second: f64,
    handoffs: f64,
    inversions: usize,
    waits: Sample,
}

impl Outcome {
    fn of(mut all: Vec<Served>, span: Duration) -> Self {
        all.sort_by_key(|served| served.served);
        let handoffs = all
            .windows(2)
            .filter(|pair| pair[0].who != pair[1].who)
            .count();
        let mut inversions = 0;
        for (place, one) in all.iter().enumerate() {
            let before = &all[place.saturating_sub(200)..place];
            inversions += before
                .iter()
                .filter(|other| other.asked > one.recorded)
                .count();
        }
        let mut waits = Sample::default();
        for one in &all {
            waits.add(Duration::from_nanos(one.served - one.asked));
        }
        let per_second = |count: usize| count as f64 / span.as_secs_f64();
        Self {
            per_second: per_second(all.len()),
            handoffs: per_second(handoffs),
            inversions,
            waits,
        }
    }

    fn row(&self, name: &str) -> Vec<String> {
        let longest = self.waits.quantile(1.0);
        vec![
            name.to_owned(),
            format!("{:.1}", self.per_second),
            format!("{:.1}", self.handoffs),
            self.inversions.to_string(),
            millis(self.waits.median()),
            millis(self.waits.quantile(0.999)),
            millis(longest),
            format!("{:.1}", ratio(longest, self.waits.median())),
        ]
    }
}

const HEAD: [&str; 8] = [
    "who",
    "acquisitions/s",
    "handoffs to another/s",
    "inversions",
    "median wait ms",
    "p99.9 ms",
    "longest ms",
    "longest ÷ median",
];

fn clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.expect("after 1970").as_nanos()).expect("before 2554")
}

/// Holds for `span`, and not for up to two milliseconds longer, as tokio's timers may.
async fn hold_for(span: Duration) {
    if !span.is_zero() {
        let slept = tokio::task::spawn_blocking(move || std::thread::sleep(span)).await;
        slept.expect("no panic");
    }
}

/// Takes turns with the lock until `end`.
async fn take_turns(redlock: FifoRedlock, who: u64, hold: Duration, end: Instant) -> Vec<Served> {
    let mut all = Vec::new();
    while Instant::now() < end {
        let asked = clock();
        let mut ticket = redlock.enqueue("r", TTL).await.expect("room");
        let recorded = clock();
        let guard = ticket.acquire().await.expect("its turn");
        let served = clock();
        all.push(Served {
            who,
            asked,
            recorded,
            served,
        });
        hold_for(hold).await;
        guard.release().await.expect("held");
    }
    all
}

fn tasks(nodes: usize, tasks: u64, hold: Duration) -> Outcome {
    let servers = servers(nodes);
    let all = runtime().block_on(async {
        let redlock = client(&servers).await;
        let end = Instant::now() + SPAN;
        let mut running = JoinSet::new();
        for who in 0..tasks {
            running.spawn(take_turns(redlock.clone(), who, hold, end));
        }
        running.join_all().await.concat()
    });
    Outcome::of(all, SPAN)
}

/// A FIFO mutex of this process in front of the bare commands: fair, but for one process only.
fn local_mutex(nodes: usize, tasks: u64, hold: Duration) -> Outcome {
    let servers = servers(nodes);
    let all = runtime().block_on(async {
        let floor = Arc::new(Floor::connect(&servers, 1).await);
        let commands = Arc::new(floor.bare("r"));
        let line = Arc::new(tokio::sync::Mutex::new(()));
        let end = Instant::now() + SPAN;
        let mut running = JoinSet::new();
        for who in 0..tasks {
            let (floor, commands, line) = (floor.clone(), commands.clone(), line.clone());
            running.spawn(async move {
                let mut all = Vec::new();
                while Instant::now() < end {
                    let asked = clock();
                    let place = line.lock().await;
                    floor.round(&commands.lock).await;
                    let served = clock();
                    all.push(Served {
                        who,
                        asked,
                        recorded: served,
                        served,
                    });
                    hold_for(hold).await;
                    floor.full_round(&commands.unlock).await;
                    drop(place);
                }
                all
            });
        }
        running.join_all().await.concat()
    });
    Outcome::of(all, SPAN)
}

/// Whether this process is a child of the figures.
pub(crate) fn is_worker() -> bool {
    std::env::var_os(ORDER).is_some()
}

/// What a child does: takes turns and tells when.
pub(crate) fn work() {
    let order = std::env::var(ORDER).expect("an order");
    let mut words = order.split(' ');
    let mut number = || -> u64 { words.next().expect("a word").parse().expect("a number") };
    let (who, hold, end) = (number(), Duration::from_micros(number()), number());
    let urls: Vec<&str> = words.collect();
    let all = runtime().block_on(async {
        let builder = FifoRedlock::builder().fifo_retry_count(None);
        let builder = urls.iter().fold(builder, |builder, url| builder.node(url));
        let redlock = builder.connect().await.expect("nodes");
        let left = Duration::from_nanos(end.saturating_sub(clock()));
        let all = take_turns(redlock.clone(), who, hold, Instant::now() + left).await;
        redlock.shutdown().await;
        all
    });
    for one in all {
        println!("{} {} {}", one.asked, one.recorded, one.served);
    }
}

fn processes(nodes: usize, processes: u64, hold: Duration) -> Outcome {
    let servers = servers(nodes);
    // Time to start and connect is not counted.
    let start = clock() + 1_000_000_000;
    let end = start + u64::try_from(SPAN.as_nanos()).expect("short");
    let urls: Vec<String> = servers.iter().map(server_url).collect();
    let spawn = |who: u64| -> Child {
        let order = format!("{who} {} {end} {}", hold.as_micros(), urls.join(" "));
        Command::new(std::env::current_exe().expect("this program"))
            .env(ORDER, order)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process")
    };
    let children: Vec<Child> = (0..processes).map(spawn).collect();
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (who, mut child) in children.into_iter().enumerate() {
            let all = &all;
            scope.spawn(move || {
                let output = BufReader::new(child.stdout.take().expect("piped"));
                for line in output.lines().map_while(Result::ok) {
                    let mut words = line.split(' ').map(|word| word.parse().expect("a number"));
                    let mut next = || words.next().expect("three numbers");
                    let served = Served {
                        who: who as u64,
                        asked: next(),
                        recorded: next(),
                        served: next(),
                    };
                    if served.asked >= start {
                        all.lock().expect("not poisoned").push(served);
                    }
                }
                child.wait().expect("it ends");
            });
        }
    });
    Outcome::of(all.into_inner().expect("not poisoned"), SPAN)
}

fn server_url(server: &crate::server::Server) -> String {
    server.url()
}

pub(crate) fn run() {
    let hold = Duration::from_millis(1);
    for nodes in [1, 5] {
        let mut rows = Vec::new();
        for count in [8, 16, 64] {
            rows.push(tasks(nodes, count, hold).row(&format!("{count} tasks")));
            let name = format!("{count} tasks, a local FIFO mutex in front of the bare floor");
            rows.push(local_mutex(nodes, count, hold).row(&name));
        }
        rows.push(tasks(nodes, 8, Duration::ZERO).row("8 tasks, no hold"));
        rows.push(processes(nodes, 8, hold).row("8 processes"));
        rows.push(processes(nodes, 8, Duration::ZERO).row("8 processes, no hold"));
        table(
            &format!("One resource, 1 ms hold, {nodes} nodes"),
            &HEAD,
            &rows,
        );
    }
    let rows =
        vec![processes(3, 5, Duration::from_millis(50)).row("5 processes; the ideal is 20/s")];
    table(
        "redlock4j's own benchmark: 3 nodes, 5 clients, 50 ms hold",
        &HEAD,
        &rows,
    );
}
