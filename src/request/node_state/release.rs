//! Taking back what one node may have of a request, once that has ended or stands aside.

use std::time::Duration;

use super::{NodeState, may_be_done};
use crate::{
    error::NodeError,
    message::{Answer, Era, Released},
    time::Time,
};

/// The release of a request on a node that may have something of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Releasing {
    /// The number of the release under way, when it was sent, and how many questions had been answered.
    under_way: Option<(u32, Time, u32)>,
    confirmed: Option<Confirmed>,
    /// A release was sent of which it is not known whether it was carried out.
    perhaps: bool,
    failure: Option<NodeError>,
    /// When it failed last, and how often in a row.
    failed_at: Time,
    failures: u32,
}

/// A release that a node confirmed.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    sent: Time,
    /// How many questions the node had answered by then.
    heard: u32,
    /// What the first one found; `None` if an earlier one may have been carried out.
    had: Option<Released>,
    /// What the last one found.
    found: Released,
    era: Era,
}

/// What a release has come to on a node.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// Not known yet.
    Open,
    /// Confirmed, but what is under way on an earlier connection may take the vote again.
    Shaky,
    /// With what it found; `None` if that is not known.
    Confirmed(Option<Released>),
    Failed(NodeError),
}

/// The pause before a node that failed to confirm a release is asked again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl NodeState {
    /// A release is sent.
    pub(crate) fn ask_release(&mut self, stamp: u32, now: Time) {
        let heard = self.heard;
        let release = self.release.get_or_insert_default();
        release.under_way = Some((stamp, now, heard));
    }

    /// Whether `stamp` is the release under way.
    pub(super) fn releases(&self, stamp: u32) -> bool {
        let release = self.release.as_ref().and_then(|release| release.under_way);
        release.is_some_and(|(asked, ..)| asked == stamp)
    }

    /// Whether a release is under way.
    pub(crate) fn releasing(&self) -> bool {
        let release = self.release.as_ref();
        release.is_some_and(|release| release.under_way.is_some())
    }

    /// The release `stamp` was answered, or was not. False if it is none that is waited for.
    pub(crate) fn on_released(
        &mut self,
        stamp: u32,
        now: Time,
        outcome: Result<Answer<Released>, NodeError>,
    ) -> bool {
        let Some(release) = &mut self.release else {
            return false;
        };
        let Some((_, _, heard)) = release.under_way.take_if(|(asked, ..)| *asked == stamp) else {
            return false;
        };
        match outcome {
            Ok(Answer { sent, era, value }) => {
                let first = release.confirmed.map(|confirmed| confirmed.had);
                let known = !release.perhaps || value != Released::Nothing;
                release.confirmed = Some(Confirmed {
                    sent,
                    heard,
                    had: first.unwrap_or(known.then_some(value)),
                    found: value,
                    era,
                });
                release.failure = None;
                release.failures = 0;
            }
            Err(error) => {
                release.perhaps |= may_be_done(&error);
                release.failure = Some(error);
                release.failed_at = now;
                release.failures = release.failures.saturating_add(1);
            }
        }
        true
    }

    /// A release may have been carried out of which nothing was heard.
    pub(crate) fn released_perhaps(&mut self) {
        self.release.get_or_insert_default().perhaps = true;
    }

    /// When the next release is due; `None` if none is, or one is under way.
    pub(crate) fn release_due(&self) -> Option<Time> {
        if !self.touched() || self.releasing() || self.is_released() {
            return None;
        }
        let Some(release) = &self.release else {
            return Some(Time::default());
        };
        if release.failure.is_some() {
            let pause = FIRST_PAUSE * (1 << (release.failures - 1).min(5));
            return Some(release.failed_at.plus(pause.min(LONGEST_PAUSE)));
        }
        match release.confirmed {
            // What may be carried out until then may make something again.
            Some(_) => Some(self.quiet().after),
            None => Some(Time::default()),
        }
    }

    /// Whether nothing is left there, and nothing can be made again.
    pub(crate) fn is_released(&self) -> bool {
        if !self.touched() {
            return true;
        }
        let quiet = self.quiet();
        let confirmed = self.release.as_ref().and_then(|release| release.confirmed);
        confirmed.is_some_and(
            |Confirmed {
                 sent,
                 heard,
                 found,
                 era,
                 ..
             }| {
                let in_order = quiet.heard == heard
                    && (quiet.after <= sent || era.pushes && !self.may_take(era, sent));
                let first = quiet.after_find.is_some_and(|after| after <= sent);
                in_order || found != Released::Nothing && first
            },
        )
    }

    /// Whether that has failed so often that it may never come.
    pub(crate) fn release_fails(&self, times: u32) -> bool {
        let release = self.release.as_ref();
        release.is_some_and(|release| release.failures >= times)
    }

    /// What has come of it for whoever waits.
    pub(crate) fn release_outcome(&self, now: Time) -> Outcome {
        let Some(release) = &self.release else {
            return Outcome::Open;
        };
        match (release.confirmed, &release.failure) {
            (Some(Confirmed { era, .. }), _) if self.may_take(era, now) => Outcome::Shaky,
            (Some(Confirmed { had, .. }), _) => Outcome::Confirmed(had),
            (None, Some(error)) => Outcome::Failed(error.clone()),
            (None, None) => Outcome::Open,
        }
    }

    /// Somebody waits for it now: failures count from here on, and it is tried again at once.
    pub(crate) fn release_anew(&mut self) {
        if let Some(release) = &mut self.release {
            release.failures = u32::from(release.failure.is_some());
            release.failed_at = Time::default();
        }
    }

    /// It goes on under a newer id, which takes the place of all that was there.
    pub(crate) fn resume(&mut self) {
        self.release = None;
    }
}
