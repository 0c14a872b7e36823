//! What all processes report, merged: one request per entry, on the clock that they share.

use std::{collections::BTreeMap, time::Duration};

/// All that was reported of a run.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) lives: Vec<Life>,
    pub(crate) requests: Vec<Request>,
    /// Where the request of a life with that number is.
    index: BTreeMap<(usize, u64), usize>,
}

/// One process from its start to its end.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// Which of the contending processes it is; the next one in its place has the same.
    pub(crate) slot: usize,
    pub(crate) killed: Option<Duration>,
    /// When it did not run, whatever the reason.
    pub(crate) stalls: Vec<(Duration, Duration)>,
    /// What its requests failed with.
    pub(crate) errors: BTreeMap<String, usize>,
}

/// One request, as its process saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) life: usize,
    pub(crate) resource: String,
    pub(crate) asked: Duration,
    /// When `enqueue` returned.
    pub(crate) recorded: Option<Duration>,
    pub(crate) acquired: Option<Duration>,
    pub(crate) token: u64,
    /// Up to when the guard itself, asked while it was held, said that it would be.
    pub(crate) claimed: Option<Duration>,
    pub(crate) lost: Option<Duration>,
    /// When `release` was called, or the guard dropped.
    pub(crate) released: Option<Duration>,
    /// When it left the line, or failed.
    pub(crate) gone: Option<Duration>,
    pub(crate) failed: bool,
}

impl Request {
    /// From its acquisition to the last moment for which the guard vouched, if it ever did.
    pub(crate) fn held(&self) -> Option<(Duration, Duration)> {
        let over = [self.lost, self.released].into_iter().flatten().min();
        let until = self.claimed?.min(over.unwrap_or(Duration::MAX));
        Some((self.acquired?, until))
    }
}

impl History {
    /// A process starts in the place `slot`. Returns the number of its life.
    pub(crate) fn born(&mut self, slot: usize) -> usize {
        self.lives.push(Life {
            slot,
            ..Life::default()
        });
        self.lives.len() - 1
    }

    /// Enters what the process of that life reports.
    pub(crate) fn enter(&mut self, life: usize, words: &[String]) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words[..] {
            ["asked", id, resource, at] => {
                self.index.insert((life, number(id)), self.requests.len());
                self.requests.push(Request {
                    life,
                    resource: resource.to_owned(),
                    asked: time(at),
                    ..Request::default()
                });
            }
            ["recorded", id, at] => self.of(life, id).recorded = Some(time(at)),
            ["acquired", id, at, token] => {
                let request = self.of(life, id);
                (request.acquired, request.token) = (Some(time(at)), number(token));
            }
            ["held", id, at, validity] => {
                let request = self.of(life, id);
                request.claimed = request.claimed.max(Some(time(at) + time(validity)));
            }
            ["lost", id, at] => self.of(life, id).lost = Some(time(at)),
            ["released", id, at] => self.of(life, id).released = Some(time(at)),
            ["left", id, at] => {
                let told_before = self.of(life, id).gone.replace(time(at));
                assert_eq!(told_before, None, "it leaves once");
            }
            ["failed", id, at, error] => {
                let request = self.of(life, id);
                (request.gone, request.failed) = (Some(time(at)), true);
                *self.lives[life].errors.entry(error.to_owned()).or_default() += 1;
            }
            ["stalled", from, to] => self.lives[life].stalls.push((time(from), time(to))),
            _ => panic!("not a report: {words:?}"),
        }
    }

    /// The acquisitions of each resource by guards that vouched for themselves, in order.
    pub(crate) fn acquisitions(&self) -> Vec<Vec<&Request>> {
        let mut resources = BTreeMap::<&str, Vec<&Request>>::new();
        for request in &self.requests {
            if request.held().is_some() {
                resources
                    .entry(&request.resource)
                    .or_default()
                    .push(request);
            }
        }
        let mut all: Vec<_> = resources.into_values().collect();
        for acquisitions in &mut all {
            acquisitions.sort_by_key(|request| request.acquired);
        }
        all
    }

    fn of(&mut self, life: usize, id: &str) -> &mut Request {
        let place = self.index.get(&(life, number(id)));
        &mut self.requests[*place.expect("it was asked for")]
    }
}

fn number(word: &str) -> u64 {
    word.parse().expect("a number")
}

fn time(word: &str) -> Duration {
    Duration::from_nanos(number(word))
}
