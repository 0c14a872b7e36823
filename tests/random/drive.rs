//! Ways to treat a future: await it, drop it half-way, keep it unpolled, have another task poll it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use crate::{chance::Chance, settings::Plan};

pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Await,
    DropAfterPolls(u32),
    DropAfter(Duration),
    /// Polled that often, kept for that long, then awaited or dropped.
    Keep(u32, Duration, bool),
    /// Awaited by another task.
    Elsewhere,
}

impl Way {
    pub(crate) fn draw(chance: &mut Chance, plan: &Plan, ttl: Duration) -> Self {
        let span = |chance: &mut Chance| {
            let base = match chance.below(3) {
                0 => plan.slowest() * 3 + Duration::from_millis(2),
                1 => ttl / 2,
                _ => ttl * 2,
            };
            base * u32::try_from(chance.below(101)).unwrap() / 100
        };
        match chance.below(12) {
            0 | 1 if plan.cancel => {
                Self::DropAfterPolls(1 + u32::try_from(chance.below(5)).unwrap())
            }
            2 | 3 if plan.cancel => Self::DropAfter(span(chance)),
            4..=6 if plan.keep => {
                let polls = 1 + u32::try_from(chance.below(3) * chance.below(3)).unwrap();
                Self::Keep(polls, span(chance), chance.once_in(2))
            }
            7 => Self::Elsewhere,
            _ => Self::Await,
        }
    }

    /// Whether the future is polled whenever it wants to be, to its end.
    pub(crate) fn is_steady(self) -> bool {
        matches!(self, Self::Await | Self::Elsewhere)
    }
}

/// Polls a future a few times.
pub(crate) struct Few<'a, F: ?Sized>(pub(crate) Pin<&'a mut F>, pub(crate) u32);

impl<F: Future + ?Sized> Future for Few<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let left = self.1.saturating_sub(1);
        match self.0.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => {
                self.1 = left;
                Poll::Pending
            }
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Treats `future` in this way; `None` if it was dropped.
pub(crate) async fn drive<T: 'static>(mut future: Boxed<T>, way: Way) -> Option<T> {
    match way {
        Way::Await => Some(future.await),
        Way::DropAfterPolls(polls) => {
            // One that is not woken again must not hang its owner.
            timeout(Duration::from_secs(5), Few(future.as_mut(), polls))
                .await
                .ok()
                .flatten()
        }
        Way::DropAfter(span) => timeout(span, future).await.ok(),
        Way::Keep(polls, span, resumed) => {
            let few = timeout(Duration::from_secs(5), Few(future.as_mut(), polls)).await;
            if let Some(value) = few.ok().flatten() {
                return Some(value);
            }
            sleep(span).await;
            if resumed { Some(future.await) } else { None }
        }
        Way::Elsewhere => {
            let task = tokio::task::spawn_local(future);
            let _abort = AbortOnDrop(task.abort_handle());
            match task.await {
                Ok(value) => Some(value),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => None,
            }
        }
    }
}
