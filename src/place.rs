//! A request and its place in line.
//!
//! Owns the request from its first question until a guard takes it over. Whoever is dropped while it owns
//! one ends the claim, and the janitor takes back whatever was sent (C1). The ticker keeps the place; the
//! future that waits only looks whether the turn has come, so it can be dropped and made again (C2).

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{sync::watch, task::Id};

use crate::{
    claim::{Claim, End, Phase, Taken},
    client::Client,
    clock::Time,
    error::{LockError, NodeError, ReleaseError},
    guard::LockGuard,
    lease::{Request, Told},
    leavers::Leavers,
    release::TakingBack,
    resource::Resource,
    roll::Enrolment,
    telemetry,
};

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// As long as the request moves forward at least this often; `None`: for ever.
    WhileMoving(Option<Duration>),
    Until(Time),
}

impl Patience {
    pub(crate) fn of_settings(client: &Client) -> Self {
        Self::WhileMoving(client.nodes.config.patience())
    }
}

/// How the lease is to be held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    pub(crate) auto_extend: bool,
    pub(crate) max_hold: Option<Duration>,
}

impl Hold {
    pub(crate) fn of_settings(client: &Client) -> Self {
        Self {
            auto_extend: client.nodes.config.auto_extend,
            max_hold: client.nodes.config.max_hold,
        }
    }
}

/// A request and its place on the roll. Its drop takes back whatever was sent.
pub(crate) struct Place {
    client: Arc<Client>,
    request: Arc<Request>,
    /// Until the guard takes it over.
    enrolment: Option<Enrolment>,
    /// The task that asked.
    task: Option<Id>,
}

impl Place {
    /// Asks the nodes for the vote or a ticket, `retry_count` times as long as too few of them answer,
    /// and not beyond the end of `patience`.
    pub(crate) async fn ask(
        client: &Arc<Client>,
        resource: &str,
        ttl: Duration,
        room: Option<u64>,
        patience: Patience,
    ) -> Result<Self, LockError> {
        let request = client.request(resource, ttl, room)?;
        let place = Self {
            // Before anything is sent: a push may overtake the answers.
            enrolment: Some(client.roll.enrol(&request)),
            client: client.clone(),
            request,
            task: Leavers::task(),
        };
        let crowded = client.roll.is_crowded(resource);
        if crowded {
            place.request.update(|claim, _| claim.stand_outside());
        } else if let Patience::Until(deadline) = patience {
            tokio::select! {
                biased;
                () = place.ask_repeatedly() => {}
                () = client.nodes.clock.sleep_until(deadline) => return Err(place.give_up()),
            }
        } else {
            place.ask_repeatedly().await;
        }
        client.roll.kick(&place.request);
        match place.phase() {
            _ if client.nodes.is_closed() => Err(LockError::ShutDown),
            Phase::Asking => Err(place.no_quorum()),
            _ => Ok(place),
        }
    }

    async fn ask_repeatedly(&self) {
        let nodes = &self.client.nodes;
        for round in 1..=nodes.config.retry_count {
            let roll = self.client.roll.clone();
            self.request.ask(move |request| roll.kick(request)).await;
            if self.phase() != Phase::Asking || round == nodes.config.retry_count {
                return;
            }
            let next = nodes.clock.now().plus(nodes.config.retry_delay);
            // It may be shut down meanwhile, or the late answers be enough.
            loop {
                let mut rung = pin!(self.request.wake.notified());
                rung.as_mut().enable();
                if self.phase() != Phase::Asking {
                    return;
                }
                tokio::select! {
                    biased;
                    () = rung => {}
                    () = nodes.clock.sleep_until(next) => break,
                }
            }
        }
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    pub(crate) fn resource(&self) -> Arc<Resource> {
        self.request.look(|claim| claim.resource().clone())
    }

    /// How many waiters are ahead, as last heard.
    pub(crate) fn position(&self) -> u64 {
        self.request.look(|claim| claim.position())
    }

    /// Follows the request.
    pub(crate) fn follow(&self) -> watch::Receiver<Told> {
        self.request.follow()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.request.look(|claim| claim.phase())
    }

    /// How many waiters the nodes told of that had no room.
    pub(crate) fn queue_full(&self) -> LockError {
        let waiting = self.request.look(|claim| claim.crowd());
        LockError::QueueFull { waiting }
    }

    /// Waits until a quorum has the ticket under its agreed number, or a token that stands for it.
    pub(crate) async fn recorded(&self) -> Result<(), LockError> {
        loop {
            let mut rung = pin!(self.request.wake.notified());
            rung.as_mut().enable();
            if self.request.update(|claim, now| claim.secure_place(now)) {
                break;
            }
            self.client.roll.kick(&self.request);
            rung.await;
        }
        match self.phase() {
            Phase::Ended(_) => Err(LockError::ShutDown),
            Phase::Waiting if !self.request.look(|claim| claim.is_recorded()) => {
                Err(self.no_quorum())
            }
            _ => Ok(()),
        }
    }

    /// Waits for the turn; on success the guard owns the request.
    pub(crate) async fn wait(
        &mut self,
        patience: Patience,
        hold: Hold,
    ) -> Result<LockGuard, LockError> {
        let nodes = self.client.nodes.clone();
        loop {
            let request = self.request.clone();
            let mut rung = pin!(request.wake.notified());
            rung.as_mut().enable();
            if let Some(outcome) = self.take(hold) {
                return outcome;
            }
            self.client.roll.kick(&self.request);
            let Some(deadline) = self.deadline(patience) else {
                rung.await;
                continue;
            };
            if deadline <= nodes.clock.now() {
                return Err(self.give_up());
            }
            tokio::select! {
                biased;
                () = rung => {}
                () = nodes.clock.sleep_until(deadline) => {}
            }
        }
    }

    /// Takes the lease without waiting for anything but the nodes; `None` if it is not to be had.
    pub(crate) async fn take_at_once(
        &mut self,
        hold: Hold,
    ) -> Result<Option<LockGuard>, LockError> {
        let nodes = self.client.nodes.clone();
        loop {
            let request = self.request.clone();
            let mut rung = pin!(request.wake.notified());
            rung.as_mut().enable();
            match self.phase() {
                Phase::Granted { .. } | Phase::Fencing { .. } => {}
                Phase::Waiting
                    if self
                        .request
                        .look_now(|claim, now| claim.waits_for_grace(now)) =>
                {
                    return Err(self.no_quorum());
                }
                _ => return Ok(None),
            }
            if let Some(outcome) = self.take(hold) {
                return outcome.map(Some);
            }
            self.client.roll.kick(&self.request);
            let votes_end = self.request.look_now(|claim, now| claim.valid_until(now));
            tokio::select! {
                biased;
                () = rung => {}
                () = nodes.clock.sleep_until(votes_end) => return Ok(None),
            }
        }
    }

    pub(crate) async fn leave(self) -> Result<(), ReleaseError> {
        let Some(leftover) = self.request.take_back() else {
            return Ok(());
        };
        let tally = TakingBack::new(leftover).tally().await;
        tally.confirmed(&self.client.nodes)
    }

    fn take(&mut self, hold: Hold) -> Option<Result<LockGuard, LockError>> {
        let taken = self.request.update(|claim, now| {
            let renewal = hold.auto_extend.then(|| claim.ttl() / 3);
            claim.take(now, renewal, hold.max_hold)
        });
        match taken {
            Taken::NotYet => None,
            Taken::Ended(End::ShutDown) => Some(Err(LockError::ShutDown)),
            Taken::Ended(_) => Some(Err(LockError::TicketSpent)),
            Taken::Lease(majority) => {
                self.request.look(|claim| {
                    let leavers = &self.client.leavers;
                    leavers.served(self.task, claim.resource().name());
                });
                Some(Ok(LockGuard::new(
                    self.client.clone(),
                    self.request.clone(),
                    self.enrolment.take(),
                    majority,
                )))
            }
        }
    }

    fn deadline(&self, patience: Patience) -> Option<Time> {
        match patience {
            Patience::Until(deadline) => Some(deadline),
            Patience::WhileMoving(None) => None,
            Patience::WhileMoving(Some(span)) => {
                Some(self.request.look(|claim| claim.progress()).plus(span))
            }
        }
    }

    fn give_up(&self) -> LockError {
        let cut_off = |claim: &Claim, now| claim.is_cut_off() || claim.waits_for_grace(now);
        match self.phase() {
            Phase::Asking => return self.no_quorum(),
            _ if self.request.look_now(cut_off) => return self.no_quorum(),
            Phase::Outside => return self.queue_full(),
            _ => {}
        }
        self.request.look_now(|claim, now| LockError::TimedOut {
            position: claim.position(),
            holder_ttl: claim.holder_left(now),
        })
    }

    fn no_quorum(&self) -> LockError {
        let nodes = &self.client.nodes;
        let mut failures: Vec<_> = self.request.look(|claim| claim.failures().collect());
        for (place, left) in nodes.in_grace(nodes.clock.now()) {
            if failures.iter().all(|(failed, _)| *failed != place) {
                failures.push((place, NodeError::RestartGrace { left }));
            }
        }
        LockError::NoQuorum(nodes.no_quorum(failures.into_iter()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A guard that took over still needs the claim.
        if matches!(self.phase(), Phase::Held) {
            return;
        }
        self.request.look(|claim| {
            let leaves = claim.is_in_line();
            let name = claim.resource().name();
            let times = leaves.then(|| self.client.leavers.left(self.task, name));
            if let Some(times) = times.flatten() {
                telemetry::keeps_leaving(claim.who(), times);
            }
        });
        self.request.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FifoRedlock;

    const TTL: Duration = Duration::from_secs(10);

    /// The first requests of a client meet what the ticker has not looked at yet: that its nodes are up.
    #[tokio::test(start_paused = true)]
    async fn new_connections_after_the_verdict_do_not_refuse_a_free_lock() {
        let redlock = FifoRedlock::in_memory(3);
        let client = &redlock.client;
        let patience = Patience::of_settings(client);
        for auto_extend in [true, false] {
            let mut place = Place::ask(client, "r", TTL, Some(0), patience)
                .await
                .unwrap();
            assert!(matches!(place.phase(), Phase::Granted { .. }));
            for node in 0..3 {
                place.request.update(|claim, now| claim.hear_up(node, now));
            }
            let hold = Hold {
                auto_extend,
                max_hold: None,
            };
            let guard = place.take_at_once(hold).await.unwrap();
            guard
                .expect("nobody else wants it")
                .release()
                .await
                .unwrap();
        }
    }
}
