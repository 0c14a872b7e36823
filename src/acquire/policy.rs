//! How long a caller waits, and how the lease is to be held.

use std::time::Duration;

use crate::{client::Client, time::Time};

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WaitPolicy {
    /// As long as the request moves forward at least this often; `None`: for ever.
    WhileMoving(Option<Duration>),
    Until(Time),
}

impl WaitPolicy {
    pub(crate) fn of_settings(client: &Client) -> Self {
        Self::WhileMoving(client.nodes.config.patience())
    }
}

/// How the lease is to be held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HoldOptions {
    pub(crate) auto_extend: bool,
    pub(crate) max_hold: Option<Duration>,
}

impl HoldOptions {
    pub(crate) fn of_settings(client: &Client) -> Self {
        Self {
            auto_extend: client.nodes.config.auto_extend,
            max_hold: client.nodes.config.max_hold,
        }
    }
}
