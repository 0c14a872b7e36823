//! Releasing what one node may have of a request that has ended or is parked.

use std::time::Duration;

use super::{NodeState, may_have_run};
use crate::{
    error::NodeError,
    message::{Answer, Incarnation, Released},
    time::Time,
};

/// The release of a request on one node.
#[derive(Clone, Debug, Default)]
pub(super) struct Releasing {
    under_way: Option<UnderWay>,
    confirmed: Option<Confirmed>,
    /// Whether the node may have carried out a release without confirming it.
    perhaps: bool,
    failure: Option<NodeError>,
    /// When the release failed last, and how often in a row.
    failed_at: Time,
    failures: u32,
}

/// A release whose answer is awaited.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    stamp: u32,
    /// How many commands to the node had ended when it was sent.
    after: u32,
}

/// A release that the node confirmed.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    sent: Time,
    /// How many commands to the node had ended when it was sent.
    after: u32,
    /// What the first release found; `None` if an earlier one may have been carried out.
    had: Option<Released>,
    /// What the last release found.
    found: Released,
    over: Incarnation,
}

/// What the release has come to on a node.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// Not known yet.
    Open,
    /// Confirmed, but a command over an earlier connection may take the vote again.
    Shaky,
    /// Confirmed, with what the release found; `None` if that is not known.
    Confirmed(Option<Released>),
    Failed(NodeError),
}

/// The pause before a node that did not confirm is asked again. It doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl NodeState {
    /// A release is sent.
    pub(crate) fn send_release(&mut self, stamp: u32) {
        let after = self.pending.ended();
        let release = self.release.get_or_insert_default();
        release.under_way = Some(UnderWay { stamp, after });
    }

    /// Whether `stamp` is the release under way.
    pub(super) fn releases(&self, stamp: u32) -> bool {
        let release = self.release.as_ref();
        release.is_some_and(|release| release.is(stamp))
    }

    fn is_releasing(&self) -> bool {
        let release = self.release.as_ref();
        release.is_some_and(|release| release.under_way.is_some())
    }

    /// The release `stamp` has ended. False if its answer is not awaited.
    pub(crate) fn on_released(
        &mut self,
        stamp: u32,
        now: Time,
        outcome: Result<Answer<Released>, NodeError>,
    ) -> bool {
        let Some(release) = &mut self.release else {
            return false;
        };
        if !release.is(stamp) {
            return false;
        }
        let Some(UnderWay { after, .. }) = release.under_way.take() else {
            return false;
        };
        match outcome {
            Ok(Answer {
                sent,
                incarnation,
                value,
            }) => {
                let first = release.confirmed.map(|confirmed| confirmed.had);
                let known = !release.perhaps || value != Released::Nothing;
                release.confirmed = Some(Confirmed {
                    sent,
                    after,
                    had: first.unwrap_or(known.then_some(value)),
                    found: value,
                    over: incarnation,
                });
                release.failure = None;
                release.failures = 0;
            }
            Err(error) => {
                release.perhaps |= may_have_run(&error);
                release.failure = Some(error);
                release.failed_at = now;
                release.failures = release.failures.saturating_add(1);
            }
        }
        true
    }

    /// The node may have carried out a release whose answer did not come.
    pub(crate) fn may_have_released(&mut self) {
        self.release.get_or_insert_default().perhaps = true;
    }

    /// When the next release is due; `None` if none is, or one is under way.
    pub(crate) fn release_due(&self) -> Option<Time> {
        if self.is_releasing() || self.is_released() {
            return None;
        }
        let Some(release) = &self.release else {
            return Some(Time::default());
        };
        if release.failure.is_some() {
            let pause = FIRST_PAUSE * (1 << (release.failures - 1).min(5));
            return Some(release.failed_at.plus(pause.min(LONGEST_PAUSE)));
        }
        // A command that is carried out until then may take something again.
        let confirmed = release.confirmed.map(|_| self.pending.settled().after);
        Some(confirmed.unwrap_or_default())
    }

    /// Whether the node has nothing of the request, and nothing can come back.
    pub(crate) fn is_released(&self) -> bool {
        if !self.touched() {
            return true;
        }
        let settled = self.pending.settled();
        let release = self.release.as_ref();
        let Some(confirmed) = release.and_then(|release| release.confirmed) else {
            return false;
        };
        let Confirmed {
            sent,
            after,
            found,
            over,
            ..
        } = confirmed;
        let all_ran = settled.after <= sent || over.pushes && !self.pending.may_take(over, sent);
        let in_order = settled.ended == after && all_ran;
        let first = settled.after_find.is_some_and(|after| after <= sent);
        in_order || found != Released::Nothing && first
    }

    /// Whether the release has failed so often in a row that it may never be confirmed.
    pub(crate) fn release_fails(&self, times: u32) -> bool {
        let release = self.release.as_ref();
        release.is_some_and(|release| release.failures >= times)
    }

    /// What the release has come to, for those who await it.
    pub(crate) fn release_outcome(&self, now: Time) -> Outcome {
        let Some(release) = &self.release else {
            return Outcome::Open;
        };
        match (release.confirmed, &release.failure) {
            (Some(Confirmed { over, .. }), _) if self.pending.may_take(over, now) => Outcome::Shaky,
            (Some(Confirmed { had, .. }), _) => Outcome::Confirmed(had),
            (None, Some(error)) => Outcome::Failed(error.clone()),
            (None, None) => Outcome::Open,
        }
    }

    /// Somebody awaits the release now: failures count from here on, and it is tried again at once.
    pub(crate) fn release_anew(&mut self) {
        if let Some(release) = &mut self.release {
            release.failures = u32::from(release.failure.is_some());
            release.failed_at = Time::default();
        }
    }

    /// The request goes on under a newer id, which replaces what the older ones had.
    pub(crate) fn resume(&mut self) {
        self.release = None;
    }
}

impl Releasing {
    fn is(&self, stamp: u32) -> bool {
        self.under_way
            .is_some_and(|under_way| under_way.stamp == stamp)
    }
}
