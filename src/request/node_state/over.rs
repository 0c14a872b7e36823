//! What a question went over: enough of a connection to tell an answer that overtakes from one that does not.

use crate::message::Era;

/// A run of a server and a connection to it: enough of both to tell them from others of the same second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Over {
    /// 0: any.
    run: u16,
    /// 0: not one alone.
    epoch: u16,
}

impl Over {
    pub(super) fn of(era: Option<Era>) -> Self {
        era.map_or(Self::default(), |Era { run, epoch, .. }| Self {
            run: run as u16,
            epoch: epoch as u16,
        })
    }

    /// Whether both may be the same run.
    pub(super) fn same_run(self, other: Self) -> bool {
        self.run == other.run || self.run == 0 || other.run == 0
    }

    /// This and, if what went over it may still be carried out, an earlier one.
    pub(super) fn and(self, earlier: Option<Self>) -> Self {
        match earlier {
            Some(earlier) if earlier != self && earlier.same_run(self) => Self {
                run: if earlier.run == self.run { self.run } else { 0 },
                epoch: 0,
            },
            _ => self,
        }
    }
}
