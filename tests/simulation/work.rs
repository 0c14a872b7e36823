//! What the clients do: everything the public API offers, in random order, with each future dropped at random.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use tokio::time::sleep;

use super::{
    chance::{CALL, Chance},
    count::count,
    faults::{DROP, FORGET},
    history::{Call, Kind, Ms, What},
    world::Sim,
};
use crate::{ExtendError, FifoRedlock, LockError, LockGuard, Ticket};

/// What was forgotten: it stays until the run is over, and nobody polls or drops it.
pub(super) type Attic = Arc<Mutex<Vec<Box<dyn Any + Send>>>>;

/// One task of a client.
pub(super) struct Worker {
    pub(super) sim: Sim,
    pub(super) client: usize,
    pub(super) redlock: FifoRedlock,
    pub(super) chance: Chance,
    pub(super) resources: u64,
    pub(super) ttls: &'static [Ms],
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
        let ttl = self.chance.pick(self.ttls);
        match self.chance.below(10) {
            0 | 1 => self.try_lock(ttl).await,
            2..=5 => self.lock(ttl).await,
            _ => self.enqueue(ttl).await,
        }
    }

    fn call(&mut self, kind: Kind, ttl: Ms) -> (u16, String) {
        let resource = self.chance.below(self.resources) as usize;
        let client = self.client;
        let call = Call {
            client,
            resource,
            kind,
            ttl,
        };
        (
            self.sim.with(|world| world.call(call)),
            format!("r{resource}"),
        )
    }

    async fn try_lock(&mut self, ttl: Ms) {
        let (call, resource) = self.call(Kind::TryLock, ttl);
        let redlock = self.redlock.clone();
        let asked = async move { redlock.try_lock(resource, Duration::from_millis(ttl)).await };
        match self.asks(call, asked).await {
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
        }
        let longest = if self.chance.is(20) {
            Some(self.chance.between(50, 3000))
        } else {
            None
        };
        if let Some(longest) = longest {
            lock = lock.max_hold(Duration::from_millis(longest));
        }
        match self.asks(call, lock).await {
            Some(Ok(guard)) => self.hold(call, guard, longest).await,
            Some(Err(error)) => self.fails(call, &error),
            None => {}
        }
    }

    async fn enqueue(&mut self, ttl: Ms) {
        let (call, resource) = self.call(Kind::Enqueue, ttl);
        let redlock = self.redlock.clone();
        let asked = async move { redlock.enqueue(resource, Duration::from_millis(ttl)).await };
        let mut ticket = match self.asks(call, asked).await {
            Some(Ok(ticket)) => ticket,
            Some(Err(error)) => return self.fails(call, &error),
            None => return,
        };
        self.sim.note(What::Recorded(call));
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
                    let cut = Cut::new(ticket.acquire(), self.chance.below(6), call);
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
                _ => {
                    self.sim.note(What::Polled(call));
                    let outcome = Cut::new(ticket.acquire(), u64::MAX, call).await;
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

    async fn leave(&mut self, call: u16, ticket: Ticket) {
        self.sim.note(What::Given(call));
        let cut = Cut::new(ticket.leave(), self.chance.pick(&[0, 1, 2, u64::MAX]), call);
        match cut.await {
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

    /// Polls a request, perhaps only for a while, and perhaps never again.
    async fn asks<T: Send + 'static>(
        &mut self,
        call: u16,
        asked: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let polls = if self.chance.is(15) {
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
            let cut = Cut::new(&mut asked, polls, call);
            tokio::time::timeout(Duration::from_millis(patience), cut).await
        };
        if let Ok(Some(outcome)) = outcome {
            return Some(outcome);
        }
        if self.chance.is(15) {
            self.forget(call, asked);
        } else {
            count(DROP);
            self.sim.note(What::Given(call));
            drop(asked);
        }
        None
    }

    fn fails(&self, call: u16, error: &LockError) {
        let error = match error {
            LockError::TimedOut { .. } => "timed out".to_owned(),
            LockError::NoQuorum(_) => "no quorum".to_owned(),
            other => other.to_string(),
        };
        self.sim.note(What::Failed(call, error));
    }

    async fn hold(&mut self, call: u16, guard: LockGuard, longest: Option<Ms>) {
        let guard = Arc::new(guard);
        self.sim.follow(call, &guard);
        let holds = self.chance.clone().pick(&[0, 0, 5, 50, 50, 300, 4000]);
        let until = self.sim.now() + self.chance.below(holds + 1);
        while self.sim.now() < until && guard.is_held() {
            let rest = self.chance.millis(until - self.sim.now());
            tokio::select! {
                biased;
                _ = guard.lost() => break,
                () = sleep(rest) => {}
            }
            self.tend(call, &guard).await;
        }
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
                if Cut::new(guard.release(), polls, call).await.is_none() {
                    count(DROP);
                }
            }
            _ => {
                if guard.release().await.is_ok() {
                    self.sim.note(What::Confirmed(call));
                }
            }
        }
    }

    /// What one can do with a guard.
    async fn tend(&mut self, call: u16, guard: &LockGuard) {
        let ttl = Duration::from_millis(self.chance.pick(self.ttls));
        match self.chance.below(12) {
            0 => {
                let polls = self.chance.pick(&[1, 2, u64::MAX]);
                if Cut::new(guard.extend(ttl), polls, call).await.is_none() {
                    count(DROP);
                }
            }
            1 => {
                let _ = Cut::new(guard.is_valid(), u64::MAX, call).await;
            }
            2 => guard.stop_auto_extend(),
            3 => match guard.start_auto_extend(ttl / 3, ttl) {
                Ok(()) | Err(ExtendError::AutoExtendRunning | ExtendError::Lost(_)) => {}
                Err(other) => panic!("{other}"),
            },
            4 => {
                let _ = self.redlock.inspect(&guard.resource()).await;
            }
            _ => {}
        }
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
