//! The supervisor of one node: connects, shakes hands, watches, and starts over.
//!
//! Each node has one such task. Its state is a session, or the reason why there is none. A call takes the session of
//! the moment and never waits for a connection. The driver's own reconnecting manager keeps a hung connection for ever
//! and lets its commands run late, so it is not used. Dropping the link ends the task; the connection closes with the
//! last call on it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

use super::{
    Context, NodeEvent,
    dial::Source,
    handshake::{shake, too_old},
    health::Health,
    roster::Roster,
    session::Session,
};
use crate::{
    error::{NodeError, WrongServer},
    runtime::rng::Rng,
    runtime::task::Owned,
    telemetry::{self, Connected},
    time::Time,
};

/// The least time that an attempt to connect is given.
const CONNECT: Duration = Duration::from_secs(1);

/// How many round trips it takes, one after the other, until a connection stands. That of the socket is one of them.
const ROUND_TRIPS: u32 = 4;

/// A server is asked for a sign of life no more often than this.
const BEAT: Duration = Duration::from_secs(1);

/// The pauses between attempts grow from here
const SHORTEST: Duration = Duration::from_millis(10);

/// to here.
const LONGEST: Duration = Duration::from_millis(250);

/// The pause when somebody has to change the setup first.
const WRONG: Duration = Duration::from_secs(1);

/// A handle on the supervisor.
pub(super) struct Link {
    state: watch::Receiver<State>,
    _task: Owned,
}

#[derive(Clone)]
enum State {
    /// The first attempt is under way.
    Starting,
    Up(Arc<Session>),
    Down(NodeError),
}

impl Link {
    /// Starts a supervisor. Needs a runtime.
    pub(super) fn start(
        source: Source,
        name: Arc<str>,
        context: Context,
        roster: Arc<Roster>,
    ) -> Self {
        let (sender, state) = watch::channel(State::Starting);
        let supervisor = Supervisor {
            source,
            name,
            context,
            roster,
            state: sender,
            epoch: 0,
            pause: SHORTEST,
            reported: None,
            down_since: None,
        };
        let _task = Owned::start(supervisor.run());
        Self { state, _task }
    }

    /// The present session, or why there is none.
    pub(super) fn session(&self) -> Result<Arc<Session>, NodeError> {
        self.look(Arc::clone)
    }

    /// Runs `look` on the present session; tells why there is none.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Arc<Session>) -> T) -> Result<T, NodeError> {
        match &*self.state.borrow() {
            State::Starting => Err(NodeError::Down("connecting".to_owned())),
            State::Down(error) => Err(error.clone()),
            State::Up(session) => match session.health().cause() {
                None => Ok(look(session)),
                Some(cause) => Err(NodeError::Down(cause.to_owned())),
            },
        }
    }

    /// Waits until the first attempt to connect has ended, and tells how the node stands then.
    pub(super) async fn greeted(&self) -> Result<(), NodeError> {
        let mut state = self.state.clone();
        let greeted = state
            .wait_for(|state| !matches!(state, State::Starting))
            .await;
        if greeted.is_err() {
            return Err(NodeError::Down("shut down".to_owned()));
        }
        self.session().map(drop)
    }
}

struct Supervisor {
    source: Source,
    name: Arc<str>,
    context: Context,
    roster: Arc<Roster>,
    state: watch::Sender<State>,
    epoch: u64,
    pause: Duration,
    /// The cause that was reported last in this outage.
    reported: Option<NodeError>,
    /// When it began.
    down_since: Option<Time>,
}

/// However the supervisor ends, its node is down from then on.
impl Drop for Supervisor {
    fn drop(&mut self) {
        let cause = NodeError::Down("its background task has ended".to_owned());
        self.state.send_replace(State::Down(cause));
    }
}

impl Supervisor {
    async fn run(mut self) {
        telemetry::node_known(&self.name);
        loop {
            // Each round trip may take as long as any other answer (L6).
            let limit = self.context.config.node_timeout.saturating_mul(ROUND_TRIPS);
            let limit = limit.max(CONNECT);
            let health = Arc::default();
            let outcome = timeout(limit, self.connect(&health)).await;
            match outcome.unwrap_or(Err(NodeError::TimedOut)) {
                Ok(session) => self.serve(session).await,
                Err(error) => self.fail(health.explain(error)).await,
            }
        }
    }

    async fn connect(&self, health: &Arc<Health>) -> Result<Session, NodeError> {
        let dialled = self.source.dial(&self.context, health).await?;
        let found = shake(&dialled.connection, &self.context, dialled.listens).await;
        let found = found.map_err(|error| match error {
            NodeError::Refused(_) if dialled.dated => too_old("unknown"),
            error => error,
        })?;
        if let Some(run_id) = &found.run_id {
            let claim = self
                .roster
                .claim(self.context.events.node, &self.name, run_id);
            claim.map_err(|other| WrongServer::SameServer { other })?;
        }
        health.heard(self.context.clock.now());
        let epoch = self.epoch + 1;
        Ok(Session::new(
            dialled,
            found,
            epoch,
            health.clone(),
            &self.context,
        ))
    }

    /// Publishes the session and returns when it has ended.
    async fn serve(&mut self, session: Session) {
        let since = self.context.clock.now();
        let session = Arc::new(session);
        self.epoch += 1;
        let away = self.down_since.take().map(|down| since.since(down));
        let _connected = Connected::new(self.name.clone(), self.epoch, away);
        self.look_over(&session);
        self.reported = None;
        self.state.send_replace(State::Up(session.clone()));
        self.context.events.tell(NodeEvent::Up);
        session.health().open();

        let cause = self.watch(&session).await;
        self.state
            .send_replace(State::Down(NodeError::Down(cause.to_owned())));
        drop(session);
        telemetry::node_lost(&self.name, cause);
        self.down_since = Some(self.context.clock.now());
        self.reported = Some(NodeError::Down(cause.to_owned()));
        // Usually this was a restart, and there is no need to wait; unless connections break as fast as they are made.
        if self.context.clock.now().since(since) >= LONGEST {
            self.pause = SHORTEST;
        } else {
            self.rest().await;
        }
    }

    /// Warns of what does no harm until a fault comes on top: keys that may be evicted, clocks that are far apart.
    fn look_over(&self, session: &Session) {
        let found = session.found();
        if let Some(eviction) = &found.eviction {
            telemetry::may_evict(&self.name, &eviction.policy, eviction.maxmemory);
        }
        let Some(limit) = self.context.config.most_apart() else {
            return;
        };
        let now = self.context.clock.now();
        let index = self.context.events.node;
        let apart = self
            .roster
            .compare(index, &self.name, &found.node_clock, limit, now);
        if let Some((other, ahead)) = apart {
            telemetry::clocks_apart(&self.name, &other, ahead, limit);
        }
    }

    /// Why the session ended. Asks for signs of life where the server is silent.
    async fn watch(&self, session: &Session) -> &'static str {
        // Nothing is done about the user's own connection.
        if session.is_handed() {
            return session.health().lost().await;
        }
        let clock = self.context.clock;
        let mut asked = Time::default();
        loop {
            let due = session.next_beat().max(asked.plus(BEAT));
            tokio::select! {
                biased;
                cause = session.health().lost() => return cause,
                () = clock.sleep_until(due) => {}
            }
            if session.next_beat() <= clock.now() {
                asked = clock.now();
                tokio::select! {
                    biased;
                    cause = session.health().lost() => return cause,
                    () = session.beat() => {}
                }
            }
        }
    }

    async fn fail(&mut self, error: NodeError) {
        let error = match error {
            NodeError::WrongServer(_) | NodeError::Down(_) => error,
            other => NodeError::Down(other.to_string()),
        };
        self.report(&error);
        let wrong = matches!(error, NodeError::WrongServer(_));
        self.state.send_replace(State::Down(error));
        if wrong {
            tokio::time::sleep(WRONG + Rng.up_to(WRONG)).await;
        } else {
            self.rest().await;
        }
    }

    /// Warns once per outage, and once more if the server turns out to be a wrong one.
    fn report(&mut self, error: &NodeError) {
        let news = match (&self.reported, error) {
            (None, _) => true,
            (Some(NodeError::WrongServer(known)), NodeError::WrongServer(found)) => known != found,
            (Some(_), NodeError::WrongServer(_)) => true,
            (Some(_), _) => false,
        };
        match error {
            NodeError::WrongServer(problem) if news => telemetry::not_a_node(&self.name, problem),
            error => telemetry::not_reachable(&self.name, error, news),
        }
        self.down_since.get_or_insert(self.context.clock.now());
        if news {
            self.reported = Some(error.clone());
        }
    }

    /// A random pause, so that clients do not return in step.
    async fn rest(&mut self) {
        let pause = SHORTEST + Rng.up_to(self.pause.saturating_sub(SHORTEST));
        self.pause = (self.pause * 2).min(LONGEST);
        tokio::time::sleep(pause).await;
    }
}
