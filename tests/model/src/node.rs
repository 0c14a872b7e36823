//! A node: the memory nodes' table, and what a restart does to it.

use std::sync::Arc;

use crate::{
    message::{Command, Incarnation, Released, Reply, Standing},
    table::{Header, Table},
    time::Time,
    world::{Asked, CLOCK},
};

#[derive(Clone, Debug)]
pub(crate) struct Node {
    table: Table,
    run: u64,
    up_since: Time,
}

/// What a waiter is told of its vote.
#[derive(Clone, Debug)]
pub(crate) struct Push {
    pub(crate) channel: String,
    pub(crate) id: Arc<str>,
    pub(crate) waiter_end: u64,
    pub(crate) seq: u64,
}

/// The counter that is told again and again.
const REPEATED: u64 = 7;

/// What is wrong with all nodes, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    /// A node forgets who has its vote whenever it is asked for it.
    GivesItsVoteTwice,
    /// A request is carried out however late it comes.
    CarriesOutLate,
    /// A release says that it was carried out, and is not.
    KeepsWhatIsReleased,
    /// The counter that is told stays the same.
    RepeatsItsCounter,
    /// Whoever comes later has the lower number.
    LetsNewcomersFirst,
    /// Nobody is told of a vote, which lasts for as long as if somebody had been.
    TellsNobody,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self {
            table: Table::default(),
            run: 1,
            up_since: Time::ORIGIN,
        }
    }

    /// A connection to this node.
    pub(crate) fn incarnation(&self, epoch: u64) -> Incarnation {
        Incarnation {
            epoch,
            run: self.run,
            up_since: self.up_since,
            up_before: self.up_since,
            clock_offset: CLOCK,
            pushes: true,
        }
    }

    /// Restarts, and has forgotten all.
    pub(crate) fn forget(&mut self, now: Time) {
        self.table = Table::default();
        self.run += 1;
        self.up_since = now;
    }

    /// Carries a outgoing out; `None` if it comes too late.
    pub(crate) fn carry_out(
        &mut self,
        asked: &Asked,
        now: Time,
        lie: Lie,
        pushes: &mut Vec<Push>,
    ) -> Option<Reply> {
        let release = matches!(asked.outgoing.command, Command::Release(_));
        if now > asked.deadline && !release && lie != Lie::CarriesOutLate {
            return None;
        }
        let micros = asked.incarnation.node_micros(now);
        let header = Header::of(
            micros,
            &asked.terms,
            &self.incarnation(asked.incarnation.epoch),
        );
        let repeats = lie == Lie::RepeatsItsCounter;
        let mut publish = |told: &crate::table::Push| {
            if lie != Lie::TellsNobody {
                pushes.push(Push {
                    channel: told.channel.clone(),
                    id: told.id.clone(),
                    waiter_end: told.waiter_end,
                    seq: if repeats { REPEATED } else { told.seq },
                });
            }
            Some(true)
        };
        let command = match &asked.outgoing.command {
            Command::Release(_) if lie == Lie::KeepsWhatIsReleased => {
                return Some(Reply::Released(Released::Vote));
            }
            Command::Enqueue(ask) if lie == Lie::LetsNewcomersFirst => {
                let mut ask = ask.clone();
                let place = ask.id.uuid().as_bytes()[0];
                ask.number = ask.number.or(Some(100 - u64::from(place)));
                Command::Enqueue(ask)
            }
            command => command.clone(),
        };
        if lie == Lie::GivesItsVoteTwice && matches!(command, Command::Enqueue(_)) {
            self.table.delete(command.resource().lock_key());
        }
        let reply = self.table.carry_out(header, &command, &mut publish);
        Some(match reply {
            Reply::Standing(Standing::Granted {
                left, outranked, ..
            }) if repeats => Reply::Standing(Standing::Granted {
                seq: REPEATED,
                left,
                outranked,
            }),
            reply => reply,
        })
    }

    /// Whether anything is left on it but counters.
    pub(crate) fn is_clean(&self, now: Time) -> bool {
        let micros = self.incarnation(0).node_micros(now);
        self.table.clone().residue(micros).is_empty()
    }
}
