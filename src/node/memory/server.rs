//! One server in this process: its condition, its clock, what it stores, and who is connected.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    message::{Command, Incarnation, Reply, Terms},
    node::{
        Context, Events, NodeEvent,
        table::{Header, Push, Table},
    },
    runtime::clock::{Clock, MEMORY_EPOCH_MILLIS},
    time::Time,
};

pub(super) struct Server {
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    pub(super) condition: Condition,
    pub(super) table: Table,
    pub(super) epoch: u64,
    pub(super) run: u64,
    pub(super) started: Time,
    /// How far the clock was stepped, in microseconds.
    pub(super) step: i64,
    pub(super) latency: Duration,
    pub(super) deaf: bool,
    pub(super) calls: u64,
    /// The channels of the clients that are connected.
    pub(super) clients: Vec<(Arc<str>, Events)>,
    /// The calls that came while the node was paused.
    pub(super) held_back: Vec<Job>,
}

/// Carries a call out, and returns what answers it once nothing is locked any more.
pub(super) type Job = Box<dyn FnOnce(&mut State) -> Box<dyn FnOnce() + Send> + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Running,
    Paused,
    Stopped,
}

impl Server {
    pub(super) fn new(index: usize, clock: Clock) -> Self {
        Self {
            name: format!("memory node {index}").into(),
            clock,
            state: Mutex::new(State {
                condition: Condition::Running,
                table: Table::default(),
                epoch: 1,
                run: 1,
                started: clock.now(),
                step: 0,
                latency: Duration::ZERO,
                deaf: false,
                calls: 0,
                clients: Vec::new(),
                held_back: Vec::new(),
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked; a test that panics elsewhere must not hide its cause.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects a client and returns the clock offset that a handshake would find.
    pub(super) fn open(&self, context: &Context) -> i64 {
        let mut state = self.state();
        state
            .clients
            .push((context.channel.clone(), context.events.clone()));
        let lag = i64::try_from(self.lag(context.clock).as_micros());
        state.offset().saturating_sub(lag.unwrap_or(i64::MAX))
    }

    /// How much later the origin of this node's clock lies than that of a client's.
    pub(super) fn lag(&self, client: Clock) -> Duration {
        match (self.clock, client) {
            (Clock::Tokio { origin }, Clock::Tokio { origin: other }) => {
                origin.saturating_duration_since(other)
            }
            _ => Duration::ZERO,
        }
    }

    pub(super) fn close(&self, channel: &str) {
        self.state()
            .clients
            .retain(|(other, _)| **other != *channel);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl State {
    pub(super) fn connect(&mut self) {
        self.condition = Condition::Running;
        self.epoch += 1;
        for (_, events) in &self.clients {
            events.tell(NodeEvent::Up);
        }
    }

    pub(super) fn offset(&self) -> i64 {
        (MEMORY_EPOCH_MILLIS as i64)
            .saturating_mul(1000)
            .saturating_add(self.step)
    }

    pub(super) fn micros(&self, clock: Clock) -> u64 {
        let incarnation = self.incarnation(self.offset(), Duration::ZERO);
        incarnation.node_micros(clock.now())
    }

    /// The connection as a client knows it, whose clock began so much earlier.
    pub(super) fn incarnation(&self, clock_offset: i64, lag: Duration) -> Incarnation {
        let started = self.started.plus(lag);
        Incarnation {
            epoch: self.epoch,
            run: self.run,
            up_since: started,
            up_before: started,
            clock_offset,
            pushes: true,
        }
    }

    pub(super) fn header(&self, clock: Clock, terms: Option<&Terms>, lag: Duration) -> Header {
        let micros = self.micros(clock);
        match terms {
            Some(terms) => Header::of(micros, terms, &self.incarnation(self.offset(), lag)),
            None => Header {
                micros,
                ..Header::default()
            },
        }
    }

    /// Carries a batch out, and publishes the votes that other requests get by it.
    pub(super) fn each(&mut self, header: Header, batch: &[Command]) -> Vec<Reply> {
        let Self {
            table,
            clients,
            deaf,
            ..
        } = self;
        let mut publish = |push: &Push| {
            let listening = clients
                .iter()
                .filter(|(channel, _)| **channel == *push.channel);
            let heard = listening
                .map(|(_, events)| {
                    if !*deaf {
                        events.tell(NodeEvent::Granted {
                            id: push.id.to_string(),
                            waiter_end: push.waiter_end,
                            seq: push.seq,
                        });
                    }
                })
                .count();
            Some(heard > 0)
        };
        batch
            .iter()
            .map(|command| table.carry_out(header, command, &mut publish))
            .collect()
    }
}
