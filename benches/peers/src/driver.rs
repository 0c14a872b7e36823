//! The other side: starts workers, gives orders, and ends those that do not answer in time.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use crate::{
    catalog::{Entry, Kind},
    packages,
    server::Server,
    subject::clock,
};

/// How much longer than its order a worker may take.
const GRACE: Duration = Duration::from_secs(2);

/// Longer than any of them takes to start.
const START: Duration = Duration::from_secs(15);

/// An acquisition as a worker told of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    pub(crate) who: u64,
    pub(crate) asked: u64,
    pub(crate) served: u64,
    pub(crate) done: u64,
}

/// What came of an order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) served: Vec<Served>,
    /// Who still waited at the end, and since when.
    pub(crate) pending: Vec<(u64, u64)>,
    pub(crate) errors: Vec<String>,
    /// Why there is no more.
    pub(crate) stalled: Option<String>,
}

impl Told {
    pub(crate) fn extend(&mut self, other: Self) {
        self.served.extend(other.served);
        self.pending.extend(other.pending);
        self.errors.extend(other.errors);
        self.stalled = self.stalled.take().or(other.stalled);
    }
}

/// What a worker is to do.
#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) resource: &'a str,
    pub(crate) fresh: bool,
    pub(crate) tasks: usize,
    pub(crate) hold: Duration,
    pub(crate) delay: Duration,
    pub(crate) span: Duration,
    pub(crate) cycles: usize,
}

struct Worker {
    child: Child,
    lines: Receiver<String>,
}

impl Worker {
    fn start(entry: &Entry, poll: Duration, urls: &[String]) -> Result<Self, String> {
        let mut command = match entry.kind {
            Kind::Rust => {
                let program = std::env::current_exe().map_err(|error| error.to_string())?;
                let mut command = Command::new(program);
                command.arg("--worker").arg(entry.name);
                command
            }
            Kind::Node | Kind::Python => packages::command(entry)?,
        };
        command.arg(poll.as_millis().to_string()).args(urls);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    fn ready(&self) -> Result<(), String> {
        match self.lines.recv_timeout(START) {
            Ok(line) if line == "ready" => Ok(()),
            Ok(line) => Err(line),
            Err(_) => Err("it did not start".to_owned()),
        }
    }

    fn send(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("piped");
        // One that has died is seen when it does not answer.
        let _ = writeln!(input, "{line}");
    }

    /// Collects the answer, `false` if it did not come to its end.
    fn collect(&self, number: u64, until: Instant, told: &mut Told) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                return false;
            };
            let (kind, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let mut words = rest.split(' ').map_while(|word| word.parse::<u64>().ok());
            let mut next = || words.next().unwrap_or(0);
            match kind {
                "done" => return true,
                "c" => told.served.push(Served {
                    who: number * 1_000 + next(),
                    asked: next(),
                    served: next(),
                    done: next(),
                }),
                "p" => told.pending.push((number * 1_000 + next(), next())),
                "e" => {
                    let text = rest.split_once(' ').map_or(rest, |(_, text)| text);
                    told.errors.push(text.to_owned());
                }
                _ => {}
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The worker processes of one subject on one set of servers.
pub(crate) struct Team<'a> {
    pub(crate) entry: &'static Entry,
    servers: &'a [Server],
    poll: Duration,
    size: usize,
    workers: Vec<Worker>,
}

impl<'a> Team<'a> {
    pub(crate) fn new(entry: &'static Entry, servers: &'a [Server], size: usize) -> Self {
        Self::polling(entry, servers, size, entry.poll())
    }

    pub(crate) fn polling(
        entry: &'static Entry,
        servers: &'a [Server],
        size: usize,
        poll: Duration,
    ) -> Self {
        Self {
            entry,
            servers,
            poll,
            size,
            workers: Vec::new(),
        }
    }

    fn configure(&self, on: bool) {
        if let Some((key, value)) = self.entry.config {
            for server in self.servers {
                server.command(&["CONFIG", "SET", key, if on { value } else { "" }]);
            }
        }
    }

    /// Has all workers do the same at the same time. Those that were lost are started anew.
    pub(crate) fn run(&mut self, order: Order<'_>) -> Told {
        self.configure(true);
        let told = self.try_run(order).unwrap_or_else(|error| Told {
            stalled: Some(error),
            ..Told::default()
        });
        self.configure(false);
        told
    }

    /// Starts what is missing.
    fn start(&mut self) -> Result<(), String> {
        let urls: Vec<String> = self.servers.iter().map(Server::url).collect();
        let mut missing = Vec::new();
        for _ in self.workers.len()..self.size {
            missing.push(Worker::start(self.entry, self.poll, &urls)?);
        }
        missing.iter().try_for_each(Worker::ready)?;
        self.workers.extend(missing);
        Ok(())
    }

    fn try_run(&mut self, order: Order<'_>) -> Result<Told, String> {
        self.start()?;
        let start = clock() + u64::try_from(order.delay.as_nanos()).expect("short");
        let end = start + u64::try_from(order.span.as_nanos()).expect("short");
        let line = format!(
            "run {} {} {} {} {start} {end} {}",
            order.resource,
            u8::from(order.fresh),
            order.tasks,
            order.hold.as_micros(),
            order.cycles
        );
        for worker in &mut self.workers {
            worker.send(&line);
        }
        let until = Instant::now() + order.delay + order.span + GRACE;
        let mut told = Told::default();
        let mut number = 0;
        self.workers.retain(|worker| {
            let answered = worker.collect(number, until, &mut told);
            number += 1;
            if !answered {
                told.stalled = Some("it did not answer and was ended".to_owned());
            }
            answered
        });
        Ok(told)
    }
}

/// Where this crate is.
pub(crate) fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
