//! What every node must do: a file per operation, run on both kinds, and what only one kind can do wrong.

mod differential;
mod enqueue;
mod extend;
mod faults;
mod handed;
mod handshake;
mod inspect;
mod many_dead;
mod redis;
mod release;
mod rig;
mod subject;
