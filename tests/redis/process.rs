//! Other processes: this test binary, run again.
//!
//! A child runs [`worker_process`] alone, which does what lines on its input say and reports in lines on
//! its stderr. It ends when its input does, that is with its parent, however that ends.

use std::{
    collections::BTreeMap,
    env,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio, exit},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use redlock_fifo::{BuildError, FifoRedlock, FifoRedlockBuilder, LockGuard};
use rustix::time::{ClockId, clock_gettime};

use crate::{chaos::Contest, server::Server};

/// How long a test waits for what must come, on however busy a machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Says to a child that it is one, and what its nodes and its settings are.
const ORDER: &str = "REDLOCK_FIFO_WORKER";

/// In front of every report, since what goes wrong is told on the same pipe.
const MARK: &str = "@ ";

/// The present moment. All processes of a machine share this clock.
pub(crate) fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    let (secs, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    Duration::new(secs.expect("positive"), nanos.expect("below a second"))
}

/// Waits until `what` holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = now() + PATIENCE;
    while !holds() {
        assert!(now() < deadline, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// That many servers.
pub(crate) fn servers(count: usize) -> Vec<Server> {
    (0..count).map(|_| Server::start()).collect()
}

/// A builder without nodes that sets no bounds on waiting.
pub(crate) fn patient() -> FifoRedlockBuilder {
    FifoRedlock::builder()
        .fifo_retry_count(None)
        .fifo_queue_length(None)
}

/// The same with `servers` for nodes.
pub(crate) fn builder(servers: &[Server]) -> FifoRedlockBuilder {
    let urls = servers.iter().map(Server::url);
    urls.fold(patient(), FifoRedlockBuilder::node)
}

/// A client of all of `servers`, that waits without bounds.
pub(crate) async fn client(servers: &[Server]) -> FifoRedlock {
    builder(servers).connect().await.expect("connected")
}

fn urls(servers: &[Server]) -> Vec<String> {
    servers.iter().map(Server::url).collect()
}

/// All keys on all servers but the counter of `resource`.
pub(crate) fn residue(servers: &[Server], resource: &str) -> Vec<String> {
    let counter = format!("{{{resource}}}:redlock-fifo:seq");
    let keys = servers.iter().flat_map(Server::keys);
    keys.filter(|key| *key != counter).collect()
}

/// A child process with a client of its own.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    reports: mpsc::Receiver<Vec<String>>,
}

impl Worker {
    /// Starts one and waits until it is connected.
    pub(crate) fn start(servers: &[Server]) -> Self {
        Self::start_at(&urls(servers), "")
    }

    /// The same with a `fifo_ephemeral_ttl` of `lease`.
    pub(crate) fn start_with_lease(servers: &[Server], lease: Duration) -> Self {
        Self::start_at(&urls(servers), &format!("lease={}", lease.as_millis()))
    }

    /// The same with nodes at `urls` and `settings` as [`set`] knows them, between commas.
    pub(crate) fn start_at(urls: &[String], settings: &str) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["process::worker_process", "--exact", "--nocapture"])
            .env(ORDER, format!("{settings} {}", urls.join(" ")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let (sender, reports) = mpsc::channel();
        let errors = BufReader::new(child.stderr.take().expect("piped"));
        thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                match line.strip_prefix(MARK) {
                    Some(report) => {
                        let words = report.split(' ').map(str::to_owned).collect();
                        // A test that has seen enough listens no more.
                        let _ = sender.send(words);
                    }
                    None => eprintln!("worker: {line}"),
                }
            }
        });
        let input = child.stdin.take();
        let worker = Self {
            child,
            input,
            reports,
        };
        worker.expect("connected");
        worker
    }

    /// Gives an order.
    pub(crate) fn order(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it lives");
        writeln!(input, "{line}").expect("it reads");
    }

    /// The next report.
    pub(crate) fn report(&self) -> Vec<String> {
        let report = self.reports.recv_timeout(PATIENCE);
        report.expect("a report: the worker hangs or died")
    }

    /// The next report without its first word, which must be `word`.
    pub(crate) fn expect(&self, word: &str) -> Vec<String> {
        let mut report = self.report();
        assert_eq!(report.remove(0), word, "{report:?}");
        report
    }

    /// All reports from now on, until the end of its life; nothing is left to be read here.
    pub(crate) fn take_reports(&mut self) -> mpsc::Receiver<Vec<String>> {
        std::mem::replace(&mut self.reports, mpsc::channel().1)
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
        self.input = None;
    }

    /// Stops it in its tracks.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {}", self.child.id())])
            .status();
        assert!(sent.expect("a shell").success(), "not delivered: {signal}");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One acquisition, as it is reported and as it is read again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acquisition {
    pub(crate) asked: Duration,
    /// When `enqueue` returned; nothing is known of that where `lock` was called.
    pub(crate) recorded: Option<Duration>,
    pub(crate) acquired: Duration,
    /// When `release` was called.
    pub(crate) released: Duration,
    pub(crate) token: u64,
}

impl Acquisition {
    fn write(&self) -> String {
        let recorded = self.recorded.unwrap_or_default();
        let times = [self.asked, recorded, self.acquired, self.released];
        let [asked, recorded, acquired, released] = times.map(|time| time.as_nanos());
        let token = self.token;
        format!("served {asked} {recorded} {acquired} {released} {token}")
    }

    /// Reads what a worker reports, without the first word.
    pub(crate) fn read(words: &[String]) -> Self {
        let numbers: Vec<u64> = words
            .iter()
            .map(|word| word.parse().expect("a number"))
            .collect();
        let [asked, recorded, acquired, released, token] = numbers[..] else {
            panic!("not an acquisition: {words:?}");
        };
        Self {
            asked: Duration::from_nanos(asked),
            recorded: (recorded > 0).then(|| Duration::from_nanos(recorded)),
            acquired: Duration::from_nanos(acquired),
            released: Duration::from_nanos(released),
            token,
        }
    }
}

/// What a child runs; nothing where there is no order.
#[test]
fn worker_process() {
    let Ok(order) = env::var(ORDER) else {
        return;
    };
    let (sender, orders) = tokio::sync::mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            let words = line.split(' ').map(str::to_owned).collect();
            sender.send(words).expect("it listens");
        }
        exit(0);
    });
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work(&order, orders));
}

type Guards = Arc<Mutex<BTreeMap<String, LockGuard>>>;

async fn work(order: &str, mut orders: tokio::sync::mpsc::UnboundedReceiver<Vec<String>>) {
    let redlock = connect(order).await;
    let guards = Guards::default();
    let mut contest = None;
    report("connected");
    while let Some(words) = orders.recv().await {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            // Asks for a lock and keeps it.
            ["lock", resource, ttl] => {
                let ttl = Duration::from_millis(ttl.parse().expect("ms"));
                let lock = redlock.lock(resource, ttl).wait_forever();
                let (resource, guards) = (resource.to_owned(), guards.clone());
                tokio::spawn(async move {
                    let guard = lock.await.expect("locked");
                    let (at, token) = (now().as_nanos(), guard.fencing_token());
                    guards.lock().expect("sound").insert(resource, guard);
                    report(&format!("locked {at} {token}"));
                });
            }
            // Whether the lease is still to be trusted.
            ["held", resource] => {
                let held = guards.lock().expect("sound")[resource].is_held();
                report(&format!("held {held}"));
            }
            ["release", resource] => {
                let guard = guards.lock().expect("sound").remove(resource);
                guard.expect("locked").release().await.expect("released");
                report("released");
            }
            // Locks again and again in many tasks at once, every second time by a ticket.
            ["load", resource, tasks, times] => {
                let (tasks, times) = (tasks.parse().expect("tasks"), times.parse().expect("times"));
                load(&redlock, resource, tasks, times).await;
                redlock.shutdown().await;
                report("done");
            }
            // Contends as `chaos` has it.
            ["contend", seed] => {
                contest = Some(Contest::start(&redlock, seed.parse().expect("a seed")));
            }
            ["stop"] => {
                let contest = contest.take().expect("it contends");
                contest.stop().await;
                redlock.shutdown().await;
                report("done");
            }
            _ => panic!("not an order: {words:?}"),
        }
    }
}

/// Connects, as soon as a quorum can be reached.
async fn connect(order: &str) -> FifoRedlock {
    let (settings, urls) = order.split_once(' ').expect("urls");
    let settings = || settings.split(',').filter(|setting| !setting.is_empty());
    loop {
        let builder = urls.split(' ').fold(patient(), FifoRedlockBuilder::node);
        match settings().fold(builder, set).connect().await {
            Err(BuildError::NoQuorum(_)) => {}
            connected => return connected.expect("connected"),
        }
    }
}

/// Makes a setting: a name, or a span in milliseconds.
fn set(builder: FifoRedlockBuilder, setting: &str) -> FifoRedlockBuilder {
    let (name, value) = setting.split_once('=').expect("a value");
    let span = || Duration::from_millis(value.parse().expect("ms"));
    match name {
        "name" => builder.client_name(value),
        "lease" => builder.fifo_ephemeral_ttl(span()),
        // Of the first start as well: servers that restart soon after it are no new deployment.
        "grace" => builder.restart_grace(span()).cold_start_grace(true),
        "timeout" => builder.node_timeout(span()),
        _ => panic!("not a setting: {setting}"),
    }
}

async fn load(redlock: &FifoRedlock, resource: &str, tasks: usize, times: usize) {
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let (redlock, resource) = (redlock.clone(), resource.to_owned());
            tokio::spawn(async move {
                for time in 0..times {
                    acquire(&redlock, &resource, (task + time) % 2 == 0).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
}

async fn acquire(redlock: &FifoRedlock, resource: &str, by_ticket: bool) {
    const TTL: Duration = Duration::from_secs(10);
    let asked = now();
    let (guard, recorded) = if by_ticket {
        let mut ticket = redlock.enqueue(resource, TTL).await.expect("enqueued");
        let recorded = now();
        (ticket.acquire().await.expect("acquired"), Some(recorded))
    } else {
        let lock = redlock.lock(resource, TTL).wait_forever();
        (lock.await.expect("locked"), None)
    };
    let acquired = now();
    // Whoever else believes to have the lock gets a chance to say so.
    tokio::task::yield_now().await;
    assert!(guard.is_held());
    let (released, token) = (now(), guard.fencing_token());
    guard.release().await.expect("released");
    let served = Acquisition {
        asked,
        recorded,
        acquired,
        released,
        token,
    };
    report(&served.write());
}

/// Tells the parent.
pub(crate) fn report(words: &str) {
    let line = format!("{MARK}{words}\n");
    // The parent may be gone.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}
