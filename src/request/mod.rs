//! The core: one request for a lock, what each node is believed to have of it, and what follows from that.
//!
//! A request sends nothing, locks nothing and reads no clock. Every step is given the time and what is known of
//! the servers ([`Cx`]). The request is told what each node answered, and says which node to send what to, and
//! when. The client's ticker carries that out, so nothing on a node depends on whether a caller polls its future.
//! Events for the log and the metrics are left in the request's [`News`], since subscribers and recorders are user
//! code and run when nothing is locked.
//!
//! ```text
//! Asking ──votes from a quorum──▶ Granted ──taken──▶ Held ──▶ Ended
//!   │ ▲                            ▲  │ ▲ │
//!   │ └─ NoRoom                     │  │ │ └─counters differ, or short─▶ Fencing ─▶ Held
//!   └──ticket agreed──▶ Waiting ───┘  │ └────────────┐
//!                          ▲          └─nobody took─▶ Parked ──polled──▶ Waiting
//! ```
//!
//! Rules. A vote counts only under the current holder id: to give its votes back a request takes a new generation
//! of the id, and answers to an older one are void. A waiter gives its votes back as soon as it hears that another
//! waiter on one of those nodes comes first; that waiter then collects them all (L3). The ticket is the maximum
//! over a quorum, and is written to every node that has another number (F1).
//!
//! A request that has ended or is parked releases, node by node, whatever it ever asked for (`cleanup`).

use std::{mem::Discriminant, sync::Arc, time::Duration};

use crate::{
    config::Config,
    error::NodeError,
    event::{Event, EventKind, Interest, Subject},
    holder::HolderId,
    quorum::{Majority, NodeIndex, Quorum},
    resource::{Resource, Ttl},
    time::Time,
};

mod ask;
mod cleanup;
mod command;
mod grant;
mod lease;
mod line;
mod node_state;
mod phase;
mod reply;

pub(crate) use cleanup::Tally;
pub(crate) use grant::Taken;
pub(crate) use lease::{Lease, Renewal, Verdict};
use node_state::NodeState;
pub(crate) use phase::{Cx, End, News, Outgoing, Phase, Urgency};

/// One request, and what each node is believed to have of it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    config: Arc<Config>,
    quorum: Quorum,
    resource: Arc<Resource>,
    id: HolderId,
    ttl: Duration,
    /// The longest ttl that was ever asked for: nothing shortens what a node has.
    longest: Duration,
    /// How many may wait in the line that it is to join; `None`: any number, 0: it does not wait.
    room: Option<u64>,
    /// The ticket, once a quorum has agreed on it.
    number: Option<u64>,
    nodes: Box<[NodeState]>,
    phase: Phase,
    /// How many waiters are ahead, as last heard.
    position: u64,
    made_at: Time,
    /// When the request last moved forward.
    progress: Time,
    /// How many more rounds may follow each other at once, since a vote came without a quorum.
    eager: u8,
    /// The number of the last command when the last vote came.
    vote_stamp: u32,
    /// How many turns in a row ended before they could be taken, and until when the request rests for that.
    missed_turns: u8,
    rests_until: Option<Time>,
    /// When votes may be given back again, if that goes on.
    next_give_back: Time,
    /// Numbers the commands, so that an answer finds its own. Short, as ten thousand requests may wait at once.
    stamps: u32,
    /// When everything that was asked for has expired by itself, once the request has ended.
    expires: Time,
    /// Whether an event has told that nodes are in their grace.
    told_of_grace: bool,
    interest: Interest,
    news: News,
}

impl Request {
    /// A new request. Nothing is sent before its commands are asked for.
    pub(crate) fn new(
        config: Arc<Config>,
        quorum: Quorum,
        resource: Arc<Resource>,
        id: HolderId,
        ttl: Ttl,
        room: Option<u64>,
        now: Time,
    ) -> Self {
        Self {
            id,
            nodes: (0..quorum.nodes()).map(|_| NodeState::new()).collect(),
            config,
            quorum,
            resource,
            ttl: ttl.get(),
            longest: ttl.get(),
            room,
            number: None,
            phase: Phase::Asking,
            position: 0,
            made_at: now,
            progress: now,
            eager: 0,
            vote_stamp: 0,
            missed_turns: 0,
            rests_until: None,
            next_give_back: now,
            stamps: 0,
            expires: Time::default(),
            told_of_grace: false,
            interest: Interest::default(),
            news: News::default(),
        }
    }

    pub(crate) fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }

    pub(crate) fn id(&self) -> &HolderId {
        &self.id
    }

    pub(crate) fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The lease, while a guard is out.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Held(lease) => Some(lease),
            _ => None,
        }
    }

    fn lease_mut(&mut self) -> Option<&mut Lease> {
        match &mut self.phase {
            Phase::Held(lease) => Some(lease),
            _ => None,
        }
    }

    /// What an event about this request names.
    fn subject(&self) -> Subject {
        Subject {
            resource: self.resource.clone(),
            holder_id: self.id.text().clone(),
            ticket: self.number,
        }
    }

    fn emit(&mut self, kind: EventKind) {
        if self.interest.covers(&kind) {
            let subject = self.subject();
            self.news.events.push(Event { subject, kind });
        }
    }

    fn trace(&mut self, words: &'static str) {
        self.emit(EventKind::Step(words));
    }

    /// Returns what is to be told of the last change, and notes which events anybody listens to.
    pub(crate) fn take_news(&mut self, interest: Interest) -> News {
        self.interest = interest;
        std::mem::take(&mut self.news)
    }

    /// Whether the request never waits.
    fn is_attempt(&self) -> bool {
        self.room == Some(0)
    }

    /// Whether it is in line: anywhere between its first answers and its guard.
    pub(crate) fn is_in_line(&self) -> bool {
        match self.phase {
            _ if self.is_attempt() => false,
            Phase::NoRoom | Phase::Waiting => true,
            Phase::Granted { .. } | Phase::Fencing { .. } | Phase::Parked => self.number.is_some(),
            Phase::Asking | Phase::Held(_) | Phase::Ended(_) => false,
        }
    }

    /// Whether its turn may still come.
    pub(crate) fn waits(&self) -> bool {
        !matches!(self.phase, Phase::Held(_) | Phase::Ended(_))
    }

    fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// How many waiters are ahead, as last heard.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// When the request last moved forward. That is the present while it has a quorum. While it lacks one only because
    /// of a restart grace, `tick` counts that as moving forward.
    pub(crate) fn progress(&self, now: Time) -> Time {
        match self.phase {
            Phase::Granted { .. } | Phase::Fencing { .. } => now,
            _ => self.progress,
        }
    }

    /// What is left of the holder's lease, as last heard.
    pub(crate) fn holder_left(&self, now: Time) -> Option<Duration> {
        let until = |node: &NodeState| node.place()?.holder_until;
        let left = self.nodes.iter().filter_map(until);
        left.map(|until| until.since(now)).max()
    }

    /// How many waiters were in line by the nodes that had no room; `None` if none said so.
    pub(crate) fn full_with(&self) -> Option<u64> {
        let waiting = self.nodes.iter().filter_map(NodeState::no_room).max();
        waiting.map(u64::from)
    }

    /// How many may wait in the line that it is to join; `None`: any number.
    pub(crate) fn room(&self) -> Option<u64> {
        self.room
    }

    /// The nodes that gave no usable answer, and why. Once there is a verdict, even that there is no quorum, a
    /// command that is still under way is no failure.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (NodeIndex, NodeError)> + '_ {
        let failure = |(index, node): (NodeIndex, &NodeState)| {
            let error = node.failure.as_deref().cloned();
            let silent = self.is_silent(node).then_some(NodeError::TimedOut);
            Some((index, error.or(silent)?))
        };
        self.nodes.iter().enumerate().filter_map(failure)
    }

    fn is_silent(&self, node: &NodeState) -> bool {
        node.is_asked() && matches!(self.phase, Phase::Asking) && !self.is_cut_off()
    }

    /// How many nodes have neither answered nor are among the [failures](Self::failures).
    pub(crate) fn open(&self) -> usize {
        let open = |node: &&NodeState| {
            node.ended_stamp == 0 && node.failure.is_none() && !self.is_silent(node)
        };
        self.nodes.iter().filter(open).count()
    }

    /// Whether some node is still to be asked, or to answer.
    pub(crate) fn is_asking(&self) -> bool {
        let open = |node: &NodeState| node.is_asked() || node.queued.is_some() || node.urgent;
        self.nodes.iter().any(open)
    }

    /// Whether it asks for room in the line until there is some.
    pub(crate) fn waits_for_room(&self) -> bool {
        matches!(self.phase, Phase::NoRoom) && !self.is_attempt()
    }

    /// Whether the first round has come to nothing, as too few nodes answered to make a quorum.
    pub(crate) fn is_hopeless(&self) -> bool {
        match self.phase {
            Phase::Asking => !self.is_asking() || self.is_cut_off(),
            Phase::Parked => self.number.is_none(),
            _ => false,
        }
    }

    /// Whether it is known what `enqueue` came to: a quorum has recorded the ticket under its agreed number, so that
    /// later requests come later (F1); or the request is past that; or too many nodes failed.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(self.phase, Phase::Waiting) || self.is_recorded() || self.is_cut_off()
    }

    pub(crate) fn is_recorded(&self) -> bool {
        let recorded = |node: &&NodeState| node.number.is_some() && node.number == self.number;
        self.nodes.iter().filter(recorded).count() >= self.quorum.size()
    }

    /// What those who await the request look for; a change of it is worth a look.
    pub(crate) fn outlook(&self) -> (Discriminant<Phase>, bool, bool) {
        let phase = std::mem::discriminant(&self.phase);
        (phase, self.is_hopeless(), self.is_settled())
    }

    /// Whether too many nodes failed to answer their last command to make a quorum.
    pub(crate) fn is_cut_off(&self) -> bool {
        let failed = self.nodes.iter().filter(|node| node.failure.is_some());
        !self.quorum.possible_without(failed.count())
    }

    /// Whether a quorum of nodes whose votes count has answered.
    pub(crate) fn is_answered(&self, cx: Cx<'_>) -> bool {
        let answered = |node: &&NodeState| {
            let answered = node.ended_stamp > 0 && node.failure.is_none();
            answered && may_vote(node, cx)
        };
        self.nodes.iter().filter(answered).count() >= self.quorum.size()
    }

    /// Whether enough nodes voted, but too many of them restarted too recently.
    pub(crate) fn waits_for_grace(&self, cx: Cx<'_>) -> bool {
        self.majority(cx).is_none() && self.majority_of(cx.now, |_| true).is_some()
    }

    /// For how long a node keeps the place of a waiter, or a vote that the place turns into. It is no longer than the
    /// ttl, which bounds what a restarted node may have forgotten (S5) and how long a dead waiter's vote lasts (L2).
    fn waiter_ttl(&self) -> Duration {
        self.config.fifo_ephemeral_ttl.min(self.ttl)
    }

    /// The majority of the nodes whose votes count now.
    fn majority(&self, cx: Cx<'_>) -> Option<Majority> {
        self.majority_of(cx.now, |node| may_vote(node, cx))
    }

    fn majority_of(
        &self,
        now: Time,
        counts: impl Fn(&NodeState) -> bool + Clone,
    ) -> Option<Majority> {
        let votes = self.nodes.iter().filter_map(move |node| {
            let vote = node.vote().filter(|vote| vote.until > now)?;
            counts(node).then_some(vote.counted())
        });
        Majority::of(self.quorum, votes, now)
    }
}

/// Whether the node's restart grace is over.
fn may_vote(node: &NodeState, cx: Cx<'_>) -> bool {
    cx.servers.grace_left(node.up_since, cx.now).is_zero()
}

/// Whether the command `stamp` came after `than`. There are fewer than two billion in between.
fn is_later(stamp: u32, than: u32) -> bool {
    let ahead = stamp.wrapping_sub(than);
    ahead != 0 && ahead <= u32::MAX / 2
}
