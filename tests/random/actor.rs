//! A task of a user's: asks, waits, cancels, holds, questions, gives up, in any order.

use std::{rc::Rc, time::Duration};

use futures::{FutureExt, StreamExt, future::join_all};
use redlock_fifo::{ExtendError, LockError, LockGuard, ReleaseError, Ticket};
use tokio::time::{Instant, sleep};

use crate::{
    chance::Chance,
    drive::{Boxed, Few, Way, drive},
    settings::{Weather, log, log_millis},
    world::{About, Asked, Held, Using, World},
};

pub(crate) struct Actor {
    world: Rc<World>,
    chance: Chance,
    client: usize,
}

/// What a request for a guard was like.
#[derive(Clone)]
struct Order {
    resource: String,
    ttl: Duration,
    auto: bool,
    max_hold: Option<Duration>,
}

impl Actor {
    pub(crate) fn new(world: Rc<World>, client: usize, user: u64) -> Self {
        let chance = world.chance(user);
        Self {
            world,
            chance,
            client,
        }
    }

    pub(crate) async fn run(mut self) {
        let end = self.world.start + self.world.plan.horizon;
        while Instant::now() < end && !self.world.is_shut(self.client) {
            match self.chance.below(100) {
                0..=34 => self.lock().await,
                35..=46 => self.try_lock().await,
                47..=74 => self.enqueue().await,
                75..=82 => self.with_lock().await,
                83..=86 => self.inspect().await,
                87 if self.world.plan.burst => self.burst().await,
                88 if self.world.plan.shut && self.client > 0 => self.shut().await,
                _ => {
                    let pause = log_millis(&mut self.chance, 1, self.world.plan.ttls.1 * 2);
                    sleep(pause).await;
                }
            }
            // Even what takes no time must not be done for ever.
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn redlock(&self) -> redlock_fifo::FifoRedlock {
        self.world.clients[self.client].clone()
    }

    fn order(&mut self) -> Order {
        let (plan, chance) = (&self.world.plan, &mut self.chance);
        let settings = &plan.clients[self.client];
        Order {
            resource: format!("r{}", chance.below(plan.resources)),
            ttl: log_millis(chance, plan.ttls.0, plan.ttls.1),
            auto: settings.auto,
            max_hold: settings.max_hold,
        }
    }

    fn way(&mut self, ttl: Duration) -> Way {
        Way::draw(&mut self.chance, &self.world.plan, ttl)
    }

    async fn lock(&mut self) {
        let mut order = self.order();
        let mut lock = self.redlock().lock(order.resource.clone(), order.ttl);
        let patience = match self.chance.below(4) {
            0 => {
                lock = lock.wait_forever();
                Patience::Forever
            }
            1 => {
                let most = log_millis(&mut self.chance, 1, self.world.plan.ttls.1 * 4);
                lock = lock.wait_timeout(most);
                Patience::AtMost(most)
            }
            _ => Patience::AsSet,
        };
        if self.chance.once_in(5) {
            order.auto = self.chance.once_in(2);
            lock = lock.auto_extend(order.auto);
        }
        if self.chance.once_in(8) {
            let most = log_millis(&mut self.chance, 20, self.world.plan.ttls.1 * 4);
            order.max_hold = Some(most);
            lock = lock.max_hold(most);
        }
        let way = self.way(order.ttl);
        let using = self.world.using(&order.resource);
        let asked = self.world.asked(&order.resource);
        self.world.note(|| {
            format!(
                "c{} locks {} {patience:?} {way:?}",
                self.client, order.resource
            )
        });
        let outcome = drive(Box::pin(lock) as Boxed<_>, way).await;
        let Some(outcome) = outcome else { return };
        match outcome {
            Ok(guard) => self.hold(guard, asked, &order, "lock", using).await,
            Err(error) => self.judge(&error, "lock", patience, asked, &order, way),
        }
    }

    /// Whether an error says what was the case.
    fn judge(
        &self,
        error: &LockError,
        call: &str,
        patience: Patience,
        asked: Asked,
        order: &Order,
        way: Way,
    ) {
        let (world, client) = (&self.world, self.client);
        world.note(|| format!("c{client}'s {call} of {}: {error}", order.resource));
        world.count("refused");
        let settings = &world.plan.clients[client];
        let spent = asked.at.elapsed();
        let set = settings
            .fifo_retry_count
            .map(|polls| (settings.retry_delay + settings.fifo_retry_delay) * polls);
        let least = match patience {
            Patience::AtMost(most) => Some(most),
            Patience::AsSet => set,
            Patience::Forever => None,
            Patience::None => Some(Duration::ZERO),
        };
        let over = least.is_some_and(|least| spent + Duration::from_millis(2) >= least);
        match error {
            LockError::NoQuorum(error) => {
                let how = if over && call != "try_lock" && call != "enqueue" {
                    " at the caller's limit"
                } else {
                    treated(way)
                };
                world.judge_no_quorum(call, client, order.ttl, asked.at, error, how);
            }
            LockError::ShutDown if world.is_shut(client) => {}
            LockError::TimedOut { .. } if call != "try_lock" && call != "enqueue" && over => {}
            LockError::QueueFull { .. }
                if call != "try_lock" && over && settings.queue.is_some() => {}
            _ => world.fail(
                &format!("VERDICT {call}"),
                format!("c{client}, {patience:?}, after {spent:?}: {error}"),
            ),
        }
        // A deadline of the caller's own is kept, where nothing hinders the nodes.
        if let Patience::AtMost(most) = patience
            && way.is_steady()
            && world.plan.weather == Weather::Calm
        {
            let spare = settings.node_timeout.min(order.ttl / 3) * 2
                + world.plan.slowest() * 2
                + Duration::from_millis(10);
            if spent > most + spare {
                world.fail(
                    "VERDICT late",
                    format!("c{client}: {error}, after {spent:?} instead of {most:?}"),
                );
            }
        }
    }

    async fn try_lock(&mut self) {
        let order = self.order();
        let way = self.way(order.ttl);
        let using = self.world.using(&order.resource);
        let asked = self.world.asked(&order.resource);
        let (redlock, name, ttl) = (self.redlock(), order.resource.clone(), order.ttl);
        let call = async move { redlock.try_lock(name, ttl).await };
        self.world
            .note(|| format!("c{} tries {} {way:?}", self.client, order.resource));
        match drive(Box::pin(call) as Boxed<_>, way).await {
            None => {}
            Some(Ok(Some(guard))) => self.hold(guard, asked, &order, "try_lock", using).await,
            Some(Ok(None)) => {
                self.world
                    .note(|| format!("c{} does not get {}", self.client, order.resource));
                if self.world.was_free(&order.resource, asked)
                    && way.is_steady()
                    && self.world.plan.sound(self.client, order.ttl)
                    && self.world.plan.weather != Weather::Wild
                {
                    self.world.fail(
                        "VERDICT try_lock None",
                        format!("c{} tried {}, which was free", self.client, order.resource),
                    );
                }
            }
            Some(Err(error)) => self.judge(&error, "try_lock", Patience::None, asked, &order, way),
        }
    }

    async fn enqueue(&mut self) {
        let order = self.order();
        let way = self.way(order.ttl);
        let using = self.world.using(&order.resource);
        let asked = self.world.asked(&order.resource);
        let (redlock, name, ttl) = (self.redlock(), order.resource.clone(), order.ttl);
        let call = async move { redlock.enqueue(name, ttl).await };
        self.world
            .note(|| format!("c{} enqueues for {} {way:?}", self.client, order.resource));
        match drive(Box::pin(call) as Boxed<_>, way).await {
            None => {}
            Some(Ok(ticket)) => self.stand(ticket, asked, &order, way, using).await,
            Some(Err(error)) => self.judge(&error, "enqueue", Patience::None, asked, &order, way),
        }
    }

    /// With a ticket in hand.
    async fn stand(
        &mut self,
        mut ticket: Ticket,
        asked: Asked,
        order: &Order,
        way: Way,
        using: Using,
    ) {
        let steady = !self.world.plan.late || self.chance.once_in(2);
        if !steady {
            let pause = order.ttl * u32::try_from(self.chance.below(201)).unwrap() / 100;
            self.world.note(|| {
                format!(
                    "c{} lets its ticket for {} lie for {pause:?}",
                    self.client, order.resource
                )
            });
            sleep(pause).await;
        }
        if self.chance.once_in(6) {
            let mut positions = ticket.positions();
            let _ = positions.next().now_or_never();
            if self.chance.once_in(2) {
                self.world.pocket.borrow_mut().push(Box::new(positions));
            }
        }
        match self.chance.below(10) {
            0 => {
                let way = self.way(order.ttl);
                let well = Instant::now();
                self.world.note(|| {
                    format!(
                        "c{} leaves the line of {} {way:?}",
                        self.client, order.resource
                    )
                });
                let leave = async move { ticket.leave().await };
                if let Some(Err(error)) = drive(Box::pin(leave) as Boxed<_>, way).await {
                    self.judge_release(&error, order.ttl, well, false, way);
                }
                return;
            }
            1 => return,
            2 if self.world.plan.forget => {
                self.world
                    .note(|| format!("c{} forgets its ticket for {}", self.client, order.resource));
                self.world
                    .pocket
                    .borrow_mut()
                    .push(Box::new((ticket, using)));
                return;
            }
            _ => {}
        }
        let acquire = self.way(order.ttl);
        self.world
            .note(|| format!("c{} acquires {} {acquire:?}", self.client, order.resource));
        let outcome = if acquire.is_steady() {
            // Whoever awaits its turn from the first moment on is in line in the sense of F1.
            let _line = (steady && way.is_steady())
                .then(|| self.world.in_line(self.client, &order.resource));
            let owned = async move { ticket.acquire().await };
            drive(Box::pin(owned) as Boxed<_>, acquire).await
        } else {
            self.acquire_in_parts(&mut ticket, order.ttl).await
        };
        match outcome {
            Some(Ok(guard)) => self.hold(guard, asked, order, "acquire", using).await,
            Some(Err(error)) => {
                self.judge(&error, "acquire", Patience::AsSet, asked, order, acquire)
            }
            None => {}
        }
    }

    /// Polls `acquire` a few times, lets it lie, drops it, calls it again; then awaits it, or not.
    async fn acquire_in_parts(
        &mut self,
        ticket: &mut Ticket,
        ttl: Duration,
    ) -> Option<Result<LockGuard, LockError>> {
        for _ in 0..=self.chance.below(3) {
            let mut future = Box::pin(ticket.acquire());
            for _ in 0..=self.chance.below(2) {
                let polls = 1 + u32::try_from(self.chance.below(4)).unwrap();
                let few = tokio::time::timeout(ttl, Few(future.as_mut(), polls)).await;
                if let Ok(Some(outcome)) = few {
                    return Some(outcome);
                }
                if self.world.plan.keep {
                    sleep(ttl * u32::try_from(self.chance.below(201)).unwrap() / 100).await;
                }
            }
            drop(future);
            if self.world.plan.late {
                sleep(ttl * u32::try_from(self.chance.below(201)).unwrap() / 100).await;
            }
        }
        if self.chance.once_in(2) {
            Some(ticket.acquire().await)
        } else {
            None
        }
    }

    async fn with_lock(&mut self) {
        let order = self.order();
        let way = self.way(order.ttl);
        let using = self.world.using(&order.resource);
        let asked = self.world.asked(&order.resource);
        let (redlock, name, ttl) = (self.redlock(), order.resource.clone(), order.ttl);
        let steps = self.chance.below(6);
        let step = log_millis(&mut self.chance, 1, self.world.plan.ttls.1 / 2);
        let (world, client) = (self.world.clone(), self.client);
        let began = Rc::new(std::cell::Cell::new(None));
        let begun = began.clone();
        let call = async move {
            let work = async |guard: &LockGuard| {
                begun.set(Some(Instant::now()));
                let token = guard.fencing_token();
                world.note(|| format!("c{client} works under {name}, token {token}"));
                world.count("guards");
                world.judge_birth(client, &name, asked, token, "with_lock");
                for _ in 0..steps {
                    if guard.is_held() {
                        world.held_elsewhere(&name, token);
                    }
                    sleep(step).await;
                }
            };
            redlock.with_lock(name.clone(), ttl, work).await
        };
        self.world.note(|| {
            format!(
                "c{} asks for work under {} {way:?}",
                self.client, order.resource
            )
        });
        match drive(Box::pin(call) as Boxed<_>, way).await {
            Some(Err(LockError::LeaseLost(why))) => {
                let calm = self.world.plan.weather == Weather::Calm
                    && self.world.plan.sound(self.client, order.ttl);
                let capped = order.max_hold.is_some() || !order.auto;
                self.world.note(|| {
                    format!(
                        "c{} lost {} under its work: {why}",
                        self.client, order.resource
                    )
                });
                if calm && !capped && way.is_steady() {
                    self.world
                        .fail("L6 with_lock", format!("c{}: {why}", self.client));
                }
            }
            Some(Err(error)) => {
                self.judge(&error, "with_lock", Patience::AsSet, asked, &order, way)
            }
            _ => {}
        }
        drop(using);
    }

    async fn inspect(&mut self) {
        let order = self.order();
        let way = self.way(order.ttl);
        let from = Instant::now();
        let (redlock, name) = (self.redlock(), order.resource.clone());
        let call = async move { redlock.inspect(&name).await };
        if let Some(Err(LockError::NoQuorum(error))) = drive(Box::pin(call) as Boxed<_>, way).await
        {
            self.world.judge_no_quorum(
                "inspect",
                self.client,
                order.ttl,
                from,
                &error,
                treated(way),
            );
        }
    }

    /// Hundreds at once, of which most are dropped half-way.
    async fn burst(&mut self) {
        let many = log(&mut self.chance, 50, 2000);
        let names = if self.chance.once_in(2) { 1 } else { many };
        let polls = 1 + u32::try_from(self.chance.below(3)).unwrap();
        self.world
            .note(|| format!("c{} asks for {many} locks of {names} names", self.client));
        self.world.count("bursts");
        let _using = (names == 1).then(|| self.world.using("b0"));
        let redlock = self.redlock();
        let ttl = self.order().ttl;
        let mut kept: Vec<Boxed<_>> = (0..many)
            .map(|place| Box::pin(redlock.lock(format!("b{}", place % names), ttl)) as Boxed<_>)
            .collect();
        let asks = kept.iter_mut().map(|future| Few(future.as_mut(), polls));
        let span = self.world.plan.slowest() * 2 + Duration::from_millis(self.chance.below(50));
        let outcomes = tokio::time::timeout(span, join_all(asks)).await;
        if let Ok(outcomes) = &outcomes {
            let wrong = outcomes.iter().flatten().find_map(|outcome| match outcome {
                Err(LockError::NoQuorum(error)) => Some(error),
                _ => None,
            });
            if let Some(error) = wrong {
                self.world.judge_no_quorum(
                    "burst",
                    self.client,
                    ttl,
                    Instant::now() - span,
                    error,
                    "",
                );
            }
        }
        drop(outcomes);
        if self.chance.once_in(3) {
            sleep(ttl / 2).await;
        }
    }

    async fn shut(&mut self) {
        self.world.note(|| format!("c{} is shut down", self.client));
        self.world.shut(self.client);
        let redlock = self.redlock();
        let way = self.way(Duration::from_secs(1));
        drive(
            Box::pin(async move { redlock.shutdown().await }) as Boxed<_>,
            way,
        )
        .await;
    }

    /// With a guard in hand.
    async fn hold(
        &mut self,
        guard: LockGuard,
        asked: Asked,
        order: &Order,
        how: &str,
        using: Using,
    ) {
        let held = self.world.born(
            self.client,
            &order.resource,
            guard,
            asked,
            order.ttl,
            order.auto,
            order.max_hold,
            how,
        );
        let mut kept: Vec<Boxed<()>> = Vec::new();
        let until =
            Instant::now() + order.ttl * u32::try_from(self.chance.below(301)).unwrap() / 100;
        for _ in 0..self.chance.below(8) {
            if Instant::now() >= until {
                break;
            }
            match self.chance.below(10) {
                0 | 1 => self.question(&held, &mut kept).await,
                2 | 3 if self.world.plan.spam => self.spam(&held, &mut kept).await,
                4 => self.extend(&held, &mut kept).await,
                5 => self.renewal(&held),
                _ => {
                    let most = u64::try_from(order.ttl.as_millis()).unwrap();
                    sleep(log_millis(&mut self.chance, 1, most)).await;
                }
            }
            self.world.sample();
        }
        if !kept.is_empty() || self.chance.once_in(2) {
            tokio::time::sleep_until(until).await;
        }
        self.world.sample();
        drop(kept);
        self.give_up(held, order, using).await;
    }

    async fn give_up(&mut self, held: Held, order: &Order, using: Using) {
        let Held { guard, about } = held;
        let Ok(guard) = Rc::try_unwrap(guard) else {
            // One of the futures about it lives in another task, which ends soon.
            return;
        };
        match self.chance.below(8) {
            0..=3 => {
                let (from, way) = (Instant::now(), self.way(order.ttl));
                let well =
                    guard.validity() > self.world.plan.slowest() * 4 + Duration::from_millis(5);
                self.world
                    .note(|| format!("c{} releases {} {way:?}", self.client, about.resource));
                match drive(Box::pin(guard.release()) as Boxed<_>, way).await {
                    Some(Ok(())) => self.world.released(&about.resource, about.id.clone()),
                    Some(Err(error)) => {
                        self.judge_release(&error, order.ttl, from, well && way.is_steady(), way)
                    }
                    None => {}
                }
            }
            4 if self.world.plan.forget && about.renews.get().is_none() => {
                self.world
                    .note(|| format!("c{} forgets its guard of {}", self.client, about.resource));
                self.world
                    .pocket
                    .borrow_mut()
                    .push(Box::new((guard, using)));
            }
            _ => {
                self.world
                    .note(|| format!("c{} drops {}", self.client, about.resource));
                drop(guard);
            }
        }
    }

    fn judge_release(
        &self,
        error: &ReleaseError,
        ttl: Duration,
        from: Instant,
        well: bool,
        way: Way,
    ) {
        self.world.note(|| format!("c{}: {error}", self.client));
        match error {
            ReleaseError::Unconfirmed(error) => {
                self.world
                    .judge_no_quorum("release", self.client, ttl, from, error, treated(way))
            }
            ReleaseError::Lost(why) if well && self.world.plan.weather == Weather::Calm => {
                self.world.fail(
                    "VERDICT release Lost",
                    format!("c{}: {why}, though it was held", self.client),
                );
            }
            _ => {}
        }
    }

    fn judge_extend(
        world: &World,
        held: &Rc<LockGuard>,
        client: usize,
        ttl: Duration,
        from: Instant,
        error: &ExtendError,
        way: Way,
    ) {
        match error {
            ExtendError::NoQuorum(error) => {
                world.judge_no_quorum("extend", client, ttl, from, error, treated(way))
            }
            ExtendError::Lost(_) if held.is_held() => world.fail(
                "VERDICT extend Lost",
                format!("c{client}: {error}, and it is held"),
            ),
            ExtendError::AutoExtendRunning | ExtendError::Argument(_) => {
                world.fail("VERDICT extend", format!("c{client}: {error}"))
            }
            _ => {}
        }
    }

    /// `is_valid` of a guard, in some way.
    fn is_valid(&mut self, held: &Held, way: Way) -> Boxed<()> {
        let (world, guard, client) = (self.world.clone(), held.guard.clone(), self.client);
        let ttl = held.about.ttl.get().0;
        Box::pin(async move {
            let (from, asked) = (Instant::now(), guard.clone());
            let outcome = drive(
                Box::pin(async move { asked.is_valid().await }) as Boxed<_>,
                way,
            )
            .await;
            match outcome {
                Some(Ok(false)) if guard.is_held() && world.plan.weather == Weather::Calm => {
                    world.fail(
                        "VERDICT is_valid",
                        format!("c{client}: false, and it is held"),
                    );
                }
                Some(Err(error)) => {
                    Self::judge_extend(&world, &guard, client, ttl, from, &error, way)
                }
                _ => {}
            }
            world.sample();
        })
    }

    async fn question(&mut self, held: &Held, kept: &mut Vec<Boxed<()>>) {
        let way = self.way(held.about.ttl.get().0);
        self.world.note(|| {
            format!(
                "c{} asks whether {} is valid {way:?}",
                self.client, held.about.resource
            )
        });
        let asking = self.is_valid(held, way);
        self.carry_out(asking, kept).await;
    }

    /// Awaits it, or keeps it under way for as long as the guard lives.
    async fn carry_out(&mut self, mut call: Boxed<()>, kept: &mut Vec<Boxed<()>>) {
        if self.world.plan.keep && self.chance.once_in(3) {
            if Few(call.as_mut(), 1).await.is_none() {
                self.world
                    .note(|| format!("c{} keeps that unpolled", self.client));
                kept.push(call);
            }
        } else {
            call.await;
        }
    }

    async fn spam(&mut self, held: &Held, kept: &mut Vec<Boxed<()>>) {
        let (width, times) = (1 + self.chance.below(3), log(&mut self.chance, 5, 60));
        let most = u64::try_from(self.world.plan.slowest().as_millis()).unwrap() + 1;
        let step = self.chance.millis(0, most + 1);
        self.world.note(|| {
            format!(
                "c{} asks {times} times, by {width}, about {}, every {step:?}",
                self.client, held.about.resource
            )
        });
        self.world.count("spam");
        for _ in 0..times {
            let mut calls: Vec<Boxed<()>> = Vec::new();
            for _ in 0..width {
                let way = self.way(held.about.ttl.get().0);
                let way = if matches!(way, Way::Keep(..)) {
                    Way::Await
                } else {
                    way
                };
                calls.push(self.is_valid(held, way));
            }
            if self.chance.once_in(4) {
                calls.push(self.extension(held, Way::Await));
            }
            let all = Box::pin(async move { drop(join_all(calls).await) }) as Boxed<()>;
            self.carry_out(all, kept).await;
            sleep(step).await;
            if !held.guard.is_held() || kept.len() > 5 {
                break;
            }
        }
    }

    /// `extend` of a guard, in some way.
    fn extension(&mut self, held: &Held, way: Way) -> Boxed<()> {
        let (world, guard, about, client) = (
            self.world.clone(),
            held.guard.clone(),
            held.about.clone(),
            self.client,
        );
        let ttl = self.other_ttl(&about);
        world.note(|| format!("c{client} extends {} to {ttl:?} {way:?}", about.resource));
        Box::pin(async move {
            let (from, asked) = (Instant::now(), guard.clone());
            let (least, most) = about.ttl.get();
            about.ttl.set((least.min(ttl), most.max(ttl)));
            about.touched.set(Instant::now());
            let outcome = drive(
                Box::pin(async move { asked.extend(ttl).await }) as Boxed<_>,
                way,
            )
            .await;
            about.touched.set(Instant::now());
            match outcome {
                Some(Ok(())) => {
                    let trusted = ttl.mul_f64(1.0 - world.plan.clients[client].drift);
                    let least = trusted.saturating_sub(from.elapsed() + Duration::from_millis(4));
                    let left = guard.validity();
                    if left < least && about.max_hold.is_none() && way.is_steady() {
                        world.fail(
                            "VERDICT extend Ok",
                            format!("c{client}: {left:?} of {ttl:?} left, not {least:?}"),
                        );
                    }
                }
                Some(Err(error)) => {
                    Self::judge_extend(&world, &guard, client, ttl, from, &error, way)
                }
                None => {}
            }
            world.sample();
        })
    }

    fn other_ttl(&mut self, about: &About) -> Duration {
        let plan = &self.world.plan;
        let ttl = log_millis(&mut self.chance, plan.ttls.0, plan.ttls.1);
        if plan.shorter {
            ttl
        } else {
            ttl.max(about.ttl.get().1)
        }
    }

    async fn extend(&mut self, held: &Held, kept: &mut Vec<Boxed<()>>) {
        let way = self.way(held.about.ttl.get().0);
        let extending = self.extension(held, way);
        self.carry_out(extending, kept).await;
    }

    /// Starts or stops the extension in the background.
    fn renewal(&mut self, held: &Held) {
        let (guard, about) = (&held.guard, &held.about);
        let client = self.client;
        if self.chance.once_in(2) {
            guard.stop_auto_extend();
            about.renews.set(None);
            self.world
                .note(|| format!("c{client} stops extending {}", about.resource));
            return;
        }
        let ttl = self.other_ttl(about);
        let every = if self.chance.once_in(3) {
            log_millis(&mut self.chance, 1, 1000)
        } else {
            ttl / 3
        };
        let running = about.renews.get().is_some();
        let left = guard.validity();
        let outcome = guard.start_auto_extend(every, ttl);
        self.world.note(|| {
            format!(
                "c{client} starts extending {} to {ttl:?} every {every:?}: {outcome:?}",
                about.resource
            )
        });
        match outcome {
            Ok(()) => {
                let (least, most) = about.ttl.get();
                about.ttl.set((least.min(ttl), most.max(ttl)));
                about.touched.set(Instant::now());
                let enough = left > self.world.plan.slowest() * 4 + Duration::from_millis(8);
                let often = every <= ttl / 3 && every <= least / 3;
                about.renews.set((enough && often).then(Instant::now));
                about.every.set(Some(every));
            }
            Err(ExtendError::AutoExtendRunning) if !running => {
                // One was started with an interval that is not judged.
            }
            Err(ExtendError::Lost(_)) if guard.is_held() => {
                self.world.fail(
                    "VERDICT start_auto_extend",
                    format!("c{client}: lost, and it is held"),
                );
            }
            _ => {}
        }
    }
}

/// How a future was treated, where that is nothing that its promises depend on.
fn treated(way: Way) -> &'static str {
    if way.is_steady() { "" } else { " unpolled" }
}

#[derive(Clone, Copy, Debug)]
enum Patience {
    AsSet,
    AtMost(Duration),
    Forever,
    None,
}
