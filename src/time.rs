//! Moments in time, as the core computes with them. They come from the [`clock`](crate::runtime::clock).

use std::time::Duration;

/// A moment, as the distance from the origin of the clock it came from, in nanoseconds: 584 years of them, in
/// half of what a `Duration` takes. A waiter keeps many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(u64);

impl Time {
    /// The origin of the clock: before everything.
    pub(crate) const ORIGIN: Self = Self(0);

    /// The time that passed from `earlier` to this moment, zero if it lies ahead.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment plus `span`; the end of time rather than an overflow.
    pub(crate) fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }

    /// This moment less `span`; the origin rather than an underflow.
    pub(crate) fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(span)))
    }

    /// This moment rounded down to a multiple of `grid`, so that what is due about the same time is
    /// due at the same time and shares a request.
    pub(crate) fn aligned(self, grid: Duration) -> Self {
        let grid = nanos(grid).max(1);
        Self(self.0 / grid * grid)
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_saturate_instead_of_wrapping() {
        let start = Time::default();
        let later = start.plus(Duration::from_secs(1));
        assert_eq!(start.since(later), Duration::ZERO);
        assert_eq!(later.plus(Duration::MAX), start.plus(Duration::MAX));
        assert_eq!(start.minus(Duration::from_secs(1)), start);
    }

    #[test]
    fn aligned_times_of_one_window_are_equal() {
        let grid = Duration::from_millis(100);
        let at = |ms| {
            Time::default()
                .plus(Duration::from_millis(ms))
                .aligned(grid)
        };
        assert_eq!(at(201), at(299));
        assert_ne!(at(299), at(300));
    }
}
