//! A session: one connection on which a handshake succeeded, and the calls over it.
//!
//! It ends at its first sign of trouble, once and for good: the connection broke, an answer made no
//! sense, or several calls in a row were not answered. From then on every call fails at once, and the
//! supervisor ([`link`](super::link)) replaces it. What was under way meanwhile runs into its deadline.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, RedisResult, Value, cmd};
use tokio::sync::Notify;

use super::{
    Answer, Context, Era, Terms,
    connection::Connection,
    fault, millis_up,
    reply::envelope,
    request::{Asked, Header, Request, Script, Shas},
    timed,
};
use crate::{
    clock::{Clock, Time},
    error::NodeError,
};

/// After so many timeouts in a row the connection is taken for dead. One may be chance; and commands
/// that pile up on a hung server all run later.
const MAX_TIMEOUTS: u32 = 3;

/// How many calls may be under way at once: bounds the memory that a hung server costs.
const MAX_IN_FLIGHT: usize = 16 * 1024;

/// A connection that shook hands.
pub(super) struct Session {
    pub(super) connection: Connection,
    pub(super) epoch: u64,
    pub(super) up_since: Time,
    pub(super) pushes: bool,
    pub(super) shas: Shas,
    pub(super) node_clock: NodeClock,
    pub(super) health: Arc<Health>,
    in_flight: AtomicUsize,
    clock: Clock,
    restart_grace: Duration,
    node_timeout: Duration,
}

impl Session {
    /// A fresh one, in its `epoch`.
    pub(super) fn new(
        connection: Connection,
        epoch: u64,
        pushes: bool,
        (up_since, shas, node_clock): (Time, Shas, NodeClock),
        health: Arc<Health>,
        context: &Context,
    ) -> Self {
        Self {
            connection,
            epoch,
            up_since,
            pushes,
            shas,
            node_clock,
            health,
            in_flight: AtomicUsize::new(0),
            clock: context.clock,
            restart_grace: context.config.restart_grace,
            node_timeout: context.config.node_timeout,
        }
    }

    /// The connection as the core sees it.
    pub(super) fn era(&self) -> Era {
        Era {
            epoch: self.epoch,
            up_since: self.up_since,
            clock_offset: self.node_clock.offset(),
            pushes: self.pushes,
        }
    }

    /// What a call of these terms starts with.
    pub(super) fn header(&self, terms: &Terms) -> Header {
        Header {
            deadline: self.deadline(terms.deadline),
            seed: terms.seed,
            extra: self.era().extra(self.clock.now(), self.restart_grace),
            unheard: millis_up(terms.unheard),
            lease: millis_up(terms.lease),
        }
    }

    /// Sends a request, and once more where the server knows the script no longer or where the deadline
    /// was wrong by its clock: in both cases nothing was carried out. Dropped, it sends nothing more.
    pub(super) async fn call<T>(
        self: Arc<Self>,
        request: Request<T>,
        deadline: Time,
    ) -> Result<Answer<T>, NodeError> {
        let _place = self.admit()?;
        let started = self.clock.now();
        let outcome = timed(self.clock, deadline, self.attempt(request, deadline)).await;
        if matches!(outcome, Err(NodeError::TimedOut)) {
            self.unanswered(started);
        }
        outcome
    }

    /// Asks for a sign of life, unless the connection is lost meanwhile.
    pub(super) async fn ping(&self) {
        let started = self.clock.now();
        let deadline = started.plus(self.node_timeout);
        let ping = cmd("PING");
        let outcome = timed(self.clock, deadline, async {
            self.heard(self.connection.request(&ping).await)
        });
        match outcome.await {
            Err(NodeError::TimedOut) => self.unanswered(started),
            // A refusal is a sign of life, too; a broken connection has been noted.
            Ok(_) | Err(_) => {}
        }
    }

    async fn attempt<T>(
        &self,
        request: Request<T>,
        deadline: Time,
    ) -> Result<Answer<T>, NodeError> {
        let (sent, reply) = self.send(&request).await?;
        let outcome = self.read(sent, &request, &reply);
        let (
            Err(NodeError::Late),
            Asked::InTime {
                deadline: place, ..
            },
        ) = (&outcome, request.asked)
        else {
            return outcome;
        };
        if self.clock.now() >= deadline {
            return outcome;
        }
        // Refused, though its time is not over: the clock was not what we thought. Now it is known.
        let request = request.postponed(place, self.deadline(deadline));
        let (sent, reply) = self.send(&request).await?;
        self.read(sent, &request, &reply)
    }

    async fn send<T>(&self, request: &Request<T>) -> Result<(Time, Value), NodeError> {
        let sent = self.clock.now();
        let reply = self.connection.request(&request.cmd).await;
        if !matches!(&reply, Err(error) if error.code() == Some("NOSCRIPT")) {
            return Ok((sent, self.heard(reply)?));
        }
        self.reload(request.script, &request.cmd).await
    }

    /// Runs a command whose script the server has forgotten, in the same round trip as it learns it.
    async fn reload(&self, script: Script, run: &Cmd) -> Result<(Time, Value), NodeError> {
        let sent = self.clock.now();
        let replies = self
            .connection
            .requests(vec![script.load(), run.clone()])
            .await;
        let mut replies = match replies {
            Ok(replies) => replies.into_iter(),
            Err(error) => return Err(self.failed(&error)),
        };
        match (replies.next(), replies.next()) {
            (_, Some(Ok(reply))) => Ok((sent, self.heard(Ok(reply))?)),
            // Refused the script: that is why it is still unknown.
            (Some(Err(error)), _) | (_, Some(Err(error))) => Err(self.failed(&error)),
            (_, None) => Err(NodeError::Garbled),
        }
    }

    fn read<T>(
        &self,
        sent: Time,
        request: &Request<T>,
        reply: &Value,
    ) -> Result<Answer<T>, NodeError> {
        let received = self.clock.now();
        let expected = match request.asked {
            Asked::InTime { answers, .. } | Asked::AnyTime { answers } => Some(answers),
            Asked::Open => None,
        };
        let Some((millis, answers)) = envelope(reply) else {
            // Not even the frame is ours. This may be the reply to something else, and then so may be
            // every later one.
            self.health.lose("an answer was not understood");
            return Err(NodeError::Garbled);
        };
        self.node_clock.learn(millis, sent, received);
        match (request.asked, answers) {
            (Asked::InTime { answers: 1.., .. }, []) => return Err(NodeError::Late),
            _ if expected.is_some_and(|expected| expected != answers.len()) => {
                self.health.lose("an answer was not understood");
                return Err(NodeError::Garbled);
            }
            _ => {}
        }
        let value = (request.decode)(millis, answers).ok_or(NodeError::Garbled)?;
        let era = self.era();
        Ok(Answer { sent, era, value })
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

    fn failed(&self, error: &redis::RedisError) -> NodeError {
        if error.code().is_some() {
            self.health.heard(self.clock.now());
        }
        let failure = fault::failure(error, self.connection.is_handed());
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
        // A lease of a few milliseconds is waited for as long; that says nothing about the connection.
        if self.clock.now().since(started) >= self.node_timeout / 2 {
            self.health.unanswered();
        }
    }

    fn deadline(&self, deadline: Time) -> u64 {
        // Zero would mean that there is none.
        self.era().node_micros(deadline).div_ceil(1000).max(1)
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

/// Whether a connection still serves. Shared with the closure that hears of its end.
#[derive(Debug, Default)]
pub(super) struct Health {
    lost: OnceLock<&'static str>,
    notify: Notify,
    timeouts: AtomicU32,
    last: Mutex<Time>,
}

impl Health {
    /// Ends the session, for the first cause given.
    pub(super) fn lose(&self, cause: &'static str) {
        if self.lost.set(cause).is_ok() {
            self.notify.notify_one();
        }
    }

    /// Why the session ended, if it did.
    pub(super) fn cause(&self) -> Option<&'static str> {
        self.lost.get().copied()
    }

    /// Waits for the end. For one waiter, the supervisor.
    pub(super) async fn lost(&self) -> &'static str {
        loop {
            if let Some(cause) = self.cause() {
                return cause;
            }
            self.notify.notified().await;
        }
    }

    /// When the server was last heard.
    pub(super) fn last(&self) -> Time {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heard(&self, now: Time) {
        self.timeouts.store(0, Ordering::Relaxed);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = now.max(*last);
    }

    fn unanswered(&self) {
        if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_TIMEOUTS {
            self.lose("no answer in time");
        }
    }
}

/// What is known of a server's clock.
///
/// A reading is as good as the round trip that brought it was short. So a longer one does not replace a
/// shorter one, or the deadlines that follow from it (S4) would shake with every delay; unless the two
/// contradict each other, for then the clock was set.
#[derive(Debug)]
pub(super) struct NodeClock(Mutex<Reading>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    /// Microseconds, as in [`Era`].
    offset: i64,
    /// How far off that may be, in microseconds.
    doubt: i64,
    at: Time,
}

impl NodeClock {
    /// The clock read `millis` between two moments.
    pub(super) fn read(millis: u64, sent: Time, received: Time) -> Self {
        Self(Mutex::new(Reading::of(millis, sent, received)))
    }

    /// Nothing is known yet: let it agree with the wall clock `millis` until it is read.
    pub(super) fn guess(millis: u64, now: Time) -> Self {
        let guess = Reading {
            doubt: i64::MAX,
            ..Reading::of(millis, now, now)
        };
        Self(Mutex::new(guess))
    }

    /// The server's clock, in microseconds, at the origin of the client's.
    pub(super) fn offset(&self) -> i64 {
        self.reading().offset
    }

    /// Takes another reading into account.
    pub(super) fn learn(&self, millis: u64, sent: Time, received: Time) {
        let new = Reading::of(millis, sent, received);
        let mut known = self.reading();
        // Clocks drift apart by less than a thousandth.
        let age = i64::try_from(received.since(known.at).as_micros() / 1000).unwrap_or(i64::MAX);
        let doubt = known.doubt.saturating_add(age);
        let apart = new.offset.saturating_sub(known.offset).saturating_abs();
        if new.doubt <= doubt || apart > doubt.saturating_add(new.doubt) {
            *known = new;
        }
    }

    fn reading(&self) -> std::sync::MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    fn of(millis: u64, sent: Time, received: Time) -> Self {
        // Half the way there and back, and the millisecond that the reading is rounded down to.
        let doubt = received.since(sent).as_micros() / 2 + 1000;
        Self {
            offset: Era::offset(millis, sent, received),
            doubt: i64::try_from(doubt).unwrap_or(i64::MAX),
            at: received,
        }
    }
}
