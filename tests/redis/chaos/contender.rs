//! What a contending process does: many requests, each reported step by step.
//!
//! A report of what gives something up comes before the step, all others after it: so nothing in the
//! merged log looks longer than it was.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redlock_fifo::{FifoRedlock, LockError, LockGuard};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{LONGEST_TTL, RESOURCES, TASKS};
use crate::{
    chance::Chance,
    process::now,
    worker::{Toil, report},
};

/// How often a process looks whether it runs, and what it takes for a stall.
const PULSE: Duration = Duration::from_millis(10);
const STALL: Duration = Duration::from_millis(40);

/// How long a guard that is not held may take to say so before that counts as silence.
const SILENCE: Duration = Duration::from_secs(5);

/// Has this process contend until it is to stop.
pub(crate) fn contend(redlock: &FifoRedlock, seed: u64, toil: &mut Toil) {
    let ids = Arc::<AtomicU64>::default();
    for task in 0..TASKS {
        let mut contender = Contender {
            redlock: redlock.clone(),
            chance: Chance::new(seed, task),
            ids: ids.clone(),
            stopped: toil.stopped(),
        };
        toil.start(async move {
            if task == 0 {
                contender.outlast().await;
            }
            while !*contender.stopped.borrow() {
                contender.request().await;
            }
        });
    }
    tokio::spawn(pulse());
}

/// Reports whenever the process did not run.
async fn pulse() {
    loop {
        let before = now();
        sleep(PULSE).await;
        let after = now();
        if after - before > STALL {
            let [from, to] = [before, after].map(|at| at.as_nanos());
            report(&format!("stalled {from} {to}"));
        }
    }
}

struct Contender {
    redlock: FifoRedlock,
    chance: Chance,
    ids: Arc<AtomicU64>,
    stopped: watch::Receiver<bool>,
}

/// Tells a step of a request, and when it was.
fn tell(step: &str, id: u64) {
    report(&format!("{step} {id} {}", now().as_nanos()));
}

impl Contender {
    /// Works for longer than its lease, as some do who forgot to extend it.
    async fn outlast(&mut self) {
        let (id, resource, ttl) = self.ask();
        let lock = self.redlock.lock(resource, ttl).auto_extend(false);
        match lock.wait_forever().await {
            Ok(guard) => self.hold(id, guard, ttl * 3 / 2).await,
            Err(error) => fail(id, &error),
        }
    }

    /// What is asked for next.
    fn ask(&mut self) -> (u64, String, Duration) {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let resource = format!("r{}", self.chance.below(RESOURCES));
        let most = u64::try_from(LONGEST_TTL.as_millis()).expect("short");
        let ttl = self.chance.millis(most / 4, most + 1);
        report(&format!("asked {id} {resource} {}", now().as_nanos()));
        (id, resource, ttl)
    }

    async fn request(&mut self) {
        sleep(self.chance.millis(0, 60)).await;
        let (id, resource, ttl) = self.ask();
        let outcome = match self.chance.below(8) {
            0 => self.redlock.try_lock(resource, ttl).await,
            1 => {
                let patience = self.chance.millis(0, 150);
                let lock = self.redlock.lock(resource, ttl);
                // Dropped somewhere on the way (C1).
                let outcome = timeout(patience, lock).await;
                outcome.map_or(Ok(None), |outcome| outcome.map(Some))
            }
            2 | 3 => {
                let extend = !self.chance.once_in(3);
                let lock = self.redlock.lock(resource, ttl).auto_extend(extend);
                lock.wait_forever().await.map(Some)
            }
            _ => match self.by_ticket(id, resource, ttl).await {
                // It has told that it left, and before it did.
                Ok(None) => return,
                outcome => outcome,
            },
        };
        match outcome {
            Ok(Some(guard)) => {
                let work = match self.chance.below(40) {
                    0 => ttl * 3 / 2,
                    _ => self.chance.millis(2, 40),
                };
                self.hold(id, guard, work).await;
            }
            Ok(None) => tell("left", id),
            Err(error) => fail(id, &error),
        }
    }

    async fn by_ticket(
        &mut self,
        id: u64,
        resource: String,
        ttl: Duration,
    ) -> Result<Option<LockGuard>, LockError> {
        let mut ticket = self.redlock.enqueue(resource, ttl).await?;
        tell("recorded", id);
        loop {
            // Dropped and called again, its place is kept (C2).
            let patience = self.chance.millis(20, 400);
            if let Ok(outcome) = timeout(patience, ticket.acquire()).await {
                return outcome.map(Some);
            }
            if *self.stopped.borrow() || self.chance.once_in(20) {
                tell("left", id);
                if self.chance.once_in(2) {
                    // Whether a quorum confirms is not the point; what is left in the end is.
                    let _ = ticket.leave().await;
                }
                return Ok(None);
            }
        }
    }

    async fn hold(&mut self, id: u64, guard: LockGuard, work: Duration) {
        let (at, token) = (now(), guard.fencing_token());
        report(&format!("acquired {id} {} {token}", at.as_nanos()));
        let mut lost = guard.lost();
        loop {
            let asked = now();
            // What it vouches for is counted from before it was asked, so it is never overstated.
            let validity = guard.validity();
            if !guard.is_held() {
                if timeout(SILENCE, &mut lost).await.is_ok() {
                    tell("lost", id);
                }
                break;
            }
            let [asked_at, validity] = [asked, validity].map(|span| span.as_nanos());
            report(&format!("held {id} {asked_at} {validity}"));
            if asked > at + work {
                break;
            }
            tokio::select! {
                biased;
                _ = &mut lost => {
                    tell("lost", id);
                    break;
                }
                () = sleep(Duration::from_millis(4)) => {}
            }
        }
        tell("released", id);
        if !self.chance.once_in(4) {
            // A lost lease and a missing quorum are what the faults are about.
            let _ = guard.release().await;
        }
    }
}

fn fail(id: u64, error: &LockError) {
    let name = match error {
        LockError::TimedOut { .. } => "timed-out",
        LockError::NoQuorum(_) => "no-quorum",
        LockError::LeaseLost(_) => "lease-lost",
        other => panic!("not an error of a fault: {other}"),
    };
    report(&format!("failed {id} {} {name}", now().as_nanos()));
}
