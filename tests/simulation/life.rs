//! The life of a client: whatever runs for it stands still while it is paused, and ends when it crashes.
//!
//! A paused client is a process under SIGSTOP: none of its tasks is polled, time goes on, and what is sent to
//! it waits. One that crashed is gone without a word. A part of a client may be starved alone: what the client
//! has spawned for itself, while its callers go on, or the callers.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::future::BoxFuture;

/// One client's life.
#[derive(Clone, Debug, Default)]
pub(super) struct Life(Arc<Mutex<State>>);

/// A part of a client, which may have a runtime of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What the client spawned for itself.
    Own,
    Callers,
    /// Whoever awaits `lost()`, on yet another runtime.
    Watchers,
}

#[derive(Debug, Default)]
struct State {
    paused: bool,
    own_starved: bool,
    callers_starved: bool,
    dead: bool,
    gates: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Life {
    pub(super) fn pause(&self, paused: bool) {
        let mut state = self.state();
        state.paused = paused;
        state.wake();
    }

    /// From now on that part is not polled, or is again.
    pub(super) fn starve(&self, part: Part, starved: bool) {
        let mut state = self.state();
        match part {
            Part::Own => state.own_starved = starved,
            Part::Callers => state.callers_starved = starved,
            Part::Watchers => {}
        }
        state.wake();
    }

    pub(super) fn is_starved(&self) -> bool {
        let state = self.state();
        state.own_starved || state.callers_starved
    }

    pub(super) fn end(&self) {
        let mut state = self.state();
        state.dead = true;
        state.wake();
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state().dead
    }

    pub(super) fn is_paused(&self) -> bool {
        self.state().paused
    }

    /// Wraps a task of this client.
    pub(super) fn gate(&self, part: Part, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        let mut state = self.state();
        state.gates += 1;
        Box::pin(Gate {
            life: self.clone(),
            part,
            place: state.gates,
            task: Some(task),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stands_still(&self, part: Part) -> bool {
        self.paused
            || match part {
                Part::Own => self.own_starved,
                Part::Callers => self.callers_starved,
                Part::Watchers => false,
            }
    }

    fn wake(&mut self) {
        for waker in std::mem::take(&mut self.wakers).into_values() {
            waker.wake();
        }
    }
}

thread_local! {
    /// Whose task is being polled.
    static CURRENT: RefCell<Option<Life>> = const { RefCell::new(None) };
    /// Whether that is a task which a client spawned for itself.
    static OWN: Cell<bool> = const { Cell::new(false) };
}

/// Whether a task that a client spawned for itself is being polled.
pub(super) fn is_own_task() -> bool {
    OWN.get()
}

/// What is spawned on this thread from now on belongs to whoever spawned it.
pub(super) fn follow_spawns() {
    crate::runtime::task::WRAP.set(Some(|task| match CURRENT.with_borrow(Option::clone) {
        Some(life) => life.gate(Part::Own, task),
        None => task,
    }));
}

/// Runs `act` on behalf of `life`.
pub(super) fn within<T>(life: &Life, act: impl FnOnce() -> T) -> T {
    let before = CURRENT.replace(Some(life.clone()));
    let done = act();
    CURRENT.set(before);
    done
}

struct Gate {
    life: Life,
    part: Part,
    place: u64,
    task: Option<BoxFuture<'static, ()>>,
}

impl Future for Gate {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (dead, still) = {
            let mut state = self.life.state();
            let waker = cx.waker();
            let known = state.wakers.get(&self.place);
            if known.is_none_or(|known| !known.will_wake(waker)) {
                state.wakers.insert(self.place, waker.clone());
            }
            (state.dead, state.stands_still(self.part))
        };
        let life = self.life.clone();
        if dead {
            within(&life, || self.task = None);
            return Poll::Ready(());
        }
        if still {
            return Poll::Pending;
        }
        let part = self.part;
        let Some(task) = self.task.as_mut() else {
            return Poll::Ready(());
        };
        let before = OWN.replace(part == Part::Own);
        let done = catch_unwind(AssertUnwindSafe(|| {
            within(&life, || task.as_mut().poll(cx))
        }));
        OWN.set(before);
        let done = done.unwrap_or_else(|panic| {
            CURRENT.set(None);
            resume_unwind(panic)
        });
        if done.is_ready() {
            self.life.state().wakers.remove(&self.place);
            self.task = None;
        }
        done
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.life.state().wakers.remove(&self.place);
    }
}
