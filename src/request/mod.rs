//! The core: one request for a lock, what each node is believed to have of it, and what follows from that.
//!
//! A request sends nothing, locks nothing and reads no clock. Each step is given the time and what is known of the
//! servers ([`Cx`]). The request is told what a node answered, and says which node to ask next, what, and when. The
//! client's ticker carries all of that, so nothing on a node depends on whether a caller's future is polled. What
//! the log and the metrics are to hear is left in the request's [`News`], since a user's code may run there.
//!
//! ```text
//! Asking ──votes from a quorum──▶ Granted ──taken──▶ Held ──▶ Ended
//!   │ ▲                            ▲  │ ▲ │
//!   │ └─ NoRoom                     │  │ │ └─counters differ, or short─▶ Fencing ─▶ Held
//!   └──ticket agreed──▶ Waiting ───┘  │ └────────────┐
//!                          ▲          └─nobody took─▶ Parked ──polled──▶ Waiting
//! ```
//!
//! Rules. A vote counts only under the current holder id: giving votes back takes a new generation, and
//! whatever is said of an older one is void. A waiter gives its votes back as soon as it hears that a
//! waiter on one of those nodes comes before it: then that one collects them all (L3). The ticket is
//! the maximum over a quorum, and is written to every node that has another (F1).
//!
//! A request that has ended or is parked releases whatever was ever asked for, node by node (`cleanup`).

use std::{sync::Arc, time::Duration};

use crate::{
    config::Config,
    error::{LeaseLost, NodeError},
    event::{Heard, Tell, What, Who},
    holder::HolderId,
    message::Command,
    quorum::{Majority, Quorum},
    resource::Resource,
    servers::Servers,
    time::Time,
};

mod ask;
mod cleanup;
mod lease;
mod node_state;
mod reply;

pub(crate) use cleanup::Tally;
pub(crate) use lease::Round;
use node_state::NodeState;

/// Rounds that follow each other at once after a vote came without a quorum.
const EAGER_ROUNDS: u8 = 3;

/// So many questions in a row may go unanswered over a connection that stands before a waiter lets its place
/// there lapse between them: one that never hears of its turn must not keep it from the others (L1).
const MISSES: u8 = 3;

/// So many turns in a row may end before they can be taken; then the others come first for a while.
const MISSED_TURNS: u8 = 3;

/// What one request is believed to have.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    config: Arc<Config>,
    quorum: Quorum,
    resource: Arc<Resource>,
    id: HolderId,
    ttl: Duration,
    /// The longest that was ever asked for: nothing shortens what a node has.
    longest: Duration,
    room: Option<u64>,
    number: Option<u64>,
    nodes: Box<[NodeState]>,
    phase: Phase,
    position: u64,
    /// When it was made.
    asked: Time,
    /// When the request last moved forward.
    progress: Time,
    eager: u8,
    /// The question that was asked last when the last vote came.
    vote_stamp: u32,
    /// How many turns in a row could not be taken, and until when it stands aside for that.
    missed_turns: u8,
    rests_until: Option<Time>,
    /// When votes may be given back again, if that goes on.
    next_give_back: Time,
    token: u64,
    renewal: Renewal,
    held_until: Option<Time>,
    /// When the guard was handed out.
    held_since: Time,
    /// The validity that the last renewal gave; none before a quorum has the full ttl.
    renewed_until: Option<Time>,
    /// When to warn that it is held for long.
    long_hold: Option<Time>,
    /// Numbers the questions, so that an answer finds its own; short, as ten thousand wait at once.
    stamps: u32,
    /// What the user has asked for last: questions above these numbers are the answer.
    extend_wish: Option<u32>,
    /// Until when the user wants the lease to last, by all that was wished.
    wanted_until: Time,
    check_wish: Option<u32>,
    /// When all that was asked for has expired by itself, once it has ended.
    expires: Time,
    /// Whether it was told that nodes are in their grace.
    told_of_grace: bool,
    /// What anybody may hear of it.
    heard: Heard,
    news: News,
}

/// What a step is taken with: the time, and what is known of the servers. No step reads a clock, or asks a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cx<'a> {
    pub(crate) now: Time,
    pub(crate) servers: &'a Servers,
}

/// How a held lease is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    Off,
    /// When a third of its validity is over.
    Third,
    /// As often as its user has said.
    Every(Duration),
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first round is under way.
    Asking,
    /// There was no room; asks again until there is.
    NoRoom,
    /// In line, with an agreed ticket.
    Waiting,
    /// Has the votes of a quorum; nobody took them yet.
    Granted { since: Time },
    /// Was taken; the fencing token and the full ttl are being written to a quorum.
    Fencing { since: Time, done: bool },
    /// Had something that nobody took in time. Keeps its number, but no place on any node (C4).
    Parked,
    /// A guard is out.
    Held,
    /// Nothing more happens.
    Ended(End),
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Lost(LeaseLost),
    /// Left, released, or given up.
    Over,
    /// An attempt without waiting: it is held or waited for.
    NotFree,
    /// An attempt without waiting: too few nodes that may vote have answered, or not soon enough.
    Unanswered,
    ShutDown,
}

/// What became of a request since it was last looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    /// Whoever waits for it should look.
    pub(crate) wake: bool,
    /// The number of waiters ahead has changed.
    pub(crate) moved: bool,
    pub(crate) tells: Vec<Tell>,
}

/// A question to one node.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) place: usize,
    pub(crate) stamp: u32,
    pub(crate) timeout: Duration,
    /// The waiter lease.
    pub(crate) lease: Duration,
    pub(crate) send: Command,
}

/// In which order questions are sent that wait for their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// It keeps something that would run out: sent after that moment, it may be answered too late.
    Keep { by: Time },
    /// It asks for something.
    Ask,
    /// It gives something up.
    Release,
}

impl Urgency {
    /// Whether both wait in the same line.
    pub(crate) fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// What taking a granted request comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Taken {
    /// The lease is there.
    Lease(Majority),
    /// Not yet. If it stood aside it asks again now.
    NotYet,
    /// There is nothing to take any more.
    Ended(End),
}

impl Request {
    /// A new request. Nothing is sent before its questions are asked for.
    pub(crate) fn new(
        config: Arc<Config>,
        quorum: Quorum,
        resource: Arc<Resource>,
        id: HolderId,
        ttl: Duration,
        room: Option<u64>,
        now: Time,
    ) -> Self {
        Self {
            id,
            nodes: (0..quorum.nodes()).map(|_| NodeState::new()).collect(),
            config,
            quorum,
            resource,
            ttl,
            longest: ttl,
            room,
            number: None,
            phase: Phase::Asking,
            position: 0,
            asked: now,
            progress: now,
            eager: 0,
            vote_stamp: 0,
            missed_turns: 0,
            rests_until: None,
            next_give_back: now,
            token: 0,
            renewal: Renewal::Off,
            held_until: None,
            held_since: now,
            renewed_until: None,
            long_hold: None,
            stamps: 0,
            extend_wish: None,
            wanted_until: Time::default(),
            check_wish: None,
            expires: Time::default(),
            told_of_grace: false,
            heard: Heard::default(),
            news: News::default(),
        }
    }

    pub(crate) fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }

    pub(crate) fn id(&self) -> &HolderId {
        &self.id
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whom an event about this request names.
    pub(crate) fn who(&self) -> Who {
        Who {
            resource: self.resource.clone(),
            holder_id: self.id.text().clone(),
            ticket: self.number,
        }
    }

    fn tell(&mut self, what: What) {
        if self.heard.of(&what) {
            let who = self.who();
            self.news.tells.push(Tell { who, what });
        }
    }

    fn trace(&mut self, words: &'static str) {
        self.tell(What::Step(words));
    }

    /// Whether it is in line: anywhere between its first answers and its guard.
    pub(crate) fn is_in_line(&self) -> bool {
        match self.phase {
            // An attempt without waiting.
            _ if self.room == Some(0) => false,
            Phase::NoRoom | Phase::Waiting => true,
            Phase::Granted { .. } | Phase::Fencing { .. } | Phase::Parked => self.number.is_some(),
            Phase::Asking | Phase::Held | Phase::Ended(_) => false,
        }
    }

    /// Whether its turn may still come.
    pub(crate) fn waits(&self) -> bool {
        !matches!(self.phase, Phase::Held | Phase::Ended(_))
    }

    /// How many waiters are ahead, as last heard.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// When the request last moved forward; the present while it has a quorum, or only a restart grace is in
    /// the way.
    pub(crate) fn progress(&self, now: Time) -> Time {
        match self.phase {
            Phase::Granted { .. } | Phase::Fencing { .. } => now,
            _ => self.progress,
        }
    }

    /// What is to be told of the last change; and what of the next anybody may hear.
    pub(crate) fn take_news(&mut self, heard: Heard) -> News {
        self.heard = heard;
        std::mem::take(&mut self.news)
    }

    /// What is left of the holder's lease, as last heard.
    pub(crate) fn holder_left(&self, now: Time) -> Option<Duration> {
        let left = |node: &NodeState| {
            node.place
                .as_ref()?
                .holder_until
                .map(|until| until.since(now))
        };
        self.nodes.iter().filter_map(left).max()
    }

    /// How many waiters the nodes that had no room told of; `None` if none did.
    pub(crate) fn crowd(&self) -> Option<u64> {
        let told = self.nodes.iter().filter_map(|node| node.crowd).max();
        told.map(u64::from)
    }

    /// How many may wait in the line that it is to stand in; `None`: any number.
    pub(crate) fn room(&self) -> Option<u64> {
        self.room
    }

    /// The nodes that gave no usable answer, and why. Once there was a verdict, also that there is no quorum, a
    /// question that is under way is no failure.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (usize, NodeError)> + '_ {
        let failure = |(place, node): (usize, &NodeState)| {
            let error = node.failure.as_deref().cloned();
            let silent = self.is_silent(node).then_some(NodeError::TimedOut);
            Some((place, error.or(silent)?))
        };
        self.nodes.iter().enumerate().filter_map(failure)
    }

    fn is_silent(&self, node: &NodeState) -> bool {
        node.asked() && self.phase == Phase::Asking && !self.is_cut_off()
    }

    /// How many nodes have neither answered nor are among the [failures](Self::failures).
    pub(crate) fn open(&self) -> usize {
        let open = |node: &&NodeState| {
            node.ended_stamp == 0 && node.failure.is_none() && !self.is_silent(node)
        };
        self.nodes.iter().filter(open).count()
    }

    /// Whether it still waits for the answer to `question`.
    pub(crate) fn asks(&self, question: &Question) -> bool {
        let node = self.nodes.get(question.place);
        let waits = node.is_some_and(|node| node.waits_for(question.stamp));
        let ended = matches!(self.phase, Phase::Ended(_) | Phase::Parked);
        waits && (!ended || matches!(question.send, Command::Release(_)))
    }

    /// Whether some node is still to be asked, or to answer.
    pub(crate) fn is_asking(&self) -> bool {
        let open = |node: &NodeState| node.asked() || node.queued.is_some() || node.urgent;
        self.nodes.iter().any(open)
    }

    /// Whether it asks for room in the line until there is some.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.phase == Phase::NoRoom && self.room != Some(0)
    }

    /// Whether the first round has come to nothing: too many nodes failed to make a quorum.
    pub(crate) fn is_hopeless(&self) -> bool {
        match self.phase {
            Phase::Asking => !self.is_asking() || self.is_cut_off(),
            Phase::Parked => self.number.is_none(),
            _ => false,
        }
    }

    /// Whether it is known what `enqueue` came to: a quorum has the ticket under its agreed number, so that
    /// whoever asks from now on comes later (F1); or it is past that, or too many nodes failed.
    pub(crate) fn is_settled(&self) -> bool {
        self.phase != Phase::Waiting || self.is_recorded() || self.is_cut_off()
    }

    pub(crate) fn is_recorded(&self) -> bool {
        let recorded = |node: &&NodeState| node.number.is_some() && node.number == self.number;
        self.nodes.iter().filter(recorded).count() >= self.quorum.size()
    }

    /// What whoever waits looks for: a change of it is worth a look.
    pub(crate) fn outlook(&self) -> (Phase, bool, bool) {
        (self.phase, self.is_hopeless(), self.is_settled())
    }

    /// Whether too many nodes failed to answer their last question to make a quorum.
    pub(crate) fn is_cut_off(&self) -> bool {
        let failed = self.nodes.iter().filter(|node| node.failure.is_some());
        !self.quorum.possible_without(failed.count())
    }

    /// Whether a quorum of nodes whose votes count has answered.
    pub(crate) fn is_answered(&self, cx: Cx<'_>) -> bool {
        let now = cx.now;
        let answered = |node: &&NodeState| {
            let answered = node.ended_stamp > 0 && node.failure.is_none();
            answered && cx.servers.grace_left(node.up_since, now).is_zero()
        };
        self.nodes.iter().filter(answered).count() >= self.quorum.size()
    }

    /// Whether enough nodes voted, but too many of them restarted too recently.
    pub(crate) fn waits_for_grace(&self, cx: Cx<'_>) -> bool {
        let now = cx.now;
        self.majority(cx).is_none() && self.majority_of(now, |_| true).is_some()
    }

    /// For how long a node keeps its place, or a vote that comes of it: no longer than the lease that is asked
    /// for, which bounds what a restarted node may have forgotten (S5), and what a dead holder costs (L2).
    pub(super) fn lease(&self) -> Duration {
        self.config.fifo_ephemeral_ttl.min(self.ttl)
    }
}

/// Whether the question `stamp` came after `than`. There are fewer than two billion in between.
fn is_later(stamp: u32, than: u32) -> bool {
    let ahead = stamp.wrapping_sub(than);
    ahead != 0 && ahead <= u32::MAX / 2
}
