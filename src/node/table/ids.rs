//! What a stored id says of its request: its other generations, and where its process listens.

use std::sync::Arc;

use super::{Publish, Push};
use crate::holder::{HolderId, Parts};

/// How many older generations of a request a newer one replaces.
const OLDER: u32 = 8;

/// Tells a waiter of its vote, or with zeros that it should look. Answers whether it heard; `None` if that is
/// unknown, or if it polls.
pub(super) fn tell(id: &Arc<str>, waiter_end: u64, seq: u64, publish: Publish<'_>) -> Option<bool> {
    publish(&Push {
        channel: channel(id)?,
        id: id.clone(),
        waiter_end,
        seq,
    })
}

/// Where the process of a waiter listens; `None` if it polls.
pub(super) fn channel(id: &str) -> Option<String> {
    Parts::of(id)?.channel()
}

/// Whether a stored value belongs to the request of `id`, in whatever generation.
pub(super) fn same_request(stored: &str, id: &HolderId) -> bool {
    Parts::of(stored).is_some_and(|stored| stored.uuid == id.uuid())
}

/// The ids under which the same request may stand from before it gave a vote back.
pub(super) fn older(id: &HolderId) -> impl Iterator<Item = Arc<str>> {
    let first = id.generation().saturating_sub(OLDER);
    (first..id.generation()).map(|generation| id.at(generation))
}

/// The ids under which the same request may stand already, if a call comes late.
pub(super) fn later(id: &HolderId) -> impl Iterator<Item = Arc<str>> {
    (1..=OLDER).map(|more| id.at(id.generation().saturating_add(more)))
}
