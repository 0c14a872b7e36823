//! A place in line that survives a `select!` loop: other work goes on while the turn comes.
//!
//! Each turn of the loop drops the future of `acquire` and makes a new one. The ticket keeps the place.
//!
//! `cargo run --example keep_place_in_select`; `REDIS_URLS=redis://a,redis://b,redis://c` for servers of
//! yours.

use std::{env, error::Error, time::Duration};

use redlock_fifo::{BuildError, FifoRedlock};
use tokio::{
    sync::mpsc,
    time::{interval, sleep},
};

const TTL: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redlock = connect().await?;
    let deploying = redlock.lock("deploy", TTL).await?;

    // We queue up, and then somebody else does.
    let mut ticket = redlock.enqueue("deploy", TTL).await?;
    let mut rival = redlock.enqueue("deploy", TTL).await?;
    assert_eq!((ticket.position(), rival.position()), (0, 1));
    let rival = tokio::spawn(async move { rival.acquire().await });

    let (messages, mut inbox) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut tick = interval(Duration::from_millis(100));
        for message in 1.. {
            tick.tick().await;
            if messages.send(message).await.is_err() {
                break;
            }
        }
    });
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        drop(deploying);
    });

    let mut handled = 0;
    let guard = loop {
        tokio::select! {
            guard = ticket.acquire() => break guard?,
            Some(message) = inbox.recv() => {
                println!("message {message}, {} ahead of us in line", ticket.position());
                handled += 1;
            }
        }
    };
    println!("our turn, after {handled} messages and as many dropped futures");
    assert!(handled > 3, "the loop went round while we waited");

    let ours = guard.fencing_token();
    guard.release().await?;
    let theirs = rival.await??;
    assert!(
        ours < theirs.fencing_token(),
        "the later one is served later"
    );
    theirs.release().await?;
    redlock.shutdown().await;
    println!("Whoever came after us was served after us.");
    Ok(())
}

async fn connect() -> Result<FifoRedlock, BuildError> {
    match env::var("REDIS_URLS") {
        Ok(urls) => FifoRedlock::connect(urls.split(',')).await,
        Err(_) => Ok(FifoRedlock::in_memory(3)),
    }
}
