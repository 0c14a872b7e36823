//! The lease of a holder: for how long it can be trusted, how it is renewed, and how it is lost.

use std::time::Duration;

use crate::{
    error::LeaseLost,
    event::{EventKind, Fault},
    quorum::{Majority, NodeIndex},
    request::{End, Phase, Request, is_later, node_state::NodeState},
    resource::Ttl,
    time::Time,
};

/// What only a holder has.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    token: u64,
    /// When the guard was handed out.
    since: Time,
    renewal: Renewal,
    /// When `max_hold` ends the lease.
    ends: Option<Time>,
    /// When to warn that the lock is held for long.
    warns: Option<Time>,
    /// The validity that the last renewal gave; none before a quorum has the full ttl.
    renewed_until: Option<Time>,
    /// The stamp of the last command before the user asked for an extension, and for a check. Only commands with later
    /// stamps answer the user.
    extend_asked: Option<u32>,
    check_asked: Option<u32>,
    /// Until when the lease is to last by all extensions that were asked for.
    wanted_until: Time,
}

/// How a held lease is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    Off,
    /// When a third of its validity is over.
    Third,
    /// At an interval of the user's.
    Every(Duration),
}

/// What the nodes say to an extension or a check by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The lease stands on a quorum.
    Stands,
    /// A quorum has it no more.
    Gone,
    /// Too few nodes have answered.
    Unknown,
}

/// By how much timers may be late in all between two renewals.
const TIMERS: Duration = Duration::from_millis(5);

impl Lease {
    pub(super) fn new(
        token: u64,
        renewal: Renewal,
        max_hold: Option<Duration>,
        long_hold: Option<Duration>,
        now: Time,
    ) -> Self {
        Self {
            token,
            since: now,
            renewal,
            ends: max_hold.map(|span| now.plus(span)),
            warns: long_hold.map(|span| now.plus(span)),
            renewed_until: None,
            extend_asked: None,
            check_asked: None,
            wanted_until: Time::default(),
        }
    }

    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    pub(crate) fn renews(&self) -> bool {
        self.renewal != Renewal::Off
    }

    /// When to warn that the lock is held for long.
    pub(super) fn warns(&self) -> Option<Time> {
        self.warns
    }

    /// How long after the send that it counts from a vote of `span` is to be renewed.
    pub(super) fn interval(&self, span: Duration) -> Duration {
        match self.renewal {
            Renewal::Off | Renewal::Third => span / 3,
            // An interval of the user's never takes the lease to its end: an answer may take a third.
            Renewal::Every(every) => every.min((span * 2 / 3).saturating_sub(TIMERS)),
        }
    }

    /// Until when the lease is to last by all extensions that were asked for.
    pub(super) fn wanted_until(&self) -> Time {
        self.wanted_until
    }

    /// Whether a node is still to answer the user's last extension.
    pub(super) fn is_extension_open(&self, node: &NodeState) -> bool {
        is_open(self.extend_asked, node.extended_stamp)
    }

    /// Whether a node is still to answer the user's last check.
    pub(super) fn is_check_open(&self, node: &NodeState) -> bool {
        is_open(self.check_asked, node.ended_stamp)
    }
}

/// Whether no command above `asked` has ended, where `done` was the last.
fn is_open(asked: Option<u32>, done: u32) -> bool {
    asked.is_some_and(|asked| !is_later(done, asked))
}

impl Request {
    pub(super) fn hold(
        &mut self,
        majority: Majority,
        now: Time,
        renewal: Renewal,
        max_hold: Option<Duration>,
    ) -> Majority {
        let token = majority.token();
        let lease = Lease::new(token, renewal, max_hold, self.config.long_hold, now);
        self.phase = Phase::Held(Box::new(lease));
        self.missed_turns = 0;
        let wait = now.since(self.made_at);
        self.emit(EventKind::Acquired { token, wait });
        majority
    }

    /// Until when the lease may be trusted; `now` if it may not.
    pub(crate) fn valid_until(&self, now: Time) -> Time {
        let votes = self.nodes.iter().filter_map(NodeState::vote);
        let valid = votes.map(|vote| vote.until).filter(|until| *until > now);
        let until = self.quorum.weakest(valid).unwrap_or(now);
        let ends = self.lease().and_then(|lease| lease.ends);
        ends.map_or(until, |ends| until.min(ends))
    }

    pub(super) fn time_left(&self, now: Time) -> Duration {
        self.valid_until(now).since(now)
    }

    /// Whether the lease stands at `now`, by the clock alone.
    pub(crate) fn is_held(&self, now: Time) -> bool {
        self.lease().is_some() && self.valid_until(now) > now
    }

    /// The user wants the lease to last `ttl` from now on, on all nodes. Commands above the number that this returns
    /// are the answer.
    pub(crate) fn ask_to_extend(&mut self, ttl: Ttl, now: Time) -> u32 {
        let (ttl, stamps) = (ttl.get(), self.stamps);
        self.ttl = ttl;
        self.longest = self.longest.max(ttl);
        if let Some(lease) = self.lease_mut() {
            lease.wanted_until = lease.wanted_until.max(now.plus(ttl));
            lease.extend_asked = Some(stamps);
        }
        stamps
    }

    /// The user wants to know whether the votes stand. Commands above the number that this returns are the answer.
    pub(crate) fn ask_to_check(&mut self) -> u32 {
        let stamps = self.stamps;
        if let Some(lease) = self.lease_mut() {
            lease.check_asked = Some(stamps);
        }
        stamps
    }

    /// The lease is renewed every `every` to last `ttl`, from now on.
    pub(crate) fn start_renewing(&mut self, every: Duration, ttl: Ttl, now: Time) {
        self.set_renewal(Renewal::Every(every));
        self.ask_to_extend(ttl, now);
    }

    /// The lease is no longer renewed.
    pub(crate) fn stop_renewing(&mut self) {
        self.set_renewal(Renewal::Off);
    }

    fn set_renewal(&mut self, renewal: Renewal) {
        if let Some(lease) = self.lease_mut() {
            lease.renewal = renewal;
            lease.renewed_until = None;
        }
    }

    /// What the nodes say to commands above `asked`, once that is certain. Only those count that prolonged the lease
    /// if it is to be `extended`.
    pub(crate) fn verdict(&self, asked: u32, extended: bool) -> Option<Verdict> {
        let (mut stand, mut gone, mut open) = (0, 0, false);
        for node in &self.nodes {
            let answered = if extended {
                node.extended_stamp
            } else {
                node.checked_stamp
            };
            if is_later(answered, asked) {
                let stands = node.vote().is_some();
                stand += usize::from(stands);
                gone += usize::from(!stands);
            } else {
                let failed = node.failure.is_some() && is_later(node.ended_stamp, asked);
                open |= !failed;
            }
        }
        let quorum = self.quorum;
        if stand >= quorum.size() {
            Some(Verdict::Stands)
        } else if !quorum.possible_without(gone) {
            Some(Verdict::Gone)
        } else {
            (!open).then_some(Verdict::Unknown)
        }
    }

    /// Declares the lease lost if it is; returns why.
    pub(crate) fn check(&mut self, now: Time) -> Option<LeaseLost> {
        self.check_lease(now);
        self.ended()
    }

    /// Why there is no lease any more, if the request has ended.
    pub(crate) fn ended(&self) -> Option<LeaseLost> {
        match self.phase {
            Phase::Ended(End::Lost(why)) => Some(why),
            Phase::Ended(_) => Some(LeaseLost::Released),
            _ => None,
        }
    }

    pub(super) fn check_lease(&mut self, now: Time) {
        let Some(lease) = self.lease() else {
            return;
        };
        let gone = self.nodes.iter().filter(|node| node.is_gone()).count();
        let why = if lease.ends.is_some_and(|ends| ends <= now) {
            LeaseLost::MaxHold
        } else if !self.quorum.possible_without(gone) {
            LeaseLost::QuorumLost
        } else if self.valid_until(now) <= now {
            LeaseLost::Expired
        } else {
            return;
        };
        self.end(End::Lost(why), now);
    }

    pub(super) fn warn_of_long_hold(&mut self, now: Time) {
        let Some(lease) = self.lease_mut() else {
            return;
        };
        if lease.warns.take_if(|due| *due <= now).is_some() {
            let (token, held) = (lease.token, now.since(lease.since));
            self.emit(EventKind::HeldLong { token, held });
        }
    }

    /// A release found that a quorum no longer had the lease.
    pub(crate) fn note_unnoticed_loss(&mut self, token: u64) {
        self.emit(EventKind::LostUnnoticed { token });
    }

    /// Ends the request. What it has on the nodes is released from here on.
    pub(crate) fn end(&mut self, end: End, now: Time) {
        if self.has_ended() {
            return;
        }
        if let Some(kind) = self.last_event(end, now) {
            self.emit(kind);
        }
        self.phase = Phase::Ended(end);
        self.news.wake = true;
        // Also of a parked request: its votes and places may not have been given up yet.
        self.start_cleanup(now);
    }

    /// What its end is, for the log and the metrics.
    fn last_event(&self, end: End, now: Time) -> Option<EventKind> {
        let Some(&Lease { token, since, .. }) = self.lease() else {
            return self.is_in_line().then(|| EventKind::Left {
                position: self.position,
                wait: now.since(self.made_at),
            });
        };
        let held = now.since(since);
        Some(match end {
            End::Lost(why) => EventKind::Lost {
                token,
                held,
                why,
                overdue: now.since(self.trusted_until().unwrap_or(now)),
                faults: self.faults(),
            },
            _ => EventKind::Released { token, held },
        })
    }

    /// Until when the votes may be trusted, or could have been.
    fn trusted_until(&self) -> Option<Time> {
        let votes = self.nodes.iter().filter_map(NodeState::vote);
        self.quorum.weakest(votes.map(|vote| vote.until))
    }

    /// Tells of a renewal once a quorum has it. The nodes answer one by one, and each answer moves the validity by a
    /// little; a move by half an interval in all counts as a renewal.
    pub(super) fn note_renewal(&mut self, now: Time) {
        let full = self.nodes.iter().filter(|node| node.has_full_ttl());
        if full.count() < self.quorum.size() {
            return;
        }
        let validity = self.config.validity(self.ttl);
        let (until, ttl) = (self.trusted_until(), self.ttl);
        let Some(lease) = self.lease_mut() else {
            return;
        };
        let every = lease.interval(validity);
        let (Some(before), Some(after)) = (lease.renewed_until, until) else {
            lease.renewed_until = until;
            return;
        };
        if !lease.renews() {
            lease.renewed_until = until;
        } else if after >= before.plus(every / 2) {
            lease.renewed_until = until;
            let kind = EventKind::Renewed {
                token: lease.token,
                margin: before.since(now),
                usual: validity.saturating_sub(every),
                ttl,
            };
            self.emit(kind);
        }
    }

    /// Whether no more than a quorum of the nodes surely has the lease, so that one more fault may end it.
    pub(crate) fn is_bare(&self, now: Time) -> bool {
        let standing = self.nodes.iter().filter(|node| node.stands(now)).count();
        self.lease().is_some()
            && standing <= self.quorum.size()
            && self.nodes.len() > self.quorum.size()
    }

    /// What is wrong with which node; nothing if all have answered and have the vote.
    fn faults(&self) -> Vec<Fault> {
        let fault = |(index, node): (NodeIndex, &NodeState)| match &node.failure {
            Some(error) => Some((index, Some((**error).clone()))),
            None => node.is_gone().then_some((index, None)),
        };
        self.nodes.iter().enumerate().filter_map(fault).collect()
    }
}
