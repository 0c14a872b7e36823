//! What users may do with the types: share, send, spawn, box. Checked when this compiles.

use std::{error::Error, time::Duration};

use redlock_fifo::{
    ArgumentError, BuildError, ExtendError, FifoRedlock, FifoRedlockBuilder, Inspection, LeaseLost,
    LockError, LockGuard, LockRequest, Lost, MemoryCluster, MemoryNode, NodeError, Positions,
    ReleaseError, Ticket, WrongServer,
};

const TTL: Duration = Duration::from_secs(10);

const fn shared<T: Send + Sync + 'static>() {}
const fn sent<T: Send + 'static>() {}
const fn cloned<T: Clone>() {}
const fn unpinned<T: Unpin>() {}
const fn error<T: Error + Clone + PartialEq + Send + Sync + 'static>() {}
const fn shown<T: std::fmt::Debug>() {}

const _: () = {
    shared::<FifoRedlock>();
    cloned::<FifoRedlock>();
    shared::<LockGuard>();
    shared::<Ticket>();
    shared::<MemoryCluster>();
    shared::<MemoryNode>();
    shared::<Inspection>();
    sent::<FifoRedlockBuilder>();

    sent::<LockRequest>();
    unpinned::<LockRequest>();
    sent::<Lost>();
    unpinned::<Lost>();
    sent::<Positions>();
    unpinned::<Positions>();

    error::<BuildError>();
    error::<LockError>();
    error::<ExtendError>();
    error::<ReleaseError>();
    error::<ArgumentError>();
    error::<LeaseLost>();
    error::<NodeError>();
    error::<WrongServer>();

    shown::<FifoRedlock>();
    shown::<FifoRedlockBuilder>();
    shown::<LockRequest>();
    shown::<Lost>();
    shown::<LockGuard>();
    shown::<Ticket>();
    shown::<Positions>();
};

fn sendable<F: Future + Send>(future: F) -> F {
    future
}

#[tokio::test(start_paused = true)]
async fn every_future_of_the_api_can_be_sent() {
    let client = FifoRedlock::in_memory(3);
    let guard = sendable(client.lock("a", TTL)).await.unwrap();
    assert!(sendable(guard.is_valid()).await.unwrap());
    sendable(guard.extend(TTL)).await.unwrap();
    let mut ticket = sendable(client.enqueue("a", TTL)).await.unwrap();
    assert!(sendable(client.try_lock("a", TTL)).await.unwrap().is_none());
    sendable(guard.release()).await.unwrap();
    let guard = sendable(ticket.acquire()).await.unwrap();
    let other = sendable(client.enqueue("a", TTL)).await.unwrap();
    sendable(other.leave()).await.unwrap();
    assert!(sendable(client.inspect("a")).await.is_ok());
    drop(guard);
    sendable(client.shutdown()).await;
}

#[tokio::test(start_paused = true)]
async fn a_guard_can_be_shared_and_moved_and_watched_by_a_child() {
    let client = FifoRedlock::in_memory(3);
    let guard = std::sync::Arc::new(client.lock("a", TTL).await.unwrap());
    let watch = tokio::spawn(guard.lost());
    let worker = guard.clone();
    let token = tokio::spawn(async move { worker.is_held().then(|| worker.fencing_token()) });
    assert_eq!(token.await.unwrap(), Some(guard.fencing_token()));
    drop(guard);
    assert_eq!(watch.await.unwrap(), LeaseLost::Released);
}

#[tokio::test(start_paused = true)]
async fn a_lock_keeps_its_place_across_the_turns_of_a_loop() {
    let client = FifoRedlock::in_memory(3);
    let held = client.lock("a", TTL).await.unwrap();
    let mut lock = client.lock("a", TTL).wait_forever();
    for _ in 0..3 {
        tokio::select! {
            biased;
            _ = &mut lock => panic!("it is held"),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
    let mut late = client.enqueue("a", TTL).await.unwrap();
    assert_eq!(late.position(), 1);
    drop(held);
    let guard = lock.await.unwrap();
    drop(guard);
    assert!(late.acquire().await.is_ok());
}

#[test]
fn with_lock_may_borrow_and_be_sent() {
    async fn work(client: FifoRedlock, mut total: Vec<u64>) -> Vec<u64> {
        let name = String::from("a");
        let done = client.with_lock(name.as_str(), TTL, async |guard| {
            total.push(guard.fencing_token());
        });
        done.await.expect("free");
        total
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let total = runtime.block_on(async {
        let client = FifoRedlock::in_memory(1);
        tokio::spawn(work(client, Vec::new()))
            .await
            .expect("no panic")
    });
    assert_eq!(total.len(), 1);
}
