//! A request and its place in line.
//!
//! Owns the request from its first question until a guard takes it over. Whoever is dropped while it owns
//! one ends the request, and the ticker takes back whatever was sent (C1). The ticker asks, hears and keeps
//! the place; the future that waits only looks whether the turn has come, so it can be dropped and made again
//! (C2), or kept without being polled (C4).

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::task::Id;

use crate::{
    claim::{Claim, Cx, End, Phase, Renewal, Taken},
    client::Client,
    error::{LockError, NodeError, ReleaseError},
    event::{Tell, What},
    guard::LockGuard,
    leavers::Leavers,
    resource::Resource,
    roll::Enrolment,
    time::Time,
};

/// The shortest pause between two rounds, so that whoever asks again and again leaves time for others.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

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

/// A request and its place in line. Its drop takes back whatever was sent.
pub(crate) struct Place {
    client: Arc<Client>,
    resource: Arc<Resource>,
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
        let claim = client.claim(resource, ttl, room)?;
        let place = Self {
            client: client.clone(),
            resource: claim.resource().clone(),
            enrolment: Some(client.roll.enrol(claim)),
            task: Leavers::task(),
        };
        let deadline = match patience {
            Patience::Until(deadline) => Some(deadline),
            Patience::WhileMoving(_) => None,
        };
        // A round ends by itself, unless the client's runtime is blocked.
        let overdue = |now: Time| match patience {
            Patience::WhileMoving(Some(span)) => {
                Some(now.plus(span).plus(client.nodes.config.node_timeout))
            }
            _ => deadline,
        };
        for round in 1..=client.nodes.config.retry_count {
            if round > 1 {
                place.change(|claim, _| claim.ask_first_again());
            }
            let has_verdict = |claim: &Claim| claim.phase() != Phase::Asking || claim.is_hopeless();
            let overdue = overdue(client.nodes.clock.now());
            if !place.until(has_verdict, overdue).await? {
                return Err(place.give_up());
            }
            if !place.look(|claim, _| claim.is_hopeless())
                || round == client.nodes.config.retry_count
            {
                break;
            }
            let pause = client.nodes.config.retry_delay.max(SHORTEST_PAUSE);
            let next = client.nodes.clock.now().plus(pause);
            let next = deadline.map_or(next, |deadline| deadline.min(next));
            // It may be shut down meanwhile, or the late answers be enough.
            let has_come = |claim: &Claim| !matches!(claim.phase(), Phase::Asking | Phase::Aside);
            if place.until(has_come, Some(next)).await? {
                break;
            }
            if deadline.is_some_and(|deadline| deadline <= client.nodes.clock.now()) {
                return Err(place.give_up());
            }
        }
        match place.phase() {
            Phase::Ended(End::ShutDown) => Err(LockError::ShutDown),
            _ if place.look(|claim, _| claim.is_hopeless()) => Err(place.no_quorum()),
            _ => Ok(place),
        }
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    pub(crate) fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }

    /// How many waiters are ahead, as last heard.
    pub(crate) fn position(&self) -> u64 {
        self.look(|claim, _| claim.position())
    }

    pub(crate) fn enrolment(&self) -> Option<&Enrolment> {
        self.enrolment.as_ref()
    }

    pub(crate) fn phase(&self) -> Phase {
        // Gone only if the guard has it.
        self.look(|claim, _| Some(claim.phase()))
            .unwrap_or(Phase::Held)
    }

    /// How many waiters the nodes told of that had no room.
    pub(crate) fn queue_full(&self) -> LockError {
        let waiting = self.look(|claim, _| claim.crowd());
        LockError::QueueFull { waiting }
    }

    /// Waits until a quorum has the ticket under its agreed number, or a token that stands for it.
    pub(crate) async fn recorded(&self) -> Result<(), LockError> {
        let mut secured = false;
        while !secured {
            secured = self
                .once(|claim, cx| claim.secure_place(cx).then_some(true), None)
                .await?
                .unwrap_or(false);
        }
        match self.phase() {
            Phase::Ended(_) => Err(LockError::ShutDown),
            Phase::Waiting if !self.look(|claim, _| claim.is_recorded()) => Err(self.no_quorum()),
            _ => Ok(()),
        }
    }

    /// Waits for the turn; on success the guard owns the request.
    pub(crate) async fn wait(
        &mut self,
        patience: Patience,
        hold: Hold,
    ) -> Result<LockGuard, LockError> {
        loop {
            let deadline = self.deadline(patience);
            let taken = self.once(|claim, cx| taken(claim, cx, hold), deadline);
            match taken.await? {
                Some(taken) => return self.guard(taken),
                // It may have moved forward meanwhile.
                None if self.deadline(patience) <= deadline => return Err(self.give_up()),
                None => {}
            }
        }
    }

    /// Takes the lease without waiting for anything but the nodes; `None` if it is not to be had.
    pub(crate) async fn take_at_once(
        &mut self,
        hold: Hold,
    ) -> Result<Option<LockGuard>, LockError> {
        let verdict = |claim: &mut Claim, cx: Cx<'_>| match claim.phase() {
            Phase::Ended(End::NotFree) => Some(Attempt::NotFree),
            Phase::Ended(End::Unanswered) => Some(Attempt::Unknown),
            Phase::Asking if claim.is_hopeless() => Some(Attempt::Unknown),
            Phase::Outside | Phase::Waiting => None,
            _ => taken(claim, cx, hold).map(Attempt::Taken),
        };
        match self.once(verdict, None).await? {
            Some(Attempt::Taken(taken)) => self.guard(taken).map(Some),
            Some(Attempt::Unknown) => Err(self.no_quorum()),
            Some(Attempt::NotFree) | None => Ok(None),
        }
    }

    pub(crate) async fn leave(mut self) -> Result<(), ReleaseError> {
        let Some(enrolment) = self.enrolment.take() else {
            return Ok(());
        };
        let tally = self.client.release(&enrolment).await?;
        self.client.confirmed(tally)
    }

    fn guard(&mut self, taken: Taken) -> Result<LockGuard, LockError> {
        match (taken, self.enrolment.take()) {
            (Taken::Lease(majority), Some(enrolment)) => {
                let leavers = &self.client.leavers;
                leavers.served(self.task, self.resource.name());
                Ok(LockGuard::new(
                    self.client.clone(),
                    self.resource.clone(),
                    enrolment,
                    majority,
                ))
            }
            (Taken::Ended(End::ShutDown), _) => Err(LockError::ShutDown),
            _ => Err(LockError::TicketSpent),
        }
    }

    /// Waits until the request is as `is` says, or until `deadline`; whether it is.
    async fn until(
        &self,
        is: impl Fn(&Claim) -> bool,
        deadline: Option<Time>,
    ) -> Result<bool, LockError> {
        let becomes = |claim: &mut Claim, _: Cx<'_>| is(claim).then_some(true);
        Ok(self.once(becomes, deadline).await?.is_some())
    }

    /// Changes the request again and again, whenever it is worth a look, until that comes to something; `None`
    /// if it does not until `deadline`.
    async fn once<T>(
        &self,
        change: impl Fn(&mut Claim, Cx<'_>) -> Option<T>,
        deadline: Option<Time>,
    ) -> Result<Option<T>, LockError> {
        let Some(enrolment) = &self.enrolment else {
            return Err(LockError::TicketSpent);
        };
        let nodes = &self.client.nodes;
        loop {
            let mut rung = pin!(enrolment.bell().wake.notified());
            rung.as_mut().enable();
            if let Some(outcome) = enrolment.update(|claim, cx| change(claim, cx)) {
                return Ok(Some(outcome));
            }
            if let Some(cause) = self.client.roll.stopped() {
                return Err(LockError::Stopped(cause));
            }
            let Some(deadline) = deadline else {
                rung.await;
                continue;
            };
            if deadline <= nodes.clock.now() {
                return Ok(None);
            }
            tokio::select! {
                biased;
                () = rung => {}
                () = nodes.clock.sleep_until(deadline) => {}
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Claim, Cx<'_>)) {
        if let Some(enrolment) = &self.enrolment {
            enrolment.update(change);
        }
    }

    fn look<T: Default>(&self, look: impl FnOnce(&Claim, Cx<'_>) -> T) -> T {
        let enrolment = self.enrolment.as_ref();
        enrolment.map_or_else(T::default, |enrolment| enrolment.look(look))
    }

    fn deadline(&self, patience: Patience) -> Option<Time> {
        match patience {
            Patience::Until(deadline) => Some(deadline),
            Patience::WhileMoving(None) => None,
            Patience::WhileMoving(Some(span)) => {
                Some(self.look(|claim, _| claim.progress()).plus(span))
            }
        }
    }

    /// Why the patience was not enough: its own limit, unless too few nodes have answered by then, or may vote.
    fn give_up(&self) -> LockError {
        let unanswered = |claim: &Claim, cx: Cx<'_>| {
            let grace = claim.waits_for_grace(cx) && !claim.is_answered(cx);
            claim.is_cut_off() || grace
        };
        if self.look(unanswered) {
            return self.no_quorum();
        }
        if self.phase() == Phase::Outside {
            return self.queue_full();
        }
        let (position, holder_ttl) =
            self.look(|claim, cx| (claim.position(), claim.holder_left(cx.now)));
        LockError::TimedOut {
            position,
            holder_ttl,
        }
    }

    fn no_quorum(&self) -> LockError {
        let nodes = &self.client.nodes;
        let look = |claim: &Claim, cx: Cx<'_>| {
            let failures: Vec<_> = claim.failures().collect();
            (failures, claim.open(), cx.servers.in_grace(cx.now))
        };
        let (mut failures, open, in_grace) = self.look(look);
        for (place, left) in in_grace {
            if failures.iter().all(|(failed, _)| *failed != place) {
                failures.push((place, NodeError::RestartGrace { left }));
            }
        }
        LockError::NoQuorum(nodes.no_quorum(failures.into_iter(), open))
    }
}

/// What an attempt without waiting comes to.
enum Attempt {
    Taken(Taken),
    NotFree,
    Unknown,
}

/// Takes the lease if it is there, or tells that it never will be.
fn taken(claim: &mut Claim, cx: Cx<'_>, hold: Hold) -> Option<Taken> {
    let renewal = if hold.auto_extend {
        Renewal::Third
    } else {
        Renewal::Off
    };
    match claim.take(cx, renewal, hold.max_hold) {
        Taken::NotYet => None,
        taken => Some(taken),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(enrolment) = &self.enrolment else {
            return;
        };
        let leaving = enrolment.look(|claim, _| claim.is_in_line().then(|| claim.who()));
        let Some(who) = leaving else { return };
        let name = self.resource.name();
        if let Some(times) = self.client.leavers.left(self.task, name) {
            let what = What::KeepsLeaving { times };
            let nodes = &self.client.nodes;
            nodes.tell(Tell { who, what });
        }
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
                place.change(|claim, _| claim.hear_up(node));
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
