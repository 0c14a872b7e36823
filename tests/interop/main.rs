//! Whether the real packages of other Redlock clients exclude us, and we them. Run by `tests/interop/run`.

// A test may fail by panicking, and measures the time that the code under test must not read.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod peer;
#[path = "../common/server.rs"]
#[allow(dead_code)]
mod server;

use std::time::Duration;

use redlock_fifo::{FifoRedlock, FifoRedlockBuilder, LockGuard};
use tokio::time::{Instant, sleep};

use peer::{Package, Peer};
use server::Server;

const NAME: &str = "invoice:42";
const TTL: Duration = Duration::from_secs(10);

fn servers() -> Vec<Server> {
    (0..3).map(|_| Server::start_tcp(&[])).collect()
}

async fn client(servers: &[Server]) -> FifoRedlock {
    let builder = FifoRedlock::builder().fifo_retry_count(None);
    let urls = servers.iter().map(Server::url);
    let client = urls.fold(builder, FifoRedlockBuilder::node).connect().await;
    client.expect("connected")
}

/// The values of the lock key.
fn values(servers: &[Server]) -> Vec<Option<String>> {
    let value = |server: &Server| redis::from_redis_value(server.command(&["GET", NAME])).unwrap();
    servers.iter().map(value).collect()
}

/// The values once we have all votes: the last of a peer's keys may expire after the others.
async fn ours(servers: &[Server], guard: &LockGuard) -> Vec<Option<String>> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let values = values(servers);
        if values[0].is_some() && values.iter().all(|value| *value == values[0]) {
            assert!(guard.is_held());
            return values;
        }
        assert!(Instant::now() < deadline, "still not on all: {values:?}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// While we hold, it gets nothing; when we have released, it does.
async fn it_is_excluded_by_us(package: Package) {
    let servers = servers();
    let redlock = client(&servers).await;
    let mut peer = Peer::start(package, &servers);
    let guard = redlock.lock(NAME, TTL).await.unwrap();
    let ours = ours(&servers, &guard).await;
    assert!(!peer.locks(NAME, 10_000));
    assert_eq!(values(&servers), ours, "it took nothing of ours");
    assert!(guard.is_valid().await.unwrap());
    guard.release().await.unwrap();
    redlock.shutdown().await;
    assert!(peer.locks(NAME, 10_000));
    peer.unlock();
    assert_eq!(values(&servers), [None, None, None]);
}

/// While it holds, we get nothing and take nothing from it; when it unlocks, whoever waits is served.
async fn it_excludes_us(package: Package) {
    let servers = servers();
    let redlock = client(&servers).await;
    let mut peer = Peer::start(package, &servers);
    assert!(peer.locks(NAME, 60_000));
    let theirs = values(&servers);
    assert!(theirs.iter().all(Option::is_some));
    assert!(redlock.try_lock(NAME, TTL).await.unwrap().is_none());
    let ticket = redlock.enqueue(NAME, TTL).await.unwrap();
    ticket.leave().await.unwrap();
    let mut ticket = redlock.enqueue(NAME, TTL).await.unwrap();
    assert_eq!(values(&servers), theirs, "we took nothing of theirs");
    let inspection = redlock.inspect(NAME).await.unwrap();
    let holder = inspection.holder().expect("the peer");
    assert_eq!(
        (Some(holder.id()), holder.client_name()),
        (theirs[0].as_deref(), None)
    );

    let unlocked = Instant::now();
    peer.unlock();
    let guard = ticket.acquire().await.unwrap();
    let waited = unlocked.elapsed();
    println!("{package:?}: served {waited:?} after its unlock");
    assert!(waited < Duration::from_millis(200 + 700), "{waited:?}");
    guard.release().await.unwrap();
}

/// What it does too late, when its lock has expired and we have it, does us no harm.
async fn its_late_unlock_does_not_harm_us(package: Package) {
    let servers = servers();
    let redlock = client(&servers).await;
    let mut peer = Peer::start(package, &servers);
    let locked = Instant::now();
    assert!(peer.locks(NAME, 1000));
    let guard = redlock.lock(NAME, TTL).await.unwrap();
    assert!(
        locked.elapsed() >= Duration::from_secs(1),
        "not before its end"
    );
    let ours = ours(&servers, &guard).await;
    peer.unlock();
    assert_eq!(values(&servers), ours);
    assert!(guard.is_valid().await.unwrap());
    guard.release().await.unwrap();
}

/// Both lock again and again: never are two inside at once, and each gets its turns as long as our line
/// has gaps.
async fn at_most_one_is_inside(package: Package) {
    for (tasks, gap) in [(1, Duration::from_millis(30)), (3, Duration::ZERO)] {
        let (servers, store) = (servers(), Server::start_tcp(&[]));
        let redlock = client(&servers).await;
        let mut peer = Peer::start(package, &servers);
        peer.contend(NAME, 2, &store);
        let end = Instant::now() + Duration::from_secs(2);
        let one = async || {
            let mut connection = redis::Client::open(store.url())
                .unwrap()
                .get_multiplexed_async_connection()
                .await
                .unwrap();
            let (mut served, mut met) = (0, 0);
            while Instant::now() < end {
                let guard = redlock.lock(NAME, TTL).wait_forever().await.unwrap();
                let inside: i64 = redis::cmd("INCR")
                    .arg("inside")
                    .query_async(&mut connection)
                    .await
                    .unwrap();
                met += u64::from(inside != 1);
                sleep(Duration::from_millis(2)).await;
                let _: i64 = redis::cmd("DECR")
                    .arg("inside")
                    .query_async(&mut connection)
                    .await
                    .unwrap();
                guard.release().await.unwrap();
                served += 1;
                sleep(gap).await;
            }
            (served, met)
        };
        let ours = futures::future::join_all((0..tasks).map(|_| one())).await;
        let ours = ours
            .into_iter()
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let theirs = peer.contended();
        println!(
            "{package:?}, {tasks} of ours with gaps of {gap:?}: we {}, it {}",
            ours.0, theirs.0
        );
        assert_eq!((ours.1, theirs.1), (0, 0), "two were inside");
        assert!(ours.0 > 0);
        if gap.is_zero() {
            // A handoff leaves no gap on any node: who polls comes to nothing while somebody is in line.
            assert!(theirs.0 < ours.0 / 4, "{theirs:?}, {ours:?}");
        } else {
            assert!(theirs.0 > 0);
        }
        redlock.shutdown().await;
    }
}

macro_rules! for_each_package {
    ($($module:ident: $package:ident),*) => {$(
        mod $module {
            use super::Package::$package;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn is_excluded_by_us() {
                super::it_is_excluded_by_us($package).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn excludes_us() {
                super::it_excludes_us($package).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn does_no_harm_when_it_is_late() {
                super::its_late_unlock_does_not_harm_us($package).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn at_most_one_is_inside() {
                super::at_most_one_is_inside($package).await;
            }
        }
    )*};
}

for_each_package! {
    python_redlock_py: RedlockPy,
    python_redlock_fifo: RedlockFifo,
    node_redlock_4: Redlock4,
    node_redlock_5: Redlock5
}
