//! A client of another package, in a process of its own.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::server::Server;

/// The packages, each in the version that `tests/interop/run` installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Package {
    RedlockPy,
    RedlockFifo,
    Redlock4,
    Redlock5,
}

/// One process. It ends with its input, that is with the test.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(package: Package, servers: &[Server]) -> Self {
        let home = env::var_os("REDLOCK_FIFO_INTEROP").map(PathBuf::from);
        let home = home.expect("this is run by tests/interop/run, which installs the packages");
        let python = (home.join("venv/bin/python"), "tests/interop/peer.py".into());
        let node = (PathBuf::from("node"), home.join("peer.js"));
        let ((program, script), name) = match package {
            Package::RedlockPy => (python, "redlock-py"),
            Package::RedlockFifo => (python, "redlock-fifo"),
            Package::Redlock4 => (node, "redlock4"),
            Package::Redlock5 => (node, "redlock5"),
        };
        let mut child = Command::new(program)
            .arg(script)
            .arg(name)
            .args(servers.iter().map(port))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut peer = Self {
            input: child.stdin.take().expect("piped"),
            output: BufReader::new(child.stdout.take().expect("piped")),
            child,
        };
        assert_eq!(peer.answer(), "ready");
        peer
    }

    /// Whether it got the lock, at the first try.
    pub(crate) fn locks(&mut self, name: &str, ttl: u64) -> bool {
        self.order(&format!("lock {name} {ttl}"));
        self.answer() == "yes"
    }

    /// Has it unlock what it locked last.
    pub(crate) fn unlock(&mut self) {
        self.order("unlock");
        assert_eq!(self.answer(), "done");
    }

    /// Has it lock again and again, for some seconds.
    pub(crate) fn contend(&mut self, name: &str, seconds: u64, store: &Server) {
        self.order(&format!("contend {name} {seconds} {}", port(store)));
    }

    /// How often it had the lock, and how often it met somebody inside.
    pub(crate) fn contended(&mut self) -> (u64, u64) {
        let answer = self.answer();
        let (served, met) = answer.split_once(' ').expect("two numbers");
        (served.parse().expect("one"), met.parse().expect("two"))
    }

    fn order(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("it reads");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it answers");
        assert!(line.ends_with('\n'), "it died");
        line.trim_end().to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn port(server: &Server) -> String {
    let url = server.url();
    url.rsplit(':').next().expect("a port").to_owned()
}
