//! A place in line that survives a `select!` loop, next to the loop that gives it up at every turn.
//!
//! Each turn of a `select!` loop drops the future that did not win. With `lock` in it the place goes along: who came
//! later is served first, and in a busy line one is never served. A ticket keeps the place.
//!
//! `cargo run --example keep_place_in_select`; `REDIS_URLS=redis://a,redis://b,redis://c` for servers of
//! yours.

use std::{env, error::Error, time::Duration};

use redlock_fifo::{BuildError, FifoRedlock, LockError, LockGuard};
use tokio::time::{MissedTickBehavior, interval, sleep};

const TTL: Duration = Duration::from_secs(2);
const MESSAGES: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redlock = connect().await?;
    let (mine, rivals) = race(&redlock, the_wrong_way(&redlock)).await?;
    println!(
        "the wrong way: who came after us was served {}",
        order(rivals, mine)
    );
    assert!(rivals < mine, "that is what it costs");
    let (mine, rivals) = race(&redlock, the_right_way(&redlock)).await?;
    println!(
        "the right way: who came after us was served {}",
        order(rivals, mine)
    );
    assert!(mine < rivals);
    redlock.shutdown().await;
    println!("A ticket keeps its place.");
    Ok(())
}

/// Drops its place with each message, and goes to the end of the line.
async fn the_wrong_way(redlock: &FifoRedlock) -> Result<LockGuard, LockError> {
    let mut inbox = interval(MESSAGES);
    inbox.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            guard = redlock.lock("deploy", TTL) => return guard,
            _ = inbox.tick() => {}
        }
    }
}

/// Drops only the future of `acquire` with each message.
async fn the_right_way(redlock: &FifoRedlock) -> Result<LockGuard, LockError> {
    let mut inbox = interval(MESSAGES);
    let mut ticket = redlock.enqueue("deploy", TTL).await?;
    loop {
        tokio::select! {
            guard = ticket.acquire() => return guard,
            _ = inbox.tick() => println!("a message; {} ahead of us in line", ticket.position()),
        }
    }
}

/// Asks for a lock that is held, half a second before a rival does. Returns our fencing token, and the rival's.
async fn race(
    redlock: &FifoRedlock,
    ours: impl Future<Output = Result<LockGuard, LockError>>,
) -> Result<(u64, u64), LockError> {
    let deploying = redlock.lock("deploy", TTL).await?;
    let token = async |guard: LockGuard| {
        let token = guard.fencing_token();
        guard.release().await.map(|()| token).unwrap_or_default()
    };
    let ours = async { Ok::<_, LockError>(token(ours.await?).await) };
    let rival = async {
        sleep(Duration::from_millis(500)).await;
        let mut rival = redlock.enqueue("deploy", TTL).await?;
        Ok::<_, LockError>(token(rival.acquire().await?).await)
    };
    let end = async {
        sleep(Duration::from_secs(1)).await;
        drop(deploying);
        Ok::<_, LockError>(())
    };
    let (ours, rival, ()) = tokio::try_join!(ours, rival, end)?;
    Ok((ours, rival))
}

fn order(theirs: u64, ours: u64) -> &'static str {
    if theirs < ours {
        "before us"
    } else {
        "after us"
    }
}

async fn connect() -> Result<FifoRedlock, BuildError> {
    match env::var("REDIS_URLS") {
        Ok(urls) => FifoRedlock::connect(urls.split(',')).await,
        Err(_) => Ok(FifoRedlock::in_memory(3)),
    }
}
