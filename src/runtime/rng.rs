//! The only source of randomness.
//!
//! Drawn from the operating system at every call, so processes forked from one another never share an id. The
//! uuid crate's own way there does not promise that: any crate of a build can turn a generator of its own on.
//! Only the simulation has a source of its own, so that a run replays.

use std::time::Duration;

use uuid::Uuid;

/// A source of random bits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rng;

impl Rng {
    /// A random UUID (version 4).
    #[allow(clippy::disallowed_methods)]
    pub(crate) fn uuid(self) -> Uuid {
        #[cfg(test)]
        if let Some(draw) = SOURCE.get() {
            return draw();
        }
        let mut bytes = [0; 16];
        match getrandom::fill(&mut bytes) {
            Ok(()) => uuid::Builder::from_random_bytes(bytes).into_uuid(),
            // There is no other source to turn to but the one that the uuid crate knows.
            Err(_) => Uuid::new_v4(),
        }
    }

    /// A span between zero and `most`.
    pub(crate) fn up_to(self, most: Duration) -> Duration {
        let draw = u32::from_be_bytes(first_four(self.uuid()));
        most.mul_f64(f64::from(draw) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
thread_local! {
    /// Where this thread draws from instead, if anything is set.
    pub(crate) static SOURCE: std::cell::Cell<Option<fn() -> Uuid>> = const { std::cell::Cell::new(None) };
}

fn first_four(uuid: Uuid) -> [u8; 4] {
    let [a, b, c, d, ..] = *uuid.as_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_stay_within_their_bound() {
        let most = Duration::from_millis(250);
        assert!((0..100).all(|_| Rng.up_to(most) <= most));
    }
}
