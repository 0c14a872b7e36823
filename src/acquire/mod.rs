//! How a caller gets a lock: [`LockRequest`], an attempt without waiting, a ticket.

pub(crate) mod place;
pub(crate) mod policy;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;

use crate::{
    acquire::{
        place::Place,
        policy::{HoldOptions, WaitPolicy},
    },
    client::Client,
    error::{ArgumentError, LockError},
    guard::LockGuard,
};

/// A request for a lock; await it to get the guard. Returned by
/// [`FifoRedlock::lock`](crate::FifoRedlock::lock).
///
/// Nothing is sent and no place is taken before the first poll; call the setters before that. The future owns what
/// it needs: it can be spawned, joined, or kept as `&mut lock` across the turns of a loop, which keeps its place in
/// line. If its turn comes and it is not polled within one `fifo_ephemeral_ttl`, or within the ttl if that is
/// shorter, the turn passes to the next request. The request is first again once it is polled.
///
/// # Cancel safety
///
/// Dropping this future leaves no ticket and no lock behind, but loses the place in line; use
/// [`FifoRedlock::enqueue`](crate::FifoRedlock::enqueue) to keep it.
///
/// # Errors
///
/// [`LockError::TimedOut`] when the time to wait is over; [`LockError::QueueFull`] if there was no room in the
/// line until then; [`LockError::NoQuorum`] if too few nodes answered; [`LockError::ShutDown`];
/// [`LockError::Stopped`] if the client's runtime has ended; [`LockError::Argument`] before anything is sent.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redlock = redlock_fifo::FifoRedlock::in_memory(3);
/// let guard = redlock
///     .lock("migration", Duration::from_secs(30))
///     .wait_timeout(Duration::from_secs(60))
///     .max_hold(Duration::from_secs(3600))
///     .await?;
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "futures do nothing unless awaited"]
pub struct LockRequest(State);

enum State {
    Idle(Order),
    Running(BoxFuture<'static, Result<LockGuard, LockError>>),
    /// Only for a moment in `poll`, while `Idle` is turned into `Running`.
    Empty,
}

struct Order {
    client: Arc<Client>,
    resource: String,
    ttl: Duration,
    wait: Wait,
    hold: HoldOptions,
}

enum Wait {
    AsSet,
    AtMost(Duration),
    Forever,
}

impl LockRequest {
    pub(crate) fn new(client: Arc<Client>, resource: String, ttl: Duration) -> Self {
        let hold = HoldOptions::of_settings(&client);
        Self(State::Idle(Order {
            client,
            resource,
            ttl,
            wait: Wait::AsSet,
            hold,
        }))
    }

    /// Waits for at most `patience` in all, however the line moves.
    ///
    /// Defaults to the builder's `fifo_retry_count`: 12 s without moving forward, because Python waits so long.
    #[must_use = "futures do nothing unless awaited"]
    pub fn wait_timeout(self, patience: Duration) -> Self {
        self.set(|order| order.wait = Wait::AtMost(patience))
    }

    /// Waits as long as it takes. Use this if a holder may work for minutes.
    #[must_use = "futures do nothing unless awaited"]
    pub fn wait_forever(self) -> Self {
        self.set(|order| order.wait = Wait::Forever)
    }

    /// Whether the guard is extended in the background until it is dropped.
    ///
    /// Defaults to the builder's `auto_extend`, which defaults to true, because work that takes longer
    /// than planned is the rule.
    #[must_use = "futures do nothing unless awaited"]
    pub fn auto_extend(self, auto_extend: bool) -> Self {
        self.set(|order| order.hold.auto_extend = auto_extend)
    }

    /// Ends the lease after `max_hold`, even if the guard is still held.
    ///
    /// Defaults to the builder's `max_hold`, which defaults to none, because only you know how long the work may
    /// take.
    #[must_use = "futures do nothing unless awaited"]
    pub fn max_hold(self, max_hold: Duration) -> Self {
        self.set(|order| order.hold.max_hold = Some(max_hold))
    }

    fn set(mut self, set: impl FnOnce(&mut Order)) -> Self {
        if let State::Idle(order) = &mut self.0 {
            set(order);
        }
        self
    }
}

impl Future for LockRequest {
    type Output = Result<LockGuard, LockError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Idle(_) = self.0
            && let State::Idle(order) = std::mem::replace(&mut self.0, State::Empty)
        {
            self.0 = State::Running(Box::pin(order.carry_out()));
        }
        match &mut self.0 {
            State::Running(running) => running.as_mut().poll(cx),
            State::Idle(_) | State::Empty => Poll::Pending,
        }
    }
}

impl fmt::Debug for LockRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.0 {
            State::Idle(order) => return write!(f, "LockRequest({:?})", order.resource),
            State::Running(_) => "running",
            State::Empty => "empty",
        };
        write!(f, "LockRequest({state})")
    }
}

impl Order {
    async fn carry_out(self) -> Result<LockGuard, LockError> {
        let token = |guard: &LockGuard| Some(guard.fencing_token());
        let nodes = &self.client.nodes;
        let call = nodes.telling("lock", &self.resource, self.wait(), token);
        call.await
    }

    async fn wait(&self) -> Result<LockGuard, LockError> {
        let nodes = &self.client.nodes;
        if self.hold.max_hold == Some(Duration::ZERO) {
            return Err(ArgumentError::ZeroMaxHold.into());
        }
        let patience = match self.wait {
            Wait::AsSet => WaitPolicy::of_settings(&self.client),
            Wait::AtMost(span) => WaitPolicy::Until(nodes.clock.now().plus(span)),
            Wait::Forever => WaitPolicy::WhileMoving(None),
        };
        let room = nodes.config.fifo_queue_length;
        let mut place = Place::ask(&self.client, &self.resource, self.ttl, room, patience).await?;
        place.wait(patience, self.hold).await
    }
}

/// One attempt: `None` if the lock is held or waited for.
pub(crate) async fn try_lock(
    client: &Arc<Client>,
    resource: &str,
    ttl: Duration,
) -> Result<Option<LockGuard>, LockError> {
    // With no room at all the script gives the vote or nothing: no ticket is left behind.
    let attempt = async {
        let patience = WaitPolicy::of_settings(client);
        let mut place = Place::ask(client, resource, ttl, Some(0), patience).await?;
        place.take_at_once(HoldOptions::of_settings(client)).await
    };
    let token = |guard: &Option<LockGuard>| Some(guard.as_ref()?.fencing_token());
    let nodes = &client.nodes;
    nodes.telling("try_lock", resource, attempt, token).await
}

/// A place in line, recorded by a quorum.
pub(crate) async fn enqueue(
    client: &Arc<Client>,
    resource: &str,
    ttl: Duration,
) -> Result<Place, LockError> {
    let ask = async {
        let room = client.nodes.config.fifo_queue_length;
        let patience = WaitPolicy::of_settings(client);
        let place = Place::ask(client, resource, ttl, room, patience).await?;
        if place.has_no_room() {
            return Err(place.queue_full());
        }
        place.recorded().await?;
        Ok(place)
    };
    let nodes = &client.nodes;
    nodes.telling("enqueue", resource, ask, |_| None).await
}
