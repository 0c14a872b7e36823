//! Where time, chance and tasks come from. The simulation puts its own in their place.

pub(crate) mod clock;
pub(crate) mod rng;
pub(crate) mod task;
