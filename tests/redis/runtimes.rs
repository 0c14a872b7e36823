//! Runtimes that are blocked, end, or are none at all.

use std::{
    error::Error,
    future::Future,
    pin::pin,
    sync::{Arc, OnceLock, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use redlock_fifo::{FifoRedlock, LeaseLost, LockError, LockGuard, Ticket};
use tokio::{
    runtime::{Builder, Runtime},
    time::{sleep, timeout},
};

use crate::{
    process::{PATIENCE, client, now, patient, servers, until, urls},
    server::Server,
};

const TTL: Duration = Duration::from_secs(1);

/// What is to come at once, on however busy a machine.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Runs a future on this thread, without any runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Runs `work` on a plain thread.
fn plainly<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, finished) = mpsc::channel();
    thread::spawn(move || {
        let _ = done.send(work());
    });
    finished.recv_timeout(PATIENCE).ok()
}

fn small() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

async fn connect(urls: &[String]) -> FifoRedlock {
    let builder = urls
        .iter()
        .fold(patient(), |builder, url| builder.node(url));
    builder.connect().await.expect("connected")
}

/// A guard whose client lives on a runtime that is blocked until the sender is dropped.
fn on_a_blocked_runtime(servers: &[Server]) -> (LockGuard, mpsc::Sender<()>) {
    let urls = urls(servers);
    let (give, guard) = mpsc::channel();
    let (block, unblock) = mpsc::channel::<()>();
    thread::spawn(move || {
        small().block_on(async {
            let redlock = connect(&urls).await;
            let lock = redlock.lock("r", TTL).wait_forever();
            give.send(lock.await.expect("locked")).expect("taken");
            let _ = unblock.recv();
        });
    });
    (guard.recv().expect("locked"), block)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_lost_completes_in_time_while_the_clients_runtime_is_blocked() {
    let servers = servers(3);
    let next = client(&servers).await;
    let (guard, block) = on_a_blocked_runtime(&servers);
    let lost = tokio::spawn(guard.lost());
    let lock = next.lock("r", TTL).wait_forever();
    let second = timeout(PATIENCE, lock).await.expect("served");
    let second = second.expect("served");
    assert!(!guard.is_held());
    let told = timeout(TTL, lost).await;
    assert!(
        told.is_ok(),
        "S3: another client has had the lock for {TTL:?}, and `lost` is still not ready"
    );
    drop((second, block));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_with_lock_stops_its_work_while_the_clients_runtime_is_blocked() {
    let servers = servers(3);
    let next = client(&servers).await;
    let urls = urls(&servers);
    let (give, redlock) = mpsc::channel();
    let (block, unblock) = mpsc::channel::<()>();
    let (now_block, blocks) = mpsc::channel::<()>();
    thread::spawn(move || {
        small().block_on(async {
            let redlock = connect(&urls).await;
            let first = redlock.lock("first", TTL).await.expect("free");
            first.release().await.expect("held");
            give.send(redlock).expect("taken");
            while blocks.try_recv().is_err() {
                sleep(Duration::from_millis(1)).await;
            }
            let _ = unblock.recv();
        });
    });
    let redlock = redlock.recv().expect("connected");
    let work = tokio::spawn(async move {
        let work = async |_: &LockGuard| {
            now_block.send(()).expect("it listens");
            std::future::pending::<()>().await;
        };
        redlock.with_lock("r", TTL, work).await
    });
    until("the lock is held", || {
        servers
            .iter()
            .all(|server| server.number(&["EXISTS", "r"]) == 1)
    })
    .await;
    let lock = next.lock("r", TTL).wait_forever();
    let second = timeout(PATIENCE, lock).await.expect("served");
    let stopped = timeout(TTL, work).await;
    assert!(stopped.is_ok(), "S3: the work goes on beside another's");
    drop((second, block));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_lost_completes_in_time_when_the_clients_runtime_has_ended() {
    let servers = servers(3);
    let urls = urls(&servers);
    let guard = plainly(move || {
        small().block_on(async { connect(&urls).await.lock("r", TTL).await.expect("free") })
    });
    let guard = guard.expect("locked");
    let lost = timeout(TTL + AT_ONCE, guard.lost()).await;
    assert!(lost.is_ok(), "S3: `lost` is not ready");
    assert!(!guard.is_held());
}

/// A client that is used from a plain thread works, and goes on working on its runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_a_client_whose_first_call_comes_from_a_thread_without_a_runtime_works() {
    let servers = servers(3);
    let redlock = client(&servers).await;
    let used = redlock.clone();
    let worked = plainly(move || {
        block_on(async {
            let guard = used.lock("plain", TTL).await.expect("free");
            assert!(guard.is_valid().await.expect("all answer"));
            guard.extend(2 * TTL).await.expect("held");
            let mut ticket = used.enqueue("plain", TTL).await.expect("enqueued");
            guard.release().await.expect("held");
            let guard = ticket.acquire().await.expect("served");
            thread::sleep(3 * TTL);
            assert!(guard.is_held(), "L6: it is renewed on the client's runtime");
            guard.release().await.expect("held");
            used.inspect("plain").await.expect("all answer");
        });
    });
    assert_eq!(worked, Some(()), "it hangs or panics");
    works(&redlock, &servers).await;
}

/// Guards are renewed and released, waiters are served, and a shutdown waits for what is under way.
async fn works(redlock: &FifoRedlock, servers: &[Server]) {
    let guard = redlock.lock("r", TTL).await.expect("free");
    let mut waiter = redlock.enqueue("r", TTL).await.expect("enqueued");
    let lost = timeout(3 * TTL, guard.lost()).await;
    assert!(lost.is_err() && guard.is_held(), "L6: {lost:?}");
    drop(guard);
    let served = timeout(AT_ONCE, waiter.acquire()).await;
    let served = served.expect("C3: the dropped guard is released");
    drop(served.expect("served"));
    redlock.shutdown().await;
    let left: Vec<_> = servers
        .iter()
        .map(|server| server.number(&["EXISTS", "r"]))
        .collect();
    assert!(
        left.iter().filter(|left| **left == 0).count() > servers.len() / 2,
        "C3: a shutdown waits for what was dropped: {left:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l6_a_client_whose_first_call_comes_from_a_runtime_that_ends_goes_on_working() {
    let servers = servers(3);
    let redlock = client(&servers).await;
    let used = redlock.clone();
    let first = plainly(move || {
        small().block_on(async {
            let guard = used.lock("short", TTL).await.expect("free");
            guard.release().await.expect("held");
        });
    });
    assert_eq!(first, Some(()));
    works(&redlock, &servers).await;
}

/// What a client leaves behind whose runtime has ended.
struct Left {
    redlock: FifoRedlock,
    guard: LockGuard,
    ticket: Ticket,
}

fn outlives_its_runtime(servers: &[Server]) -> Left {
    let urls = urls(servers);
    let left = plainly(move || {
        small().block_on(async {
            let redlock = connect(&urls).await;
            let ttl = Duration::from_secs(30);
            let guard = redlock.lock("held", ttl).await.expect("free");
            let ticket = redlock.enqueue("held", ttl).await.expect("enqueued");
            Left {
                redlock,
                guard,
                ticket,
            }
        })
    });
    left.expect("locked")
}

/// The call fails at once, and its error says what has happened.
async fn says_so<T, E: Error>(call: &str, future: impl Future<Output = Result<T, E>>) {
    let outcome = timeout(AT_ONCE, future).await;
    let outcome = outcome.unwrap_or_else(|_| panic!("{call} hangs"));
    let error = outcome.err().unwrap_or_else(|| panic!("{call} succeeds"));
    let text = error.to_string();
    assert!(text.contains("runtime"), "{call}: {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_a_client_says_that_its_runtime_has_ended() {
    static CLIENT: OnceLock<FifoRedlock> = OnceLock::new();
    let servers = servers(3);
    let left = outlives_its_runtime(&servers);
    let redlock = CLIENT.get_or_init(|| left.redlock.clone());
    says_so("lock", redlock.lock("r", TTL)).await;
    says_so("lock", redlock.lock("r", TTL).wait_forever()).await;
    says_so("try_lock", redlock.try_lock("r", TTL)).await;
    says_so("enqueue", redlock.enqueue("r", TTL)).await;
    says_so("inspect", redlock.inspect("r")).await;
    says_so("with_lock", redlock.with_lock("r", TTL, async |_| ())).await;
    let shut_down = timeout(AT_ONCE, redlock.shutdown()).await;
    assert!(shut_down.is_ok(), "shutdown hangs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_a_guard_and_a_ticket_says_that_the_clients_runtime_has_ended() {
    let servers = servers(3);
    let Left {
        redlock: _redlock,
        guard,
        mut ticket,
    } = outlives_its_runtime(&servers);
    says_so("extend", guard.extend(Duration::from_secs(60))).await;
    says_so("is_valid", guard.is_valid()).await;
    says_so("acquire", ticket.acquire()).await;
    says_so("leave", ticket.leave()).await;
    says_so("release", guard.release()).await;
}

/// A second test that uses the client of a first one in a static.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_is_told_that_the_clients_runtime_has_ended() {
    let servers = servers(3);
    let urls = urls(&servers);
    let (give, redlock) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let client_thread = thread::spawn(move || {
        small().block_on(async {
            give.send(connect(&urls).await).expect("taken");
            while ended.try_recv() == Err(mpsc::TryRecvError::Empty) {
                sleep(Duration::from_millis(1)).await;
            }
        });
    });
    let redlock = redlock.recv().expect("connected");
    let other = client(&servers).await;
    let held = other.lock("r", TTL).await.expect("free");
    let lock = redlock.lock("r", TTL).wait_forever();
    let waiter = tokio::spawn(lock.into_future());
    until("it stands in line", || {
        servers[0].number(&["ZCARD", "{r}:redlock-fifo:queue"]) == 1
    })
    .await;
    drop(end);
    client_thread.join().expect("no panic");
    let since = now();
    says_so("lock", async { waiter.await.expect("no panic") }).await;
    println!("told after {:?}", now() - since);
    held.release().await.expect("held");
}

/// As by `let redlock = Runtime::new()?.block_on(FifoRedlock::connect(..))?;`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_a_passing_runtime_says_so() {
    let servers = servers(3);
    let urls = urls(&servers);
    let connect = move || {
        let builder = urls
            .iter()
            .fold(patient(), |builder, url| builder.node(url));
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(builder.connect())
    };
    let redlock = thread::spawn(connect).join().expect("no panic");
    let locked = redlock.expect("connected").lock("r", TTL);
    let outcome = timeout(PATIENCE, locked).await.expect("it says so");
    assert!(matches!(outcome, Err(LockError::Stopped(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_lost_keeps_no_connection() {
    let servers = servers(3);
    let connections = || {
        let told = servers[0].text(&["CLIENT", "LIST"]);
        told.lines().filter(|line| line.contains(" sub=1 ")).count()
    };
    let redlock = client(&servers).await;
    let guard = redlock.lock("r", TTL).await.expect("free");
    let lost = guard.lost();
    assert_eq!(connections(), 1);
    guard.release().await.expect("held");
    redlock.shutdown().await;
    drop(redlock);
    until("the connection is gone", || connections() == 0).await;
    assert_eq!(lost.await, LeaseLost::Released);
}
