//! A ticket: a place in line.
//!
//! Owns the request from its first question until a guard takes it over. Whoever is dropped while it owns
//! one ends the claim, and the janitor takes back whatever was sent (C1). The ticker keeps the place; the
//! future that waits only looks whether the turn has come, so it can be dropped and made again (C2).

use std::{
    fmt,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt, stream::BoxStream};
use tokio::sync::watch;

use crate::{
    claim::{Claim, End, Phase, Taken},
    client::Client,
    clock::Time,
    error::{LockError, NodeError, ReleaseError},
    guard::{LockGuard, TakingBack},
    lease::Request,
    roll::Enrolment,
};

/// A place in line, kept until it is used, left or dropped.
///
/// Returned by [`FifoRedlock::enqueue`](crate::FifoRedlock::enqueue) once a quorum has recorded it: from
/// then on everyone who asks later is served later. The place is kept in the background, whether
/// [`acquire`](Self::acquire) is being awaited or not.
///
/// When the turn comes and nobody awaits `acquire` within one `fifo_ephemeral_ttl`, the turn passes to
/// the next in line; the ticket keeps its number, and is first again once `acquire` is awaited.
///
/// # Examples
///
/// Keep the place across the turns of a loop:
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redlock = redlock_fifo::FifoRedlock::in_memory(3);
/// let mut ticket = redlock.enqueue("deploy", Duration::from_secs(10)).await?;
/// let mut tick = tokio::time::interval(Duration::from_secs(1));
/// let guard = loop {
///     tokio::select! {
///         guard = ticket.acquire() => break guard?,
///         _ = tick.tick() => println!("{} ahead", ticket.position()),
///     }
/// };
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "the place in line is given up when the ticket is dropped"]
pub struct Ticket {
    place: Option<Place>,
    positions: watch::Receiver<u64>,
}

impl Ticket {
    pub(crate) fn new(place: Place) -> Self {
        Self {
            positions: place.request.positions(),
            place: Some(place),
        }
    }

    /// Waits for the turn.
    ///
    /// Gives up after `fifo_retry_count` polls in a row without moving forward (12 s with the defaults),
    /// counted from when the ticket last moved, not from this call; the place is gone then.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. Dropped and called again, the place in line is kept.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`] when the patience is over, [`LockError::NoQuorum`] if too few nodes can be
    /// reached by then, [`LockError::ShutDown`] when the client is shut down, and
    /// [`LockError::TicketSpent`] if the ticket has given a guard, or an error, before.
    pub async fn acquire(&mut self) -> Result<LockGuard, LockError> {
        let place = self.place.as_mut().ok_or(LockError::TicketSpent)?;
        let patience = Patience::of_settings(&place.client);
        let outcome = place.wait(patience, Hold::of_settings(&place.client)).await;
        self.place = None;
        outcome
    }

    /// How many waiters are ahead, as last heard; 0 is next.
    pub fn position(&self) -> u64 {
        *self.positions.borrow()
    }

    /// The position now and at every change, until the ticket is used or given up.
    pub fn positions(&self) -> Positions {
        let first = self.positions.clone();
        Positions(
            futures::stream::unfold((first, true), |(mut positions, first)| async move {
                if !first {
                    positions.changed().await.ok()?;
                }
                let position = *positions.borrow_and_update();
                Some((position, (positions, false)))
            })
            .boxed(),
        )
    }

    /// Leaves the line, and waits until a quorum of the nodes has confirmed.
    ///
    /// # Cancel safety
    ///
    /// Dropped at any point, the leaving goes on in the background.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Unconfirmed`] if no quorum answered; the clean-up goes on all the same.
    pub async fn leave(mut self) -> Result<(), ReleaseError> {
        let Some(place) = self.place.take() else {
            return Ok(());
        };
        place.leave().await
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("position", &self.position())
            .field("spent", &self.place.is_none())
            .finish()
    }
}

/// The positions of a ticket; see [`Ticket::positions`].
#[must_use = "streams do nothing unless polled"]
pub struct Positions(BoxStream<'static, u64>);

impl Stream for Positions {
    type Item = u64;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        self.0.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Positions")
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// As long as the request moves forward at least this often; `None`: for ever.
    WhileMoving(Option<Duration>),
    Until(Time),
}

impl Patience {
    pub(crate) fn of_settings(client: &Client) -> Self {
        Self::WhileMoving(client.nodes.config.patience())
    }
}

/// How the lease is to be held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    pub(crate) auto_extend: bool,
    pub(crate) max_hold: Option<Duration>,
}

impl Hold {
    pub(crate) fn of_settings(client: &Client) -> Self {
        Self {
            auto_extend: client.nodes.config.auto_extend,
            max_hold: client.nodes.config.max_hold,
        }
    }
}

/// A request and its place on the roll. Its drop takes back whatever was sent.
pub(crate) struct Place {
    client: Arc<Client>,
    request: Arc<Request>,
    enrolment: Option<Enrolment>,
}

impl Place {
    /// Asks the nodes for the vote or a ticket, `retry_count` times as long as too few of them answer,
    /// and not beyond the end of `patience`.
    pub(crate) async fn ask(
        client: &Arc<Client>,
        resource: &str,
        ttl: Duration,
        room: Option<u64>,
        patience: Patience,
    ) -> Result<Self, LockError> {
        let mut place = Self {
            request: client.request(resource, ttl, room)?,
            client: client.clone(),
            enrolment: None,
        };
        // Before anything is sent: a push may overtake the answers.
        place.enrol();
        let crowded = client.roll.is_crowded(resource);
        if crowded {
            place.request.update(|claim, _| claim.stand_outside());
        } else if let Patience::Until(deadline) = patience {
            tokio::select! {
                biased;
                () = place.ask_repeatedly() => {}
                () = client.nodes.clock.sleep_until(deadline) => return Err(place.give_up()),
            }
        } else {
            place.ask_repeatedly().await;
        }
        client.roll.kick(&place.request);
        match place.phase() {
            _ if client.nodes.is_closed() => Err(LockError::ShutDown),
            Phase::Asking => Err(place.no_quorum()),
            _ => Ok(place),
        }
    }

    async fn ask_repeatedly(&self) {
        let nodes = &self.client.nodes;
        for round in 1..=nodes.config.retry_count {
            let roll = self.client.roll.clone();
            self.request.ask(move |request| roll.kick(request)).await;
            if self.phase() != Phase::Asking || round == nodes.config.retry_count {
                return;
            }
            let pause = nodes.config.retry_delay;
            nodes.clock.sleep_until(nodes.clock.now().plus(pause)).await;
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.request.look(|claim, _| claim.phase())
    }

    /// Has the ticker keep the place.
    pub(crate) fn enrol(&mut self) {
        if self.enrolment.is_none() {
            self.enrolment = Some(self.client.roll.enrol(&self.request));
        }
    }

    /// How many waiters the nodes told of that had no room.
    pub(crate) fn queue_full(&self) -> LockError {
        let waiting = self.request.look(|claim, _| claim.crowd());
        LockError::QueueFull { waiting }
    }

    /// Waits until a quorum has the ticket under its agreed number.
    pub(crate) async fn recorded(&self) -> Result<(), LockError> {
        loop {
            let mut rung = pin!(self.request.wake.notified());
            rung.as_mut().enable();
            if self.request.look(|claim, _| claim.is_settled()) {
                break;
            }
            rung.await;
        }
        match self.phase() {
            Phase::Ended(_) => Err(LockError::ShutDown),
            Phase::Waiting if !self.request.look(|claim, _| claim.is_recorded()) => {
                Err(self.no_quorum())
            }
            _ => Ok(()),
        }
    }

    /// Waits for the turn; on success the guard owns the request.
    pub(crate) async fn wait(
        &mut self,
        patience: Patience,
        hold: Hold,
    ) -> Result<LockGuard, LockError> {
        let nodes = self.client.nodes.clone();
        loop {
            let request = self.request.clone();
            let mut rung = pin!(request.wake.notified());
            rung.as_mut().enable();
            if let Some(outcome) = self.take(hold) {
                return outcome;
            }
            self.enrol();
            self.client.roll.kick(&self.request);
            let Some(deadline) = self.deadline(patience) else {
                rung.await;
                continue;
            };
            if deadline <= nodes.clock.now() {
                return Err(self.give_up());
            }
            tokio::select! {
                biased;
                () = rung => {}
                () = nodes.clock.sleep_until(deadline) => {}
            }
        }
    }

    /// Takes the lease without waiting for anything but the nodes; `None` if it is not to be had.
    pub(crate) async fn take_at_once(
        &mut self,
        hold: Hold,
    ) -> Result<Option<LockGuard>, LockError> {
        let nodes = self.client.nodes.clone();
        loop {
            let request = self.request.clone();
            let mut rung = pin!(request.wake.notified());
            rung.as_mut().enable();
            match self.phase() {
                Phase::Granted { .. } | Phase::Fencing { .. } => {}
                Phase::Waiting if self.request.look(|claim, now| claim.waits_for_grace(now)) => {
                    return Err(self.no_quorum());
                }
                _ => return Ok(None),
            }
            if let Some(outcome) = self.take(hold) {
                return outcome.map(Some);
            }
            self.enrol();
            self.client.roll.kick(&self.request);
            let votes_end = self.request.look(|claim, now| claim.valid_until(now));
            tokio::select! {
                biased;
                () = rung => {}
                () = nodes.clock.sleep_until(votes_end) => return Ok(None),
            }
        }
    }

    pub(crate) async fn leave(self) -> Result<(), ReleaseError> {
        let Some(leftover) = self.request.take_back() else {
            return Ok(());
        };
        let tally = TakingBack::new(leftover).tally().await;
        tally.confirmed(&self.client.nodes)
    }

    fn take(&mut self, hold: Hold) -> Option<Result<LockGuard, LockError>> {
        let taken = self.request.update(|claim, now| {
            let renewal = hold.auto_extend.then(|| claim.ttl() / 3);
            claim.take(now, renewal, hold.max_hold)
        });
        match taken {
            Taken::NotYet => None,
            Taken::Ended(End::ShutDown) => Some(Err(LockError::ShutDown)),
            Taken::Ended(_) => Some(Err(LockError::TicketSpent)),
            Taken::Lease(majority) => Some(Ok(LockGuard::new(
                self.client.clone(),
                self.request.clone(),
                self.enrolment.take(),
                majority,
            ))),
        }
    }

    fn deadline(&self, patience: Patience) -> Option<Time> {
        match patience {
            Patience::Until(deadline) => Some(deadline),
            Patience::WhileMoving(None) => None,
            Patience::WhileMoving(Some(span)) => {
                Some(self.request.look(|claim, _| claim.progress()).plus(span))
            }
        }
    }

    fn give_up(&self) -> LockError {
        let cut_off = |claim: &Claim, now| claim.is_cut_off() || claim.waits_for_grace(now);
        match self.phase() {
            Phase::Asking => return self.no_quorum(),
            _ if self.request.look(cut_off) => return self.no_quorum(),
            Phase::Outside => return self.queue_full(),
            _ => {}
        }
        self.request.look(|claim, now| LockError::TimedOut {
            position: claim.position(),
            holder_ttl: claim.holder_left(now),
        })
    }

    fn no_quorum(&self) -> LockError {
        let nodes = &self.client.nodes;
        let mut failures: Vec<_> = self.request.look(|claim, _| claim.failures().collect());
        for (place, left) in nodes.in_grace(nodes.clock.now()) {
            if failures.iter().all(|(failed, _)| *failed != place) {
                failures.push((place, NodeError::RestartGrace { left }));
            }
        }
        LockError::NoQuorum(nodes.no_quorum(failures.into_iter()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A guard that took over still needs the claim.
        if matches!(self.phase(), Phase::Held) {
            return;
        }
        self.request.end();
    }
}
