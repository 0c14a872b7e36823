//! A subscriber or a recorder of the user's that panics harms no lock.

use std::{
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use redlock_fifo::{FifoRedlock, LeaseLost, MemoryCluster};
use tokio::time::{sleep, timeout};
use tracing::{Event, Metadata, Subscriber, span};

use crate::{
    events::set_default,
    rig::{client, settle},
};

const TTL: Duration = Duration::from_secs(9);

/// The default restart grace.
const GRACE: Duration = Duration::from_secs(30);

/// When user code is to panic, and how often it did.
#[derive(Clone, Debug, Default)]
struct Fuse {
    armed: Arc<AtomicBool>,
    blown: Arc<AtomicU64>,
}

impl Fuse {
    fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }

    fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    fn blow(&self) {
        // A panic on top of another would end the whole process.
        if self.armed.load(Ordering::Relaxed) && !std::thread::panicking() {
            self.blown.fetch_add(1, Ordering::Relaxed);
            // Unlike `panic!` this prints nothing.
            panic::resume_unwind(Box::new("the user's own code"));
        }
    }

    fn blown(&self) -> u64 {
        self.blown.load(Ordering::Relaxed)
    }
}

/// A subscriber that panics at every event and at all that happens to a span while it is armed.
struct Panics(Fuse);

impl Subscriber for Panics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "redlock_fifo"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        self.0.blow();
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {
        self.0.blow();
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.blow();
    }

    fn enter(&self, _: &span::Id) {
        self.0.blow();
    }

    fn exit(&self, _: &span::Id) {
        self.0.blow();
    }

    fn clone_span(&self, id: &span::Id) -> span::Id {
        self.0.blow();
        id.clone()
    }

    fn try_close(&self, _: span::Id) -> bool {
        self.0.blow();
        true
    }
}

/// Blows the fuse at a renewal, and then sees that everything still works.
async fn survives(fuse: &Fuse, cluster: &MemoryCluster) {
    let (redlock, other) = (client(cluster).await, client(cluster).await);
    let guard = redlock.lock("a", TTL).await.unwrap();
    let dropped = redlock.lock("b", TTL).await.unwrap();
    let mut waiter = redlock.enqueue("a", TTL).await.unwrap();
    settle().await;
    // A restart while all nodes are young would put all of them in their grace.
    sleep(GRACE).await;

    fuse.arm();
    // Renewals are told of while they happen, and so is what goes wrong with a node.
    sleep(TTL).await;
    cluster.node(2).stop();
    sleep(TTL).await;
    cluster.node(2).restart();
    sleep(TTL).await;
    fuse.disarm();
    assert!(fuse.blown() > 0, "the user's code was called");

    assert!(guard.is_held(), "L6: it is still renewed");
    drop(dropped);
    let next = timeout(Duration::from_secs(1), other.lock("b", TTL)).await;
    let next = next.expect("C3: a dropped guard is released").unwrap();
    next.release().await.unwrap();
    guard.release().await.unwrap();
    let served = timeout(Duration::from_secs(1), waiter.acquire()).await;
    let served = served.expect("L1: the waiter hears of its turn").unwrap();
    let lost = served.lost();
    cluster.nodes().for_each(|node| node.stop());
    let lost = timeout(2 * TTL, lost).await;
    assert_eq!(lost, Ok(LeaseLost::Expired), "S3");
    cluster.nodes().for_each(|node| node.restart());
    drop(served);
    let shut_down = timeout(2 * TTL, redlock.shutdown()).await;
    assert!(shut_down.is_ok(), "C3");
}

#[tokio::test(start_paused = true)]
async fn l6_a_subscriber_that_panics_harms_no_lock() {
    let fuse = Fuse::default();
    let cluster = MemoryCluster::new(3);
    let _guard = set_default(Panics(fuse.clone()));
    survives(&fuse, &cluster).await;
}

/// What is told while the owner's own call runs: to lock, to release, to extend.
#[tokio::test(start_paused = true)]
async fn s3_a_subscriber_that_panics_in_the_owners_own_calls_harms_no_lock() {
    let fuse = Fuse::default();
    let cluster = MemoryCluster::new(3);
    let _guard = set_default(Panics(fuse.clone()));
    let redlock: FifoRedlock = client(&cluster).await;
    let held = redlock.lock("a", TTL).await.unwrap();
    let mut waiter = redlock.enqueue("a", TTL).await.unwrap();
    let mut kept = redlock.lock("a", TTL);
    assert!(futures::FutureExt::now_or_never(&mut kept).is_none());
    fuse.arm();
    let calls = async {
        assert!(futures::FutureExt::now_or_never(&mut kept).is_none());
        drop(kept);
        let guard = redlock.lock("b", TTL).await.unwrap();
        guard.extend(2 * TTL).await.unwrap();
        guard.release().await.unwrap();
        held.release().await.unwrap();
    };
    let unharmed = futures::FutureExt::catch_unwind(panic::AssertUnwindSafe(calls)).await;
    fuse.disarm();
    assert!(fuse.blown() > 0, "the user's code was called");
    assert!(unharmed.is_ok(), "a panic of the subscriber came out");
    let served = timeout(Duration::from_secs(1), waiter.acquire()).await;
    let served = served.expect("L1").unwrap();
    sleep(3 * TTL).await;
    assert!(served.is_held(), "L6");
}

#[cfg(feature = "metrics")]
mod recorder {
    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata,
        Recorder, SharedString, Unit,
    };

    use super::{Arc, Fuse, MemoryCluster, survives};

    /// A recorder that panics at every value while it is armed.
    struct Panics(Fuse);

    impl CounterFn for Panics {
        fn increment(&self, _: u64) {
            self.0.blow();
        }

        fn absolute(&self, _: u64) {
            self.0.blow();
        }
    }

    impl GaugeFn for Panics {
        fn increment(&self, _: f64) {
            self.0.blow();
        }

        fn decrement(&self, _: f64) {
            self.0.blow();
        }

        fn set(&self, _: f64) {
            self.0.blow();
        }
    }

    impl HistogramFn for Panics {
        fn record(&self, _: f64) {
            self.0.blow();
        }
    }

    impl Recorder for Panics {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Arc::new(Self(self.0.clone())))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Arc::new(Self(self.0.clone())))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(Arc::new(Self(self.0.clone())))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn l6_a_recorder_that_panics_harms_no_lock() {
        let fuse = Fuse::default();
        let cluster = MemoryCluster::new(3);
        let recorder = Panics(fuse.clone());
        let _guard = metrics::set_default_local_recorder(&recorder);
        survives(&fuse, &cluster).await;
    }
}
