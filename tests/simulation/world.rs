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
use crate::{guard::LockGuard, runtime::clock::Clock, time::Time};

/// A handle on the world.
#[derive(Clone, Debug)]
pub(super) struct Sim(Arc<Shared>);

struct Shared {
    world: Mutex<World>,
    rang: Notify,
}

pub(super) type Action = Box<dyn FnOnce(&mut World) + Send>;

/// A guard that is out.
pub(super) struct Out {
    pub(super) call: u16,
    guard: Weak<LockGuard>,
    /// When it is to be looked at next whether all nodes have the lease.
    next: Ms,
    /// Until when the lease was valid when that was looked at last.
    valid_until: Ms,
}

pub(super) struct World {
    pub(super) clock: Clock,
    pub(super) chance: Chance,
    pub(super) history: History,
    pub(super) servers: Vec<Server>,
    /// By client, then node.
    pub(super) ways: Vec<Vec<Way>>,
    pub(super) lives: Vec<Life>,
    /// When each client came.
    pub(super) entered: Vec<Ms>,
    pub(super) guards: Vec<Out>,
    agenda: BTreeMap<(Ms, u64), Action>,
    entries: u64,
    rang: bool,
    pub(super) requests: u64,
    /// How many public calls of each client are under way.
    pub(super) under_way: BTreeMap<usize, u32>,
    /// The calls whose `lost()` is awaited all the time, and whether it has told.
    pub(super) watched: BTreeMap<u16, bool>,
}

impl Sim {
    pub(super) fn new(
        clock: Clock,
        chance: Chance,
        settings: Settings,
        servers: Vec<Server>,
    ) -> Self {
        let nobody = Call::new(usize::MAX, usize::MAX, Kind::Lock, 0);
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
                entered: Vec::new(),
                guards: Vec::new(),
                agenda: BTreeMap::new(),
                entries: 0,
                rang: false,
                requests: 0,
                under_way: BTreeMap::new(),
                watched: BTreeMap::new(),
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
        for mut out in guards {
            let call = out.call;
            let Some(guard) = out.guard.upgrade() else {
                self.note(What::Over(call));
                continue;
            };
            let left = guard.validity();
            let mut world = self.world();
            let client = world.history.call(call).client;
            if world.lives[client].is_dead() {
                continue;
            }
            if left.is_zero() {
                world.ends(call);
                continue;
            }
            world.check_backing(call);
            let now = world.now();
            let end = now + left.as_millis() as Ms;
            if out.next <= now {
                world.check_whole(call, out.valid_until);
                out.valid_until = end;
                out.next = now + world.history.settings.few();
            }
            let last = (left.as_nanos() as Ms - 1) / 1_000_000;
            let look = out.next.min(now + last.max(1));
            next = Some(next.map_or(look, |next: Ms| next.min(look)));
            live.push(out);
        }
        self.world().guards.extend(live);
        next
    }

    /// Follows a guard that has just been handed out.
    /// The caller of a lock goes away: with the guard, if it got one in time.
    pub(super) fn gives_up(&self, call: u16, guard: Option<LockGuard>) {
        let Some(guard) = guard else {
            return self.note(What::Given(call));
        };
        let guard = Arc::new(guard);
        self.follow(call, &guard);
        self.note(What::Releases(call));
        drop(guard);
    }

    pub(super) fn follow(&self, call: u16, guard: &Arc<LockGuard>) {
        self.look_at_guards();
        let token = guard.fencing_token();
        let left = guard.validity();
        self.with(|world| {
            if left.is_zero() {
                // It was handed out to a task that handed it on late.
                let why = "its lease had ended when it came".to_owned();
                return world.note(What::Failed(call, why));
            }
            world.note(What::Had(call, token));
            let now = world.now();
            let few = world.history.settings.few();
            world.call_mut(call).had = Some(now);
            world.call_mut(call).changed = now;
            // The agenda's task must look ahead for it.
            world.rang = true;
            world.guards.push(Out {
                call,
                guard: Arc::downgrade(guard),
                next: now + few,
                valid_until: now + left.as_millis() as Ms,
            });
        });
    }

    /// The renewal of a guard was changed, or what it asks for.
    pub(super) fn changes(&self, call: u16, change: impl FnOnce(&mut Call)) {
        self.with(|world| {
            let now = world.now();
            let call = world.call_mut(call);
            change(call);
            call.longest = call.longest.max(call.ttl);
            call.changed = now;
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
        match what {
            What::Forgotten(call) | What::Unpolled(call) => self.call_mut(call).idle = true,
            What::Polled(call) => self.call_mut(call).idle = false,
            _ => {}
        }
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
    pub(super) fn call(&mut self, mut call: Call) -> u16 {
        call.asked = self.now();
        self.history.calls.push(call);
        (self.history.calls.len() - 1) as u16
    }

    pub(super) fn call_mut(&mut self, call: u16) -> &mut Call {
        &mut self.history.calls[usize::from(call)]
    }

    /// The lease of a guard that is out has ended.
    fn ends(&mut self, call: u16) {
        self.note(What::Over(call));
        self.check_loss(call);
        if self.watched.get(&call) == Some(&false) {
            self.expect_told(call);
        }
    }

    /// `lost()` must tell soon that the lease of a call has ended; of a client that is paused, once it goes on.
    fn expect_told(&mut self, call: u16) {
        let client = self.history.call(call).client;
        let paused = self.lives[client].is_paused();
        // A timer may be late by a millisecond or two.
        self.after(3, move |world| {
            if paused {
                return world.expect_told(call);
            }
            let life = &world.lives[client];
            let runs = !life.is_dead() && !life.is_paused();
            if runs && world.watched.get(&call) == Some(&false) {
                world.note(What::Untold(call));
            }
        });
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
