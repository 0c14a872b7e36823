//! A Redis node and a memory node are fed the same random operations: every answer and the whole state
//! after each must be the same, but for the moments in them. The operations come in batches; among them are ids that
//! nobody hears, distrusted counters, far generations, and the bare commands of others.
//!
//! Spans are chosen so that nothing ends within half a second of a step.

use std::{collections::BTreeSet, time::Duration};

use super::subject::{self, Scripts, resource};
use crate::{
    holder::{ClientId, HolderId},
    message::{Enqueue, Extend, Extended, Release, Released, Report, Standing, Terms},
    node::NodeEvent,
    runtime::rng::Rng,
};

/// How far the two may be apart in time.
const SLACK: u64 = 400;
const NAMES: [&str; 2] = ["r", "{tag}s"];

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// One of the two nodes, with the numbers it has given out.
struct Subject {
    subject: subject::Subject,
    numbers: BTreeSet<u64>,
}

impl Subject {
    fn new(subject: subject::Subject) -> Self {
        Self {
            subject,
            numbers: BTreeSet::new(),
        }
    }

    fn terms(&self, lease: Duration, more: More) -> Terms {
        Terms {
            waiter_ttl: lease,
            unheard: Duration::from_millis(more.unheard),
            extra: more.extra,
            lead: if more.distrust { 1 << 55 } else { i64::MIN },
            ..self.subject.terms()
        }
    }

    /// Numbers count microseconds of two clocks, so they are compared by their order.
    fn rank(&mut self, number: u64) -> usize {
        self.numbers.insert(number);
        self.numbers.range(..number).count()
    }

    fn number(&self, rank: Option<usize>) -> Option<u64> {
        self.numbers.iter().nth(rank?).copied()
    }
}

#[derive(Clone, Copy, Debug)]
struct More {
    unheard: u64,
    extra: u64,
    distrust: bool,
}

/// A request of a batch.
#[derive(Clone, Debug)]
struct One {
    name: usize,
    id: HolderId,
    rank: Option<usize>,
    ttl: Duration,
    room: Option<u64>,
    repair: bool,
}

/// An operation, with numbers as ranks.
#[derive(Clone, Debug)]
enum Act {
    Enqueue(Vec<One>, Duration, More),
    Extend(Vec<One>, More),
    Release(Vec<One>, More),
    Foreign { name: usize },
    Delete { name: usize },
    Later(u64),
}

impl Act {
    fn draw(chance: &mut Chance, ids: &[HolderId], numbers: usize, extra: u64) -> Self {
        let seconds_and_a_half = |n: usize| Duration::from_millis(n as u64 * 1000 + 500);
        let one = |chance: &mut Chance| One {
            name: chance.below(NAMES.len()),
            id: chance.pick(ids),
            rank: (numbers > 0 && chance.below(3) > 0)
                .then(|| numbers - 1 - chance.below(numbers.min(12))),
            ttl: seconds_and_a_half(1 + chance.below(9)),
            room: chance.pick(&[None, None, None, Some(0), Some(1), Some(2)]),
            repair: chance.below(2) == 0,
        };
        let more = More {
            unheard: chance.pick(&[500, 1500, 2500]),
            extra,
            distrust: chance.below(10) == 0,
        };
        let batch = 1 + chance.below(4);
        match chance.below(20) {
            0..=9 => {
                let all = (0..batch).map(|_| one(chance)).collect();
                Self::Enqueue(all, seconds_and_a_half(1 + chance.below(5)), more)
            }
            10..=12 => {
                let mut all: Vec<_> = (0..batch).map(|_| one(chance)).collect();
                for one in &mut all {
                    if !one.repair && chance.below(3) == 0 {
                        one.ttl = Duration::ZERO;
                    }
                }
                Self::Extend(all, more)
            }
            13..=16 => Self::Release((0..batch).map(|_| one(chance)).collect(), more),
            17 => chance.pick(&[
                Self::Foreign { name: 0 },
                Self::Foreign { name: 1 },
                Self::Delete { name: 0 },
                Self::Delete { name: 1 },
            ]),
            _ => Self::Later(1000 * chance.pick(&[1, 1, 2, 2, 3, 3, 90])),
        }
    }
}

struct Pair([Subject; 2]);

impl Pair {
    async fn start(signature: &ClientId) -> Self {
        Self([
            Subject::new(subject::Subject::redis_as(signature.clone()).await),
            Subject::new(subject::Subject::memory_as(signature.clone())),
        ])
    }

    fn restart(&mut self) {
        for subject in &mut self.0 {
            subject.subject.flush();
            subject.subject.told_so_far();
            subject.numbers.clear();
        }
    }

    async fn act(&mut self, act: &Act) -> [String; 2] {
        let mut told = [String::new(), String::new()];
        for (told, subject) in told.iter_mut().zip(&mut self.0) {
            *told = ask(subject, act).await;
        }
        told
    }
}

async fn ask(subject: &mut Subject, act: &Act) -> String {
    let node = subject.subject.node.clone();
    match act.clone() {
        Act::Enqueue(all, lease, more) => {
            let asks: Vec<_> = all
                .iter()
                .map(|one| Enqueue {
                    resource: resource(NAMES[one.name]),
                    id: one.id.clone(),
                    number: subject.number(one.rank),
                    ttl: one.ttl,
                    room: one.room,
                })
                .collect();
            let answers = node
                .enqueue(&asks, subject.terms(lease, more))
                .await
                .expect("carried out")
                .value;
            answers
                .into_iter()
                .map(|answer| match answer {
                    Standing::Granted {
                        seq,
                        left,
                        outranked,
                    } => format!(
                        "granted {} {} {outranked};",
                        subject.rank(seq),
                        about(left.as_millis() as u64)
                    ),
                    Standing::Waiting {
                        number,
                        ahead,
                        holder_left,
                        ..
                    } => format!(
                        "waiting {} {ahead} {:?};",
                        if number == 0 {
                            0
                        } else {
                            1 + subject.rank(number)
                        },
                        holder_left.map(|left| about(left.as_millis() as u64))
                    ),
                    Standing::Full {
                        waiting,
                        holder_left,
                    } => format!(
                        "full {waiting} {:?};",
                        holder_left.map(|left| about(left.as_millis() as u64))
                    ),
                    Standing::Superseded => "superseded;".into(),
                })
                .collect()
        }
        Act::Extend(all, more) => {
            let asks: Vec<_> = all
                .iter()
                .map(|one| Extend {
                    resource: resource(NAMES[one.name]),
                    id: one.id.clone(),
                    ttl: one.ttl,
                    token: subject.number(one.rank).unwrap_or(0),
                    repair: one.repair,
                })
                .collect();
            let answers = node
                .extend(&asks, subject.terms(Duration::from_secs(5), more))
                .await
                .expect("carried out")
                .value;
            answers
                .into_iter()
                .map(|answer| match answer {
                    Extended::Stands { seq } => format!("stands {};", subject.rank(seq)),
                    other => format!("{other:?};"),
                })
                .collect()
        }
        Act::Release(all, more) => {
            let asks: Vec<_> = all
                .iter()
                .map(|one| Release {
                    resource: resource(NAMES[one.name]),
                    id: one.id.clone(),
                })
                .collect();
            let answers: Vec<Released> = node
                .release(&asks, subject.terms(Duration::from_secs(5), more))
                .await
                .expect("carried out")
                .value;
            format!("{answers:?}")
        }
        Act::Foreign { name } => subject
            .subject
            .set_nx(NAMES[name], "foreign", Duration::from_millis(3500))
            .to_string(),
        Act::Delete { name } => {
            subject.subject.delete(NAMES[name]);
            String::new()
        }
        Act::Later(millis) => {
            subject.subject.later(millis);
            String::new()
        }
    }
}

async fn state(subject: &mut Subject) -> String {
    let mut told = String::new();
    for name in NAMES {
        let Report {
            clock,
            holder,
            seq,
            waiting,
            line,
        } = subject.subject.report(name).await;
        let holder = holder.map(|(id, left)| (id, left.map(|left| about(left.as_millis() as u64))));
        let line: Vec<_> = line
            .into_iter()
            .map(|place| {
                let lease = about(place.waiter_end.saturating_sub(clock));
                let rank = if place.number == 0 {
                    0
                } else {
                    1 + subject.rank(place.number)
                };
                (place.id, rank, lease)
            })
            .collect();
        let seq = seq.map(|seq| subject.rank(seq));
        told += &format!("{name}: {holder:?} {seq:?} {waiting} {line:?}\n");
    }
    for event in subject.subject.told_so_far() {
        if let NodeEvent::Granted { id, seq, .. } = event {
            told += &format!("told {id} {}\n", subject.rank(seq));
        }
    }
    told
}

/// A span up to what the two nodes may be apart.
fn about(millis: u64) -> u64 {
    (millis + SLACK) / 500
}

#[tokio::test]
async fn both_kinds_of_node_answer_alike() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => seed
            .parse()
            .map(|seed: u64| seed..seed + 1)
            .expect("a number"),
        Err(_) => 0..std::env::var("SEEDS").map_or(40, |seeds| seeds.parse().expect("a number")),
    };
    let signature = ClientId::new(Rng.uuid(), "differential", true);
    let mut pair = Pair::start(&signature).await;
    for seed in seeds {
        let mut chance = Chance(seed);
        pair.restart();
        let mut ids = Vec::new();
        let unheard = ClientId::new(Rng.uuid(), "a:b:", true);
        let polls = ClientId::new(Rng.uuid(), "", false);
        for signature in [&signature, &signature, &unheard, &unheard, &polls] {
            let mut id = HolderId::new(Rng.uuid(), signature, 1_700_000_000_000);
            for generation in 0..12 {
                if matches!(generation, 0 | 1 | 2 | 8 | 9 | 10) {
                    ids.push(id.clone());
                }
                id = id.next();
            }
        }
        let extra = chance.pick(&[0, 0, 5_000_000]);
        let mut past = Vec::new();
        for _ in 0..80 {
            let act = Act::draw(&mut chance, &ids, pair.0[0].numbers.len(), extra);
            past.push(act.clone());
            let [redis, memory] = pair.act(&act).await;
            assert_eq!(
                redis, memory,
                "seed {seed}, answers to the last of {past:#?}"
            );
            let [redis, memory] = &mut pair.0;
            let (redis, memory) = (state(redis).await, state(memory).await);
            assert_eq!(
                redis, memory,
                "seed {seed}, state after the last of {past:#?}"
            );
        }
    }
}
