//! A lease that cannot be renewed any more: the work stops before anyone else can have the lock.
//!
//! Two of three nodes are stopped under a running job. Memory nodes, as servers would have to be killed:
//! `cargo run --example lost_lease`.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redlock_fifo::{FifoRedlock, LeaseLost, LockError, LockGuard, MemoryCluster};
use tokio::time::{interval, sleep};

const TTL: Duration = Duration::from_millis(600);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = MemoryCluster::new(3);
    let redlock = FifoRedlock::builder().memory(&cluster).connect().await?;
    let rows = Arc::new(AtomicU64::new(0));

    let saboteur = cluster.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        println!("two of three nodes stop");
        saboteur.node(0).stop();
        saboteur.node(1).stop();
    });

    // `with_lock` drops the work when the lease is lost, and says why it was.
    let outcome = redlock
        .with_lock("import", TTL, async |guard| import(guard, &rows).await)
        .await;
    sleep(Duration::from_millis(50)).await; // The child stops by itself.
    let imported = rows.load(Ordering::Relaxed);
    println!("stopped after {imported} rows: {outcome:?}");
    assert_eq!(outcome, Err(LockError::LeaseLost(LeaseLost::Expired)));
    assert!(imported > 0);

    sleep(TTL).await;
    assert_eq!(rows.load(Ordering::Relaxed), imported, "nothing went on");

    cluster.node(0).restart();
    cluster.node(1).restart();
    let guard = redlock.lock("import", TTL).await?;
    println!("the nodes are back, and so is the lock");
    guard.release().await?;
    redlock.shutdown().await;
    Ok(())
}

/// Counts rows until it is stopped. What it spawns is not dropped along with it, so that watches the
/// lease itself: `lost()` belongs to whoever it is given to.
async fn import(guard: &LockGuard, rows: &Arc<AtomicU64>) {
    let (mut lost, rows) = (guard.lost(), rows.clone());
    let child = tokio::spawn(async move {
        let mut tick = interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                biased;
                why = &mut lost => return println!("the child stops: {why}"),
                _ = tick.tick() => {
                    let done = rows.fetch_add(1, Ordering::Relaxed) + 1;
                    if done % 10 == 0 {
                        println!("{done} rows");
                    }
                }
            }
        }
    });
    let _ = child.await;
}
