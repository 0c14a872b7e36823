//! A client with one request: what its user does, and what the crate's core makes of what it hears.

use std::{sync::Arc, time::Duration};

use crate::{
    config::Config,
    error::NodeError,
    event::Interest,
    holder::{ClientId, HolderId},
    message::{Answer, Reply},
    node::Push,
    quorum::Quorum,
    request::{Cx, End, Outgoing, Renewal, Request, Taken},
    resource::{Resource, Ttl},
    runtime::rng::{Rng, draw_for},
    servers::Servers,
    time::Time,
};

pub(crate) const TTL: Duration = Duration::from_secs(20);

/// More rounds than follow from one event.
const ROUNDS: usize = 20;

#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) stage: Stage,
    pub(crate) request: Option<Request>,
    pub(crate) servers: Servers,
    pub(crate) channel: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Idle,
    Waiting,
    /// Has the guard, with this token.
    Held(u64),
    /// The guard was lost.
    Lost,
    Over,
}

/// What a step of a client comes to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) outgoing: Vec<Outgoing>,
    /// It is due again and again without anything to ask.
    pub(crate) spins: bool,
}

impl Client {
    pub(crate) fn new(config: &Config, nodes: usize, number: usize) -> Self {
        draw_for(number);
        Self {
            stage: Stage::Idle,
            request: None,
            servers: Servers::new(nodes, config.grace(), config.cold_start_grace),
            channel: ClientId::new(Rng.uuid(), "client", true).channel(),
        }
    }

    /// Its user calls `lock`.
    pub(crate) fn start(&mut self, number: usize, config: &Arc<Config>, quorum: Quorum, now: Time) {
        draw_for(number);
        let id = HolderId::new(Rng.uuid(), &ClientId::new(Rng.uuid(), "client", true), 0);
        let resource = Arc::new(Resource::new("", "r").expect("a name"));
        let ttl = Ttl::new(TTL).expect("a ttl");
        let room = config.fifo_queue_length;
        let request = Request::new(config.clone(), quorum, resource, id, ttl, room, now);
        self.request = Some(request);
        self.stage = Stage::Waiting;
    }

    /// Its user drops what it has.
    pub(crate) fn end(&mut self, now: Time) {
        self.stage = Stage::Over;
        self.change(now, |request, cx| request.end(End::Over, cx.now));
    }

    /// What a node has answered, or why it has not.
    pub(crate) fn hear(
        &mut self,
        outgoing: &Outgoing,
        outcome: Result<Answer<Reply>, NodeError>,
        now: Time,
    ) {
        self.change(now, |request, cx| request.on_reply(outgoing, cx, outcome));
    }

    pub(crate) fn hear_push(&mut self, node: usize, push: &Push, now: Time) {
        self.change(now, |request, cx| {
            request.on_push(node, &push.id, push.waiter_end, push.seq, cx);
        });
    }

    pub(crate) fn hear_reconnect(&mut self, node: usize, now: Time) {
        self.change(now, |request, _| request.on_reconnect(node));
    }

    /// What follows from what has just changed: its user looks, and what is due is asked.
    pub(crate) fn go_on(&mut self, now: Time) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(mut request) = self.request.take() else {
            return outcome;
        };
        let servers = &self.servers;
        let cx = Cx { now, servers };
        for _ in 0..ROUNDS {
            self.stage = look(self.stage, &mut request, cx);
            drop(request.take_news(Interest::default()));
            let due = request.due(cx).is_some_and(|due| due <= now);
            if !due {
                break;
            }
            let asked = outcome.outgoing.len();
            for (node, _) in request.take_due(cx) {
                outcome.outgoing.extend(request.ask(node, cx));
            }
            outcome.spins =
                outcome.outgoing.len() == asked && request.due(cx).is_some_and(|due| due <= now);
        }
        self.request =
            Some(request).filter(|request| self.stage != Stage::Over || !request.is_clean());
        outcome
    }

    /// When something is due next.
    pub(crate) fn due(&self, now: Time) -> Option<Time> {
        let servers = &self.servers;
        self.request.as_ref()?.due(Cx { now, servers })
    }

    pub(crate) fn is_held(&self, now: Time) -> bool {
        let held = |request: &Request| request.is_held(now);
        matches!(self.stage, Stage::Held(_)) && self.request.as_ref().is_some_and(held)
    }

    /// Whether it is in line, and whoever asks from now on comes later (F1).
    pub(crate) fn is_recorded(&self) -> bool {
        self.stage == Stage::Waiting && self.request.as_ref().is_some_and(Request::is_recorded)
    }

    pub(crate) fn generation(&self) -> u32 {
        let request = self.request.as_ref();
        request.map_or(0, |request| request.id().generation())
    }

    fn change(&mut self, now: Time, change: impl FnOnce(&mut Request, Cx<'_>)) {
        let servers = &self.servers;
        if let Some(request) = &mut self.request {
            change(request, Cx { now, servers });
        }
    }
}

/// Its user looks, as `lock` and the guard do whenever there is news.
fn look(stage: Stage, request: &mut Request, cx: Cx<'_>) -> Stage {
    match stage {
        Stage::Waiting if request.is_hopeless() => {
            request.end(End::Over, cx.now);
            Stage::Over
        }
        Stage::Waiting => match request.take(cx, Renewal::Third, None) {
            Taken::Lease(majority) => Stage::Held(majority.token()),
            Taken::NotYet => Stage::Waiting,
            Taken::Ended(_) => Stage::Over,
        },
        Stage::Held(_) if request.check(cx.now).is_some() => Stage::Lost,
        stage => stage,
    }
}
