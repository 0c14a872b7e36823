//! A request and its place in line.
//!
//! A place owns its request from the first command until a guard takes it over. Its drop ends the request, and the
//! ticker releases whatever the request had on the nodes (C1). The ticker asks, hears and keeps the place. The future
//! that waits only looks whether the turn has come, so it can be dropped and made again (C2), or kept without being
//! polled (C4).

use std::{sync::Arc, time::Duration};

use tokio::task::Id;

use crate::{
    acquire::policy::{HoldOptions, WaitPolicy},
    client::requeue::RequeueDetector,
    client::{Client, entry::Entry, notifier::Look},
    error::{LockError, NodeError, ReleaseError},
    guard::LockGuard,
    request::{Cx, End, Phase, Renewal, Request, Taken},
    resource::Resource,
    time::Time,
};

/// The shortest pause between two rounds, so that a caller who asks again and again leaves time for others.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// A request and its place in line. Its drop takes back whatever was sent.
pub(crate) struct Place {
    client: Arc<Client>,
    resource: Arc<Resource>,
    /// Until the guard takes it over.
    entry: Option<Entry>,
    /// The task that asked.
    task: Option<Id>,
}

impl Place {
    /// Asks the nodes for the vote or a ticket, up to `retry_count` times while too few of them answer, and not beyond
    /// the end of `patience`.
    pub(crate) async fn ask(
        client: &Arc<Client>,
        resource: &str,
        ttl: Duration,
        room: Option<u64>,
        patience: WaitPolicy,
    ) -> Result<Self, LockError> {
        let request = client.request(resource, ttl, room)?;
        let place = Self {
            client: client.clone(),
            resource: request.resource().clone(),
            entry: Some(Entry::new(&client.requests, request)),
            task: RequeueDetector::task(),
        };
        let deadline = match patience {
            WaitPolicy::Until(deadline) => Some(deadline),
            WaitPolicy::WhileMoving(_) => None,
        };
        for round in 1..=client.nodes.config.retry_count {
            if round > 1 {
                place.change(|request, _| request.retry_first_round());
            }
            let has_verdict = |request: &Request| !is_asking(request) || request.is_hopeless();
            if !place.first_round(has_verdict, patience).await? {
                return Err(place.give_up());
            }
            if !place.look(|request, _| request.is_hopeless())
                || round == client.nodes.config.retry_count
            {
                break;
            }
            let pause = client.nodes.config.retry_delay.max(SHORTEST_PAUSE);
            let next = client.nodes.clock.now().plus(pause);
            let next = deadline.map_or(next, |deadline| deadline.min(next));
            // The client may be shut down meanwhile, or late answers may make a quorum.
            let has_come =
                |request: &Request| !matches!(request.phase(), Phase::Asking | Phase::Parked);
            if place.until(has_come, Some(next)).await? {
                break;
            }
            if deadline.is_some_and(|deadline| deadline <= client.nodes.clock.now()) {
                return Err(place.give_up());
            }
        }
        if place.is(|phase| matches!(phase, Phase::Ended(End::ShutDown))) {
            return Err(LockError::ShutDown);
        }
        if place.look(|request, _| request.is_hopeless()) {
            return Err(place.no_quorum());
        }
        Ok(place)
    }

    /// Waits for the verdict of a round, but no longer than the patience.
    async fn first_round(
        &self,
        has_verdict: impl Fn(&Request) -> bool,
        patience: WaitPolicy,
    ) -> Result<bool, LockError> {
        let WaitPolicy::WhileMoving(span) = patience else {
            return self.until(has_verdict, self.deadline(patience)).await;
        };
        let verdict = |request: &mut Request, _: Cx<'_>| has_verdict(request).then_some(());
        Ok(self.while_served(verdict, span).await?.is_some())
    }

    /// Waits for answers of the nodes. That ends by itself while the client's runtime runs, however long the commands
    /// wait for their turn; `None` if the runtime has not run for `span`.
    async fn while_served<T>(
        &self,
        change: impl Fn(&mut Request, Cx<'_>) -> Option<T>,
        span: Option<Duration>,
    ) -> Result<Option<T>, LockError> {
        loop {
            let start = self.client.nodes.clock.now();
            let limit = span.map(|span| start.plus(span.max(SHORTEST_PAUSE)));
            let outcome = self.once(&change, limit).await?;
            if outcome.is_some() || !self.client.requests.is_served_since(start) {
                return Ok(outcome);
            }
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
        self.look(|request, _| request.position())
    }

    pub(crate) fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    fn is(&self, phase: impl Fn(&Phase) -> bool) -> bool {
        self.look(|request, _| phase(request.phase()))
    }

    /// Whether there was no room in the line.
    pub(crate) fn has_no_room(&self) -> bool {
        self.is(|phase| matches!(phase, Phase::NoRoom))
    }

    /// There is no room, with as many waiters as the nodes have told the first request that asks for room.
    pub(crate) fn queue_full(&self) -> LockError {
        let requests = &self.client.requests;
        let first = requests.first_in_overflow(self.resource.name());
        let told = |key| requests.look(key, |request, _| request.full_with());
        let told = first.and_then(told).flatten();
        let (own, room) = self.look(|request, _| (request.full_with(), request.room()));
        let waiting = told.or(own).or(room).unwrap_or(0);
        LockError::QueueFull { waiting }
    }

    /// Waits until a quorum has the ticket under its agreed number, or a token that stands for it.
    pub(crate) async fn recorded(&self) -> Result<(), LockError> {
        let secure = |request: &mut Request, cx: Cx<'_>| request.secure_place(cx).then_some(());
        let span = self.client.nodes.config.patience();
        if self.while_served(secure, span).await?.is_none() {
            return Err(self.give_up());
        }
        if self.is(|phase| matches!(phase, Phase::Ended(_))) {
            return Err(LockError::ShutDown);
        }
        let unrecorded = |request: &Request, _: Cx<'_>| {
            matches!(request.phase(), Phase::Waiting) && !request.is_recorded()
        };
        if self.look(unrecorded) {
            return Err(self.no_quorum());
        }
        Ok(())
    }

    /// Waits for the turn; on success the guard owns the request.
    pub(crate) async fn wait(
        &mut self,
        patience: WaitPolicy,
        hold: HoldOptions,
    ) -> Result<LockGuard, LockError> {
        loop {
            let deadline = self.deadline(patience);
            let taken = self.once(|request, cx| taken(request, cx, hold), deadline);
            match taken.await? {
                Some(taken) => return self.guard(taken),
                // The request may have moved forward meanwhile.
                None if self.deadline(patience) <= deadline => return Err(self.give_up()),
                None => {}
            }
        }
    }

    /// Takes the lease without waiting for anything but the nodes; `None` if the lock is not free.
    pub(crate) async fn take_at_once(
        &mut self,
        hold: HoldOptions,
    ) -> Result<Option<LockGuard>, LockError> {
        let verdict = |request: &mut Request, cx: Cx<'_>| match request.phase() {
            Phase::Ended(End::NotFree) => Some(Attempt::NotFree),
            Phase::Ended(End::Unanswered) => Some(Attempt::Unknown),
            Phase::Asking if request.is_hopeless() => Some(Attempt::Unknown),
            Phase::NoRoom | Phase::Waiting => None,
            _ => taken(request, cx, hold).map(Attempt::Taken),
        };
        let span = self.client.nodes.config.patience();
        match self.while_served(verdict, span).await? {
            Some(Attempt::Taken(taken)) => self.guard(taken).map(Some),
            Some(Attempt::Unknown) => Err(self.no_quorum()),
            None => Err(self.give_up()),
            Some(Attempt::NotFree) => Ok(None),
        }
    }

    pub(crate) async fn leave(mut self) -> Result<(), ReleaseError> {
        let Some(entry) = self.entry.take() else {
            return Ok(());
        };
        let tally = self.client.release(&entry).await?;
        self.client.confirmed(tally)
    }

    fn guard(&mut self, taken: Taken) -> Result<LockGuard, LockError> {
        match (taken, self.entry.take()) {
            (Taken::Lease(majority), Some(entry)) => {
                let (client, resource) = (self.client.clone(), self.resource.clone());
                client.requeues.served(self.task, resource.name());
                Ok(LockGuard::new(client, resource, entry, majority.token()))
            }
            (Taken::Ended(End::ShutDown), _) => Err(LockError::ShutDown),
            _ => Err(LockError::TicketSpent),
        }
    }

    /// Waits until `is` holds, or until `deadline`; tells whether it holds.
    async fn until(
        &self,
        is: impl Fn(&Request) -> bool,
        deadline: Option<Time>,
    ) -> Result<bool, LockError> {
        let becomes = |request: &mut Request, _: Cx<'_>| is(request).then_some(true);
        Ok(self.once(becomes, deadline).await?.is_some())
    }

    /// Calls `change` each time the request may have changed, until it returns `Some`. Returns `None` if it has not
    /// done so by `deadline`.
    async fn once<T>(
        &self,
        change: impl Fn(&mut Request, Cx<'_>) -> Option<T>,
        deadline: Option<Time>,
    ) -> Result<Option<T>, LockError> {
        let Some(entry) = &self.entry else {
            return Err(LockError::TicketSpent);
        };
        let look = |request: &mut Request, cx: Cx<'_>| match (change(request, cx), deadline) {
            (Some(outcome), _) => Look::Done(Some(outcome)),
            (None, Some(deadline)) if deadline <= cx.now => Look::Done(None),
            (None, deadline) => Look::Again(deadline),
        };
        let outcome = entry.wait(look).await.map_err(LockError::Stopped)?;
        match self.client.requests.stopped() {
            Some(cause) if outcome.is_none() => Err(LockError::Stopped(cause)),
            _ => Ok(outcome),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Request, Cx<'_>)) {
        if let Some(entry) = &self.entry {
            entry.update(change);
        }
    }

    fn look<T: Default>(&self, look: impl FnOnce(&Request, Cx<'_>) -> T) -> T {
        let entry = self.entry.as_ref();
        entry.map_or_else(T::default, |entry| entry.look(look))
    }

    fn deadline(&self, patience: WaitPolicy) -> Option<Time> {
        match patience {
            WaitPolicy::Until(deadline) => Some(deadline),
            WaitPolicy::WhileMoving(None) => None,
            WaitPolicy::WhileMoving(Some(span)) => {
                Some(self.look(|request, cx| request.progress(cx.now)).plus(span))
            }
        }
    }

    /// The error when the patience ends: a timeout, unless too few nodes have answered by then, or may vote.
    fn give_up(&self) -> LockError {
        let unanswered = |request: &Request, cx: Cx<'_>| {
            let grace = request.waits_for_grace(cx) && !request.is_answered(cx);
            request.is_cut_off() || grace
        };
        if self.look(unanswered) {
            return self.no_quorum();
        }
        if self.has_no_room() {
            return self.queue_full();
        }
        let (position, holder_ttl) =
            self.look(|request, cx| (request.position(), request.holder_left(cx.now)));
        LockError::TimedOut {
            position,
            holder_ttl,
        }
    }

    fn no_quorum(&self) -> LockError {
        let nodes = &self.client.nodes;
        let look = |request: &Request, cx: Cx<'_>| {
            let failures: Vec<_> = request.failures().collect();
            (failures, request.open(), cx.servers.in_grace(cx.now))
        };
        let (mut failures, open, in_grace) = self.look(look);
        for (index, left) in in_grace {
            if failures.iter().all(|(failed, _)| *failed != index) {
                failures.push((index, NodeError::RestartGrace { left }));
            }
        }
        LockError::NoQuorum(nodes.no_quorum(failures.into_iter(), open))
    }
}

fn is_asking(request: &Request) -> bool {
    matches!(request.phase(), Phase::Asking)
}

/// How an attempt without waiting ends.
enum Attempt {
    Taken(Taken),
    NotFree,
    Unknown,
}

/// Takes the lease if it was granted, or tells that it never will be.
fn taken(request: &mut Request, cx: Cx<'_>, hold: HoldOptions) -> Option<Taken> {
    let renewal = if hold.auto_extend {
        Renewal::Third
    } else {
        Renewal::Off
    };
    match request.take(cx, renewal, hold.max_hold) {
        Taken::NotYet => None,
        taken => Some(taken),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(entry) = &self.entry else {
            return;
        };
        if !entry.look(|request, _| request.is_in_line()) {
            return;
        }
        let times = self.client.requeues.left(self.task, self.resource.name());
        if let Some(times) = times {
            entry.update(|request, _| request.warn_of_requeuing(times));
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
        let patience = WaitPolicy::of_settings(client);
        for auto_extend in [true, false] {
            let mut place = Place::ask(client, "r", TTL, Some(0), patience)
                .await
                .unwrap();
            assert!(place.is(|phase| matches!(phase, Phase::Granted { .. })));
            for node in 0..3 {
                place.change(|request, _| request.on_reconnect(node));
            }
            let hold = HoldOptions {
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
