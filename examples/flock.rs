//! Runs a command under the lock, like flock(1), but on servers: `flock NAME [--timeout S] [--no-wait] -- CMD…`
//!
//! Waits in line and tells its place. The command is killed when the lease is lost, before anyone else can
//! have the lock; it gets the fencing token in `FENCING_TOKEN`. SIGINT, SIGTERM and SIGHUP are passed on to it,
//! and its exit code is ours (128 + n if signal n ended it, or the wait). Ours alone: 1, no lock in time; 70,
//! lease lost.
//!
//! `REDIS_URLS=redis://a,redis://b,redis://c cargo run --example flock -- nightly -- ./backup.sh`; without
//! `REDIS_URLS` the nodes are in memory, and without a command it runs `true`.

use std::{
    env,
    error::Error,
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use futures::{
    StreamExt,
    stream::{self, Stream},
};
use redlock_fifo::{FifoRedlock, FifoRedlockBuilder, LockGuard, MemoryCluster};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

const TTL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let (mut name, mut patience) = ("flock".to_owned(), Duration::MAX);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--" => break,
            "--no-wait" => patience = Duration::ZERO,
            "--timeout" => {
                let seconds = args.next().ok_or("--timeout needs seconds")?;
                patience = Duration::try_from_secs_f64(seconds.parse()?)?;
            }
            _ => name = arg,
        }
    }
    let program = args.next().unwrap_or_else(|| "true".to_owned());

    let builder = FifoRedlock::builder().fifo_retry_count(None);
    let builder = match env::var("REDIS_URLS") {
        Ok(urls) => urls.split(',').fold(builder, FifoRedlockBuilder::node),
        Err(_) => builder.memory(&MemoryCluster::new(3)),
    };
    let redlock = builder.connect().await?;
    let mut command = Command::new(program);
    command.args(args).kill_on_drop(true);
    let code = flock(&redlock, &name, patience, command).await;
    redlock.shutdown().await; // What was dropped on the way has left the servers by then.
    Ok(ExitCode::from(code?))
}

/// Runs the command once the lock is had. Signals are heeded before: one that came in between would end us and
/// leave the command behind, without its lock.
async fn flock(
    redlock: &FifoRedlock,
    name: &str,
    patience: Duration,
    command: Command,
) -> Result<u8, Box<dyn Error>> {
    let mut signals = signals()?;
    let wait = async {
        if patience.is_zero() {
            return Ok(redlock.try_lock(name, TTL).await?);
        }
        timeout(patience, wait(redlock, name))
            .await
            .ok()
            .transpose()
    };
    let guard: Result<Option<LockGuard>, Box<dyn Error>> = tokio::select! {
        biased;
        guard = wait => guard,
        Some(signal) = signals.next() => return Ok(128 + u8::try_from(signal.as_raw())?),
    };
    match guard? {
        Some(guard) => run(command, guard, signals).await,
        None => {
            eprintln!("flock: {name} is locked");
            Ok(1)
        }
    }
}

/// Waits for the turn, and tells each time the line gets shorter.
async fn wait(redlock: &FifoRedlock, name: &str) -> Result<LockGuard, Box<dyn Error>> {
    let mut ticket = redlock.enqueue(name, TTL).await?;
    let mut positions = ticket.positions();
    // What is free is ours before there is anything to tell.
    let mut quiet = Box::pin(sleep(Duration::from_millis(100)));
    loop {
        tokio::select! {
            biased;
            guard = ticket.acquire() => return Ok(guard?),
            Some(ahead) = positions.next(), if quiet.is_elapsed() => {
                eprintln!("flock: waiting for {name}, {ahead} ahead");
            }
            () = &mut quiet, if !quiet.is_elapsed() => {}
        }
    }
}

/// Waits for the end of the command, or makes one.
async fn run(
    mut command: Command,
    guard: LockGuard,
    mut signals: impl Stream<Item = Signal> + Unpin,
) -> Result<u8, Box<dyn Error>> {
    command.env("FENCING_TOKEN", guard.fencing_token().to_string());
    let mut child = command.spawn()?;
    let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    let mut lost = guard.lost();
    let status: ExitStatus = loop {
        tokio::select! {
            biased;
            why = &mut lost => {
                child.kill().await?;
                eprintln!("flock: killed the command, as the lease was lost: {why}");
                return Ok(70);
            }
            status = child.wait() => break status?,
            Some(signal) = signals.next() => pid.map_or(Ok(()), |pid| kill_process(pid, signal))?,
        }
    };
    if let Err(error) = guard.release().await {
        eprintln!("flock: {error}");
    }
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    Ok(code.and_then(|code| code.try_into().ok()).unwrap_or(1))
}

/// The signals that would end us, as they come.
fn signals() -> io::Result<impl Stream<Item = Signal> + Unpin> {
    let heed = |kind: Signal| {
        let mut signals = signal(SignalKind::from_raw(kind.as_raw()))?;
        Ok(stream::poll_fn(move |cx| {
            signals.poll_recv(cx).map(|heard| heard.map(|()| kind))
        }))
    };
    let all: io::Result<Vec<_>> = [Signal::INT, Signal::TERM, Signal::HUP]
        .map(heed)
        .into_iter()
        .collect();
    Ok(stream::select_all(all?))
}
