//! Reads a merged history and the faults of its run, and names each promise that was broken.

use std::{fmt::Debug, time::Duration};

use super::{
    EPHEMERAL, LONGEST_TTL, SLOTS,
    excuses::{RECOVERY, Span, covered, cut_off, length, overlaps},
    faults::Fault,
    history::{History, Request},
};

/// What a busy machine may add to a timer. Whether a lease is held at all is checked without it (S1).
const SLACK: Duration = Duration::from_millis(250);

/// What a handoff may take beside slow, hung and dead nodes of a minority: a few polls and timeouts.
const HANDOFF: Duration = Duration::from_millis(1500);

/// What the validators found and how much they looked at.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) violations: Vec<String>,
    pub(crate) acquisitions: usize,
    /// Pairs of an agreed ticket and a later request, served in this order; and how often a fault excuses
    /// the other order.
    pub(crate) ordered: usize,
    pub(crate) excused: usize,
    /// Leases that ended before they were given up, and the latest that one was told so.
    pub(crate) lost: usize,
    pub(crate) latest: Duration,
    /// The longest time that a request waited for a free resource: with no fault but of a minority of
    /// nodes, and with any.
    pub(crate) idle: Duration,
    pub(crate) idle_by_fault: Duration,
}

/// A history and what excuses there are.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    history: &'a History,
    /// When the grace of the start was over.
    ready: Duration,
    findings: Findings,
    /// When each process could not reach a quorum.
    cut_off: Vec<Vec<Span>>,
    /// When any process was cut off, did not run, or had died.
    disturbances: Vec<Span>,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(history: &'a History, faults: &[Fault], ready: Duration) -> Self {
        let cut_off: Vec<Vec<Span>> = (0..SLOTS).map(|slot| cut_off(slot, faults)).collect();
        let stalls = history.lives.iter().flat_map(|life| life.stalls.clone());
        let deaths = history.lives.iter().filter_map(|life| life.killed);
        let mut disturbances: Vec<Span> = cut_off.iter().flatten().copied().collect();
        disturbances.extend(stalls);
        disturbances.extend(deaths.map(|at| (at, at)));
        let acquisitions = history.acquisitions().iter().map(Vec::len).sum();
        Self {
            history,
            ready,
            findings: Findings {
                acquisitions,
                ..Findings::default()
            },
            cut_off,
            disturbances,
        }
    }

    pub(crate) fn findings(self) -> Findings {
        self.findings
    }

    fn broken(&mut self, promise: &str, first: &dyn Debug, second: &dyn Debug) {
        let violation = format!("{promise}\n  {first:?}\n  {second:?}");
        self.findings.violations.push(violation);
    }

    /// No two guards vouched for the same moment, whether their processes lived to see it or not.
    pub(crate) fn s1(mut self) -> Self {
        for acquisitions in self.history.acquisitions() {
            let mut longest: Option<&Request> = None;
            for next in acquisitions {
                if let Some(holder) = longest
                    && holder.held().map(|(_, until)| until) > next.acquired
                {
                    self.broken("S1: two holders at once", holder, next);
                }
                let until = |request: &Request| request.held().map(|(_, until)| until);
                if longest.is_none_or(|holder| until(holder) < until(next)) {
                    longest = Some(next);
                }
            }
        }
        self
    }

    /// Tokens rise in order of acquisition.
    pub(crate) fn s2(mut self) -> Self {
        for acquisitions in self.history.acquisitions() {
            for pair in acquisitions.windows(2) {
                if pair[0].token >= pair[1].token {
                    self.broken("S2: the token did not rise", pair[0], pair[1]);
                }
            }
        }
        self
    }

    /// The same where two may hold at once: tokens differ, and whoever asks later has the higher one.
    pub(crate) fn s2_of_overlapping_leases(mut self) -> Self {
        for mut acquisitions in self.history.acquisitions() {
            let by_acquisition = acquisitions.clone();
            acquisitions.sort_by_key(|request| request.asked);
            let mut earlier = by_acquisition.iter().peekable();
            let mut highest: Option<&Request> = None;
            for next in acquisitions {
                while let Some(before) = earlier.next_if(|other| other.acquired < Some(next.asked))
                {
                    if highest.is_none_or(|other| other.token < before.token) {
                        highest = Some(before);
                    }
                }
                if let Some(before) = highest.filter(|before| before.token >= next.token) {
                    self.broken("S2: the token did not rise", before, &next);
                }
            }
            let mut by_token = by_acquisition;
            by_token.sort_by_key(|request| request.token);
            for pair in by_token.windows(2) {
                if pair[0].token == pair[1].token {
                    self.broken("S2: two leases with one token", pair[0], pair[1]);
                }
            }
        }
        self
    }

    /// Whoever holds no more was told so before the next one had the lock, unless its process stood
    /// still just then.
    pub(crate) fn s3(mut self) -> Self {
        for acquisitions in self.history.acquisitions() {
            for pair in acquisitions.windows(2) {
                let (before, next) = (pair[0], pair[1]);
                let life = &self.history.lives[before.life];
                let at = next.acquired.expect("acquired");
                if before.lost.is_some() {
                    self.findings.lost += 1;
                }
                if before.released.is_some_and(|released| released <= at) {
                    continue;
                }
                let Some(lost) = before.lost else {
                    if life.killed.is_none() {
                        self.broken("S3: lost, and never told so", before, next);
                    }
                    continue;
                };
                let stood: Duration = overlaps(&life.stalls, (at, lost)).map(length).sum();
                let late = lost.saturating_sub(at).saturating_sub(stood);
                self.findings.latest = self.findings.latest.max(late);
                if late > SLACK {
                    self.broken("S3: told too late", before, next);
                }
            }
        }
        self
    }

    /// Whoever had an agreed ticket before another asked is served before it, unless it left or failed,
    /// its process died or stood still for long, or it was cut off from a quorum.
    pub(crate) fn f1(mut self) -> Self {
        for acquisitions in self.history.acquisitions() {
            let resource = &acquisitions[0].resource;
            let requests = self.history.requests.iter();
            let mut tickets: Vec<&Request> = requests
                .filter(|request| request.recorded.is_some() && request.resource == *resource)
                .collect();
            tickets.sort_by_key(|ticket| ticket.recorded);
            let mut tickets = tickets.into_iter().peekable();
            let mut open: Vec<&Request> = Vec::new();
            for (place, next) in acquisitions.iter().enumerate() {
                let at = next.acquired.expect("acquired");
                let before = acquisitions[..place].iter().rev();
                let waited = before.take_while(|other| other.acquired > Some(next.asked));
                let ahead = |other: &&&Request| other.recorded.is_some_and(|at| at < next.asked);
                self.findings.ordered += waited.filter(ahead).count();
                while let Some(ticket) = tickets.next_if(|ticket| ticket.recorded < Some(at)) {
                    open.push(ticket);
                }
                let killed = |ticket: &Request| self.history.lives[ticket.life].killed;
                open.retain(|ticket| {
                    let over = [ticket.acquired, ticket.gone, killed(ticket)];
                    over.into_iter().flatten().all(|over| over > at)
                });
                for ticket in &open {
                    if ticket.recorded >= Some(next.asked) || ticket.failed {
                        continue;
                    }
                    if self.stood_aside(ticket, at) {
                        self.findings.excused += 1;
                    } else {
                        self.broken("F1: passed by one that asked later", ticket, next);
                    }
                }
            }
        }
        self
    }

    /// Whether a ticket that is not served by `at` may have lost its place.
    fn stood_aside(&self, ticket: &Request, at: Duration) -> bool {
        let life = &self.history.lives[ticket.life];
        let waiting = (ticket.asked, at);
        overlaps(&life.stalls, waiting).any(|stall| length(stall) > EPHEMERAL / 3)
            || overlaps(&self.cut_off[life.slot], waiting).next().is_some()
    }

    /// A free resource that somebody waits for is soon acquired: as soon as what the faults took away
    /// has expired.
    pub(crate) fn l1(mut self) -> Self {
        for acquisitions in self.history.acquisitions() {
            let mut free_since = self.ready;
            for next in acquisitions {
                let (acquired, until) = next.held().expect("held");
                let span = (free_since.max(next.asked), acquired);
                free_since = free_since.max(until);
                let idle = length(span);
                // A lease, a waiter ttl or a vote may be left from a fault before that.
                let before = span.0.saturating_sub(LONGEST_TTL + EPHEMERAL + RECOVERY);
                let mut nearby: Vec<Span> =
                    overlaps(&self.disturbances, (before, span.1)).collect();
                if nearby.is_empty() {
                    self.findings.idle = self.findings.idle.max(idle);
                    if idle > HANDOFF {
                        self.broken("L1: free, wanted, and not acquired", next, &idle);
                    }
                    continue;
                }
                self.findings.idle_by_fault = self.findings.idle_by_fault.max(idle);
                let explained = covered(&mut nearby) + LONGEST_TTL + EPHEMERAL + RECOVERY;
                if idle > HANDOFF + explained {
                    self.broken(
                        "L1: longer than its faults explain",
                        next,
                        &(idle, explained),
                    );
                }
            }
        }
        self
    }
}
