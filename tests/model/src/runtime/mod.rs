//! What stands for the crate's sources of time and chance.

pub(crate) mod rng;
