//! What the lock does, whatever its nodes are. Each of these runs on memory nodes and on real servers.

mod auto_extend;
mod errors;
mod extend;
mod fifo;
mod lock;
mod nodes;
mod waiters;
