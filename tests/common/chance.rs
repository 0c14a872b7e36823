//! Chance from a seed.

use std::time::Duration;

/// splitmix64: enough for choosing faults.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// The same draws for the same seed and the same user of it.
    pub(crate) fn new(seed: u64, user: u64) -> Self {
        let mut chance = Self(seed ^ user.rotate_left(32));
        // Neighbouring seeds are strangers after one draw.
        Self(chance.draw())
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// Whether something happens that does so once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// A span from `least` to just below `most` milliseconds.
    pub(crate) fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least))
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let bound = u64::try_from(last).expect("few") + 1;
            items.swap(last, usize::try_from(self.below(bound)).expect("few"));
        }
    }

    /// A place in a list of that many.
    pub(crate) fn place(&mut self, of: usize) -> usize {
        usize::try_from(self.below(u64::try_from(of).expect("few"))).expect("few")
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
