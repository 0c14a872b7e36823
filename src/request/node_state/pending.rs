//! Which commands to one node may still be carried out.
//!
//! A node can carry out a command long after its client has stopped waiting for the answer. A release is
//! final only once everything that was sent before it is known to be over (S4, C3).

use crate::{message::Incarnation, time::Time};

/// The commands to one node that may still be carried out. Releases are not among them: they take nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// The command whose answer the request awaits.
    awaited: Option<Awaited>,
    /// Whether any command may have reached the node.
    touched: bool,
    /// How many commands have ended, in whatever way.
    ended: u32,
    /// Set while only one command may have reached the node: `stray_until` as it was before that command.
    before_first: Option<Time>,
    /// Until when commands whose answers are no longer awaited may be carried out.
    stray_until: Time,
    /// Until when any command that can take the vote may be carried out, the awaited one included.
    takes_until: Time,
    /// The route of those commands.
    takes_over: Route,
    /// Until when the command that ended last could be carried out.
    last_deadline: Time,
}

/// The command whose answer is awaited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    stamp: u32,
    pub(super) sent: Time,
    /// Until when it may be carried out, if it can take the vote or a place.
    takes_until: Time,
}

/// When a node has carried out everything that it was sent. A release that is sent after that is final.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    /// Until then an unanswered command may still be carried out.
    pub(super) after: Time,
    /// How many commands have ended: an answer that came after the release was sent does not prove that its
    /// command was carried out before the release.
    pub(super) ended: u32,
    /// If only one command was ever sent: takes the place of `after` once a release has found something. What it found
    /// must come from that command, so that command has been carried out.
    pub(super) after_find: Option<Time>,
}

impl Pending {
    pub(super) fn new() -> Self {
        Self {
            before_first: Some(Time::default()),
            ..Self::default()
        }
    }

    /// A command is sent over the present connection. If it can take the vote or a place, then until
    /// `takes_until`.
    pub(super) fn send(
        &mut self,
        stamp: u32,
        takes_until: Option<Time>,
        over: Option<Incarnation>,
        now: Time,
    ) {
        self.abandon();
        if let Some(until) = takes_until {
            let earlier = (self.takes_until > now).then_some(self.takes_over);
            self.takes_over = Route::of(over).and(earlier);
            self.takes_until = self.takes_until.max(until);
        }
        self.before_first = (!self.touched).then_some(self.stray_until);
        self.awaited = Some(Awaited {
            stamp,
            sent: now,
            takes_until: takes_until.unwrap_or_default(),
        });
    }

    /// The answer to the command under way is no longer awaited. The command may be carried out all the same.
    pub(super) fn abandon(&mut self) {
        if let Some(awaited) = self.awaited.take() {
            self.touched = true;
            self.stray_until = self.stray_until.max(awaited.takes_until);
        }
    }

    /// The command `stamp` has ended; `None` if its answer is not awaited. `sent` is false if the command never
    /// left this client.
    pub(super) fn end(&mut self, stamp: u32, sent: bool) -> Option<Awaited> {
        let awaited = self.awaited.take_if(|awaited| awaited.stamp == stamp)?;
        self.last_deadline = if sent {
            awaited.takes_until
        } else {
            Time::default()
        };
        self.touched |= sent;
        self.ended = self.ended.wrapping_add(1);
        Some(awaited)
    }

    /// The command that ended last was answered, so the node has carried it out.
    pub(super) fn answered(&mut self) {
        self.touched = true;
        self.takes_until = self.takes_until.min(self.stray_until);
    }

    /// The command that ended last was not answered. If it `may_run`, then until its deadline.
    pub(super) fn unanswered(&mut self, may_run: bool) {
        if may_run {
            self.stray_until = self.stray_until.max(self.last_deadline);
        }
        self.takes_until = self.takes_until.min(self.stray_until);
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.is_some()
    }

    pub(super) fn awaits(&self, stamp: u32) -> bool {
        self.awaited.is_some_and(|awaited| awaited.stamp == stamp)
    }

    pub(super) fn touched(&self) -> bool {
        self.touched || self.is_awaited()
    }

    pub(super) fn ended(&self) -> u32 {
        self.ended
    }

    /// Whether an earlier command can still take the vote after a release was answered over `over`: the server
    /// has carried out what was sent before over the same connection, and what was sent to an earlier run of
    /// it died with that run.
    pub(super) fn may_take(&self, over: Incarnation, now: Time) -> bool {
        let answered = Route::of(Some(over));
        let other = self.takes_over != answered && self.takes_over.same_run(answered);
        self.takes_until > now && other
    }

    pub(super) fn settled(&self) -> Settled {
        let awaited = self.awaited.map(|awaited| awaited.takes_until);
        Settled {
            after: self.stray_until.max(awaited.unwrap_or_default()),
            ended: self.ended,
            after_find: self.before_first,
        }
    }
}

/// The connection that commands were sent over, in short: enough to tell whether the server has carried them out
/// before what it answers over another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Route {
    /// The run of the server; 0: any.
    run: u16,
    /// The connection; 0: more than one, or not known.
    epoch: u16,
}

impl Route {
    fn of(incarnation: Option<Incarnation>) -> Self {
        incarnation.map_or(Self::default(), |Incarnation { run, epoch, .. }| Self {
            run: run as u16,
            // Never 0, which stands for several connections.
            epoch: (epoch % u64::from(u16::MAX)) as u16 + 1,
        })
    }

    /// Whether both may lead to the same run of the server.
    fn same_run(self, other: Self) -> bool {
        self.run == other.run || self.run == 0 || other.run == 0
    }

    /// This route and an earlier one over which a command may still be carried out.
    fn and(self, earlier: Option<Self>) -> Self {
        match earlier {
            Some(earlier) if earlier != self && earlier.same_run(self) => Self {
                run: if earlier.run == self.run { self.run } else { 0 },
                epoch: 0,
            },
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn c3_what_was_asked_is_over_if_it_went_over_the_same_connection_or_to_an_earlier_run() {
        let route = Incarnation::test;
        let now = Time::default().plus(Duration::from_secs(9));
        let later = now.plus(Duration::from_secs(1));
        let sent = |routes: &[Option<Incarnation>]| {
            let mut pending = Pending::new();
            for (stamp, over) in (0..).zip(routes) {
                pending.send(stamp, Some(later), *over, now);
            }
            pending
        };
        let one = sent(&[Some(route(3, 1))]);
        assert!(!one.may_take(route(3, 1), now));
        assert!(one.may_take(route(3, 2), now));
        assert!(!one.may_take(route(4, 2), now));
        assert!(!one.may_take(route(3, 2), later));
        assert!(one.may_take(route(0, 2), now), "the run is not known");
        let two = sent(&[Some(route(3, 1)), Some(route(3, 2))]);
        assert!(
            two.may_take(route(3, 2), now),
            "the first went over another"
        );
        assert!(!two.may_take(route(4, 3), now));
        let restarted = sent(&[Some(route(3, 1)), Some(route(4, 2))]);
        assert!(!restarted.may_take(route(4, 2), now));
        let unknown = sent(&[Some(route(3, 1)), None]);
        assert!(unknown.may_take(route(3, 1), now) && unknown.may_take(route(4, 2), now));
    }
}
