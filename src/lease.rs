//! One request on all nodes: its claim, whoever waits for it, and the rounds that its caller carries.
//!
//! The claim is shared by the caller's handle (lock future, ticket, guard) and the client's ticker. It is
//! locked for moments only, never across an await. What it leaves behind when it ends goes to the outbox,
//! which the janitor empties.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, mpsc, watch};

use crate::{
    claim::{Claim, End, News, Phase, Question, Send, Undo},
    clock::Time,
    error::{ArgumentError, LeaseLost, NodeError},
    node::{Call, Extended, Standing},
    nodes::Nodes,
    quorum::FanOut,
    resource::Resource,
    telemetry,
};

/// One request, from its first question to its end.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) nodes: Arc<Nodes>,
    outbox: Outbox,
    claim: Mutex<Claim>,
    /// Rings when the claim is worth a look.
    pub(crate) wake: Notify,
    /// Made for the first who follows it: most requests have no followers, and it is larger than a claim.
    told: OnceLock<watch::Sender<Told>>,
}

/// What can be followed of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// How many waiters are ahead, until the turn is taken.
    pub(crate) position: Option<u64>,
    /// Why the lease ended, if it did.
    pub(crate) lost: Option<LeaseLost>,
    /// Of the claim: what one thread saw must not replace what another one saw later.
    revision: u64,
}

impl Told {
    fn of(claim: &Claim) -> Self {
        Self {
            revision: claim.revision(),
            position: claim.waits().then(|| claim.position()),
            lost: claim.ended(),
        }
    }

    /// Takes what is new in `later`; whether anything is.
    fn catch_up(&mut self, later: Self) -> bool {
        if later.revision <= self.revision {
            return false;
        }
        let before = std::mem::replace(self, later);
        (before.position, before.lost) != (later.position, later.lost)
    }
}

impl Request {
    /// A request that has sent nothing yet; refused if its arguments are not valid.
    pub(crate) fn new(
        nodes: &Arc<Nodes>,
        outbox: &Outbox,
        resource: &str,
        ttl: Duration,
        room: Option<u64>,
    ) -> Result<Arc<Self>, ArgumentError> {
        let ttl = nodes.config.ttl(ttl)?;
        nodes.warn_of_ttl(ttl);
        let resource = Arc::new(Resource::new(&nodes.config.key_prefix, resource)?);
        let claim = Claim::new(nodes.clone(), resource, ttl, room, nodes.clock.now());
        Ok(Arc::new(Self {
            nodes: nodes.clone(),
            outbox: outbox.clone(),
            claim: Mutex::new(claim),
            wake: Notify::new(),
            told: OnceLock::new(),
        }))
    }

    /// Looks at the claim without changing it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Claim) -> T) -> T {
        look(&self.claim())
    }

    /// Looks at what depends on the time, too.
    pub(crate) fn look_now<T>(&self, look: impl FnOnce(&Claim, Time) -> T) -> T {
        // The clock is read after the claim was locked: who looks later sees a later time.
        let claim = self.claim();
        look(&claim, self.nodes.clock.now())
    }

    /// Changes the claim, tells whoever waits, and leaves to the janitor what is to be taken back.
    pub(crate) fn update<T>(self: &Arc<Self>, change: impl FnOnce(&mut Claim, Time) -> T) -> T {
        self.change(change, |undo| self.leave(Leftover::new(self.clone(), undo)))
    }

    /// Ends the claim, and leaves to the janitor what is to be taken back.
    pub(crate) fn end(self: &Arc<Self>) {
        self.update(|claim, now| claim.end(End::Over, now));
    }

    /// Ends the claim. What is to be taken back is the caller's to see to, or to [`leave`](Self::leave).
    pub(crate) fn take_back(self: &Arc<Self>) -> Option<Leftover> {
        let mut left = None;
        self.change(
            |claim, now| claim.end(End::Over, now),
            |undo| left = Some(undo),
        );
        left.map(|undo| Leftover::new(self.clone(), undo))
    }

    /// Leaves it to the janitor.
    pub(crate) fn leave(&self, leftover: Leftover) {
        self.outbox.put(leftover);
    }

    /// Follows the waiters ahead and the end of the lease; closes when the request is gone.
    pub(crate) fn follow(&self) -> watch::Receiver<Told> {
        // Under the lock, or a change in between would be missed.
        self.look(|claim| {
            let told = || watch::Sender::new(Told::of(claim));
            self.told.get_or_init(told).subscribe()
        })
    }

    /// One first round in the caller's future: ends as soon as the verdict is certain. What is answered
    /// after that is heeded in the background, and `late` is told.
    ///
    /// Dropped half-way, its questions stay unanswered; whoever owns the request ends it then.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        late: impl Fn(&Arc<Self>) + std::marker::Send + 'static,
    ) {
        let questions = self.update(|claim, now| {
            claim.ask_all(now);
            claim.questions(now)
        });
        let mut calls = self.enqueue(&questions);
        while let Some((index, outcome)) = calls.next().await {
            if let Some(question) = questions.get(index) {
                self.update(|claim, now| claim.hear_standing(question, now, outcome));
            }
            if self.look(|claim| claim.phase() != Phase::Asking || claim.is_hopeless()) {
                break;
            }
        }
        let request = self.clone();
        calls.finish_late(move |index, outcome| {
            if let Some(question) = questions.get(index) {
                request.update(|claim, now| claim.hear_standing(question, now, outcome));
                late(&request);
            }
        });
    }

    /// Extends by hand, on all nodes, until the verdict is certain. With a `ttl` of zero it only asks
    /// whether the votes stand. Returns how many nodes have the vote and how many said they have not.
    pub(crate) async fn extend(self: &Arc<Self>, ttl: Duration) -> (usize, usize) {
        let mut round = Extending {
            request: self,
            questions: self.update(|claim, now| claim.extend_now(ttl, now)),
        };
        let mut calls = round.send();
        let (mut stands, mut gone) = (0, 0);
        while let Some((index, outcome)) = calls.next().await {
            match outcome.as_ref().map(|answer| answer.value) {
                Ok(Extended::Stands { .. }) => stands += 1,
                Ok(Extended::InLine | Extended::Gone) => gone += 1,
                Err(_) => {}
            }
            round.heed(index, outcome);
            let quorum = self.nodes.quorum;
            if stands >= quorum.size() || !quorum.possible_without(gone) {
                break;
            }
        }
        (stands, gone)
    }

    /// `heir` gets what is to be taken back.
    fn change<T>(&self, change: impl FnOnce(&mut Claim, Time) -> T, heir: impl FnOnce(Undo)) -> T {
        let mut claim = self.claim();
        let was_in_line = claim.is_in_line();
        let changed = change(&mut claim, self.nodes.clock.now());
        telemetry::waiters(was_in_line, claim.is_in_line());
        let News { wake, undo } = claim.take_news();
        let told = Told::of(&claim);
        // Whoever hears of it may look at the claim at once.
        drop(claim);
        // Before anybody hears of it: who is told of a loss and then shuts down waits for this, too.
        if let Some(undo) = undo {
            heir(undo);
        }
        if let Some(followed) = self.told.get() {
            followed.send_if_modified(|old| old.catch_up(told));
        }
        if wake {
            self.wake.notify_waiters();
        }
        changed
    }

    fn claim(&self) -> MutexGuard<'_, Claim> {
        self.claim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, questions: &[Question]) -> FanOut<Standing> {
        let timeout = questions.first().map(|question| question.timeout);
        let terms = self.nodes.terms(timeout.unwrap_or_default());
        let call = |(index, question): (usize, &Question)| match &question.send {
            Send::Enqueue(ask) => {
                let node = self.nodes.list.get(question.place)?;
                Some((index, node.enqueue(std::slice::from_ref(ask), terms)))
            }
            Send::Extend(_) => None,
        };
        let calls = questions.iter().enumerate().filter_map(call);
        FanOut::of(calls, self.nodes.clock, terms.deadline)
    }
}

/// An extend by hand. Its drop tells the claim of the questions that nobody waits for any more, so that
/// the ticker asks again.
struct Extending<'a> {
    request: &'a Arc<Request>,
    questions: Vec<Question>,
}

impl Extending<'_> {
    fn send(&self) -> FanOut<Extended> {
        let nodes = &self.request.nodes;
        let timeout = self.questions.first().map(|question| question.timeout);
        let terms = nodes.terms(timeout.unwrap_or_default());
        let call = |(index, question): (usize, &Question)| -> Option<(usize, Call<Vec<Extended>>)> {
            let Send::Extend(ask) = &question.send else {
                return None;
            };
            let node = nodes.list.get(question.place)?;
            Some((index, node.extend(std::slice::from_ref(ask), terms)))
        };
        let calls = self.questions.iter().enumerate().filter_map(call);
        FanOut::of(calls, nodes.clock, terms.deadline)
    }

    fn heed(&mut self, index: usize, outcome: Result<crate::node::Answer<Extended>, NodeError>) {
        if let Some(question) = self.questions.get(index) {
            self.request
                .update(|claim, now| claim.hear_extended(question, now, outcome));
        }
    }
}

impl Drop for Extending<'_> {
    fn drop(&mut self) {
        self.request.update(|claim, now| {
            // Those that were answered are not under way any more; this does nothing to them.
            for question in &self.questions {
                claim.hear_extended(question, now, Err(NodeError::TimedOut));
            }
        });
    }
}

/// What a request leaves on the nodes when it ends or stands aside.
#[derive(Debug)]
pub(crate) struct Leftover {
    pub(crate) request: Arc<Request>,
    pub(crate) undo: Undo,
    /// Releases that are under way already; `None` before the first are sent.
    pub(crate) calls: Option<FanOut<crate::node::Released>>,
    /// How many answers each node had given when the release was sent there.
    pub(crate) heard: Vec<(usize, u32)>,
    pub(crate) confirmed: Vec<(usize, Confirmed)>,
    /// Whoever takes it back, the janitor or the caller of a release: it counts until that is done.
    _counted: Counted,
}

/// A release that a node confirmed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confirmed {
    pub(crate) sent: Time,
    /// How many answers the node had given by then.
    pub(crate) heard: u32,
    pub(crate) had: crate::node::Released,
    pub(crate) era: crate::node::Era,
}

impl Leftover {
    fn new(request: Arc<Request>, undo: Undo) -> Self {
        let confirmed = Vec::with_capacity(undo.places.len());
        Self {
            _counted: Counted::new(&request.outbox.pending, undo.expires),
            request,
            undo,
            calls: None,
            heard: Vec::new(),
            confirmed,
        }
    }
}

/// Where leftovers are put for the janitor. A drop may put one at any time: it neither waits nor fails.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    sender: mpsc::UnboundedSender<Leftover>,
    pending: Arc<watch::Sender<Pending>>,
}

/// What was left and is not taken back yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pending {
    pub(crate) count: usize,
    /// When all of it has expired by itself.
    pub(crate) expires: Time,
}

/// One of those that are pending.
#[derive(Debug)]
struct Counted(Arc<watch::Sender<Pending>>);

impl Counted {
    fn new(pending: &Arc<watch::Sender<Pending>>, expires: Time) -> Self {
        pending.send_modify(|pending| {
            pending.count += 1;
            pending.expires = pending.expires.max(expires);
        });
        Self(pending.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|pending| pending.count -= 1);
    }
}

impl Outbox {
    /// An outbox, and what the janitor reads.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Leftover>) {
        // Unbounded, since a drop cannot wait; each request puts one for each of its generations at
        // most, and the janitor works on all at once.
        let (sender, receiver) = mpsc::unbounded_channel();
        let pending = Arc::default();
        (Self { sender, pending }, receiver)
    }

    pub(crate) fn pending(&self) -> &watch::Sender<Pending> {
        &self.pending
    }

    fn put(&self, leftover: Leftover) {
        // If the runtime is gone and the janitor with it, the leases expire by themselves.
        let _ = self.sender.send(leftover);
    }
}
