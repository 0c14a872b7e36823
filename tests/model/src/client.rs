//! A client: its request, as `src/request` has it, without time.

use crate::node::{Ask, Id, Say};

pub const NODES: usize = 3;

/// Rounds that follow each other at once after a vote came without a quorum: fewer than in the crate, where
/// they only save time.
const EAGER_ROUNDS: u8 = 1;

/// What is wrong with the protocol, on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bug {
    #[default]
    None,
    QuorumMinusOne,
    TicketByMinimum,
    NoFence,
    LateVoteCounted,
    NeverGivesBack,
    ReleaseWithoutComparing,
    CleanUpOfAQuorumOnly,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    #[default]
    Idle,
    Asking,
    Waiting,
    Fencing,
    Held,
    /// Released or left; what it had is being taken back.
    Over,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat {
    pub asked: bool,
    pub number: u8,
    pub vote: Option<u8>,
    waits: bool,
    early: Option<u8>,
    outranked: bool,
    fenced: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Client {
    pub phase: Phase,
    pub generation: u8,
    pub number: u8,
    pub token: u8,
    pub seats: [Seat; NODES],
    eager: u8,
    /// A quorum has its agreed ticket, or had.
    pub recorded: bool,
    /// How often it may still ask because nothing came.
    pub polls: u8,
}

/// Questions to be sent, each to a node.
pub type Questions = Vec<(usize, Ask)>;

impl Client {
    pub fn start(&mut self) -> Questions {
        self.phase = Phase::Asking;
        self.ask_all()
    }

    pub fn poll(&mut self) -> Questions {
        self.polls -= 1;
        self.ask_all()
    }

    pub fn id(&self, me: u8) -> Id {
        (me, self.generation)
    }

    /// Releases, or leaves. What is under way is void.
    pub fn end(&mut self, bug: Bug) -> Questions {
        self.phase = Phase::Over;
        let nodes = if bug == Bug::CleanUpOfAQuorumOnly {
            bug.quorum()
        } else {
            NODES
        };
        (0..nodes).map(|node| (node, Ask::Release)).collect()
    }

    /// The question to a node failed, or was given up.
    pub fn unanswered(&mut self, node: usize) {
        self.seats[node].asked = false;
    }

    /// Hears an answer to the question under way, or a push. Returns what to ask next, and whether what was
    /// under way before is void.
    pub fn hear(&mut self, node: usize, say: Say, bug: Bug) -> (Questions, bool) {
        if !matches!(say, Say::Told { .. }) {
            self.seats[node].asked = false;
        }
        let sends = match say {
            Say::Stands | Say::Gone => self.hear_extended(node, say == Say::Stands, bug),
            say => self.hear_standing(node, say, bug),
        };
        let recorded = self.seats.iter().filter(|seat| seat.number == self.number);
        self.recorded |= self.number > 0 && recorded.count() >= Bug::None.quorum();
        sends
    }

    fn hear_standing(&mut self, node: usize, say: Say, bug: Bug) -> (Questions, bool) {
        let waiting = matches!(self.phase, Phase::Asking | Phase::Waiting);
        let number = self.number;
        let seat = &mut self.seats[node];
        let had = seat.vote.is_some();
        match say {
            Say::Granted { seq, outranked } => {
                seat.vote = Some(seq);
                seat.outranked = outranked;
                seat.waits = false;
                seat.number = if number > 0 {
                    number
                } else {
                    seat.number.max(seq)
                };
            }
            Say::Waiting { number } => {
                seat.number = number;
                // A push that overtook this answer.
                seat.vote = seat.early.take();
                seat.outranked = false;
                seat.waits = seat.vote.is_none();
            }
            Say::Superseded => seat.vote = None,
            Say::Told { seq } if waiting && seat.waits => {
                seat.vote = Some(seq);
                seat.outranked = false;
                seat.waits = false;
            }
            Say::Told { seq } => seat.early = Some(seq),
            Say::Stands | Say::Gone => {}
        }
        if !had && seat.vote.is_some() && matches!(say, Say::Granted { .. }) {
            self.eager = EAGER_ROUNDS;
        }
        if waiting {
            return self.weigh(bug);
        }
        let late = self.phase == Phase::Fencing && !self.seats[node].fenced;
        if late && bug == Bug::LateVoteCounted && self.votes() >= bug.quorum() {
            self.token = self.highest();
        }
        match late && !self.seats[node].asked && self.seats[node].vote.is_some() {
            true => (self.ask(|at, _| at == node), false),
            false => (Vec::new(), false),
        }
    }

    fn hear_extended(&mut self, node: usize, stands: bool, bug: Bug) -> (Questions, bool) {
        let seat = &mut self.seats[node];
        seat.fenced = stands;
        seat.vote = stands.then_some(self.token);
        if self.phase == Phase::Fencing {
            let fenced = self.seats.iter().filter(|seat| seat.fenced).count();
            if fenced >= bug.quorum() {
                self.phase = Phase::Held;
            } else if self.votes() < bug.quorum() && !self.seats.iter().any(|seat| seat.asked) {
                self.phase = Phase::Waiting;
                self.number = self
                    .number
                    .max(self.seats.iter().map(|seat| seat.number).max().unwrap());
                return self.give_back();
            }
        }
        (Vec::new(), false)
    }

    fn weigh(&mut self, bug: Bug) -> (Questions, bool) {
        if self.votes() >= bug.quorum() {
            self.token = self.highest();
            let agreed = self
                .seats
                .iter()
                .filter(|seat| seat.vote == Some(self.token))
                .count();
            if agreed >= bug.quorum() || bug == Bug::NoFence {
                self.phase = Phase::Held;
                return (Vec::new(), false);
            }
            self.phase = Phase::Fencing;
            return (self.ask_all(), false);
        }
        let outranked = self
            .seats
            .iter()
            .any(|seat| seat.vote.is_some() && seat.outranked);
        if outranked && bug != Bug::NeverGivesBack {
            return self.give_back();
        }
        if self.number == 0 {
            let numbers = self
                .seats
                .iter()
                .map(|seat| seat.number)
                .filter(|number| *number > 0);
            if numbers.clone().count() < Bug::None.quorum() {
                return (Vec::new(), false);
            }
            let ticket = if bug == Bug::TicketByMinimum {
                numbers.min()
            } else {
                numbers.max()
            };
            self.number = ticket.unwrap();
            self.phase = Phase::Waiting;
        }
        let number = self.number;
        let mut questions = self.ask(|_, seat| seat.number != number);
        let split = self.seats.iter().any(|seat| seat.vote.is_some());
        if split && self.eager > 0 && !self.seats.iter().any(|seat| seat.asked) {
            self.eager -= 1;
            questions = self.ask_all();
        }
        (questions, false)
    }

    fn give_back(&mut self) -> (Questions, bool) {
        self.generation += 1;
        self.seats = Default::default();
        (self.ask_all(), true)
    }

    fn ask_all(&mut self) -> Questions {
        self.ask(|_, _| true)
    }

    fn ask(&mut self, whom: impl Fn(usize, &Seat) -> bool) -> Questions {
        let ask = match self.phase {
            Phase::Asking | Phase::Waiting => Ask::Enqueue {
                number: self.number,
            },
            Phase::Fencing => Ask::Extend { token: self.token },
            _ => return Vec::new(),
        };
        let mut questions = Vec::new();
        for (node, seat) in self.seats.iter_mut().enumerate() {
            if !seat.asked && whom(node, seat) {
                seat.asked = true;
                questions.push((node, ask));
            }
        }
        questions
    }

    fn votes(&self) -> usize {
        self.seats.iter().filter(|seat| seat.vote.is_some()).count()
    }

    fn highest(&self) -> u8 {
        self.seats
            .iter()
            .filter_map(|seat| seat.vote)
            .max()
            .unwrap_or(0)
    }
}

impl Bug {
    pub fn quorum(self) -> usize {
        if self == Self::QuorumMinusOne { 1 } else { 2 }
    }
}
