//! Runs a command under the lock, like flock(1), but on servers: `flock NAME [--timeout S] [--no-wait] -- CMD…`
//!
//! Waits in line and tells its place. When the lease is lost, the command is killed with all that it started, before
//! anyone else can have the lock; for that it has a process group of its own, and cannot read from a terminal. It gets
//! the fencing token in `FENCING_TOKEN`, and each signal that we get. Its exit code is ours (128 + n if signal n ended it,
//! or the wait). Ours alone: 1, no lock in time; 70, lease lost.
//!
//! `REDIS_URLS=redis://a,redis://b,redis://c cargo run --example flock -- nightly -- ./backup.sh`; without
//! `REDIS_URLS` the nodes are in memory, and without a command it runs `true`.

use std::{env, error::Error, os::unix::process::ExitStatusExt, process::ExitCode, time::Duration};

use futures::StreamExt;
use redlock_fifo::{FifoRedlock, FifoRedlockBuilder, LockGuard, MemoryCluster};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook_tokio::Signals;
use tokio::{process::Command, time::timeout};

const TTL: Duration = Duration::from_secs(10);
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
const OTHERS: [Signal; 4] = [Signal::TSTP, Signal::CONT, Signal::USR1, Signal::USR2];

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome<ExitCode> {
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
    let mut command = Command::new(args.next().unwrap_or_else(|| "true".to_owned()));
    command.args(args).process_group(0);

    let builder = FifoRedlock::builder()
        .fifo_retry_count(None)
        .fifo_queue_length(None);
    let builder = match env::var("REDIS_URLS") {
        Ok(urls) => urls.split(',').fold(builder, FifoRedlockBuilder::node),
        Err(_) => builder.memory(&MemoryCluster::new(3)),
    };
    let redlock = builder.connect().await?;
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
) -> Outcome<u8> {
    let mut signals = Signals::new(ENDING.map(Signal::as_raw))?;
    let guard = tokio::select! {
        biased;
        guard = wait(redlock, name, patience) => guard?,
        Some(signal) = signals.next() => return Ok(128 + u8::try_from(signal)?),
    };
    if let Some(guard) = guard {
        return run(command, guard, signals).await;
    }
    eprintln!("flock: {name} is locked");
    Ok(1)
}

/// Waits for the turn, and tells each time the line gets shorter.
async fn wait(redlock: &FifoRedlock, name: &str, patience: Duration) -> Outcome<Option<LockGuard>> {
    let free = redlock.try_lock(name, TTL).await;
    if patience.is_zero() || matches!(free, Ok(Some(_))) {
        return Ok(free?);
    }
    let in_line = async {
        let mut ticket = redlock.enqueue(name, TTL).await?;
        let mut positions = ticket.positions();
        loop {
            tokio::select! {
                biased;
                guard = ticket.acquire() => return guard,
                Some(ahead) = positions.next() => eprintln!("flock: waiting for {name}, {ahead} ahead"),
            }
        }
    };
    Ok(timeout(patience, in_line).await.ok().transpose()?)
}

/// Waits for the end of the command, or makes one.
async fn run(mut command: Command, guard: LockGuard, mut signals: Signals) -> Outcome<u8> {
    for signal in OTHERS {
        signals.handle().add_signal(signal.as_raw())?;
    }
    let mut child = command
        .env("FENCING_TOKEN", guard.fencing_token().to_string())
        .spawn()?;
    let group = child
        .id()
        .and_then(|id| Pid::from_raw(id.try_into().ok()?))
        .ok_or("it runs")?;
    let mut lost = guard.lost();
    let status = loop {
        tokio::select! {
            biased;
            why = &mut lost => {
                kill_process_group(group, Signal::KILL)?;
                eprintln!("flock: killed the command, as the lease was lost: {why}");
                return Ok(70);
            }
            status = child.wait() => break status?,
            Some(signal) = signals.next() => {
                let signal = Signal::from_named_raw(signal).ok_or("a name")?;
                let _ = kill_process_group(group, signal); // It may have ended just now.
            }
        }
    };
    if let Err(error) = guard.release().await {
        eprintln!("flock: {error}");
    }
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    Ok(code.and_then(|code| code.try_into().ok()).unwrap_or(1))
}
