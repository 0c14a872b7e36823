//! A client, its futures and its guards on several runtimes, or on none, and what shuts down meanwhile.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Mutex, mpsc},
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use redlock_fifo::{ClientStopped, ExtendError, FifoRedlock, LeaseLost, LockError, MemoryCluster};
use tokio::{
    runtime::{Builder, Runtime},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use crate::{
    events::set_default,
    rig::{lengthen, with_defaults},
};

const TTL: Duration = Duration::from_secs(3);

fn small() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn other() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

async fn client() -> FifoRedlock {
    with_defaults(&MemoryCluster::new(3)).await
}

#[test]
fn a_client_whose_runtime_ended_at_once_says_so() {
    let redlock = small().block_on(async { client().await });
    let rt = small();
    let outcome =
        rt.block_on(async { timeout(Duration::from_secs(20), redlock.lock("r", TTL)).await });
    assert!(
        matches!(outcome, Ok(Err(LockError::Stopped(_)))),
        "{outcome:?}"
    );
}

#[test]
fn s3_lost_moves_from_a_runtime_that_ends() {
    let home = other();
    let guard = home.block_on(async {
        let redlock = client().await;
        redlock.lock("r", TTL).auto_extend(false).await.unwrap()
    });
    std::thread::sleep(Duration::from_millis(100));
    let mut lost = guard.lost();
    let rt1 = small();
    rt1.block_on(async { assert!((&mut lost).now_or_never().is_none()) });
    drop(rt1);
    let rt2 = small();
    let told = rt2.block_on(async { timeout(2 * TTL, &mut lost).await });
    assert!(told.is_ok());
}

#[test]
fn s3_lost_moves_from_a_runtime_that_is_not_driven_any_more() {
    let rt1 = small();
    let (guard, mut lost) = rt1.block_on(async {
        let redlock = client().await;
        let guard = redlock.lock("r", TTL).await.unwrap();
        let mut lost = guard.lost();
        assert!((&mut lost).now_or_never().is_none());
        (guard, lost)
    });
    // rt1 is blocked: nobody drives it.
    let rt2 = small();
    let told = rt2.block_on(async { timeout(2 * TTL, &mut lost).await });
    assert!(!guard.is_held());
    assert!(
        told.is_ok(),
        "S3: the lease is over and lost() is not ready"
    );
    drop(rt1);
}

#[test]
fn a_lock_moves_between_runtimes() {
    let home = other();
    let redlock = home.block_on(async { client().await });
    let held = home.block_on(redlock.lock("r", TTL).into_future()).unwrap();
    let mut lock = redlock.lock("r", TTL);
    let rt1 = small();
    rt1.block_on(async { tokio::select! { biased; _ = &mut lock => panic!(), () = sleep(Duration::from_millis(50)) => {} } });
    drop(rt1);
    let rt2 = small();
    let served = rt2.block_on(async {
        tokio::spawn(async move {
            sleep(Duration::from_millis(200)).await;
            drop(held);
        });
        timeout(Duration::from_secs(5), &mut lock).await
    });
    drop(served.unwrap().unwrap());
}

#[test]
fn inspect_outside_of_a_runtime_works_on_slow_memory_nodes() {
    let rt = other();
    let cluster = MemoryCluster::new(3);
    let redlock = rt.block_on(async { with_defaults(&cluster).await });
    cluster.node(0).set_latency(Duration::from_millis(10));
    futures::executor::block_on(redlock.inspect("r")).unwrap();
}

#[test]
fn a_lock_gives_up_while_its_clients_runtime_is_blocked() {
    let rt1 = small();
    let redlock = rt1.block_on(async {
        let redlock = FifoRedlock::builder()
            .memory(&MemoryCluster::new(3))
            .fifo_retry_count(2)
            .connect()
            .await
            .unwrap();
        drop(redlock.lock("r", TTL).await.unwrap());
        redlock
    });
    let rt2 = small();
    let outcome =
        rt2.block_on(async { timeout(Duration::from_secs(10), redlock.lock("r", TTL)).await });
    assert!(outcome.is_ok(), "two polls are over, and it waits on");
    drop(rt1);
}

#[test]
fn start_auto_extend_says_that_the_client_has_stopped() {
    let runtime = other();
    let redlock = FifoRedlock::in_memory(3);
    let guard = runtime
        .block_on(redlock.lock("r", TTL).auto_extend(false))
        .unwrap();
    drop(runtime);
    assert_eq!(
        futures::executor::block_on(guard.extend(TTL)),
        Err(ExtendError::Stopped(ClientStopped::RuntimeEnded))
    );
    assert_eq!(
        guard.start_auto_extend(TTL / 3, TTL),
        Err(ExtendError::Stopped(ClientStopped::RuntimeEnded))
    );
}

/// Whatever is logged first has another thread shut the client down.
struct ShutsDownFirst(Mutex<Option<FifoRedlock>>);
impl tracing::Subscriber for ShutsDownFirst {
    fn enabled(&self, m: &tracing::Metadata<'_>) -> bool {
        *m.level() <= tracing::Level::WARN && m.is_event()
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        if let Some(redlock) = self.0.lock().unwrap().take() {
            // Another thread gets to run here: it shuts down, and is told that this is done.
            std::thread::spawn(move || futures::executor::block_on(redlock.shutdown()))
                .join()
                .unwrap();
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn no_request_gets_past_a_shutdown() {
    let cluster = MemoryCluster::new(3);
    let redlock = with_defaults(&cluster).await;
    let _set = set_default(ShutsDownFirst(Mutex::new(Some(redlock.clone()))));
    // Above restart_grace: warned of.
    let outcome = timeout(
        Duration::from_secs(2),
        redlock.lock("r", Duration::from_secs(60)),
    )
    .await;
    assert!(
        matches!(outcome, Ok(Err(LockError::ShutDown))),
        "{outcome:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn positions_end_when_the_ticket_is_used() {
    for auto in [false, true] {
        let redlock = FifoRedlock::builder()
            .memory(&MemoryCluster::new(3))
            .auto_extend(auto)
            .connect()
            .await
            .unwrap();
        let mut ticket = redlock.enqueue("r", 10 * TTL).await.unwrap();
        let mut positions = ticket.positions();
        assert_eq!(positions.next().await, Some(0));
        let ends = tokio::spawn(async move { positions.next().await });
        tokio::task::yield_now().await;
        let guard = ticket.acquire().await.unwrap();
        let ended = timeout(Duration::from_secs(5), ends).await;
        assert!(
            ended.is_ok(),
            "auto_extend {auto}: the ticket is used, and the stream goes on"
        );
        drop(guard);
    }
}

/// The thread that polls `lost` belongs to the runtime that ends, or to one without timers.
#[test]
fn s3_lost_needs_no_timer_of_the_runtime_that_polls_it() {
    let (tell, told) = mpsc::channel();
    let home = other();
    let guard = home.block_on(async {
        let guard = client().await.lock("r", TTL).await.unwrap();
        let lost = guard.lost();
        spawn_blocking(move || tell.send(futures::executor::block_on(lost)));
        sleep(Duration::from_millis(100)).await;
        guard
    });
    home.shutdown_background();
    assert!(told.recv_timeout(2 * TTL).is_ok());
    assert!(!guard.is_held());
    let home = other();
    let guard = home.block_on(async {
        let redlock = client().await;
        redlock.lock("r", TTL).auto_extend(false).await.unwrap()
    });
    let bare = Builder::new_current_thread().build().unwrap();
    assert_eq!(bare.block_on(guard.lost()), LeaseLost::Expired);
}

/// The client's runtime is not driven any more when its calls have had one answer and need another.
#[test]
fn calls_beside_a_blocked_runtime_end_with_the_patience() {
    for call in ["enqueue", "try_lock"] {
        let cluster = MemoryCluster::new(3);
        let home = small();
        let builder = FifoRedlock::builder().memory(&cluster).fifo_retry_count(2);
        let redlock = home.block_on(builder.connect()).unwrap();
        let ahead = home.block_on(with_defaults(&cluster));
        // The counters differ: whoever asks writes the highest to a quorum.
        cluster.node(0).pause();
        cluster.node(2).pause();
        for _ in 0..3 {
            assert!(home.block_on(ahead.enqueue("r", TTL)).is_err());
        }
        cluster.node(0).resume();
        cluster.node(2).resume();
        home.block_on(ahead.shutdown());
        lengthen(&cluster, Duration::from_millis(100));
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let outcome = small().block_on(async {
                match call {
                    "enqueue" => redlock.enqueue("r", TTL).await.map(drop),
                    _ => redlock.try_lock("r", TTL).await.map(drop),
                }
            });
            tell.send(outcome)
        });
        std::thread::sleep(Duration::from_millis(5));
        home.block_on(async { sleep(Duration::from_millis(145)).await });
        let outcome = told.recv_timeout(Duration::from_secs(10));
        assert!(outcome.is_ok(), "{call} waits for ever");
    }
}

#[test]
fn c3_shutdown_beside_a_blocked_runtime_ends_when_all_has_expired() {
    let home = small();
    let (redlock, guard) = home.block_on(async {
        let redlock = client().await;
        let guard = redlock.lock("r", Duration::from_secs(1)).await.unwrap();
        (redlock, guard)
    });
    drop(guard);
    let shut = small().block_on(async { timeout(3 * TTL, redlock.shutdown()).await });
    assert!(shut.is_ok());
}

#[test]
fn a_panic_elsewhere_is_none_of_the_background_task() {
    let mut kept = None;
    let panics = AssertUnwindSafe(|| {
        let home = small();
        kept = Some(home.block_on(client()));
        resume_unwind(Box::new("the user's own"));
    });
    assert!(catch_unwind(panics).is_err());
    let redlock = kept.unwrap();
    let outcome = small().block_on(redlock.lock("r", TTL).into_future());
    let Err(LockError::Stopped(cause)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(cause, ClientStopped::RuntimeEnded);
}

/// What is sent is sent in the order in which it was decided on, however busy the runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c3_shutdown_leaves_nothing_behind_a_crowd_that_comes_and_goes() {
    let cluster = MemoryCluster::new(3);
    let redlock = crate::rig::client(&cluster).await;
    let tasks: Vec<_> = (0..24)
        .map(|_| {
            let redlock = redlock.clone();
            tokio::spawn(async move {
                let end = Instant::now() + Duration::from_secs(1);
                while Instant::now() < end {
                    drop(redlock.lock("r", 3 * TTL).into_future().now_or_never());
                    let guard = redlock.lock("r", 3 * TTL).await.unwrap();
                    guard.release().await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    redlock.shutdown().await;
    let left: Vec<_> = cluster.nodes().map(|node| node.used()).collect();
    assert!(left.iter().all(Vec::is_empty), "{left:?}");
}

/// A thread without a runtime does not see the paused clock.
#[tokio::test(start_paused = true)]
async fn c3_a_guard_that_is_dropped_on_a_plain_thread_is_released() {
    let cluster = MemoryCluster::new(3);
    let redlock = with_defaults(&cluster).await;
    sleep(10 * TTL).await;
    let guard = redlock.lock("r", TTL).await.unwrap();
    std::thread::spawn(move || drop(guard)).join().unwrap();
    redlock.shutdown().await;
    assert!(cluster.nodes().all(|node| node.get("r").is_none()));
}
