//! What every node must do.

mod differential;
mod faults;
mod handed;
mod handshake;
mod redis;
mod rig;
