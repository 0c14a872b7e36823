//! The world of a run: nodes, the ways between them and the clients, and what is under way.
//!
//! Everything that will happen is an action on the agenda, in order of time and of being put there. One task
//! carries the agenda out; clients put actions on it and never touch a node themselves.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::Notify;

use super::{
    chance::Chance,
    count::count,
    history::{Call, History, Kind, Ms, Note, Settings, What},
    life::Life,
    server::Server,
    way::Way,
};
use crate::{
    clock::{Clock, Time},
    guard::LockGuard,
};

/// A handle on the world.
#[derive(Clone, Debug)]
pub(super) struct Sim(Arc<Shared>);

struct Shared {
    world: Mutex<World>,
    rang: Notify,
}

pub(super) type Action = Box<dyn FnOnce(&mut World) + Send>;

/// Guards that are out, with their calls.
type Guards = Vec<(u16, Weak<LockGuard>)>;

pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) chance: Chance,
    pub(super) history: History,
    pub(super) servers: Vec<Server>,
    /// By client, then node.
    pub(super) ways: Vec<Vec<Way>>,
    pub(super) lives: Vec<Life>,
    pub(super) guards: Guards,
    agenda: BTreeMap<(Ms, u64), Action>,
    entries: u64,
    rang: bool,
    pub(super) requests: u64,
}

impl Sim {
    pub(super) fn new(
        clock: Clock,
        chance: Chance,
        settings: Settings,
        servers: Vec<Server>,
    ) -> Self {
        let nobody = Call {
            client: usize::MAX,
            resource: usize::MAX,
            kind: Kind::Lock,
            ttl: 0,
        };
        let history = History {
            settings,
            calls: vec![nobody],
            ..History::default()
        };
        Self(Arc::new(Shared {
            world: Mutex::new(World {
                clock,
                chance,
                history,
                servers,
                ways: Vec::new(),
                lives: Vec::new(),
                guards: Vec::new(),
                agenda: BTreeMap::new(),
                entries: 0,
                rang: false,
                requests: 0,
            }),
            rang: Notify::new(),
        }))
    }

    /// Does something in the world, now.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world();
        let done = act(&mut world);
        if std::mem::take(&mut world.rang) {
            self.0.rang.notify_one();
        }
        done
    }

    pub(super) fn note(&self, what: What) {
        self.with(|world| world.note(what));
    }

    pub(super) fn now(&self) -> Ms {
        self.world().now()
    }

    /// Carries the agenda out, for ever.
    pub(super) async fn run(self) {
        loop {
            let (clock, next) = {
                let mut world = self.world();
                let now = world.now();
                while let Some(entry) = world
                    .agenda
                    .first_entry()
                    .filter(|entry| entry.key().0 <= now)
                {
                    entry.remove()(&mut world);
                }
                world.rang = false;
                let next = world.agenda.first_key_value().map(|((at, _), _)| *at);
                (world.clock, next)
            };
            // In the last moment of a validity the nodes must still back it.
            let last = self.look_at_guards();
            let rung = self.0.rang.notified();
            match next.into_iter().chain(last).min() {
                None => rung.await,
                Some(at) => {
                    let at = Time::default().plus(std::time::Duration::from_millis(at));
                    tokio::select! {
                        biased;
                        () = rung => {}
                        () = clock.sleep_until(at) => {}
                    }
                }
            }
        }
    }

    /// Notes which guards have become invalid, and whether the nodes back those that are valid (S3). Returns
    /// the next moment that is the last one of a guard's validity.
    pub(super) fn look_at_guards(&self) -> Option<Ms> {
        let guards = std::mem::take(&mut self.world().guards);
        let (mut live, mut next) = (Vec::new(), None);
        for (call, guard) in guards {
            let Some(out) = guard.upgrade() else {
                self.note(What::Over(call));
                continue;
            };
            let left = out.validity();
            let mut world = self.world();
            let client = world.history.call(call).client;
            if world.lives[client].is_dead() {
                continue;
            }
            if left.is_zero() {
                world.note(What::Over(call));
                continue;
            }
            world.check_backing(call);
            let last = (left.as_nanos() as Ms - 1) / 1_000_000;
            if last > 0 {
                let last = world.now() + last;
                next = Some(next.map_or(last, |next: Ms| next.min(last)));
            }
            live.push((call, guard));
        }
        self.world().guards.extend(live);
        next
    }

    /// Follows a guard that has just been handed out.
    pub(super) fn follow(&self, call: u16, guard: &Arc<LockGuard>) {
        self.look_at_guards();
        let token = guard.fencing_token();
        let valid = guard.is_held();
        self.with(|world| {
            world.note(What::Had(call, token));
            // The agenda's task must look ahead for it.
            world.rang = true;
            if valid {
                world.guards.push((call, Arc::downgrade(guard)));
            } else {
                world.note(What::Over(call));
            }
        });
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    pub(super) fn now(&self) -> Ms {
        self.clock.now().since(Time::default()).as_millis() as Ms
    }

    pub(super) fn note(&mut self, what: What) {
        let at = self.now();
        self.history.notes.push(Note { at, what });
    }

    pub(super) fn fault(&mut self, fault: &'static str, on: String) {
        count(fault);
        self.note(What::Fault(fault, on));
    }

    /// Puts an action on the agenda.
    pub(super) fn after(&mut self, span: Ms, act: impl FnOnce(&mut Self) + Send + 'static) {
        let at = self.now() + span;
        self.at(at, act);
    }

    pub(super) fn at(&mut self, at: Ms, act: impl FnOnce(&mut Self) + Send + 'static) {
        self.entries += 1;
        self.agenda.insert((at, self.entries), Box::new(act));
        self.rang = true;
    }

    /// A new call of the workload.
    pub(super) fn call(&mut self, call: Call) -> u16 {
        self.history.calls.push(call);
        (self.history.calls.len() - 1) as u16
    }

    fn check_backing(&mut self, call: u16) {
        let resource = self.history.call(call).resource;
        let now = self.now();
        let has = |server: &&Server| server.has_key(resource, call, now);
        let lost = |server: &&Server| !has(server) && server.lost_key(resource, call, now);
        let lost = self.servers.iter().filter(lost).count();
        let has = self.servers.iter().filter(has).count();
        if has + lost < self.history.settings.quorum {
            self.note(What::Unbacked { call, has, lost });
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sim")
    }
}
