//! What the clients do: everything the public API offers, in random order, with each future dropped at random.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use tokio::{sync::oneshot, time::sleep};

use super::{
    chance::{CALL, Chance},
    count::count,
    faults::{DROP, FORGET},
    history::{Call, Kind, Ms, What},
    life::{Life, Part},
    world::Sim,
};
use crate::{ArgumentError, ExtendError, FifoRedlock, LockError, LockGuard, Ticket};

/// What is counted of a public call.
macro_rules! made_of {
    ($name:literal) => {
        [
            concat!($name, ": made"),
            concat!($name, ": cancelled"),
            concat!($name, ": kept unpolled"),
            concat!($name, ": beside another call"),
        ]
    };
}

/// What was forgotten: it stays until the run is over, and nobody polls or drops it.
pub(super) type Attic = Arc<Mutex<Vec<Box<dyn Any + Send>>>>;

/// One task of a client.
pub(super) struct Worker {
    pub(super) sim: Sim,
    pub(super) client: usize,
    pub(super) redlock: FifoRedlock,
    pub(super) chance: Chance,
    pub(super) resources: u64,
    pub(super) life: Life,
    pub(super) ttls: Vec<Ms>,
    pub(super) attic: Attic,
    /// It starts nothing new after that.
    pub(super) end: Ms,
}

impl Worker {
    pub(super) async fn run(mut self) {
        let busy = self.chance.pick(&[20, 100, 600]);
        while self.sim.now() < self.end {
            let gap = self.chance.millis(busy);
            sleep(gap).await;
            self.turn().await;
        }
    }

    async fn turn(&mut self) {
        let ttl = self.chance.pick(&self.ttls);
        match self.chance.below(20) {
            0..=3 => self.try_lock(ttl).await,
            4..=11 => self.lock(ttl).await,
            12 => self.with_lock(ttl).await,
            13 => self.inspect().await,
            _ => self.enqueue(ttl).await,
        }
    }

    fn call(&mut self, kind: Kind, ttl: Ms) -> (u16, String) {
        let resource = self.chance.below(self.resources) as usize;
        let call = Call::new(self.client, resource, kind, ttl);
        (
            self.sim.with(|world| world.call(call)),
            format!("r{resource}"),
        )
    }

    async fn try_lock(&mut self, ttl: Ms) {
        let (call, resource) = self.call(Kind::TryLock, ttl);
        let redlock = self.redlock.clone();
        let asked = async move { redlock.try_lock(resource, Duration::from_millis(ttl)).await };
        match self.asks(TRY_LOCK, call, asked).await {
            Some(Ok(Some(guard))) => self.hold(call, guard, None).await,
            Some(Ok(None)) => self.sim.note(What::NotHad(call)),
            Some(Err(error)) => self.fails(call, &error),
            None => {}
        }
    }

    async fn lock(&mut self, ttl: Ms) {
        let (call, resource) = self.call(Kind::Lock, ttl);
        let mut lock = self.redlock.lock(resource, Duration::from_millis(ttl));
        lock = match self.chance.below(4) {
            0 => lock.wait_timeout(self.chance.millis(3000)),
            1 => lock.wait_forever(),
            _ => lock,
        };
        if self.chance.is(25) {
            lock = lock.auto_extend(false);
            self.sim.changes(call, |it| it.renews = None);
        }
        let longest = if self.chance.is(20) {
            Some(self.chance.between(50, 3000))
        } else {
            None
        };
        if let Some(longest) = longest {
            lock = lock.max_hold(Duration::from_millis(longest));
            self.sim.changes(call, |it| it.limited = true);
        }
        match self.asks(LOCK, call, lock).await {
            Some(Ok(guard)) => self.hold(call, guard, longest).await,
            Some(Err(error)) => self.fails(call, &error),
            None => {}
        }
    }

    async fn enqueue(&mut self, ttl: Ms) {
        let (call, resource) = self.call(Kind::Enqueue, ttl);
        let redlock = self.redlock.clone();
        let asked = async move { redlock.enqueue(resource, Duration::from_millis(ttl)).await };
        let mut ticket = match self.asks(ENQUEUE, call, asked).await {
            Some(Ok(ticket)) => ticket,
            Some(Err(error)) => return self.fails(call, &error),
            None => return,
        };
        self.sim.note(What::Recorded(call));
        if self.chance.is(30) {
            // Its turn may come long before anybody takes it.
            self.sim.note(What::Unpolled(call));
            let most = self.chance.pick(&[ttl, 300, 3000]);
            let pause = self.chance.millis(most);
            sleep(pause).await;
        }
        loop {
            match self.chance.below(20) {
                0 => return self.leave(call, ticket).await,
                1 => {
                    self.sim.note(What::Given(call));
                    return drop(ticket);
                }
                2 => {
                    self.forget(call, ticket);
                    return;
                }
                3..=8 => {
                    // Waits for a while, and comes back.
                    let patience = self.chance.between(0, 1500);
                    self.sim.note(What::Polled(call));
                    let polls = self.chance.below(6);
                    let cut = made(&self.sim, ACQUIRE, call, polls, ticket.acquire());
                    let outcome = tokio::time::timeout(Duration::from_millis(patience), cut).await;
                    if let Ok(Some(outcome)) = outcome {
                        return self.acquired(call, outcome).await;
                    }
                    count(DROP);
                    self.sim.note(What::Unpolled(call));
                    let most = self.chance.pick(&[0, 50, 3000]);
                    let pause = self.chance.millis(most);
                    sleep(pause).await;
                }
                9 => {
                    // Kept, and not polled.
                    self.sim.note(What::Polled(call));
                    let mut acquire = Box::pin(ticket.acquire());
                    let polls = self.chance.between(1, 3);
                    let outcome = Cut::new(&mut acquire, polls, call).await;
                    if let Some(outcome) = outcome {
                        drop(acquire);
                        return self.acquired(call, outcome).await;
                    }
                    count(MADE[ACQUIRE][2]);
                    self.sim.note(What::Unpolled(call));
                    let pause = self.chance.millis(3000);
                    sleep(pause).await;
                }
                10 => {
                    let _ = ticket.position();
                    let mut positions = ticket.positions();
                    let _ = made(&self.sim, POSITIONS, call, 2, positions.next()).await;
                }
                _ => {
                    self.sim.note(What::Polled(call));
                    let outcome = made(&self.sim, ACQUIRE, call, u64::MAX, ticket.acquire()).await;
                    if let Some(outcome) = outcome {
                        return self.acquired(call, outcome).await;
                    }
                }
            }
        }
    }

    async fn acquired(&mut self, call: u16, outcome: Result<LockGuard, LockError>) {
        match outcome {
            Ok(guard) => self.hold(call, guard, None).await,
            Err(error) => self.fails(call, &error),
        }
    }

    /// Works under a lock, or loses it.
    async fn with_lock(&mut self, ttl: Ms) {
        let (call, resource) = self.call(Kind::Lock, ttl);
        let redlock = self.redlock.clone();
        let (works, sim) = (self.chance.millis(300), self.sim.clone());
        let asked = async move {
            let ttl = Duration::from_millis(ttl);
            let work = async |_: &LockGuard| {
                sim.note(What::Works(call));
                sleep(works).await;
            };
            redlock.with_lock(resource, ttl, work).await
        };
        self.sim.note(What::Asks(call));
        let polls = self.chance.pick(&[1, 2, 3, u64::MAX, u64::MAX]);
        let outcome = made(&self.sim, WITH_LOCK, call, polls, asked).await;
        match outcome {
            // The guard is over by now, whatever came of it.
            Some(Ok(())) | None => self.sim.note(What::Given(call)),
            Some(Err(error)) => self.fails(call, &error),
        }
    }

    async fn inspect(&mut self) {
        let resource = format!("r{}", self.chance.below(self.resources));
        let polls = self.chance.pick(&[1, u64::MAX]);
        let redlock = self.redlock.clone();
        let _ = made(&self.sim, INSPECT, 0, polls, redlock.inspect(&resource)).await;
    }

    async fn leave(&mut self, call: u16, ticket: Ticket) {
        self.sim.note(What::Given(call));
        let polls = self.chance.pick(&[0, 1, 2, u64::MAX]);
        match made(&self.sim, LEAVE, call, polls, ticket.leave()).await {
            Some(Ok(())) => self.sim.note(What::Confirmed(call)),
            Some(Err(_)) => {}
            None => count(DROP),
        }
    }

    fn forget(&mut self, call: u16, thing: impl Any + Send) {
        count(FORGET);
        self.sim.note(What::Forgotten(call));
        self.attic.lock().expect("no panic").push(Box::new(thing));
    }

    /// Polls a request, perhaps only for a while, and perhaps never again, or later, or elsewhere.
    async fn asks<T: Send + 'static>(
        &mut self,
        api: usize,
        call: u16,
        asked: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let polls = if self.chance.is(20) {
            self.chance.between(1, 8)
        } else {
            u64::MAX
        };
        let patience = if self.chance.is(15) {
            self.chance.below(4000)
        } else {
            1_000_000
        };
        let mut asked = asked.boxed();
        self.sim.note(What::Asks(call));
        let outcome = {
            let cut = begun(&self.sim, api, call, polls, &mut asked);
            tokio::time::timeout(Duration::from_millis(patience), cut).await
        };
        if let Ok(Some(outcome)) = outcome {
            return Some(outcome);
        }
        match self.chance.below(8) {
            0 => {
                count(MADE[api][2]);
                self.forget(call, asked);
                None
            }
            1 | 2 => {
                // Kept for a while, and polled again.
                count(MADE[api][2]);
                self.sim.note(What::Unpolled(call));
                let most = self.chance.pick(&[50, 1000, 5000]);
                let pause = self.chance.millis(most);
                sleep(pause).await;
                self.sim.note(What::Polled(call));
                Cut::new(asked, u64::MAX, call).await
            }
            3 => {
                // Goes on in a task elsewhere.
                count("future moved to another task");
                let (answer, answered) = oneshot::channel();
                let task = async move {
                    if let Some(outcome) = Cut::new(asked, u64::MAX, call).await {
                        let _ = answer.send(outcome);
                    }
                };
                // Who waits for its outcome is starved with it, or it would be told of late.
                tokio::spawn(self.life.gate(Part::Callers, Box::pin(task)));
                answered.await.ok()
            }
            _ => {
                count(MADE[api][1]);
                count(DROP);
                self.sim.note(What::Given(call));
                drop(asked);
                None
            }
        }
    }

    fn fails(&self, call: u16, error: &LockError) {
        let error = match error {
            LockError::TimedOut { .. } => "timed out".to_owned(),
            LockError::NoQuorum(_) => {
                self.sim.with(|world| world.check_no_quorum(call));
                "no quorum".to_owned()
            }
            other => other.to_string(),
        };
        self.sim.note(What::Failed(call, error));
    }

    async fn hold(&mut self, call: u16, guard: LockGuard, longest: Option<Ms>) {
        let guard = Arc::new(guard);
        self.sim.follow(call, &guard);
        if self.chance.is(50) {
            self.watch(call, &guard);
        }
        let mut kept: Kept = Vec::new();
        let holds = self.chance.clone().pick(&[0, 0, 5, 50, 50, 300, 4000]);
        let until = self.sim.now() + self.chance.below(holds + 1);
        while self.sim.now() < until && guard.is_held() {
            let most = self.chance.pick(&[5, 50, 4000]);
            let rest = self.chance.millis(most.min(until - self.sim.now()));
            tokio::select! {
                biased;
                _ = guard.lost() => break,
                () = sleep(rest) => {}
            }
            self.tend(call, &guard, &mut kept, until).await;
        }
        drop(kept);
        if longest.is_some() && self.chance.is(10) {
            return self.forget(call, guard);
        }
        self.sim.look_at_guards();
        self.sim.note(What::Releases(call));
        let Some(guard) = Arc::into_inner(guard) else {
            return;
        };
        match self.chance.below(4) {
            0 => drop(guard),
            1 => {
                let polls = self.chance.below(3);
                let released = made(&self.sim, RELEASE, call, polls, guard.release()).await;
                if released.is_none() {
                    count(DROP);
                }
            }
            _ => {
                let released = made(&self.sim, RELEASE, call, u64::MAX, guard.release()).await;
                if released.is_some_and(|released| released.is_ok()) {
                    self.sim.note(What::Confirmed(call));
                }
            }
        }
    }

    /// Awaits `lost()` all the time, on a task that is starved with nobody.
    fn watch(&self, call: u16, guard: &LockGuard) {
        let (lost, sim) = (guard.lost(), self.sim.clone());
        sim.with(|world| world.watched.insert(call, false));
        let task = made(&self.sim, LOST, call, u64::MAX, lost).map(move |_| {
            sim.with(|world| world.watched.insert(call, true));
        });
        tokio::spawn(self.life.gate(Part::Watchers, Box::pin(task)));
    }

    /// What one can do with a guard.
    async fn tend(&mut self, call: u16, guard: &Arc<LockGuard>, kept: &mut Kept, until: Ms) {
        let ttl = self.chance.pick(&self.ttls);
        let span = Duration::from_millis(ttl);
        match self.chance.below(20) {
            0 | 1 => {
                let polls = self.chance.pick(&[1, 2, u64::MAX]);
                self.extends(call, ttl);
                let extended = made(&self.sim, EXTEND, call, polls, guard.extend(span)).await;
                match extended {
                    Some(Ok(())) => self.sim.changes(call, |it| it.extended(ttl)),
                    Some(Err(_)) => {}
                    None => count(DROP),
                }
            }
            2 => {
                let polls = self.chance.pick(&[1, 2, u64::MAX, u64::MAX]);
                let _ = made(&self.sim, IS_VALID, call, polls, guard.is_valid()).await;
            }
            3 => {
                guard.stop_auto_extend();
                self.sim.changes(call, Call::stopped);
            }
            4 | 5 => {
                let every = self
                    .chance
                    .pick(&[ttl / 3, ttl / 3, ttl / 10, ttl / 2])
                    .max(1);
                let left = guard.validity().as_millis() as Ms;
                match guard.start_auto_extend(Duration::from_millis(every), span) {
                    Ok(()) => self.sim.changes(call, |it| {
                        // There may not be time for the first renewal.
                        it.limited |= left < 500 || every > ttl / 3;
                        it.renews = Some(every);
                        it.ttl = ttl;
                    }),
                    Err(
                        ExtendError::AutoExtendRunning
                        | ExtendError::Lost(_)
                        | ExtendError::Argument(ArgumentError::IntervalTooLong { .. }),
                    ) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            6 => self.inspect().await,
            7 => {
                // Asks all the time.
                let most = self.chance.pick(&[0, 2, 10, 50]);
                while self.sim.now() < until && guard.is_held() {
                    let _ = made(&self.sim, IS_VALID, call, u64::MAX, guard.is_valid()).await;
                    let step = self.chance.millis(most);
                    sleep(step.max(Duration::from_millis(1))).await;
                }
            }
            8 | 9 => {
                // Polled once or twice, and kept; or one of those is polled again.
                let polls = self.chance.between(1, 2);
                if kept.len() > 2 {
                    let place = self.chance.below(kept.len() as u64) as usize;
                    if Cut::new(&mut kept[place], polls, call).await.is_some() {
                        drop(kept.remove(place));
                    }
                    return;
                }
                let guard = guard.clone();
                let (api, mut future): (usize, Pin<Box<dyn Future<Output = ()> + Send>>) =
                    if self.chance.is(50) {
                        self.extends(call, ttl);
                        (
                            EXTEND,
                            Box::pin(async move { drop(guard.extend(span).await) }),
                        )
                    } else {
                        (
                            IS_VALID,
                            Box::pin(async move { drop(guard.is_valid().await) }),
                        )
                    };
                if begun(&self.sim, api, call, polls, &mut future)
                    .await
                    .is_none()
                {
                    count(MADE[api][2]);
                    kept.push(future);
                }
            }
            _ => {}
        }
    }

    /// An extend begins: it may be carried out even if nobody waits for it.
    fn extends(&self, call: u16, ttl: Ms) {
        self.sim.changes(call, |it| {
            it.longest = it.longest.max(ttl);
            it.ttl = it.ttl.min(ttl);
        });
    }
}

/// Futures on a guard that nobody polls for the moment.
type Kept = Vec<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// Of each public call how often it was made, given up, kept without being polled, and made beside another one
/// of the same client.
pub(super) const MADE: &[[&str; 4]] = &[
    made_of!("lock"),
    made_of!("try_lock"),
    made_of!("enqueue"),
    made_of!("acquire"),
    made_of!("extend"),
    made_of!("is_valid"),
];

/// The same of those that nobody keeps.
pub(super) const ALSO_MADE: &[[&str; 4]] = &[
    made_of!("with_lock"),
    made_of!("leave"),
    made_of!("release"),
    made_of!("positions"),
    made_of!("inspect"),
    made_of!("lost"),
];

const LOCK: usize = 0;
const TRY_LOCK: usize = 1;
const ENQUEUE: usize = 2;
const ACQUIRE: usize = 3;
const EXTEND: usize = 4;
const IS_VALID: usize = 5;
const WITH_LOCK: usize = 6;
const LEAVE: usize = 7;
const RELEASE: usize = 8;
const POSITIONS: usize = 9;
const INSPECT: usize = 10;
const LOST: usize = 11;

/// Carries out a public call, polling it so many times at most.
fn made<F: Future>(
    sim: &Sim,
    api: usize,
    call: u16,
    polls: u64,
    future: F,
) -> impl Future<Output = Option<F::Output>> + use<F> {
    let names = MADE.iter().chain(ALSO_MADE).nth(api);
    let begun = begun(sim, api, call, polls, future);
    begun.inspect(move |outcome| {
        if let (None, Some(names)) = (outcome, names) {
            count(names[1]);
        }
    })
}

/// The same, of a future that is not over when it is not polled any more.
fn begun<F: Future>(
    sim: &Sim,
    api: usize,
    call: u16,
    polls: u64,
    future: F,
) -> impl Future<Output = Option<F::Output>> + use<F> {
    let names = MADE.iter().chain(ALSO_MADE).nth(api);
    let client = sim.with(|world| world.history.call(call).client);
    let sim = sim.clone();
    async move {
        let _under_way = UnderWay::new(sim, client, names);
        Cut::new(future, polls, call).await
    }
}

/// A call of a client that is under way.
struct UnderWay(Sim, usize);

impl UnderWay {
    fn new(sim: Sim, client: usize, names: Option<&[&'static str; 4]>) -> Self {
        let others = sim.with(|world| {
            let others = world.under_way.entry(client).or_default();
            *others += 1;
            *others - 1
        });
        if let Some(names) = names {
            count(names[0]);
            if others > 0 {
                count(names[3]);
            }
        }
        Self(sim, client)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.with(|world| {
            *world.under_way.entry(self.1).or_default() -= 1;
        });
    }
}

/// Polls a future so many times at most, on behalf of a call.
pub(super) struct Cut<F> {
    future: Pin<Box<F>>,
    polls: u64,
    call: u16,
}

impl<F: Future> Cut<F> {
    pub(super) fn new(future: F, polls: u64, call: u16) -> Self {
        Self {
            future: Box::pin(future),
            polls,
            call,
        }
    }
}

impl<F: Future> Future for Cut<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls == 0 {
            return Poll::Ready(None);
        }
        self.polls -= 1;
        let before = CALL.replace(self.call);
        let outcome = self.future.as_mut().poll(cx);
        CALL.set(before);
        match outcome {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            // The next poll would come only when there is news; whoever drops may do so at once.
            Poll::Pending if self.polls == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
