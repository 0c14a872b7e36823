//! A request that waits: its ticket, its position, and when it gives votes back, stands aside, or gives up.

use std::{cmp::Reverse, time::Duration};

use crate::{
    event::EventKind,
    quorum::NodeIndex,
    request::{Cx, End, Outgoing, Phase, Request, ask::MISSES, is_later, node_state::NodeState},
    time::Time,
};

/// So many rounds may follow each other at once after a vote came without a quorum.
const EAGER_ROUNDS: u8 = 3;

/// After so many turns in a row that ended before they could be taken, the other waiters come first for a while.
const MISSED_TURNS: u8 = 3;

/// The shortest interval, after a few times at once, between two times that a request gives its votes back.
const GIVE_BACK_EVERY: Duration = Duration::from_millis(10);

impl Request {
    /// A node that had no vote for this request has given one.
    pub(super) fn on_first_vote(&mut self) {
        self.eager = EAGER_ROUNDS;
        self.vote_stamp = self.stamps;
    }

    /// Draws the conclusion from what is known while no lease is held.
    pub(super) fn weigh(&mut self, cx: Cx<'_>) {
        let now = cx.now;
        if !matches!(self.phase, Phase::Asking | Phase::NoRoom | Phase::Waiting) {
            return;
        }
        if self.majority(cx).is_some() {
            self.phase = Phase::Granted { since: now };
            self.news.moved |= self.position != 0;
            self.position = 0;
            self.news.wake = true;
            return;
        }
        if self.is_outranked() && self.may_give_back(now) {
            self.give_back();
            return;
        }
        if matches!(self.phase, Phase::Waiting) && self.hears_too_late(now) {
            self.stand_again(now);
            return;
        }
        if matches!(self.phase, Phase::Asking) && self.is_asking() && self.waits_for_grace(cx) {
            // The votes that count may be among those still to come.
            return;
        }
        if self.number.is_none() {
            self.agree(now);
        }
        self.hurry();
        self.give_back_without_room(now);
        self.end_attempt(cx);
    }

    /// Whether a quorum gives its votes, but the votes have ended by the time of the answers, and those still to come
    /// make no quorum without them: the way is too long for so short a ttl.
    fn hears_too_late(&self, now: Time) -> bool {
        let dead = |node: &NodeState| node.vote().is_some_and(|vote| vote.dead_on_arrival);
        let alive = |node: &NodeState| node.vote().is_some_and(|vote| vote.until > now);
        let voted = self.nodes.iter().filter(|node| dead(node) || alive(node));
        let out = self
            .nodes
            .iter()
            .filter(|node| dead(node) || node.failure.is_some());
        let over = !self.is_asking() || !self.quorum.possible_without(out.count());
        over && voted.count() >= self.quorum.size() && self.majority_of(now, |_| true).is_none()
    }

    /// An attempt without waiting ends with its verdict, whether or not a caller is there to hear it: what it has on a
    /// minority is in everybody's way.
    fn end_attempt(&mut self, cx: Cx<'_>) {
        let now = cx.now;
        let refused = matches!(self.phase, Phase::NoRoom | Phase::Waiting);
        if !self.is_attempt() || !refused {
            return;
        }
        let over = !self.is_asking();
        if self.is_answered(cx) && (over || matches!(self.phase, Phase::NoRoom)) {
            self.end(End::NotFree, now);
        } else if over || self.is_cut_off() {
            self.end(End::Unanswered, now);
        }
    }

    /// Agrees on the ticket, the maximum over a quorum of the numbers, once that many have come.
    fn agree(&mut self, now: Time) {
        let numbers = self.nodes.iter().filter_map(|node| node.number);
        let numbered = numbers.clone().count();
        let quorum = self.quorum;
        if numbered < quorum.size() {
            let full = self.nodes.iter().filter_map(NodeState::no_room).count();
            let all_told = full > 0 && !self.is_asking() && numbered + full >= quorum.size();
            if matches!(self.phase, Phase::Asking) && (all_told || !quorum.possible_without(full)) {
                self.stand_outside();
            }
            return;
        }
        self.number = numbers.clone().max();
        if numbers.min() != self.number {
            self.trace("numbers differ, the highest is written back");
        }
        self.phase = Phase::Waiting;
        self.progress = now;
        self.news.wake = true;
        let position = self.position;
        self.emit(EventKind::InLine { position });
    }

    /// Other requests of this client wait for room in the line. So does this one, unless it never waits.
    pub(crate) fn find_no_room(&mut self, now: Time) {
        if self.is_attempt() {
            self.end(End::NotFree, now);
        } else {
            self.stand_outside();
        }
    }

    fn stand_outside(&mut self) {
        self.trace("no room in the line");
        self.phase = Phase::NoRoom;
        self.news.wake = true;
    }

    /// The same task has left this line so many times in a row.
    pub(crate) fn warn_of_requeuing(&mut self, times: u32) {
        self.emit(EventKind::KeepsLeaving { times });
    }

    /// Notes how many waiters are ahead: the smallest number that a quorum of the nodes does not exceed.
    pub(super) fn move_up(&mut self, now: Time) {
        let ahead = self.nodes.iter().filter_map(NodeState::ahead);
        let agreed = self.quorum.weakest(ahead.clone().map(Reverse));
        let Some(position) = agreed.map(|Reverse(ahead)| ahead).or(ahead.max()) else {
            return;
        };
        if position < self.position {
            self.progress = now;
        }
        self.news.moved |= position != self.position;
        self.position = position;
    }

    /// With some votes and no quorum, the nodes are asked again at once, a few times in a row, to find out who comes
    /// first.
    fn hurry(&mut self) {
        let split = self.nodes.iter().any(|node| node.vote().is_some());
        let waiting = matches!(self.phase, Phase::Waiting);
        if split && self.eager > 0 && waiting && !self.is_asking() {
            self.trace("some votes and no quorum, asking again");
            self.eager -= 1;
            self.ask_all();
        }
    }

    /// A request that has a vote and no place in line is in everybody's way. It gives the vote back with the next
    /// round.
    fn give_back_without_room(&mut self, now: Time) {
        if self.is_in_the_way() && self.may_give_back(now) {
            self.trace("no place in the line, giving a vote back");
            self.next_generation();
        }
    }

    /// Whether a node may have given it something that it has to keep or to give back.
    pub(crate) fn binds_a_node(&self) -> bool {
        let binds = |node: &NodeState| node.vote().is_some() || node.urgent && node.touched();
        self.nodes.iter().any(binds)
    }

    /// A node says that a request should ask: a waiter ahead may be dead, or a holder want its vote back.
    pub(super) fn look_again(&mut self, index: NodeIndex, now: Time) {
        let over = !self.is_asking();
        if let Some(node) = self.nodes.get_mut(index) {
            node.urgent = true;
        }
        match self.phase {
            // The vote is given back once all nodes have been asked.
            Phase::NoRoom => self.ask_all(),
            // The first round has failed, and its caller may not ask again for long.
            Phase::Asking if over => self.park(now),
            _ => {}
        }
    }

    /// Whether it has votes and no place in line, by what all nodes have said since the last vote came.
    fn is_in_the_way(&self) -> bool {
        let votes = self.nodes.iter().any(|node| node.vote().is_some());
        let over = |node: &NodeState| is_later(node.ended_stamp, self.vote_stamp);
        matches!(self.phase, Phase::NoRoom) && votes && self.nodes.iter().all(over)
    }

    /// Whether it has the vote of a node where another waiter comes first.
    fn is_outranked(&self) -> bool {
        let mut votes = self.nodes.iter().filter_map(NodeState::vote);
        votes.any(|vote| vote.outranked)
    }

    /// When it may give back votes that are in the way of others, if it has any.
    pub(super) fn gives_back_at(&self) -> Option<Time> {
        let waits = matches!(self.phase, Phase::NoRoom | Phase::Waiting);
        let owes = waits && (self.is_outranked() || self.is_in_the_way());
        let at_once = GIVE_BACK_EVERY * u32::from(EAGER_ROUNDS - 1);
        owes.then(|| self.next_give_back.minus(at_once))
    }

    /// At once a few times in a row, and no more often than [`GIVE_BACK_EVERY`] after that. All nodes are asked anew
    /// each time, and a node that lies would have that done as fast as it answers, before the other votes are in.
    fn may_give_back(&mut self, now: Time) -> bool {
        let next = self.next_give_back.max(now).plus(GIVE_BACK_EVERY);
        let may = next.since(now) <= GIVE_BACK_EVERY * u32::from(EAGER_ROUNDS);
        if may {
            self.next_give_back = next;
        }
        may
    }

    /// Gives all votes back: the nodes get a new generation of the request in their place, with the same ticket.
    fn give_back(&mut self) {
        self.emit(EventKind::Split);
        self.next_generation();
    }

    /// The votes ended before they were taken, so the request stands in line again. If that happens again and again,
    /// as the way to the nodes is too long for so short a ttl, it lets the others go first in between (L1).
    pub(super) fn stand_again(&mut self, now: Time) {
        self.trace("the votes ended before they were taken");
        self.missed_turns = self.missed_turns.saturating_add(1);
        if self.is_attempt() {
            // It has no place to keep.
            if self.missed_turns < MISSED_TURNS {
                self.begin_anew();
            } else {
                self.end(End::Unanswered, now);
            }
            return;
        }
        self.keep_number();
        if self.missed_turns < MISSED_TURNS {
            self.give_back();
            self.phase = Phase::Waiting;
            return;
        }
        let (waited, waiter_ttl) = (self.config.timeout(self.ttl), self.waiter_ttl());
        self.emit(EventKind::TooSlow { waited, waiter_ttl });
        self.rest(now);
    }

    /// Lets the others go first for a while, longer each time.
    fn rest(&mut self, now: Time) {
        self.park(now);
        // As long as the others take to ask once at the least, or they would not get in between if the line is full.
        let rest = self.waiter_ttl().max(self.config.head_poll());
        let doublings = self.missed_turns.saturating_sub(MISSED_TURNS - 1).min(4);
        self.rests_until = Some(now.plus(rest * (1 << doublings)));
    }

    /// A keep-alive was not answered in time: the waiter ttl may be too short for the way to the nodes. If too few nodes
    /// are left that answer in time, the request is only in the way of others.
    pub(super) fn note_miss(&mut self, sent: &Outgoing, now: Time) {
        let Some(node) = self.nodes.get_mut(sent.node) else {
            return;
        };
        node.misses = node.misses.saturating_add(1);
        if node.misses != MISSES + 1 {
            return;
        }
        let (waited, waiter_ttl) = (sent.timeout, sent.waiter_ttl);
        self.emit(EventKind::TooSlow { waited, waiter_ttl });
        let missing = self.nodes.iter().filter(|node| node.misses > MISSES);
        let waits = matches!(self.phase, Phase::NoRoom | Phase::Waiting);
        if waits && !self.is_attempt() && !self.quorum.possible_without(missing.count()) {
            self.missed_turns = self.missed_turns.saturating_add(1).max(MISSED_TURNS);
            self.rest(now);
        }
    }

    /// Gives up what it has. It keeps its number, if it has one, until it is polled again (C4).
    pub(super) fn park(&mut self, now: Time) {
        self.start_cleanup(now);
        self.phase = Phase::Parked;
        self.news.wake = true;
    }

    /// A parked request is polled again: by its number it is first in line again. One that rests goes on resting.
    pub(super) fn come_back(&mut self, now: Time) {
        if self.rests_until.is_some() {
            return;
        }
        if self.is_attempt() || self.number.is_none() {
            self.begin_anew();
            return;
        }
        self.trace("was parked, and is polled again");
        self.phase = Phase::Waiting;
        // A request that has rested has not moved forward: its patience goes on.
        if self.missed_turns < MISSED_TURNS {
            self.progress = now;
        }
        self.next_generation();
    }

    /// What was granted at once had no ticket. From now on its highest counter is its number.
    pub(super) fn keep_number(&mut self) {
        let numbers = self.nodes.iter().filter_map(|node| node.number);
        self.number = self.number.or(numbers.max());
    }

    /// Makes all nodes due at once; those that are being asked, when they have answered.
    pub(crate) fn ask_all(&mut self) {
        for node in &mut self.nodes {
            node.urgent = true;
        }
    }

    /// Asks as if nothing had been answered yet, under an id that takes back whatever was.
    fn begin_anew(&mut self) {
        self.phase = Phase::Asking;
        self.number = None;
        self.next_generation();
    }

    /// Asks those nodes again that have not answered in the first round.
    pub(crate) fn retry_first_round(&mut self) {
        if matches!(self.phase, Phase::Parked) && self.number.is_none() {
            self.begin_anew();
        }
        for node in &mut self.nodes {
            if node.number.is_none() && node.no_room().is_none() {
                node.urgent = true;
                // That it failed before is no verdict on this round.
                node.failure = None;
            }
        }
    }

    fn next_generation(&mut self) {
        self.id = self.id.next();
        for node in &mut self.nodes {
            node.forget(false);
            node.number = None;
            node.resume();
        }
    }
}
