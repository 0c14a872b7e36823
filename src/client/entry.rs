//! Handles on a request in the table: the one that owns it, and such as only see it.

use std::{
    pin::pin,
    sync::{Arc, Weak, atomic::Ordering},
};

use crate::{
    client::{requests::Requests, rows::Bell},
    clock::Clock,
    error::LeaseLost,
    request::{Cx, Request},
};

/// A handle on a request, its only owner. Its drop ends the request, and what it has on the nodes is taken back.
#[derive(Debug)]
pub(crate) struct Entry {
    requests: Arc<Requests>,
    key: u64,
    bell: Arc<Bell>,
}

impl Entry {
    /// Enters a request into the table.
    pub(crate) fn new(requests: &Arc<Requests>, request: Request) -> Self {
        let (key, bell) = requests.add(request);
        let requests = requests.clone();
        Self {
            requests,
            key,
            bell,
        }
    }

    /// Changes the request; nothing comes of it if that is gone, which it is not before its handle.
    pub(crate) fn update<T: Default>(&self, change: impl FnOnce(&mut Request, Cx<'_>) -> T) -> T {
        self.requests.update(self.key, change).unwrap_or_default()
    }

    /// Looks at the request.
    pub(crate) fn look<T: Default>(&self, look: impl FnOnce(&Request, Cx<'_>) -> T) -> T {
        self.requests.look(self.key, look).unwrap_or_default()
    }

    /// What whoever waits for it listens to.
    pub(crate) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Listens to how many are ahead, too.
    pub(crate) fn follow(&self) {
        self.bell.followed.store(true, Ordering::Relaxed);
    }

    /// What is to be seen of it without owning it.
    pub(crate) fn view(&self) -> View {
        View {
            requests: Arc::downgrade(&self.requests),
            clock: self.requests.nodes().clock,
            key: self.key,
            bell: self.bell.clone(),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.requests.disown(self.key);
    }
}

/// Sees a request without owning it, or keeping anything of its client.
#[derive(Clone, Debug)]
pub(crate) struct View {
    requests: Weak<Requests>,
    clock: Clock,
    key: u64,
    pub(crate) bell: Arc<Bell>,
}

impl View {
    /// Why the lease ended, as soon as it has: by the timer of whoever polls, whatever becomes of the ticker (S3).
    pub(crate) async fn lost(self) -> LeaseLost {
        loop {
            let mut rung = pin!(self.bell.wake.notified());
            rung.as_mut().enable();
            let look = |request: &mut Request, cx: Cx<'_>| {
                (request.check(cx.now), request.valid_until(cx.now))
            };
            let until = match self.update(look) {
                None => return self.bell.lost().unwrap_or(LeaseLost::Released),
                Some((Some(why), _)) => return why,
                Some((None, until)) => until,
            };
            tokio::select! {
                biased;
                () = rung => {}
                () = self.clock.sleep_until(until) => {}
            }
        }
    }

    /// Changes the request, if it is still there.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Request, Cx<'_>) -> T) -> Option<T> {
        self.requests.upgrade()?.update(self.key, change)
    }

    /// Whether nobody serves the request any more.
    pub(crate) fn is_stopped(&self) -> bool {
        let requests = self.requests.upgrade();
        requests.is_none_or(|requests| requests.stopped().is_some())
    }
}
