//! A ticket: a place in line, in the user's hands.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{
    acquire::{
        place::Place,
        policy::{HoldOptions, WaitPolicy},
    },
    client::entry::View,
    error::{LockError, ReleaseError},
    guard::LockGuard,
};
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};

/// A place in line, kept until it is used, left or dropped.
///
/// [`FifoRedlock::enqueue`](crate::FifoRedlock::enqueue) returns a ticket once a quorum has recorded it. Requests
/// that are made after that are served later. The place is kept in the background, whether or not
/// [`acquire`](Self::acquire) is being awaited.
///
/// If the turn comes and `acquire` is not awaited within one `fifo_ephemeral_ttl`, or within the ttl if that is
/// shorter, the turn passes to the next in line. The ticket keeps its number, and is first again once `acquire` is
/// awaited.
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
    /// The last position, once the ticket is spent and nothing of the request is kept.
    last: u64,
}

impl Ticket {
    pub(crate) fn new(place: Place) -> Self {
        Self {
            place: Some(place),
            last: 0,
        }
    }

    /// Waits for the turn.
    ///
    /// Gives up after `fifo_retry_count` polls in a row without moving forward (12 s with the defaults), counted from
    /// when the ticket last moved, not from this call. The place is lost then.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: drop the future and call again, and the place in line is kept.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`] when the time to wait is over, [`LockError::NoQuorum`] if too few nodes can be
    /// reached by then, [`LockError::ShutDown`] when the client is shut down, and
    /// [`LockError::TicketSpent`] if the ticket has given a guard, or an error, before. [`LockError::Stopped`],
    /// each time, if the client's runtime has ended.
    pub async fn acquire(&mut self) -> Result<LockGuard, LockError> {
        let place = self.place.as_mut().ok_or(LockError::TicketSpent)?;
        let patience = WaitPolicy::of_settings(place.client());
        let hold = HoldOptions::of_settings(place.client());
        let token = |guard: &LockGuard| Some(guard.fencing_token());
        let (resource, client) = (place.resource().clone(), place.client().clone());
        let turn = place.wait(patience, hold);
        let call = client
            .nodes
            .telling("acquire", resource.name(), turn, token);
        let outcome = call.await;
        // A client that has stopped takes nothing back: what becomes of the place must not look settled.
        if !matches!(outcome, Err(LockError::Stopped(_))) {
            self.last = self.position();
            self.place = None;
        }
        outcome
    }

    /// How many waiters are ahead, as last heard; 0 means next.
    pub fn position(&self) -> u64 {
        self.place.as_ref().map_or(self.last, Place::position)
    }

    /// The position now and at every change, until the ticket is used or given up.
    pub fn positions(&self) -> Positions {
        let Some(entry) = self.place.as_ref().and_then(Place::entry) else {
            return Positions(stream::empty().boxed());
        };
        entry.follow();
        let start = (entry.view(), None);
        Positions(stream::unfold(start, next_position).fuse().boxed())
    }

    /// Leaves the line, and waits until a quorum of the nodes has confirmed.
    ///
    /// # Cancel safety
    ///
    /// If this future is dropped, the leaving goes on in the background.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Unconfirmed`] if no quorum answered; the clean-up goes on all the same.
    /// [`ReleaseError::Stopped`] if the client's runtime has ended.
    pub async fn leave(mut self) -> Result<(), ReleaseError> {
        let Some(place) = self.place.take() else {
            return Ok(());
        };
        place.leave().await
    }
}

/// The next position of a ticket, and what the one after that follows from.
async fn next_position((view, last): (View, Option<u64>)) -> Option<(u64, (View, Option<u64>))> {
    let position = view.next_position(last).await?;
    Some((position, (view, Some(position))))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::FifoRedlock;

    #[tokio::test(start_paused = true)]
    async fn a_spent_ticket_keeps_nothing_of_the_client() {
        let redlock = FifoRedlock::in_memory(1);
        let nodes = std::sync::Arc::downgrade(&redlock.client.nodes);
        let mut ticket = redlock.enqueue("r", Duration::from_secs(10)).await.unwrap();
        let guard = ticket.acquire().await.unwrap();
        assert_eq!(
            (ticket.position(), ticket.positions().next().await),
            (0, None)
        );
        guard.release().await.unwrap();
        redlock.shutdown().await;
        drop(redlock);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(nodes.upgrade().is_none());
    }
}
