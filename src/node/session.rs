//! A session: one connection on which a handshake succeeded, and the calls over it.
//!
//! A session ends for good at its first sign of trouble: the connection broke, an answer made no sense, or several
//! calls in a row were not answered. From then on every call fails at once, and the supervisor
//! ([`link`](super::link)) opens another session. Calls that are under way run into their deadlines.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, RedisError, RedisResult, Value, cmd};
use tokio::time::timeout;

use super::{
    Context,
    connection::Connection,
    dial::Dialled,
    encode::{Asked, Encoded, Header, Script, Shas},
    fault,
    handshake::ServerInfo,
    health::Health,
    node_clock::READ_EVERY,
    reply::{self, envelope},
    unless_overdue,
};
use crate::message::{Answer, Incarnation, Terms, millis_up};
use crate::{error::NodeError, runtime::clock::Clock, time::Time};

/// After so much silence the server is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(2);

/// How many calls may be under way at once: bounds the memory that a hung server costs.
const MAX_IN_FLIGHT: usize = 16 * 1024;

/// A connection that shook hands.
pub(super) struct Session {
    connection: Connection,
    epoch: u64,
    run: u64,
    pushes: bool,
    found: ServerInfo,
    health: Arc<Health>,
    in_flight: AtomicUsize,
    /// Whether the server has said that it does not know a script.
    forgotten: AtomicBool,
    clock: Clock,
    node_timeout: Duration,
}

impl Session {
    /// A new session, after what the handshake `found`.
    pub(super) fn new(
        dialled: Dialled,
        found: ServerInfo,
        epoch: u64,
        health: Arc<Health>,
        context: &Context,
    ) -> Self {
        Self {
            connection: dialled.connection,
            epoch,
            run: found.run_id.as_deref().map_or(0, number_of),
            pushes: dialled.listens,
            found,
            health,
            in_flight: AtomicUsize::new(0),
            forgotten: AtomicBool::new(false),
            clock: context.clock,
            node_timeout: context.config.node_timeout,
        }
    }

    /// Whether the connection is the user's.
    pub(super) fn is_handed(&self) -> bool {
        self.connection.is_handed()
    }

    /// Whether the session still serves.
    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// What the handshake found.
    pub(super) fn found(&self) -> &ServerInfo {
        &self.found
    }

    /// The names of the scripts on this server.
    pub(super) fn shas(&self) -> &Shas {
        &self.found.shas
    }

    /// The connection as the core sees it.
    pub(super) fn incarnation(&self) -> Incarnation {
        Incarnation {
            epoch: self.epoch,
            run: self.run,
            up_since: self.found.up_since,
            up_before: self.found.up_before,
            clock_offset: self.found.node_clock.offset(),
            pushes: self.pushes,
        }
    }

    /// What a call of these terms starts with.
    pub(super) fn header(&self, terms: &Terms) -> Header {
        Header {
            deadline: self.deadline(terms.deadline),
            seed: terms.seed,
            extra: terms.extra,
            floor: terms.floor(&self.incarnation()),
            keep: millis_up(terms.keep),
            unheard: millis_up(terms.unheard),
            waiter_ttl: millis_up(terms.waiter_ttl),
        }
    }

    /// Sends a call. If the server no longer knows the script, or the deadline was wrong by its clock, nothing is carried
    /// out, and the answer is that the call came too late: the caller may send it again. A dropped call sends nothing
    /// more.
    pub(super) async fn call<T>(
        self: Arc<Self>,
        request: Encoded<T>,
        deadline: Time,
    ) -> Result<Answer<T>, NodeError> {
        let _place = self.admit()?;
        let started = self.clock.now();
        let attempt = pin!(self.attempt(&request));
        let outcome = unless_overdue(self.clock, deadline, attempt).await;
        if matches!(outcome, Err(NodeError::TimedOut)) {
            self.unanswered(started);
        }
        outcome
    }

    /// Asks for a sign of life, which also reads the server's clock.
    pub(super) async fn beat(&self) {
        let sent = self.clock.now();
        let time = cmd("TIME");
        match timeout(self.node_timeout, self.connection.request(&time)).await {
            Err(_) => self.unanswered(sent),
            Ok(Err(error)) => {
                self.failed(&error);
            }
            Ok(Ok(time)) => {
                let now = self.clock.now();
                self.health.heard(now);
                if let Some(millis) = reply::time(&time) {
                    self.found.node_clock.learn(millis, sent, now);
                }
            }
        }
    }

    /// When to send the next `TIME`: if the server has been silent for too long, or if no recent answer has told its
    /// clock.
    pub(super) fn next_beat(&self) -> Time {
        let silent = self.health.last().plus(SILENCE);
        silent.min(self.found.node_clock.last_read().plus(READ_EVERY))
    }

    async fn attempt<T>(&self, request: &Encoded<T>) -> Result<Answer<T>, NodeError> {
        let (sent, reply) = self.send(request).await?;
        self.read(sent, request, &reply)
    }

    /// A server that no longer knows a script has carried nothing out. It learns all scripts with the next call.
    async fn send<T>(&self, request: &Encoded<T>) -> Result<(Time, Value), NodeError> {
        let sent = self.clock.now();
        let forgotten = self.forgotten.swap(false, Ordering::Relaxed);
        let reply = if forgotten {
            // Boxed: what hardly ever happens must not make the future of every call larger.
            Box::pin(self.reload(&request.cmd)).await?
        } else {
            self.connection.request(&request.cmd).await
        };
        if !forgotten && matches!(&reply, Err(error) if error.code() == Some("NOSCRIPT")) {
            self.forgotten.store(true, Ordering::Relaxed);
            self.health.heard(self.clock.now());
            return Err(NodeError::Late);
        }
        Ok((sent, self.heard(reply)?))
    }

    /// Runs a command in the same round trip as the server learns all scripts.
    async fn reload(&self, run: &Cmd) -> Result<RedisResult<Value>, NodeError> {
        let mut commands: Vec<Cmd> = Script::ALL.into_iter().map(Script::load).collect();
        commands.push(run.clone());
        let replies = self.connection.requests(commands).await;
        let mut replies = replies.map_err(|error| self.failed(&error))?;
        let reply = replies.pop().ok_or(NodeError::Garbled)?;
        // A server that refuses the scripts still does not know them.
        let refused = replies.into_iter().find_map(Result::err);
        Ok(match (reply, refused) {
            (Err(_), Some(refused)) => Err(refused),
            (reply, _) => reply,
        })
    }

    fn read<T>(
        &self,
        sent: Time,
        request: &Encoded<T>,
        reply: &Value,
    ) -> Result<Answer<T>, NodeError> {
        let received = self.clock.now();
        let expected = match request.asked {
            Asked::InTime { answers } | Asked::AnyTime { answers } => Some(answers),
            Asked::Open => None,
        };
        let Some((millis, answers)) = envelope(reply) else {
            // Not even the frame is ours. This may be the answer to another call, and then every later one may be, too.
            self.health.lose("an answer was not understood");
            return Err(NodeError::Garbled);
        };
        let clock = &self.found.node_clock;
        clock.learn(millis, sent, received);
        match (request.asked, answers) {
            (Asked::InTime { answers: 1.. }, []) => {
                clock.correct(millis, sent, received);
                return Err(NodeError::Late);
            }
            _ if expected.is_some_and(|expected| expected != answers.len()) => {
                self.health.lose("an answer was not understood");
                return Err(NodeError::Garbled);
            }
            _ => {}
        }
        let value = (request.decode)(millis, answers).ok_or(NodeError::Garbled)?;
        let incarnation = self.incarnation();
        Ok(Answer {
            sent,
            incarnation,
            value,
        })
    }

    fn heard(&self, reply: RedisResult<Value>) -> Result<Value, NodeError> {
        match reply {
            Ok(value) => {
                self.health.heard(self.clock.now());
                Ok(value)
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &RedisError) -> NodeError {
        if error.code().is_some() {
            self.health.heard(self.clock.now());
        }
        let failure = fault::failure(error, self.connection.is_handed());
        let failure = self.health.explain(failure);
        match &failure {
            NodeError::Broken => self.health.lose("the connection broke"),
            NodeError::Garbled => self.health.lose("an answer was not understood"),
            // The next handshake says what has become of the server.
            NodeError::WrongServer(_) => self.health.lose("the server can no longer be used"),
            _ => {}
        }
        failure
    }

    fn unanswered(&self, started: Time) {
        // A command for a lease of a few milliseconds waits only that long for its answer. Such a timeout says nothing
        // about the connection.
        if self.clock.now().since(started) >= self.node_timeout / 2 {
            self.health.unanswered(started);
        }
    }

    fn deadline(&self, deadline: Time) -> u64 {
        self.found
            .node_clock
            .deadline(deadline, self.node_timeout, self.clock.now())
    }

    fn admit(&self) -> Result<impl Drop + Send + '_, NodeError> {
        struct Place<'a>(&'a AtomicUsize);
        impl Drop for Place<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = Place(&self.in_flight);
        if before >= MAX_IN_FLIGHT {
            return Err(NodeError::Down("too many requests under way".to_owned()));
        }
        Ok(place)
    }
}

/// A number for the run of a server with this id; never 0.
fn number_of(run_id: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(run_id) | 1
}
