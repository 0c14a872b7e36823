//! What a process does in the experiment: it reads a set, thinks, and writes the set with one more.

use std::time::Duration;

use redlock_fifo::FifoRedlock;
use tokio::{sync::watch, time::sleep};

use super::store::{Check, Store};
use crate::{
    chance::Chance,
    worker::{Toil, report},
};

/// Has this process add to all sets until it is to stop.
pub(crate) async fn add(redlock: &FifoRedlock, url: &str, lease: Duration, toil: &mut Toil) {
    for check in Check::ALL {
        let writer = Writer {
            redlock: redlock.clone(),
            store: Store::connect(url).await,
            check,
            lease,
            chance: Chance::new(u64::from(std::process::id()), 0),
            stopped: toil.stopped(),
        };
        toil.start(writer.run());
    }
}

struct Writer {
    redlock: FifoRedlock,
    store: Store,
    check: Check,
    lease: Duration,
    chance: Chance,
    stopped: watch::Receiver<bool>,
}

impl Writer {
    async fn run(mut self) {
        let set = self.check.set();
        for place in 0.. {
            if *self.stopped.borrow() {
                return;
            }
            let element = format!("{}-{place}", std::process::id());
            let added = if self.add(&element).await {
                "added"
            } else {
                "refused"
            };
            report(&format!("{added} {set} {element}"));
        }
    }

    /// Adds an element; whether the store has confirmed it.
    async fn add(&mut self, element: &str) -> bool {
        let set = self.check.set();
        // A paused process may lose what it was just granted.
        let Ok(guard) = self.redlock.lock(set, self.lease).wait_forever().await else {
            return false;
        };
        let token = guard.fencing_token();
        let Some(mut elements) = self.store.read(self.check, token).await else {
            return false;
        };
        let most = u64::try_from(self.lease.as_millis()).expect("short") / 5;
        sleep(self.chance.millis(most / 2, most)).await;
        if self.check == Check::Guard && !guard.is_held() {
            return false;
        }
        elements += " ";
        elements += element;
        let added = self.store.write(self.check, token, &elements).await;
        // Lost or unconfirmed: what was confirmed by the store is so all the same.
        let _ = guard.release().await;
        added
    }
}
