use redlock_fifo::*;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn free_lock_is_had_at_once() {
    let redlock = FifoRedlock::in_memory(3);
    let guard = redlock.lock("a", TTL).await.unwrap();
    assert!(guard.is_held());
    assert!(redlock.try_lock("a", TTL).await.unwrap().is_none());
    guard.release().await.unwrap();
    let guard = redlock.try_lock("a", TTL).await.unwrap().unwrap();
    drop(guard);
    redlock.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn sixteen_are_served_in_order() {
    let redlock = FifoRedlock::in_memory(5);
    let first = redlock.lock("a", TTL).await.unwrap();
    let mut tasks = Vec::new();
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    for i in 0..16 {
        let ticket = redlock.enqueue("a", TTL).await.unwrap();
        let tx = tx.clone();
        tasks.push(tokio::spawn(async move {
            let mut ticket = ticket;
            let guard = ticket.acquire().await.unwrap();
            tx.send((i, guard.fencing_token())).unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            guard.release().await.unwrap();
        }));
    }
    let start = tokio::time::Instant::now();
    drop(first);
    for t in tasks {
        t.await.unwrap();
    }
    println!("{:?}", start.elapsed());
    let mut order = vec![];
    while let Ok(x) = rx.try_recv() {
        order.push(x)
    }
    println!("{order:?}");
    assert!(order.is_sorted());
    redlock.shutdown().await;
}
