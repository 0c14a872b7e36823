//! The guard: a lease in hand.
//!
//! A guard owns the lease from the moment it was granted. Its drop ends the request and leaves the release to the
//! ticker: no waiting, no spawning, no panic (C3). While the guard lives, the ticker renews the lease. When renewals
//! fail until the validity is over, or a quorum of the nodes says that it no longer has the lease, the lease is lost
//! and stays lost. An extension or a check by hand is carried out by the ticker, too; the future that waits for it
//! has a timer of its own (S3).

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    client::{Client, entry::Entry, notifier::Look},
    error::{ExtendError, LeaseLost, ReleaseError},
    request::{Cx, Lease, Request, Verdict},
    resource::{Resource, Ttl},
};

/// A held lock. It is extended in the background until it is dropped or released.
///
/// No method takes `&mut self`, so a guard can be shared, and it can be moved to another task. Dropping the guard
/// releases the lock in the background; [`release`](Self::release) waits for the nodes to confirm.
///
/// A guard is a lease, not a mutex: if the process stops for longer than the ttl, the nodes give the lock
/// to the next in line. The guard says so itself, without the network, before any node does: check
/// [`is_held`](Self::is_held) or watch [`lost`](Self::lost). No check can stop a pause between the check and a
/// write; that is what the [`fencing_token`](Self::fencing_token) is for.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redlock = redlock_fifo::FifoRedlock::in_memory(3);
/// let guard = redlock.lock("invoice:42", Duration::from_secs(10)).await?;
/// tokio::select! {
///     () = work(guard.fencing_token()) => {}
///     why = guard.lost() => return Err(why.into()),
/// }
/// guard.release().await?;
/// # async fn work(_: u64) {}
/// # Ok(())
/// # }
/// ```
#[must_use = "the lock is released when the guard is dropped"]
pub struct LockGuard {
    client: Arc<Client>,
    resource: Arc<Resource>,
    entry: Entry,
    token: u64,
}

impl LockGuard {
    pub(crate) fn new(
        client: Arc<Client>,
        resource: Arc<Resource>,
        entry: Entry,
        token: u64,
    ) -> Self {
        Self {
            client,
            resource,
            entry,
            token,
        }
    }

    /// The name that is locked, as it was given.
    pub fn resource(&self) -> String {
        self.resource.name().to_owned()
    }

    /// A number that rises with every lease of the resource, below 2^53.
    ///
    /// Send the token with every write, and have the store refuse a write whose token is below one that it has
    /// seen. Then a holder that was paused past its lease can do no harm. If a write depends on what was read under
    /// the lock, send the token with the read, too, and have the store remember it; otherwise a late write gets in
    /// between the next holder's read and write. The tokens of a resource rise, also across crashed and wiped nodes,
    /// but not by one each.
    pub fn fencing_token(&self) -> u64 {
        self.token
    }

    /// For how long the lease can still be trusted if nothing extends it; zero once it is lost.
    ///
    /// Read from the clock, without the network.
    pub fn validity(&self) -> Duration {
        self.entry.look(|request, Cx { now, .. }| {
            if request.is_held(now) {
                request.valid_until(now).since(now)
            } else {
                Duration::ZERO
            }
        })
    }

    /// Whether the lease can still be trusted.
    ///
    /// Read from the clock, without the network: it turns false before any node may give the lock away. It does not
    /// see what happened to the nodes' memory since the last extension; [`is_valid`](Self::is_valid) does.
    pub fn is_held(&self) -> bool {
        self.entry.look(|request, cx| request.is_held(cx.now))
    }

    /// Asks the nodes whether a quorum of them still has the lease.
    ///
    /// A node that is down does not make the lease invalid, as long as a quorum of the others has it. Returns false
    /// if the validity is over, whatever the nodes say.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is changed, neither here nor on the nodes.
    ///
    /// # Errors
    ///
    /// [`ExtendError::NoQuorum`] if too few nodes answered to tell; [`ExtendError::Stopped`] if the client's
    /// runtime has ended.
    pub async fn is_valid(&self) -> Result<bool, ExtendError> {
        let check = |request: &mut Request, cx: Cx<'_>| match request.check(cx.now) {
            Some(why) => Err(why),
            None => Ok(request.ask_to_check()),
        };
        let Some(Ok(asked)) = self.entry.update(|request, cx| Some(check(request, cx))) else {
            return Ok(false);
        };
        match self.verdict(asked, false).await {
            Ok(Verdict::Stands) => Ok(true),
            Ok(Verdict::Gone) | Err(ExtendError::Lost(_)) => Ok(false),
            Ok(Verdict::Unknown) => Err(ExtendError::NoQuorum(self.no_quorum())),
            Err(error) => Err(error),
        }
    }

    /// Makes the lease last at least `ttl` from now, and has later renewals ask for `ttl`.
    ///
    /// This shortens nothing: a lease that has more left than `ttl` keeps it. `ttl` is taken in whole milliseconds.
    /// The lease can be trusted for `ttl` less the drift (`clock_drift_factor` of it plus two milliseconds).
    ///
    /// # Cancel safety
    ///
    /// If this future is dropped after its first poll, the extension is still carried out in the background, on all
    /// nodes. Call again to learn the outcome.
    ///
    /// # Errors
    ///
    /// [`ExtendError::Lost`] if the lease had ended, or a quorum no longer has it: it does not come back.
    /// [`ExtendError::NoQuorum`] if too few nodes answered; the lease lives on for what it has left.
    /// [`ExtendError::Stopped`] if the client's runtime has ended. [`ExtendError::Argument`] if `ttl` is not valid;
    /// then nothing is sent.
    pub async fn extend(&self, ttl: Duration) -> Result<(), ExtendError> {
        let ttl = Ttl::new(ttl)?;
        self.client.nodes.warn_of_ttl(ttl);
        let extend = |request: &mut Request, cx: Cx<'_>| match request.check(cx.now) {
            Some(why) => Err(why),
            None => Ok(request.ask_to_extend(ttl, cx.now)),
        };
        let asked = self.entry.update(|request, cx| Some(extend(request, cx)));
        let asked = asked.unwrap_or(Err(LeaseLost::Released));
        match self
            .verdict(asked.map_err(ExtendError::Lost)?, true)
            .await?
        {
            Verdict::Stands => Ok(()),
            Verdict::Gone => Err(ExtendError::Lost(LeaseLost::QuorumLost)),
            Verdict::Unknown => Err(ExtendError::NoQuorum(self.no_quorum())),
        }
    }

    /// Extends the lease to `ttl`, now and every `every` from now on, in the background.
    ///
    /// This is for a guard that was locked without [`auto_extend`](crate::LockRequest::auto_extend), or whose
    /// extension was stopped. An interval above a third of `ttl` leaves less than two tries. A lease is renewed no
    /// more often than every 20 ms; one with a ttl below 40 ms as often as the time for an answer allows.
    ///
    /// # Errors
    ///
    /// [`ExtendError::AutoExtendRunning`] if the guard is being extended already, as in Python.
    /// [`ExtendError::Lost`] if the lease had ended. [`ExtendError::Stopped`] if the client's runtime has ended.
    /// [`ExtendError::Argument`] if `ttl` is not valid, or if `every` is zero or above two thirds of what can be
    /// trusted of `ttl`, as a renewal might not be answered in time.
    pub fn start_auto_extend(&self, every: Duration, ttl: Duration) -> Result<(), ExtendError> {
        let ttl = Ttl::new(ttl)?;
        let every = self.client.nodes.config.interval(every, ttl)?;
        self.client.nodes.warn_of_ttl(ttl);
        if let Some(cause) = self.client.requests.stopped() {
            return Err(ExtendError::Stopped(cause));
        }
        let start = |request: &mut Request, Cx { now, .. }: Cx<'_>| {
            if let Some(why) = request.check(now) {
                return Err(ExtendError::Lost(why));
            }
            if request.lease().is_some_and(Lease::renews) {
                return Err(ExtendError::AutoExtendRunning);
            }
            request.start_renewing(every, ttl, now);
            Ok(())
        };
        let started = self.entry.update(|request, cx| Some(start(request, cx)));
        started.unwrap_or(Err(ExtendError::Lost(LeaseLost::Released)))
    }

    /// Stops extending the lease in the background. It ends with its validity unless it is extended by hand.
    ///
    /// Does nothing if the guard is not being extended. An [`extend`](Self::extend) that has begun is still carried
    /// out on all nodes.
    pub fn stop_auto_extend(&self) {
        self.entry.update(|request, _| request.stop_renewing());
    }

    /// Completes when the lease is lost, and tells why.
    ///
    /// The future owns what it needs: it can be moved into a child task, or kept in a struct beside the
    /// guard. Its timer is that of the runtime that polls it, so it completes in time even if the client's own
    /// runtime is blocked or has ended. Once a guard that still has its lease is released or dropped it completes with
    /// [`LeaseLost::Released`], so that the children of a cancelled handler stop.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a lost lease stays lost, so a new future gives the same answer.
    pub fn lost(&self) -> Lost {
        Lost(Box::pin(self.entry.view().lost()))
    }

    /// Releases the lock, and waits until a quorum of the nodes has confirmed.
    ///
    /// The release itself hands the lock to the next in line. Nodes that fail or are slow are released in the
    /// background, until each has confirmed or the lease has run out there. If a connection broke with a command in
    /// flight and that node is needed for the quorum, this waits until the command can no longer run, then releases
    /// again: at most two `node_timeout`s.
    ///
    /// # Cancel safety
    ///
    /// If this future is dropped, the release goes on in the background.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Lost`] if the lease had ended before: the work may have overlapped another
    /// holder's. [`ReleaseError::Unconfirmed`] if no quorum answered. [`ReleaseError::Stopped`] if the client's
    /// runtime has ended: then the lease runs out by itself.
    pub async fn release(self) -> Result<(), ReleaseError> {
        if let Some(why) = self.entry.update(|request, cx| request.check(cx.now)) {
            return Err(ReleaseError::Lost(why));
        }
        let tally = self.client.release(&self.entry).await?;
        let nodes = &self.client.nodes;
        if !nodes.quorum.possible_without(tally.nothing) {
            self.entry
                .update(|request, _| request.note_unnoticed_loss(self.token));
            return Err(ReleaseError::Lost(LeaseLost::QuorumLost));
        }
        self.client.confirmed(tally)
    }

    /// Waits for what the nodes say to commands above `asked`.
    async fn verdict(&self, asked: u32, extended: bool) -> Result<Verdict, ExtendError> {
        let look = |request: &mut Request, Cx { now, .. }: Cx<'_>| {
            if let Some(why) = request.check(now) {
                return Look::Done(Err(ExtendError::Lost(why)));
            }
            match request.verdict(asked, extended) {
                Some(verdict) => Look::Done(Ok(verdict)),
                None => Look::Again(Some(request.valid_until(now))),
            }
        };
        self.entry.wait(look).await.map_err(ExtendError::Stopped)?
    }

    fn no_quorum(&self) -> crate::error::NoQuorum {
        let look =
            |request: &Request, _: Cx<'_>| (request.failures().collect::<Vec<_>>(), request.open());
        let (failures, open) = self.entry.look(look);
        self.client.nodes.no_quorum(failures.into_iter(), open)
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("resource", &self.resource())
            .field("fencing_token", &self.token)
            .field("validity", &self.validity())
            .finish()
    }
}

/// Completes when a lease is lost; see [`LockGuard::lost`].
#[must_use = "futures do nothing unless polled"]
pub struct Lost(Pin<Box<dyn Future<Output = LeaseLost> + Send + Sync>>);

impl Future for Lost {
    type Output = LeaseLost;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LeaseLost> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lost")
    }
}
