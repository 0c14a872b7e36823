//! The examples that are tools, run as programs on real servers.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{
    process::{PATIENCE, client, now, residue, servers, until},
    server::Server,
};

const NAME: &str = "nightly";

/// The program of an example, built first if this run of the tests has not done so.
pub(crate) fn example(name: &str) -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    // What cargo sets for this test would make it build other crates anew.
    for (name, _) in env::vars_os() {
        let set = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if name
            .to_str()
            .is_some_and(|name| set.iter().any(|set| name.starts_with(set)))
        {
            build.env_remove(name);
        }
    }
    let built = build
        .args(["build", "--quiet", "--all-features", "--example", name])
        .status();
    assert!(built.expect("cargo").success(), "{name} does not build");
    let test = env::current_exe().expect("this program");
    let profile = test.ancestors().nth(2).expect("target/debug");
    profile.join("examples").join(name)
}

fn flock(servers: &[Server], args: &[&str]) -> Child {
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    let mut command = Command::new(example("flock"));
    command.args(args).env_remove("REDIS_URLS");
    if !urls.is_empty() {
        command.env("REDIS_URLS", urls.join(","));
    }
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs")
}

fn send(child: &Child, signal: &str) {
    let args = ["-s", signal, &child.id().to_string()];
    let sent = Command::new("kill").args(args).status();
    assert!(sent.expect("kill").success());
}

/// What it printed, what it told of itself, and its exit code.
fn outcome(child: Child) -> (String, String, Option<i32>) {
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = ended.recv_timeout(PATIENCE).expect("it ends in time");
    let output = output.expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("a text");
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code(),
    )
}

pub(crate) fn first_line(from: &mut Option<impl Read>) -> String {
    let mut line = String::new();
    let mut reader = BufReader::new(from.as_mut().expect("piped"));
    reader.read_line(&mut line).expect("a line");
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flock_passes_the_exit_code_and_the_token_on() {
    let servers = servers(3);
    let script = "test \"$FENCING_TOKEN\" -gt 0 && echo ran; exit 7";
    let (output, told, code) = outcome(flock(&servers, &[NAME, "--", "sh", "-c", script]));
    assert_eq!(
        (output.as_str(), told.as_str(), code),
        ("ran\n", "", Some(7))
    );
    let killed = flock(&servers, &[NAME, "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(outcome(killed).2, Some(128 + 9));
    assert_eq!(residue(&servers, NAME), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flock_waits_in_line_unless_told_not_to() {
    let servers = servers(3);
    let redlock = client(&servers).await;
    let lock = redlock.lock(NAME, Duration::from_secs(10));
    let guard = lock.await.expect("free");

    let (output, told, code) = outcome(flock(&servers, &["--no-wait", NAME, "--", "echo", "ran"]));
    assert_eq!((output.as_str(), code), ("", Some(1)));
    assert_eq!(told, "flock: nightly is locked\n");
    let (output, _, code) = outcome(flock(
        &servers,
        &[NAME, "--timeout", "0.3", "--", "echo", "ran"],
    ));
    assert_eq!((output.as_str(), code), ("", Some(1)));

    let mut waiting = flock(&servers, &[NAME, "--", "echo", "ran"]);
    let told = first_line(&mut waiting.stderr);
    assert_eq!(told, "flock: waiting for nightly, 0 ahead\n");
    guard.release().await.expect("released");
    let (output, _, code) = outcome(waiting);
    assert_eq!((output.as_str(), code), ("ran\n", Some(0)));
    redlock.shutdown().await;
    assert_eq!(residue(&servers, NAME), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flock_passes_signals_on() {
    let servers = servers(3);
    let script = "trap 'echo first' USR1; trap 'echo told; exit 3' TERM; echo ready; \
                  while :; do sleep 0.05; done";
    let mut child = flock(&servers, &[NAME, "--", "sh", "-c", script]);
    assert_eq!(first_line(&mut child.stdout), "ready\n");
    send(&child, "USR1");
    send(&child, "TSTP");
    send(&child, "TERM");
    let (output, _, code) = outcome(child);
    assert_eq!((output.as_str(), code), ("first\ntold\n", Some(3)));
    assert_eq!(residue(&servers, NAME), [""; 0]);
}

/// As a read from the terminal stops it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flock_ends_a_command_that_is_stopped() {
    let servers = servers(3);
    let script = "echo $$; kill -STOP $$; sleep 60";
    let mut child = flock(&servers, &[NAME, "--", "sh", "-c", script]);
    let pid = first_line(&mut child.stdout);
    let status = format!("/proc/{}/status", pid.trim());
    let stopped = || fs::read_to_string(&status).is_ok_and(|status| status.contains("State:\tT"));
    until("the command is stopped", stopped).await;
    send(&child, "TERM");
    assert_eq!(outcome(child).2, Some(128 + 15));
    assert_eq!(residue(&servers, NAME), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flock_leaves_the_line_on_a_signal() {
    let servers = servers(3);
    let redlock = client(&servers).await;
    let guard = redlock.lock(NAME, Duration::from_secs(10)).await;
    let mut waiting = flock(&servers, &[NAME, "--", "echo", "ran"]);
    let told = first_line(&mut waiting.stderr);
    assert_eq!(told, "flock: waiting for nightly, 0 ahead\n");
    send(&waiting, "TERM");
    let (output, _, code) = outcome(waiting);
    assert_eq!((output.as_str(), code), ("", Some(128 + 15)));
    let inspection = redlock.inspect(NAME).await.expect("a quorum");
    assert_eq!(inspection.waiters().len(), 0);
    drop(guard);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flock_that_cannot_run_its_command_leaves_nothing() {
    let servers = servers(3);
    let (_, told, code) = outcome(flock(&servers, &[NAME, "--", "/no/such/command"]));
    assert_eq!(code, Some(127), "{told}");
    assert!(told.starts_with("flock: \"/no/such/command\": "), "{told}");
    assert_eq!(residue(&servers, NAME), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flock_runs_nothing_that_it_was_not_told_to() {
    let servers = servers(3);
    // Without `--` the command would be taken for the name.
    let wrong: [&[&str]; 4] = [&[NAME, "ls"], &["ls"], &["--help"], &["--", "ls"]];
    for args in wrong {
        let (output, told, code) = outcome(flock(&servers, args));
        assert_eq!((output.as_str(), code), ("", Some(69)), "{args:?}");
        assert!(told.contains("usage: flock NAME"), "{args:?}: {told}");
    }
    // Nodes in memory would lock nobody else out.
    let (output, told, code) = outcome(flock(&[], &[NAME, "--", "echo", "ran"]));
    assert_eq!((output.as_str(), code), ("", Some(69)));
    assert_eq!(told, "flock: REDIS_URLS is not set\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_flock_kills_its_command_and_what_that_started_when_the_lease_is_lost() {
    let servers = servers(3);
    // What the command has started dies with it.
    let script = "sh -c 'echo $$; while :; do sleep 0.05; done'; exit 0";
    let mut child = flock(&servers, &[NAME, "--", "sh", "-c", script]);
    let pid = first_line(&mut child.stdout);
    let lost = now();
    // What is only deleted may be put back between the two.
    for server in &servers[..2] {
        server.command(&["SET", NAME, "somebody else"]);
    }
    // At the next renewal, a third of the ttl later at most.
    let gone = || !PathBuf::from(format!("/proc/{}", pid.trim())).exists();
    until("the command is killed", gone).await;
    assert!(
        now() - lost < Duration::from_secs(10),
        "not before the ttl was over"
    );
    let (_, told, code) = outcome(child);
    assert_eq!(code, Some(70), "{told}");
}
