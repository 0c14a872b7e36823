//! Futures dropped at their first, second, … poll, whatever the nodes do meanwhile: nothing is left
//! behind, and the next caller has the lock.

use std::{task::Poll, time::Duration};

use futures::FutureExt;
use redlock_fifo::{FifoRedlock, LeaseLost, LockError, LockGuard, MemoryCluster, Ticket};
use tokio::time::sleep;

use crate::cluster::now;

const TTL: Duration = Duration::from_secs(10);
/// What the settings of these clients say.
const EPHEMERAL: Duration = Duration::from_secs(5);
const NODE_TIMEOUT: Duration = Duration::from_millis(500);

/// More polls than any of these futures takes.
const MOST_POLLS: usize = 12;

/// What the nodes do while a future is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sickness {
    None,
    OneRefuses,
    OneIsSlow,
    OneHangs,
    AllAreSlow,
    AllHang,
}

impl Sickness {
    const ALL: [Self; 6] = [
        Self::None,
        Self::OneRefuses,
        Self::OneIsSlow,
        Self::OneHangs,
        Self::AllAreSlow,
        Self::AllHang,
    ];

    fn befall(self, cluster: &MemoryCluster) {
        let slow = Duration::from_millis(60);
        match self {
            Self::None => {}
            Self::OneRefuses => cluster.node(1).stop(),
            Self::OneIsSlow => cluster.node(1).set_latency(slow),
            Self::OneHangs => cluster.node(1).pause(),
            Self::AllAreSlow => cluster.nodes().for_each(|node| node.set_latency(slow)),
            Self::AllHang => cluster.nodes().for_each(|node| node.pause()),
        }
    }

    fn heal(self, cluster: &MemoryCluster) {
        for node in cluster.nodes() {
            node.set_latency(Duration::ZERO);
            node.resume();
        }
        if self == Self::OneRefuses {
            cluster.node(1).restart();
        }
    }

    /// Whether a quorum can be had meanwhile.
    fn spares_a_quorum(self) -> bool {
        self != Self::AllHang
    }

    /// How long the next caller may have to wait for what was dropped to be gone.
    fn delay(self) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::OneRefuses | Self::OneIsSlow | Self::OneHangs => NODE_TIMEOUT,
            Self::AllAreSlow | Self::AllHang => NODE_TIMEOUT * 2,
        }
    }
}

/// Three nodes, a client whose futures are dropped, and another that comes next.
struct Scene {
    cluster: MemoryCluster,
    client: FifoRedlock,
    next: FifoRedlock,
}

impl Scene {
    async fn new() -> Self {
        let cluster = MemoryCluster::new(3);
        let client = async || FifoRedlock::builder().memory(&cluster).connect().await;
        let (client, next) = (client().await, client().await);
        Self {
            client: client.expect("memory nodes"),
            next: next.expect("memory nodes"),
            cluster,
        }
    }

    /// Lets everything happen that needs no time.
    async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    /// The lock is to be had by the next caller; nothing is left when all is over.
    async fn finish(self, sickness: Sickness, case: &str) {
        if !sickness.spares_a_quorum() {
            sickness.heal(&self.cluster);
        }
        self.settle().await;
        let start = now();
        let lock = self.next.lock("r", TTL).wait_timeout(TTL * 2);
        let guard = lock.await.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert!(
            start.elapsed() <= sickness.delay(),
            "{case}: {:?}",
            start.elapsed()
        );
        drop(guard);
        sickness.heal(&self.cluster);
        self.client.shutdown().await;
        self.next.shutdown().await;
        for node in self.cluster.nodes() {
            assert!(
                node.used().is_empty(),
                "{case}: {node:?} still has {:?}",
                node.used()
            );
        }
    }
}

/// Polls a future so often, each time once something has woken it, and then drops it. What it came to,
/// if it did.
async fn poll_and_drop<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut task = tokio_test::task::spawn(future);
    for poll in 1..=polls {
        if let Poll::Ready(output) = task.poll() {
            return Some(output);
        }
        for _ in 0..2000 {
            if task.is_woken() || poll == polls {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
    None
}

/// Drops what `act` does at each of its polls, under each sickness. `prepare` comes before that, and
/// `after` has what it made.
async fn sweep<P, T>(
    prepare: impl AsyncFn(&Scene) -> P,
    act: impl AsyncFn(&Scene, &mut P) -> T,
    after: impl AsyncFn(&Scene, P, Option<T>, &str),
) {
    for sickness in Sickness::ALL {
        let mut finished = false;
        for polls in 1..=MOST_POLLS {
            let case = format!("{sickness:?}, dropped after {polls} polls");
            let scene = Scene::new().await;
            let mut prepared = prepare(&scene).await;
            // The votes beyond the quorum come in as well.
            scene.settle().await;
            sickness.befall(&scene.cluster);
            let outcome = poll_and_drop(polls, act(&scene, &mut prepared)).await;
            finished |= outcome.is_some();
            after(&scene, prepared, outcome, &case).await;
            scene.finish(sickness, &case).await;
        }
        assert!(
            finished || !sickness.spares_a_quorum(),
            "{sickness:?}: it never came to an end"
        );
    }
}

async fn hold(scene: &Scene) -> LockGuard {
    scene.client.lock("r", TTL).await.expect("it is free")
}

async fn queue(scene: &Scene) -> (LockGuard, Ticket) {
    let held = scene.next.lock("r", TTL).await.expect("it is free");
    let ticket = scene.client.enqueue("r", TTL).await;
    (held, ticket.expect("there is room"))
}

async fn dropped<P, T>(_: &Scene, prepared: P, outcome: Option<T>, _: &str) {
    drop((prepared, outcome));
}

#[tokio::test(start_paused = true)]
async fn lock_of_a_free_resource() {
    let act = async |scene: &Scene, (): &mut ()| scene.client.lock("r", TTL).await;
    sweep(async |_| (), act, dropped).await;
}

#[tokio::test(start_paused = true)]
async fn lock_of_a_held_resource() {
    let held = async |scene: &Scene| scene.next.lock("r", TTL).await.expect("it is free");
    let act = async |scene: &Scene, _: &mut LockGuard| {
        let lock = scene.client.lock("r", TTL);
        lock.wait_timeout(Duration::from_secs(1)).await
    };
    sweep(held, act, dropped).await;
}

#[tokio::test(start_paused = true)]
async fn lock_whose_turn_comes_meanwhile() {
    let held = async |scene: &Scene| Some(scene.next.lock("r", TTL).await.expect("it is free"));
    let act = async |scene: &Scene, held: &mut Option<LockGuard>| {
        let mut lock = scene.client.lock("r", TTL);
        tokio::select! {
            biased;
            guard = &mut lock => return guard,
            () = sleep(Duration::from_millis(200)) => drop(held.take()),
        }
        lock.await
    };
    sweep(held, act, dropped).await;
}

#[tokio::test(start_paused = true)]
async fn try_lock() {
    let act = async |scene: &Scene, (): &mut ()| scene.client.try_lock("r", TTL).await;
    sweep(async |_| (), act, dropped).await;
}

#[tokio::test(start_paused = true)]
async fn try_lock_of_a_held_resource() {
    let held = async |scene: &Scene| scene.next.lock("r", TTL).await.expect("it is free");
    let act = async |scene: &Scene, _: &mut LockGuard| scene.client.try_lock("r", TTL).await;
    sweep(held, act, dropped).await;
}

#[tokio::test(start_paused = true)]
async fn enqueue_on_a_free_resource() {
    let act = async |scene: &Scene, (): &mut ()| scene.client.enqueue("r", TTL).await;
    sweep(async |_| (), act, dropped).await;
}

#[tokio::test(start_paused = true)]
async fn enqueue_on_a_held_resource() {
    let held = async |scene: &Scene| scene.next.lock("r", TTL).await.expect("it is free");
    let act = async |scene: &Scene, _: &mut LockGuard| scene.client.enqueue("r", TTL).await;
    sweep(held, act, dropped).await;
}

#[tokio::test(start_paused = true)]
async fn acquire_then_the_ticket() {
    let free = async |scene: &Scene| scene.client.enqueue("r", TTL).await.expect("room");
    let act = async |_: &Scene, ticket: &mut Ticket| ticket.acquire().await;
    sweep(free, act, dropped).await;
}

#[tokio::test(start_paused = true)]
async fn acquire_called_again_has_kept_the_place() {
    for sickness in [Sickness::None, Sickness::OneIsSlow, Sickness::OneHangs] {
        for polls in 1..=MOST_POLLS {
            let scene = Scene::new().await;
            let (held, mut first) = queue(&scene).await;
            let mut second = scene.next.enqueue("r", TTL).await.unwrap();
            scene.settle().await;
            sickness.befall(&scene.cluster);
            let release = tokio::spawn(async move {
                sleep(Duration::from_millis(5)).await;
                held.release().await
            });
            let early = poll_and_drop(polls, first.acquire()).await;
            let guard = match early {
                Some(guard) => guard.unwrap(),
                None => tokio::select! {
                    biased;
                    _ = second.acquire() => panic!("{sickness:?}, {polls}: passed over"),
                    guard = first.acquire() => guard.unwrap(),
                },
            };
            assert!(guard.is_held());
            release.await.unwrap().unwrap();
            drop(guard);
            second.acquire().await.unwrap().release().await.unwrap();
            scene.finish(sickness, "kept").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn leave() {
    let act = async |_: &Scene, prepared: &mut (LockGuard, Option<Ticket>)| {
        prepared.1.take().expect("once").leave().await
    };
    let prepare = async |scene: &Scene| {
        let (held, ticket) = queue(scene).await;
        (held, Some(ticket))
    };
    sweep(prepare, act, dropped).await;
}

#[tokio::test(start_paused = true)]
async fn release() {
    let act = async |_: &Scene, guard: &mut Option<LockGuard>| {
        guard.take().expect("once").release().await
    };
    sweep(async |scene| Some(hold(scene).await), act, dropped).await;
}

#[tokio::test(start_paused = true)]
async fn extend() {
    let act = async |_: &Scene, guard: &mut LockGuard| guard.extend(TTL * 2).await;
    let after = async |_: &Scene, guard: LockGuard, _, case: &str| {
        assert!(guard.is_held(), "{case}");
        assert!(guard.validity() > TTL / 2, "{case}");
    };
    sweep(hold, act, after).await;
}

#[tokio::test(start_paused = true)]
async fn is_valid() {
    let act = async |_: &Scene, guard: &mut LockGuard| guard.is_valid().await;
    let after = async |_: &Scene, guard: LockGuard, outcome: Option<_>, case: &str| {
        assert!(guard.is_held(), "{case}");
        assert!(!matches!(outcome, Some(Ok(false))), "{case}");
    };
    sweep(hold, act, after).await;
}

#[tokio::test(start_paused = true)]
async fn with_lock() {
    let act = async |scene: &Scene, (): &mut ()| {
        let work = async |_: &LockGuard| sleep(Duration::from_millis(5)).await;
        scene.client.with_lock("r", TTL, work).await
    };
    sweep(async |_| (), act, dropped).await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_called_again_waits_for_the_same() {
    for polls in 1..=3 {
        let scene = Scene::new().await;
        drop(hold(&scene).await);
        scene.cluster.nodes().for_each(|node| node.pause());
        assert!(
            poll_and_drop(polls, scene.client.shutdown())
                .await
                .is_none()
        );
        let refused = scene.client.lock("r", TTL).await;
        assert!(matches!(refused, Err(LockError::ShutDown)));
        scene.finish(Sickness::AllHang, "shut down").await;
    }
}

#[tokio::test(start_paused = true)]
async fn c3_shutdown_waits_for_a_release_that_another_task_awaits() {
    let scene = Scene::new().await;
    let guard = hold(&scene).await;
    let nodes = || scene.cluster.nodes();
    nodes().for_each(|node| node.set_latency(Duration::from_millis(200)));
    let release = tokio::spawn(guard.release());
    tokio::task::yield_now().await;
    scene.client.shutdown().await;
    assert!(nodes().all(|node| node.used().is_empty()));
    release.await.unwrap().unwrap();
}

/// One that nobody polls any more ends with the lease.
#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_a_release_for_longer_than_the_lease() {
    let scene = Scene::new().await;
    let guard = hold(&scene).await;
    scene.cluster.nodes().for_each(|node| node.pause());
    let mut release = std::pin::pin!(guard.release());
    assert!(release.as_mut().now_or_never().is_none());
    let start = now();
    scene.client.shutdown().await;
    assert!(start.elapsed() >= TTL);
    scene.cluster.nodes().for_each(|node| node.resume());
}

#[tokio::test(start_paused = true)]
async fn a_future_that_is_never_polled_sends_nothing() {
    let scene = Scene::new().await;
    let calls = |scene: &Scene| -> u64 { scene.cluster.nodes().map(|node| node.calls()).sum() };
    let lock = scene.client.lock("r", TTL).wait_forever();
    let enqueue = scene.client.enqueue("r", TTL);
    sleep(TTL).await;
    drop((lock, enqueue));
    assert_eq!(calls(&scene), 0);
    scene.finish(Sickness::None, "never polled").await;
}

#[tokio::test(start_paused = true)]
async fn aborted_tasks_leave_the_line_and_release() {
    let scene = Scene::new().await;
    let guard = hold(&scene).await;
    let holder = tokio::spawn(async move {
        let lost = guard.lost();
        std::future::pending::<()>().await;
        drop((guard, lost));
    });
    let waiter = tokio::spawn(scene.client.lock("r", TTL));
    let mut next = scene.next.enqueue("r", TTL).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    waiter.abort();
    holder.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    assert!(holder.await.unwrap_err().is_cancelled());
    let start = now();
    let guard = next.acquire().await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    drop(guard);
    scene.finish(Sickness::None, "aborted").await;
}

#[tokio::test(start_paused = true)]
async fn children_learn_that_the_guard_is_gone() {
    let scene = Scene::new().await;
    let (dropped, released) = (
        hold(&scene).await,
        scene.client.lock("s", TTL).await.unwrap(),
    );
    let watchers = [tokio::spawn(dropped.lost()), tokio::spawn(released.lost())];
    let before = dropped.lost();
    scene.settle().await;
    assert!(watchers.iter().all(|watcher| !watcher.is_finished()));
    drop(dropped);
    released.release().await.unwrap();
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), LeaseLost::Released);
    }
    assert_eq!(before.await, LeaseLost::Released);
    scene.finish(Sickness::None, "watched").await;
}

#[tokio::test(start_paused = true)]
async fn a_granted_future_that_nobody_polls_does_not_block_the_line() {
    let scene = Scene::new().await;
    let held = scene.next.lock("r", TTL).await.unwrap();
    let mut lock = tokio_test::task::spawn(scene.client.lock("r", TTL).wait_forever());
    tokio_test::assert_pending!(lock.poll());
    let mut next = scene.next.enqueue("r", TTL).await.unwrap();
    drop(held);
    let start = now();
    let guard = next.acquire().await.unwrap();
    assert!(start.elapsed() <= EPHEMERAL, "{:?}", start.elapsed());
    drop((guard, lock));
    scene.finish(Sickness::None, "never polled again").await;
}
