//! The examples that are services, run as programs on real servers.

use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use crate::{
    examples::example,
    process::{client, now, residue, servers},
    server::Server,
};

const TTL: Duration = Duration::from_secs(10);

/// A running program, killed on drop.
struct Program {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(name: &str, servers: &[Server], args: &[&str]) -> Self {
        let urls: Vec<String> = servers.iter().map(Server::url).collect();
        let mut child = Command::new(example(name))
            .args(args)
            .env("REDIS_URLS", urls.join(","))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let said = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, said }
    }

    /// The next line of its output.
    fn says(&mut self) -> String {
        tokio::task::block_in_place(|| self.said.next().expect("a line").expect("a text"))
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.expect("kill").success());
    }

    /// The rest of its output, once it has ended well.
    fn ends(mut self) -> Vec<String> {
        tokio::task::block_in_place(|| {
            let rest = self
                .said
                .by_ref()
                .map(|line| line.expect("a text"))
                .collect();
            assert!(self.child.wait().expect("it ends").success());
            rest
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service, and where it listens.
struct Service {
    program: Program,
    address: String,
}

impl Service {
    fn start(servers: &[Server]) -> Self {
        let mut program = Program::start("axum_service", servers, &["127.0.0.1:0"]);
        let address = program
            .says()
            .strip_prefix("listening on ")
            .expect("an address")
            .to_owned();
        Self { program, address }
    }

    /// Sends a request; the answer is still to be read.
    async fn send(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).await.expect("it listens");
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream
    }

    async fn ask(&self, path: &str) -> JoinHandle<(u16, String)> {
        tokio::spawn(answer(self.send(path).await))
    }
}

/// Status and body.
async fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status");
    (status.parse().expect("a number"), body.trim().to_owned())
}

/// Waits until the servers know of so many holders and waiters.
async fn line(redlock: &redlock_fifo::FifoRedlock, name: &str, holders: usize, waiters: usize) {
    let deadline = now() + Duration::from_secs(20);
    loop {
        let seen = redlock.inspect(name).await.expect("a quorum");
        let found = (usize::from(seen.holder().is_some()), seen.waiters().len());
        if found == (holders, waiters) {
            return;
        }
        assert!(
            now() < deadline,
            "{name}: {found:?} instead of {:?}",
            (holders, waiters)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn token(body: &str) -> u64 {
    let token = body
        .strip_prefix("done, token ")
        .unwrap_or_else(|| panic!("{body}"));
    token.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_serves_in_order_and_forgets_who_hangs_up() {
    let servers = servers(3);
    let redlock = client(&servers).await;
    let service = Service::start(&servers);
    let first = service.ask("/work/a/1000").await;
    line(&redlock, "a", 1, 0).await;
    let gone = service.send("/work/a/10").await;
    line(&redlock, "a", 1, 1).await;
    let second = service.ask("/work/a/10").await;
    line(&redlock, "a", 1, 2).await;
    drop(gone);
    line(&redlock, "a", 1, 1).await;
    let ((status, one), (other, two)) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!((status, other), (200, 200), "{one}, {two}");
    assert!(token(&one) < token(&two));
    assert_eq!(residue(&servers, "a"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_tells_who_waits_for_too_long_its_place_in_line() {
    let servers = servers(3);
    let redlock = client(&servers).await;
    let service = Service::start(&servers);
    let held = redlock.lock("a", TTL).await.expect("free");
    let ahead = redlock.enqueue("a", TTL).await.expect("room");
    let (status, body) = service.ask("/work/a/10").await.await.unwrap();
    assert_eq!((status, &*body), (503, "busy, 1 ahead of you in line"));
    line(&redlock, "a", 1, 1).await;
    drop((held, ahead));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_stops_work_whose_lease_is_lost() {
    let servers = servers(3);
    let redlock = client(&servers).await;
    let service = Service::start(&servers);
    let works = service.ask("/work/a/600000").await;
    line(&redlock, "a", 1, 0).await;
    for server in &servers[..2] {
        server.command(&["SET", "a", "somebody else"]);
    }
    let (status, body) = works.await.unwrap();
    assert_eq!(
        (status, &*body),
        (500, "stopped: a quorum of the nodes no longer has it")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_drains_on_sigterm() {
    let servers = servers(3);
    let redlock = client(&servers).await;
    let mut service = Service::start(&servers);
    let works = service.ask("/work/a/1500").await;
    line(&redlock, "a", 1, 0).await;
    let waits = service.ask("/work/a/10").await;
    line(&redlock, "a", 1, 1).await;
    service.program.signal("TERM");
    assert_eq!(service.program.says(), "draining");
    let (status, body) = waits.await.unwrap();
    assert_eq!((status, &*body), (503, "the client is shut down"));
    assert!(
        !works.is_finished(),
        "those who work are not waited for by those who wait"
    );
    let (status, body) = works.await.unwrap();
    assert_eq!(status, 200, "{body}");
    assert_eq!(service.program.ends(), ["drained"]);
    assert_eq!(residue(&servers, "a"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_steps_down_when_told_to_or_when_its_lease_is_lost() {
    let servers = servers(3);
    let redlock = client(&servers).await;
    let mut ann = Program::start("leader", &servers, &["ann"]);
    let leads = |line: String, name: &str| -> u64 {
        let term = line.strip_prefix(&format!("{name} leads, term "));
        term.unwrap_or_else(|| panic!("{line}"))
            .parse()
            .expect("a number")
    };
    let first = leads(ann.says(), "ann");
    let mut ben = Program::start("leader", &servers, &["ben"]);
    line(&redlock, "leader", 1, 1).await;
    let told = now();
    ann.signal("TERM");
    assert_eq!(ann.ends(), ["ann resigns"]);
    let second = leads(ben.says(), "ben");
    assert!(
        now() - told < Duration::from_secs(3),
        "at once, not after the ttl"
    );
    assert!(first < second);

    let mut cleo = Program::start("leader", &servers, &["cleo"]);
    line(&redlock, "leader", 1, 1).await;
    // A leader that stands still is succeeded, and knows it before it does anything else.
    ben.signal("STOP");
    let third = leads(cleo.says(), "cleo");
    ben.signal("CONT");
    assert_eq!(ben.says(), "ben steps down: its validity ran out");
    assert!(second < third);
    line(&redlock, "leader", 1, 1).await;
    ben.signal("TERM");
    assert_eq!(ben.ends(), ["ben stands no more"]);
    cleo.signal("TERM");
    assert_eq!(cleo.ends(), ["cleo resigns"]);
    assert_eq!(residue(&servers, "leader"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_tells_who_holds_who_waits_and_which_nodes_differ() {
    let servers = servers(3);
    let redlock = client(&servers).await;
    let guard = redlock.lock("nightly", TTL).await.expect("free");
    let waits = redlock.enqueue("nightly", TTL).await.expect("room");
    let told = Program::start("top", &servers, &["nightly", "idle", "--once"]).ends();
    let seen = redlock.inspect("nightly").await.expect("a quorum");
    let name = seen
        .holder()
        .and_then(|holder| holder.client_name())
        .expect("ours")
        .to_owned();
    let [head, holder, waiter, idle, nobody] = &*told else {
        panic!("{told:#?}");
    };
    assert_eq!(
        (head.as_str(), idle.as_str()),
        ("nightly, 1 waiting", "idle, 0 waiting")
    );
    // How old it all is depends on how fast the program was started.
    let age = |line: &str, start: &str| -> u64 {
        let rest = line.strip_prefix(start).unwrap_or_else(|| panic!("{line}"));
        let (age, _) = rest.split_once(" s ago").expect("an age");
        age.parse().expect("a number")
    };
    assert!(age(holder, &format!("  held by {name}, asked ")) < 60);
    assert!(age(waiter, &format!("  1. {name}, asked ")) < 60);
    let (_, counter) = holder.rsplit_once("s left, counter ").expect("it");
    assert!(counter.parse::<u64>().expect("a number") >= guard.fencing_token());
    assert_eq!(nobody, "  held by nobody");

    let differing = || -> Vec<String> {
        let told = Program::start("top", &servers, &["nightly"]).ends();
        let differ = told.into_iter().filter(|line| line.starts_with("  ! "));
        differ.collect()
    };
    let node = |place: usize| format!("  ! {}: ", seen.nodes()[place].node());
    servers[1].command(&["SET", "nightly", "somebody else"]);
    let other = node(1) + "held by somebody else, 1 waiting";
    assert_eq!(differing(), [other.as_str()]);
    servers[2].kill();
    let told = differing();
    assert_eq!(
        told[..2],
        [node(0) + "held by " + &name + ", 1 waiting", other]
    );
    assert!(
        told[2].starts_with(&(node(2) + "not connected")),
        "{told:?}"
    );
    drop((guard, waits));
}
