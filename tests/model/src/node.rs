//! A node: the scripts, without time.

/// A holder id: the client, which stands for the uuid, and the generation.
pub type Id = (u8, u8);

/// What is asked of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ask {
    /// `number` is 0 for a new one.
    Enqueue {
        number: u8,
    },
    Extend {
        token: u8,
    },
    Release,
}

/// What a node says, asked or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Say {
    Granted {
        seq: u8,
        outranked: bool,
    },
    Waiting {
        number: u8,
    },
    Superseded,
    Stands,
    Gone,
    /// The push.
    Told {
        seq: u8,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    pub seq: u8,
    pub lock: Option<Id>,
    /// By number, then by client: ties are broken by the uuid.
    pub queue: Vec<(u8, Id)>,
}

impl Node {
    /// Runs a script; returns its answer, and whom it told of the vote.
    pub fn run(&mut self, id: Id, ask: Ask, careless: bool) -> (Option<Say>, Option<(Id, Say)>) {
        let before = self.lock;
        let say = match ask {
            Ask::Enqueue { number } => Some(self.enqueue(id, number)),
            Ask::Extend { token } if self.lock == Some(id) => {
                self.seq = self.seq.max(token);
                Some(Say::Stands)
            }
            Ask::Extend { .. } => Some(Say::Gone),
            Ask::Release => {
                let mine = |(client, generation): Id| client == id.0 && generation <= id.1;
                if self.lock.is_some_and(|lock| careless || mine(lock)) {
                    self.lock = None;
                }
                self.queue.retain(|(_, other)| !mine(*other));
                None
            }
        };
        self.settle();
        let granted = self.lock.filter(|lock| Some(*lock) != before);
        let caller = matches!(ask, Ask::Enqueue { .. }) && granted == Some(id);
        let say = match say {
            Some(Say::Waiting { .. }) if caller => Some(Say::Granted {
                seq: self.seq,
                outranked: false,
            }),
            say => say,
        };
        let told = granted
            .filter(|_| !caller)
            .map(|id| (id, Say::Told { seq: self.seq }));
        (say, told)
    }

    fn enqueue(&mut self, id: Id, number: u8) -> Say {
        let mine = self
            .queue
            .iter()
            .find(|(_, other)| *other == id)
            .map(|(number, _)| *number);
        if self.lock == Some(id) {
            let before = |&(other, (client, _)): &(u8, Id)| (other, client) < (number, id.0);
            let outranked = number > 0 && self.queue.first().is_some_and(before);
            self.seq = self.seq.max(number);
            return Say::Granted {
                seq: self.seq,
                outranked,
            };
        } else if mine.is_none() {
            let newer = |(client, generation): Id| client == id.0 && generation > id.1;
            if self.lock.is_some_and(newer) || self.queue.iter().any(|(_, other)| newer(*other)) {
                return Say::Superseded;
            }
            self.lock = self.lock.filter(|(client, _)| *client != id.0);
            self.queue.retain(|(_, (client, _))| *client != id.0);
            if number == 0 {
                self.settle();
            }
            if number == 0 && self.lock.is_none() {
                self.lock = Some(id);
                self.seq += 1;
                return Say::Granted {
                    seq: self.seq,
                    outranked: false,
                };
            }
        }
        let number = match (number, mine) {
            (0, None) => {
                self.seq += 1;
                self.seq
            }
            (0, Some(mine)) => mine,
            (number, _) => number,
        };
        self.seq = self.seq.max(number);
        self.queue.retain(|(_, other)| *other != id);
        let place = self
            .queue
            .partition_point(|(other, (client, _))| (*other, *client) < (number, id.0));
        self.queue.insert(place, (number, id));
        Say::Waiting { number }
    }

    /// A free vote goes to the head of the queue.
    fn settle(&mut self) {
        if self.lock.is_none() && !self.queue.is_empty() {
            self.lock = Some(self.queue.remove(0).1);
            self.seq += 1;
        }
    }
}
