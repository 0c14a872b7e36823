//! Five callers queue for one lock. Ann works for four times the ttl, and Cleo hangs up.
//!
//! `cargo run --example quickstart` runs on three nodes in memory. On servers of yours:
//! `REDIS_URLS=redis://a,redis://b,redis://c cargo run --example quickstart`.
#![allow(clippy::disallowed_methods)] // The library itself takes the time from one place only.

use std::{env, error::Error, sync::LazyLock, time::Duration};

use redlock_fifo::{BuildError, FifoRedlock, LockError, Ticket};
use tokio::time::{Instant, sleep};

const TTL: Duration = Duration::from_millis(500);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redlock = connect().await?;
    println!("One lock with a ttl of {} ms:\n", TTL.as_millis());

    let mut callers = Vec::new();
    for (who, work, hang_up) in [
        ("Ann", 2000, 10_000),
        ("Ben", 200, 10_000),
        ("Cleo", 200, 1000),
        ("Dan", 200, 10_000),
        ("Eve", 200, 10_000),
    ] {
        // This returns once the place is recorded: whoever asks from now on is served later.
        let ticket = redlock.enqueue("quickstart", TTL).await?;
        log(
            who,
            &format!("in line, {} waiting ahead", ticket.position()),
        );
        callers.push(tokio::spawn(call(who, ticket, ms(work), ms(hang_up))));
    }

    let mut served = Vec::new();
    for caller in callers {
        served.extend(caller.await??);
    }
    redlock.shutdown().await;

    served.sort_unstable_by_key(|(when, ..)| *when);
    let names: Vec<&str> = served.iter().map(|(_, who, _)| *who).collect();
    let tokens: Vec<u64> = served.iter().map(|(.., token)| *token).collect();
    assert_eq!(names, ["Ann", "Ben", "Dan", "Eve"], "the order of service");
    assert!(tokens.is_sorted_by(|a, b| a < b), "tokens rise: {tokens:?}");
    println!("\nServed in order of arrival, with rising fencing tokens.");
    Ok(())
}

/// Waits for the turn, works and releases; leaves the line after `hang_up`. Tells when it was served.
async fn call(
    who: &'static str,
    mut ticket: Ticket,
    work: Duration,
    hang_up: Duration,
) -> Result<Option<(Instant, &'static str, u64)>, LockError> {
    let guard = tokio::select! {
        guard = ticket.acquire() => guard?,
        () = sleep(hang_up) => {
            log(who, "hangs up; dropping the ticket leaves the line");
            return Ok(None);
        }
    };
    let (when, token) = (Instant::now(), guard.fencing_token());
    log(who, &format!("has the lock, fencing token {token}"));
    sleep(work).await;
    assert!(guard.is_held(), "extended for as long as the guard lives");
    log(who, &format!("done after {} ms", work.as_millis()));
    drop(guard); // Released in the background; `guard.release().await` waits for that.
    Ok(Some((when, who, token)))
}

fn log(who: &str, what: &str) {
    println!("{:6.2} s  {who:<4}  {what}", START.elapsed().as_secs_f64());
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn connect() -> Result<FifoRedlock, BuildError> {
    match env::var("REDIS_URLS") {
        Ok(urls) => FifoRedlock::connect(urls.split(',')).await,
        Err(_) => Ok(FifoRedlock::in_memory(3)),
    }
}
