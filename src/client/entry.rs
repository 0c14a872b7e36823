//! Handles on a request in the table: the one that owns it, and those that only see it.

use std::sync::{Arc, Weak};

use crate::{
    client::{
        notifier::{Look, Notifier},
        requests::Requests,
    },
    error::{ClientStopped, LeaseLost},
    request::{Cx, Request},
    runtime::clock::Clock,
};

/// The only owner of a request. Its drop ends the request, and the ticker releases what it has on the nodes.
#[derive(Debug)]
pub(crate) struct Entry {
    requests: Arc<Requests>,
    key: u64,
    notifier: Arc<Notifier>,
}

impl Entry {
    /// Enters a request into the table.
    pub(crate) fn new(requests: &Arc<Requests>, request: Request) -> Self {
        let (key, notifier) = requests.add(request);
        let requests = requests.clone();
        Self {
            requests,
            key,
            notifier,
        }
    }

    /// Changes the request. Returns the default if the request is gone, which cannot happen while this entry exists.
    pub(crate) fn update<T: Default>(&self, change: impl FnOnce(&mut Request, Cx<'_>) -> T) -> T {
        self.requests.update(self.key, change).unwrap_or_default()
    }

    /// Looks at the request.
    pub(crate) fn look<T: Default>(&self, look: impl FnOnce(&Request, Cx<'_>) -> T) -> T {
        self.requests.look(self.key, look).unwrap_or_default()
    }

    /// Calls `look` until it returns `Look::Done`: at each change, and at the moment that `look` names. The caller has
    /// its own timer, so this works without the ticker (S3). Fails if the ticker has stopped and `look` is not done.
    pub(crate) async fn wait<T>(
        &self,
        look: impl Fn(&mut Request, Cx<'_>) -> Look<T>,
    ) -> Result<T, ClientStopped> {
        let clock = self.requests.nodes().clock;
        let look = || match (self.update(&look), self.requests.stopped()) {
            (Look::Done(done), _) => Look::Done(Ok(done)),
            (Look::Again(_), Some(cause)) => Look::Done(Err(cause)),
            (Look::Again(until), None) => Look::Again(until),
        };
        self.notifier.wait(clock, look).await
    }

    /// Wakes those who wait also when the number of waiters ahead changes.
    pub(crate) fn follow(&self) {
        self.notifier.follow();
    }

    /// A handle that sees the request without owning it.
    pub(crate) fn view(&self) -> View {
        View {
            requests: Arc::downgrade(&self.requests),
            clock: self.requests.nodes().clock,
            key: self.key,
            notifier: self.notifier.clone(),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.requests.disown(self.key);
    }
}

/// Sees a request without owning it, and without keeping anything of its client.
#[derive(Clone, Debug)]
pub(crate) struct View {
    requests: Weak<Requests>,
    clock: Clock,
    key: u64,
    notifier: Arc<Notifier>,
}

impl View {
    /// Why the lease ended, as soon as it has. The timer is that of the runtime that polls this (S3).
    pub(crate) async fn lost(self) -> LeaseLost {
        let look = || {
            let look = |request: &mut Request, cx: Cx<'_>| match request.check(cx.now) {
                Some(why) => Look::Done(why),
                None => Look::Again(Some(request.valid_until(cx.now))),
            };
            let gone = || Look::Done(self.notifier.lost().unwrap_or(LeaseLost::Released));
            self.update(look).unwrap_or_else(gone)
        };
        self.notifier.wait(self.clock, look).await
    }

    /// How many waiters are ahead, once that is another number than `last`; `None` once the request no longer waits,
    /// or its ticker has stopped.
    pub(crate) async fn next_position(&self, last: Option<u64>) -> Option<u64> {
        let look = || {
            let position = |request: &Request| request.waits().then(|| request.position());
            let position = self.update(|request, _| position(request)).flatten();
            if position != last || position.is_none() {
                return Look::Done(position);
            }
            let requests = self.requests.upgrade();
            match requests.is_none_or(|requests| requests.stopped().is_some()) {
                true => Look::Done(None),
                false => Look::Again(None),
            }
        };
        self.notifier.wait(self.clock, look).await
    }

    fn update<T>(&self, change: impl FnOnce(&mut Request, Cx<'_>) -> T) -> Option<T> {
        self.requests.upgrade()?.update(self.key, change)
    }
}
