//! Other processes: this test binary, run again.
//!
//! A child runs [`worker_process`](crate::worker::worker_process) alone, which does what lines on its input
//! say and reports in lines on its stderr. It ends when its input does, that is with its parent, however
//! that ends.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use redlock_fifo::{FifoRedlock, FifoRedlockBuilder};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    server::Server,
    worker::{MARK, ORDER},
};

/// How long a test waits for what must come, on however busy a machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

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

pub(crate) fn urls(servers: &[Server]) -> Vec<String> {
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

    /// The same with nodes at `urls` and `settings` as a worker knows them, between commas.
    pub(crate) fn start_at(urls: &[String], settings: &str) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["worker::worker_process", "--exact", "--nocapture"])
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

    /// The most memory that it ever had, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("it lives");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|line| line.trim().strip_suffix(" kB"));
        1024 * peak.expect("its peak").parse::<u64>().expect("a number")
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
    /// What a worker reports.
    pub(crate) fn write(&self) -> String {
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
