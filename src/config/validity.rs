//! How long a holder may trust a lease: what Redlock calls validity.
//!
//! From the Redlock algorithm (redis.io, "Distributed Locks with Redis"): a lease of `ttl` that was
//! *sent* for at some moment is trusted until that moment plus `ttl` less a drift, which covers clocks
//! that run at different speeds and the granularity of the servers' expiry.

use std::time::Duration;

/// The servers expire keys by the millisecond; one more for rounding on the way.
const GRANULARITY: Duration = Duration::from_millis(2);

/// What is taken off `ttl`: `factor` of it, plus two milliseconds.
pub(crate) fn drift(ttl: Duration, factor: f64) -> Duration {
    ttl.mul_f64(factor).saturating_add(GRANULARITY)
}

/// The inverse of [`of`]: the ttl whose validity is this long.
pub(crate) fn undrifted(validity: Duration, factor: f64) -> Duration {
    validity.saturating_add(GRANULARITY).div_f64(1.0 - factor)
}

/// For how long a lease of `ttl` may be trusted, from when it was sent for.
pub(crate) fn of(ttl: Duration, factor: f64) -> Duration {
    ttl.saturating_sub(drift(ttl, factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_a_hundredth_and_two_milliseconds() {
        assert_eq!(
            drift(Duration::from_secs(10), 0.01),
            Duration::from_millis(102)
        );
    }

    #[test]
    fn a_ttl_is_what_its_validity_was_taken_from() {
        for factor in [0.0, 0.01, 0.5] {
            let ttl = Duration::from_millis(9000);
            let back = undrifted(of(ttl, factor), factor);
            assert!(back.abs_diff(ttl) < Duration::from_micros(1), "{back:?}");
        }
    }

    #[test]
    fn a_ttl_below_its_drift_is_never_valid() {
        assert_eq!(of(Duration::from_millis(1), 0.01), Duration::ZERO);
    }
}
