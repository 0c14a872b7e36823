//! What happened in a run, in order. The validators read this and nothing else.

use std::fmt::Write as _;

/// Milliseconds of virtual time.
pub(super) type Ms = u64;

/// Everything that happened.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Of each setting the largest that any client has.
    pub(super) settings: Settings,
    /// The settings of each client.
    pub(super) own: Vec<Settings>,
    pub(super) calls: Vec<Call>,
    pub(super) notes: Vec<Note>,
    /// The notes on each call, once the run is over.
    pub(super) index: Vec<Vec<usize>>,
}

/// What the promises are measured by: the settings of a client, and what it runs on.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) nodes: usize,
    pub(super) quorum: usize,
    pub(super) ephemeral: Ms,
    pub(super) node_timeout: Ms,
    pub(super) poll: Ms,
    /// `retry_delay`, and how often a first round is tried.
    pub(super) retry: Ms,
    pub(super) attempts: u32,
    /// The same for all clients.
    pub(super) grace: Ms,
    /// `clock_drift_factor`, in thousandths.
    pub(super) drift: u64,
    /// The longest that a message takes on a healthy way.
    pub(super) delay: Ms,
    /// How many waiters may be in line.
    pub(super) room: u64,
}

impl Settings {
    /// How far the nodes' clocks may be apart for tokens to rise beside nodes that forget (S2).
    pub(super) fn clocks_apart(&self) -> Ms {
        (self.grace / 2).saturating_sub(1000)
    }

    /// How long a node may lag behind what a healthy client knows: a keep-alive, a poll and a request that was
    /// lost just before.
    pub(super) fn slack(&self) -> Ms {
        self.ephemeral / 3 + 2 * self.poll + 2 * self.node_timeout + 4 * self.delay
    }

    /// The longest round trip on a healthy way, with what the timers are coarser than that.
    pub(super) fn round_trip(&self) -> Ms {
        2 * self.delay + 1
    }

    /// Within how many milliseconds a lease is to stand on all nodes: a split vote takes eight round trips (L3),
    /// a repair two.
    pub(super) fn few(&self) -> Ms {
        10 * self.round_trip() + 2
    }

    /// What can be trusted of a lease of `ttl`.
    pub(super) fn trusted(&self, ttl: Ms) -> Ms {
        ttl.saturating_sub(ttl * self.drift / 1000 + 2)
    }

    /// Whether healthy nodes answer in time for leases of `ttl`: thrice within what can be trusted of it, and
    /// within `node_timeout`.
    pub(super) fn answers_in_time(&self, ttl: Ms) -> bool {
        // With what timers, and times in whole milliseconds, are coarser than that.
        self.round_trip() + 8 < self.node_timeout.min(ttl / 3).min(self.trusted(ttl) / 3)
    }

    /// Whether the place of a request for `ttl` is kept for three round trips, less what cannot be trusted of that.
    pub(super) fn waits_in_time(&self, ttl: Ms) -> bool {
        self.answers_in_time(self.ephemeral.min(ttl))
    }

    /// Of each setting the larger.
    pub(super) fn max(&self, other: &Self) -> Self {
        Self {
            nodes: self.nodes,
            quorum: self.quorum,
            grace: self.grace,
            ephemeral: self.ephemeral.max(other.ephemeral),
            node_timeout: self.node_timeout.max(other.node_timeout),
            poll: self.poll.max(other.poll),
            retry: self.retry.max(other.retry),
            attempts: self.attempts.max(other.attempts),
            drift: self.drift.max(other.drift),
            delay: self.delay.max(other.delay),
            room: self.room.max(other.room),
        }
    }
}

/// One call of the workload: from its first poll to the end of the guard that came of it.
#[allow(dead_code)] // Some of it only people read, in an account.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) client: usize,
    pub(super) resource: usize,
    pub(super) kind: Kind,
    /// What it asked for first: no place in line is kept for longer.
    pub(super) first: Ms,
    /// What its renewals ask for.
    pub(super) ttl: Ms,
    /// The longest that it ever asked for.
    pub(super) longest: Ms,
    /// How often its guard renews its lease, if it does.
    pub(super) renews: Option<Ms>,
    /// By how much one node may be behind others since it did.
    pub(super) lag: Ms,
    /// Whether the guard may end although all is well: by `max_hold`, or because it was stopped for too long.
    pub(super) limited: bool,
    /// When it first asked, when its guard was out, and when its ttl or its renewal was changed last.
    pub(super) asked: Ms,
    pub(super) had: Option<Ms>,
    pub(super) changed: Ms,
    /// Nobody polls what it waits for.
    pub(super) idle: bool,
}

impl Call {
    /// How long after a node has lost its key it asks there again, if it renews: what it once asked for is renewed
    /// when a third of that is over.
    pub(super) fn knows_after(&self) -> Option<Ms> {
        self.renews.map(|every| every.max(self.longest / 3))
    }

    pub(super) fn new(client: usize, resource: usize, kind: Kind, ttl: Ms) -> Self {
        Self {
            client,
            resource,
            kind,
            first: ttl,
            ttl,
            longest: ttl,
            renews: Some(ttl / 3),
            lag: 0,
            limited: false,
            asked: 0,
            had: None,
            changed: 0,
            idle: false,
        }
    }

    /// It is renewed no more.
    pub(super) fn stopped(&mut self) {
        let behind = self.knows_after().unwrap_or(0);
        self.lag = self.lag.max(behind);
        self.renews = None;
    }

    /// An extend by `ttl` has succeeded. A renewal that follows from the ttl follows the new one.
    pub(super) fn extended(&mut self, ttl: Ms) {
        self.ttl = ttl;
        self.renews = self.renews.map(|every| every.max(ttl / 3));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Lock,
    TryLock,
    Enqueue,
}

#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) at: Ms,
    pub(super) what: What,
}

/// The first field of what belongs to a call is its number.
#[allow(dead_code)] // Some of it only people read, in an account.
#[derive(Clone, Debug)]
pub(super) enum What {
    // The workload's side.
    Asks(u16),
    /// `enqueue` returned a ticket.
    Recorded(u16),
    /// A future that waits for the turn is polled, or was dropped and the ticket kept.
    Polled(u16),
    Unpolled(u16),
    /// A guard is out, with this fencing token.
    Had(u16, u64),
    NotHad(u16),
    /// `with_lock` has begun its work.
    Works(u16),
    Failed(u16, String),
    /// Dropped or left before there was a guard.
    Given(u16),
    /// Granted perhaps, and never polled again.
    Forgotten(u16),
    /// The guard's release or drop begins.
    Releases(u16),
    /// `release` or `leave` returned success.
    Confirmed(u16),
    /// The guard was seen to be valid no more.
    Over(u16),
    // The nodes' side.
    /// `node` gives its vote, being up since then.
    Votes {
        call: u16,
        node: usize,
        generation: u32,
        up_since: Ms,
    },
    /// It stands in line on `node` with this number.
    Lines {
        call: u16,
        node: usize,
        number: u64,
    },
    /// Neither vote nor ticket is left on `node`.
    Out {
        call: u16,
        node: usize,
        why: Out,
    },
    /// A newcomer got the vote of `node` past a live waiter.
    Barged {
        call: u16,
        node: usize,
        past: u16,
    },
    /// A request of `call` took something from `whom`.
    Harmed {
        call: u16,
        node: usize,
        whom: u16,
        how: &'static str,
    },
    /// A request did something after its deadline.
    LateDid {
        call: u16,
        node: usize,
        late: Ms,
    },
    /// A guard is valid, but so few nodes have its key or lost it by a restart.
    Unbacked {
        call: u16,
        has: usize,
        lost: usize,
    },
    /// A node gave a vote that outlives the ttl of its request.
    LongVote {
        call: u16,
        node: usize,
        left: Ms,
        ttl: Ms,
    },
    /// The lease of a guard was lost, although so many nodes had voted for it and answered in time all along.
    LostBeside {
        call: u16,
        healthy: usize,
        span: Ms,
    },
    /// A guard is out, and a node that is well has not got its key for as long as it should.
    Part {
        call: u16,
        node: usize,
        left: Ms,
        least: Ms,
    },
    /// `lost()` was polled all the time, and has not told of the end in time.
    Untold(u16),
    /// A request went out over a connection over which its release had gone out.
    AfterRelease {
        call: u16,
        node: usize,
    },
    /// A call was told that there is no quorum, although so many nodes could be reached all along.
    NoQuorumBeside {
        call: u16,
        healthy: usize,
    },
    // The world's side.
    Fault(&'static str, String),
    /// A node's clock was stepped forward.
    ClockMoved(usize),
    Paused(usize),
    Resumed(usize),
    Crashed(usize),
    /// `shutdown` returned, and these calls had something left on nodes.
    ShutDown {
        client: usize,
        left: Vec<u16>,
    },
    /// Calls that still stand somewhere when all has ended, tasks that still run.
    Residue(Vec<(usize, u16)>, usize),
    /// A call that had every chance was not served.
    Starved(u16),
    /// What a scenario measured, and the most that it may be.
    Scenario {
        promise: &'static str,
        calls: Vec<u16>,
        took: Ms,
        bound: Ms,
        what: String,
    },
}

/// Why something is gone from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Out {
    /// By a request of its own.
    Own,
    /// It ran out: a vote, or the lease of a waiter; how long the way between client and node had been
    /// healthy, and the client alive.
    Expired { vote: bool, healthy: Ms },
    /// The node forgot it.
    Forgot,
}

impl What {
    /// The calls that it is about.
    pub(super) fn calls(&self) -> Vec<u16> {
        match self {
            Self::Asks(call)
            | Self::Recorded(call)
            | Self::Polled(call)
            | Self::Unpolled(call)
            | Self::Had(call, _)
            | Self::NotHad(call)
            | Self::Works(call)
            | Self::Failed(call, _)
            | Self::Given(call)
            | Self::Forgotten(call)
            | Self::Releases(call)
            | Self::Confirmed(call)
            | Self::Over(call)
            | Self::Votes { call, .. }
            | Self::Lines { call, .. }
            | Self::Out { call, .. }
            | Self::LateDid { call, .. }
            | Self::Unbacked { call, .. }
            | Self::LongVote { call, .. }
            | Self::LostBeside { call, .. }
            | Self::Part { call, .. }
            | Self::Untold(call)
            | Self::AfterRelease { call, .. }
            | Self::NoQuorumBeside { call, .. }
            | Self::Starved(call) => vec![*call],
            Self::Barged { call, past, .. } => vec![*call, *past],
            Self::Harmed { call, whom, .. } => vec![*call, *whom],
            Self::ShutDown { left, .. } => left.clone(),
            Self::Scenario { calls, .. } => calls.clone(),
            Self::Residue(left, _) => left.iter().map(|(_, call)| *call).collect(),
            _ => Vec::new(),
        }
    }
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) promise: &'static str,
    pub(super) at: Ms,
    pub(super) what: String,
    /// The calls that the account is about.
    pub(super) calls: Vec<u16>,
}

impl History {
    pub(super) fn call(&self, call: u16) -> &Call {
        &self.calls[usize::from(call)]
    }

    /// The settings of the client that made the call.
    pub(super) fn settings_of(&self, call: u16) -> &Settings {
        &self.own[self.call(call).client]
    }

    /// The notes on one call.
    pub(super) fn of(&self, call: u16) -> impl Iterator<Item = &Note> {
        let places = self.index[usize::from(call)].iter();
        places.map(|place| &self.notes[*place])
    }

    /// All calls, by number.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (u16, &Call)> {
        self.calls
            .iter()
            .enumerate()
            .skip(1)
            .map(|(number, call)| (number as u16, call))
    }

    /// To be called when the run is over.
    pub(super) fn close(&mut self) {
        self.index = vec![Vec::new(); self.calls.len()];
        for (place, note) in self.notes.iter().enumerate() {
            for call in note.what.calls() {
                self.index[usize::from(call)].push(place);
            }
        }
    }

    /// How a violation came about: what befell the calls it is about, and the faults meanwhile.
    pub(super) fn account(&self, violation: &Violation) -> String {
        let Violation { calls, at, .. } = violation;
        let first = |call: &u16| self.of(*call).next().map(|note| note.at);
        let from = calls.iter().filter_map(first).min().unwrap_or(0);
        let mut told = String::new();
        // All that happened, and not what befell those calls alone.
        let full = std::env::var("FULL").is_ok();
        let from = if full { 0 } else { from };
        for call in calls {
            let own = self.own.get(self.call(*call).client);
            let _ = writeln!(told, "  call {call}: {:?}, {own:?}", self.call(*call));
        }
        for Note { at: when, what } in &self.notes {
            let about = what.calls();
            let concerns = about.iter().any(|call| calls.contains(call))
                || full
                || matches!(what, What::Fault(_, on) if on.ends_with("in this run"))
                || about.is_empty() && *when >= from && !matches!(what, What::ShutDown { .. });
            if concerns && *when <= *at {
                let _ = writeln!(told, "  {when:>6} ms {what:?}");
            }
        }
        told
    }
}
