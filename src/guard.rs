//! The guard: a lease in hand.
//!
//! Owns the lease from the moment it was granted. Its drop ends the claim and leaves the release to the
//! janitor: no waiting, no spawning, no panic (C3). While it lives the ticker renews the lease; when that
//! fails until the validity is over, or a quorum of the nodes says that it has not got it any more, the
//! lease is lost, and stays so.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    claim::Claim,
    client::Client,
    error::{ArgumentError, ExtendError, LeaseLost, ReleaseError},
    lease::Request,
    quorum::Majority,
    release::TakingBack,
    roll::Enrolment,
    telemetry,
};

/// A held lock. It is extended in the background until it is dropped or released.
///
/// Nothing here takes `&mut self`, so a guard can be shared; it can be moved to another task. Dropping it
/// releases the lock in the background; [`release`](Self::release) waits for the nodes to confirm.
///
/// A guard is a lease, not a mutex: if the process stops for longer than the ttl, the nodes give the lock
/// to the next in line. The guard says so itself, without the network, before any node does: check
/// [`is_held`](Self::is_held) or watch [`lost`](Self::lost). What no check can stop, a pause between the
/// check and a write, is what the [`fencing_token`](Self::fencing_token) is for.
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
    request: Arc<Request>,
    enrolment: Option<Enrolment>,
    token: u64,
}

impl LockGuard {
    /// A guard on what a quorum granted.
    pub(crate) fn new(
        client: Arc<Client>,
        request: Arc<Request>,
        enrolment: Option<Enrolment>,
        majority: Majority,
    ) -> Self {
        client.roll.kick(&request);
        Self {
            client,
            request,
            enrolment,
            token: majority.token(),
        }
    }

    /// The name that is locked, as it was given.
    pub fn resource(&self) -> String {
        self.request
            .look(|claim| claim.resource().name().to_owned())
    }

    /// A number that rises with every lease of the resource, below 2^53.
    ///
    /// Send it along with every write, and let the store refuse a write whose number is below one that it
    /// has seen: then a holder that was paused past its lease can do no harm. Where a write depends on what
    /// was read under the lock, send it with the read, too, and have the store remember it: else a late
    /// write gets in between the next holder's read and write. The numbers of a resource rise, across
    /// crashed and wiped nodes too, but do not count by one.
    pub fn fencing_token(&self) -> u64 {
        self.token
    }

    /// For how long the lease can still be trusted if nothing extends it; zero once it is lost.
    ///
    /// Read from the clock, without the network.
    pub fn validity(&self) -> Duration {
        self.request.look_now(|claim, now| {
            if claim.is_held(now) {
                claim.valid_until(now).since(now)
            } else {
                Duration::ZERO
            }
        })
    }

    /// Whether the lease can still be trusted.
    ///
    /// Read from the clock, without the network: false before any node may give the lock away. What may
    /// have happened to the nodes' memory since the last extension it does not see; see
    /// [`is_valid`](Self::is_valid).
    pub fn is_held(&self) -> bool {
        self.request.look_now(|claim, now| claim.is_held(now))
    }

    /// Asks the nodes whether a quorum of them still has the lease.
    ///
    /// A node that is down does not make it invalid, as long as a quorum of the others has it. False if
    /// the validity is over, whatever the nodes say.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is changed, neither here nor on the nodes.
    ///
    /// # Errors
    ///
    /// [`ExtendError::NoQuorum`] if too few nodes answered to tell.
    pub async fn is_valid(&self) -> Result<bool, ExtendError> {
        if self.check().is_some() {
            return Ok(false);
        }
        let quorum = self.client.nodes.quorum;
        let (stands, gone) = self.request.extend(Duration::ZERO).await;
        self.client.roll.kick(&self.request);
        if self.check().is_some() || !quorum.possible_without(gone) {
            Ok(false)
        } else if stands >= quorum.size() {
            Ok(true)
        } else {
            Err(ExtendError::NoQuorum(self.no_quorum()))
        }
    }

    /// Makes the lease last at least `ttl` from now, and has later renewals ask for that much.
    ///
    /// Nothing is shortened: a lease that has more left than `ttl` keeps it. `ttl` is taken in whole
    /// milliseconds; what can be trusted of it is `ttl` less the drift (`clock_drift_factor` of it plus
    /// two milliseconds).
    ///
    /// # Cancel safety
    ///
    /// Dropped half-way, some nodes may have prolonged the lease and others not. It stays valid for at
    /// least what it was before; call again to be sure.
    ///
    /// # Errors
    ///
    /// [`ExtendError::Lost`] if the lease had ended, or a quorum has it no more: it does not come back.
    /// [`ExtendError::NoQuorum`] if too few nodes answered; the lease lives on for what it has left.
    /// [`ExtendError::Argument`] if `ttl` is not a valid one; nothing is sent then.
    pub async fn extend(&self, ttl: Duration) -> Result<(), ExtendError> {
        let ttl = self.client.nodes.config.ttl(ttl)?;
        self.client.nodes.warn_of_ttl(ttl);
        if let Some(why) = self.check() {
            return Err(ExtendError::Lost(why));
        }
        let (stands, _) = self.request.extend(ttl).await;
        let extended = stands >= self.client.nodes.quorum.size();
        let lost = self.request.update(|claim, now| {
            if extended {
                claim.set_ttl(ttl);
            }
            claim.check(now)
        });
        self.client.roll.kick(&self.request);
        match lost {
            Some(why) => Err(ExtendError::Lost(why)),
            None if extended => Ok(()),
            None => Err(ExtendError::NoQuorum(self.no_quorum())),
        }
    }

    /// Extends the lease to `ttl`, now and every `every` from now on, in the background.
    ///
    /// For a guard that was locked without [`auto_extend`](crate::Lock::auto_extend), or stopped. An
    /// interval above a third of `ttl` leaves less than two tries; one above `ttl` loses the lease.
    ///
    /// # Errors
    ///
    /// [`ExtendError::AutoExtendRunning`] while one runs, as in Python. [`ExtendError::Lost`] if the lease
    /// had ended. [`ExtendError::Argument`] if `every` is zero or `ttl` not valid.
    pub fn start_auto_extend(&self, every: Duration, ttl: Duration) -> Result<(), ExtendError> {
        let ttl = self.client.nodes.config.ttl(ttl)?;
        if every.is_zero() {
            return Err(ArgumentError::ZeroInterval.into());
        }
        let start = |claim: &mut Claim, now| {
            if let Some(why) = claim.check(now) {
                return Err(ExtendError::Lost(why));
            }
            if claim.renews() {
                return Err(ExtendError::AutoExtendRunning);
            }
            claim.renew(Some(every), ttl, now);
            Ok(())
        };
        let started = self.request.update(start);
        self.client.roll.kick(&self.request);
        started
    }

    /// Stops extending in the background; the lease ends with its validity unless it is extended by hand.
    ///
    /// Does nothing if none runs.
    pub fn stop_auto_extend(&self) {
        self.request
            .update(|claim, now| claim.renew(None, claim.ttl(), now));
        self.client.roll.kick(&self.request);
    }

    /// Completes when the lease is lost, and tells why.
    ///
    /// The future owns what it needs: it can be moved into a child task, or kept in a struct beside the
    /// guard. Once the guard is released or dropped it completes with [`LeaseLost::Released`], so that
    /// the children of a cancelled handler stop.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a lost lease stays lost, so a new future tells the same.
    pub fn lost(&self) -> Lost {
        let mut told = self.request.follow();
        Lost(Box::pin(async move {
            let ended = told.wait_for(|told| told.lost.is_some()).await;
            let why = ended.ok().and_then(|told| told.lost);
            why.unwrap_or(LeaseLost::Released)
        }))
    }

    /// Releases the lock, and waits until a quorum of the nodes has confirmed.
    ///
    /// The next in line has the lock from that very call on. Nodes that fail or are slow are released in
    /// the background, until each has confirmed or the lease has run out there. Where a connection broke
    /// under a request that may yet be carried out, and the node is needed for the quorum, it is asked again
    /// when that is over, which takes two `node_timeout`s at most.
    ///
    /// # Cancel safety
    ///
    /// Dropped at any point, the release goes on in the background.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Lost`] if the lease had ended before: the work may have overlapped another
    /// holder's. [`ReleaseError::Unconfirmed`] if no quorum answered.
    pub async fn release(mut self) -> Result<(), ReleaseError> {
        self.enrolment = None;
        let lost = self.check();
        let Some(leftover) = self.request.take_back() else {
            return Err(ReleaseError::Lost(lost.unwrap_or(LeaseLost::Released)));
        };
        let tally = TakingBack::new(leftover).tally().await;
        let nodes = &self.client.nodes;
        if !nodes.quorum.possible_without(tally.nothing) {
            self.request
                .look(|claim| telemetry::lost_unnoticed(claim.who(), self.token));
            return Err(ReleaseError::Lost(LeaseLost::QuorumLost));
        }
        tally.confirmed(nodes)
    }

    fn check(&self) -> Option<LeaseLost> {
        self.request.update(|claim, now| claim.check(now))
    }

    fn no_quorum(&self) -> crate::error::NoQuorum {
        self.request
            .look(|claim| self.client.nodes.no_quorum(claim.failures()))
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

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.request.end();
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
