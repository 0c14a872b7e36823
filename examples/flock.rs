//! Runs a command under the lock, like flock(1), but on servers: `flock NAME [--timeout S] [--no-wait] -- CMD…`
//!
//! Waits in line and tells its place. When the lease is lost, the command is killed with its process group, before
//! anyone else can have the lock; so it cannot read from a terminal. If we are killed or stopped ourselves it goes on: let
//! its store check the fencing token, which it gets in `FENCING_TOKEN`. It gets the signals that we get but Ctrl-Z, and
//! its exit code is ours (128 + n if signal n ended it, or the wait; 127 if it cannot be run). Ours alone: 1, no lock in
//! time; 70, lease lost; 69, anything else.
//!
//! `REDIS_URLS=redis://a,redis://b,redis://c cargo run --example flock -- nightly -- ./backup.sh`; without
//! arguments it runs `true` under a lock of nodes in memory.

use std::{env, error::Error, os::unix::process::ExitStatusExt, process::ExitCode, time::Duration};

use futures::StreamExt;
use redlock_fifo::{FifoRedlock, FifoRedlockBuilder, LockGuard, MemoryCluster};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook_tokio::Signals;
use tokio::{process::Command, time::timeout};

const USAGE: &str = "usage: flock NAME [--timeout S] [--no-wait] -- CMD…";
const TTL: Duration = Duration::from_secs(10);
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
/// Of these the first is not passed on: stopped, it would hold the lock for ever.
const OTHERS: [Signal; 4] = [Signal::TSTP, Signal::CONT, Signal::USR1, Signal::USR2];

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> ExitCode {
    let code = parse_and_run().await.unwrap_or_else(|error| {
        eprintln!("flock: {error}");
        69
    });
    ExitCode::from(code)
}

async fn parse_and_run() -> Outcome<u8> {
    let mut args = env::args().skip(1);
    let (mut name, mut patience) = (None, Duration::MAX);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--" => break,
            "--no-wait" => patience = Duration::ZERO,
            "--timeout" => {
                let seconds = args.next().ok_or("--timeout needs seconds")?;
                patience = Duration::try_from_secs_f64(seconds.parse()?)?;
            }
            _ if name.is_some() || arg.starts_with('-') => return Err(USAGE.into()),
            _ => name = Some(arg),
        }
    }
    let builder = FifoRedlock::builder()
        .fifo_retry_count(None)
        .fifo_queue_length(None);
    let (builder, name, program) = match (env::var("REDIS_URLS"), name, args.next()) {
        (_, None, None) => (
            builder.memory(&MemoryCluster::new(3)),
            "flock".into(),
            "true".into(),
        ),
        (Err(_), ..) => return Err("REDIS_URLS is not set".into()),
        (Ok(urls), Some(name), Some(program)) => (
            urls.split(',').fold(builder, FifoRedlockBuilder::node),
            name,
            program,
        ),
        _ => return Err(USAGE.into()),
    };
    let mut command = Command::new(program);
    command.args(args).process_group(0);
    let redlock = builder.connect().await?;
    let code = flock(&redlock, &name, patience, command).await;
    redlock.shutdown().await; // What was dropped on the way has left the servers by then.
    code
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
    command.env("FENCING_TOKEN", guard.fencing_token().to_string());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("flock: {:?}: {error}", command.as_std().get_program());
            return Ok(127);
        }
    };
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
                if signal != Signal::TSTP {
                    let _ = kill_process_group(group, signal); // It may have ended just now.
                }
                if ENDING.contains(&signal) {
                    let _ = kill_process_group(group, Signal::CONT); // What is stopped does not hear it.
                }
            }
        }
    };
    if let Err(error) = guard.release().await {
        eprintln!("flock: {error}");
    }
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    Ok(code.and_then(|code| code.try_into().ok()).unwrap_or(1))
}
