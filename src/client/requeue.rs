//! Finds tasks that give up their place in the line of a resource again and again.
//!
//! `select!` in a loop around `lock` is the usual way to do that: each turn of the loop drops the future, and
//! with it the place. Only the last few tasks that left are kept, so this costs nothing to a task that is served.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::task::Id;

/// How many of the tasks that left last are remembered.
const KEPT: usize = 64;

/// Leaving so many times in a row is worth a warning, and each doubling another.
const MANY: u32 = 5;

/// The tasks that left last, the latest at the end.
#[derive(Debug, Default)]
pub(crate) struct RequeueDetector(Mutex<VecDeque<Leaver>>);

#[derive(Debug)]
struct Leaver {
    /// `None` outside of any task, as in `block_on`.
    task: Option<Id>,
    resource: String,
    times: u32,
}

impl Leaver {
    fn is(&self, task: Option<Id>, resource: &str) -> bool {
        self.task == task && self.resource == resource
    }
}

impl RequeueDetector {
    /// The task that runs now.
    pub(crate) fn task() -> Option<Id> {
        tokio::task::try_id()
    }

    /// A request of `task` left the line. Tells how many in a row have, if that is worth a warning.
    pub(crate) fn left(&self, task: Option<Id>, resource: &str) -> Option<u32> {
        let mut leavers = self.leavers();
        let known = leavers.iter().position(|leaver| leaver.is(task, resource));
        let mut leaver = known
            .and_then(|place| leavers.remove(place))
            .unwrap_or_else(|| Leaver {
                task,
                resource: resource.to_owned(),
                times: 0,
            });
        leaver.times = leaver.times.saturating_add(1);
        let times = leaver.times;
        if leavers.len() >= KEPT {
            leavers.pop_front();
        }
        leavers.push_back(leaver);
        (times % MANY == 0 && (times / MANY).is_power_of_two()).then_some(times)
    }

    /// A request of `task` got what it waited for.
    pub(crate) fn served(&self, task: Option<Id>, resource: &str) {
        self.leavers().retain(|leaver| !leaver.is(task, resource));
    }

    fn leavers(&self) -> MutexGuard<'_, VecDeque<Leaver>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_time_in_a_row_is_told_and_then_each_doubling() {
        let leavers = RequeueDetector::default();
        let told = (0..45).filter_map(|_| leavers.left(None, "a"));
        assert_eq!(told.collect::<Vec<_>>(), [5, 10, 20, 40]);
    }

    #[test]
    fn whoever_is_served_in_between_does_nothing_wrong() {
        let leavers = RequeueDetector::default();
        for _ in 0..20 {
            for _ in 0..4 {
                assert_eq!(leavers.left(None, "a"), None);
            }
            leavers.served(None, "a");
        }
    }

    #[test]
    fn only_the_last_few_are_remembered() {
        let leavers = RequeueDetector::default();
        for place in 0..1000 {
            leavers.left(None, &place.to_string());
        }
        assert_eq!(leavers.leavers().len(), KEPT);
    }
}
