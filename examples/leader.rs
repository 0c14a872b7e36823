//! Leader election: of several candidates one leads, until its lease is lost or it is told to resign.
//!
//! The fencing token is the term: it rises with every leader. Pass it on with whatever a leader decides, and let those
//! who carry that out refuse lower ones, since a leader that was paused does not know yet that it is none.
//!
//! `REDIS_URLS=redis://a,redis://b,redis://c cargo run --example leader -- NAME` is one candidate, which resigns on
//! SIGTERM. Without a name there are three candidates in one process, each of which resigns after a while.

use std::{env, error::Error, time::Duration};

use redlock_fifo::{FifoRedlock, FifoRedlockBuilder, LockError, MemoryCluster};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{interval, sleep},
};

const TTL: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A candidate waits for as long as another leads; leading for weeks is no reason to warn.
    let builder = FifoRedlock::builder()
        .fifo_retry_count(None)
        .long_hold(None);
    let builder = match env::var("REDIS_URLS") {
        Ok(urls) => urls.split(',').fold(builder, FifoRedlockBuilder::node),
        Err(_) => builder.memory(&MemoryCluster::new(3)),
    };
    let redlock = builder.connect().await?;
    let (leads, mut leaders) = mpsc::unbounded_channel();

    if let Some(name) = env::args().nth(1) {
        let mut terminate = signal(SignalKind::terminate())?;
        let resign = async { terminate.recv().await.unwrap_or_default() };
        candidate(&redlock, &name, leads, resign).await?;
    } else {
        let times = [("ann", 200), ("ben", 500), ("cleo", 800)];
        let candidates = times.map(|(name, millis)| {
            let resign = sleep(Duration::from_millis(millis));
            candidate(&redlock, name, leads.clone(), resign)
        });
        for outcome in futures::future::join_all(candidates).await {
            outcome?;
        }
        let (mut terms, mut last) = (0, 0);
        while let Ok(term) = leaders.try_recv() {
            assert!(term > last, "terms rise");
            (terms, last) = (terms + 1, term);
        }
        assert_eq!(terms, 3, "each led once");
    }
    redlock.shutdown().await;
    Ok(())
}

/// Stands for election again and again, until `resign`.
async fn candidate(
    redlock: &FifoRedlock,
    name: &str,
    leads: mpsc::UnboundedSender<u64>,
    resign: impl Future<Output = ()>,
) -> Result<(), LockError> {
    let mut resign = std::pin::pin!(resign);
    loop {
        let guard = tokio::select! {
            guard = redlock.lock("leader", TTL).wait_forever() => guard?,
            () = &mut resign => {
                println!("{name} stands no more");
                return Ok(());
            }
        };
        let term = guard.fencing_token();
        println!("{name} leads, term {term}");
        let _ = leads.send(term);
        tokio::select! {
            biased;
            // The lead ends before anyone else can have it: whatever it started must end now.
            why = guard.lost() => println!("{name} steps down: {why}"),
            () = &mut resign => {
                println!("{name} resigns");
                // The next candidate leads from this call on. If it fails, the lease runs out.
                if let Err(error) = guard.release().await {
                    println!("{name}: {error}");
                }
                return Ok(());
            }
            () = lead() => {}
        }
    }
}

/// What only one may do at a time. Dropped when the lead ends.
async fn lead() {
    let mut tick = interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
    }
}
