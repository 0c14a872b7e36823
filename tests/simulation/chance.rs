//! Where all chance of a run comes from: one seed.

use std::{cell::Cell, time::Duration};

use uuid::Uuid;

/// splitmix64: enough for choosing faults.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// Another stream of numbers.
    pub(super) fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// True in `of_hundred` of a hundred cases.
    pub(super) fn is(&mut self, of_hundred: u64) -> bool {
        self.below(100) < of_hundred
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    pub(super) fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.below(most + 1))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

thread_local! {
    static UUIDS: Cell<u64> = const { Cell::new(0) };
    /// The call that is being polled. It is written into the uuids drawn meanwhile, so that whoever reads a
    /// holder id on a node knows whose it is.
    pub(super) static CALL: Cell<u16> = const { Cell::new(0) };
}

/// The uuids of this thread follow from `seed` from now on.
pub(super) fn seed_uuids(seed: u64) {
    UUIDS.set(seed ^ 0x5851_f42d_4c95_7f2d);
    crate::runtime::rng::SOURCE.set(Some(draw));
}

fn draw() -> Uuid {
    let mut chance = Chance(UUIDS.get());
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&chance.next().to_be_bytes());
    bytes[8..].copy_from_slice(&chance.next().to_be_bytes());
    bytes[4..6].copy_from_slice(&CALL.get().to_be_bytes());
    UUIDS.set(chance.0);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// The call that a holder id belongs to, and its generation.
pub(super) fn call_of(id: &str) -> Option<(u16, u32)> {
    let generation = id.get(37..)?.split(':').next()?.parse().ok()?;
    Some((u16::from_str_radix(id.get(9..13)?, 16).ok()?, generation))
}
