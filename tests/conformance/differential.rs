//! A Redis node and a memory node are fed the same random operations: every answer and the whole state
//! after each must be the same, but for the moments in them.
//!
//! Spans are chosen so that nothing ends within half a second of a step.

use std::{collections::BTreeSet, time::Duration};

use super::subject::{self, only, resource};
use crate::{
    holder::{HolderId, Signature},
    node::{Enqueue, Event, Extend, Extended, Release, Released, Report, Standing, Terms},
    rng::Rng,
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

    fn terms(&self, lease: Duration) -> Terms {
        Terms {
            lease,
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

/// An operation, with numbers as ranks.
#[derive(Clone, Debug)]
enum Act {
    Enqueue {
        name: usize,
        id: HolderId,
        rank: Option<usize>,
        ttl: Duration,
        room: Option<u64>,
        lease: Duration,
    },
    Extend {
        name: usize,
        id: HolderId,
        ttl: Duration,
        rank: Option<usize>,
        repair: bool,
    },
    Release {
        name: usize,
        id: HolderId,
    },
    Foreign {
        name: usize,
    },
    Later(u64),
}

impl Act {
    fn draw(chance: &mut Chance, ids: &[HolderId], numbers: usize) -> Self {
        let seconds_and_a_half = |n: usize| Duration::from_millis(n as u64 * 1000 + 500);
        let name = chance.below(NAMES.len());
        let id = chance.pick(ids);
        let ttl = seconds_and_a_half(1 + chance.below(9));
        let rank = (numbers > 0 && chance.below(3) > 0).then(|| chance.below(numbers));
        match chance.below(20) {
            0..=9 => Self::Enqueue {
                name,
                id,
                rank,
                ttl,
                room: chance.pick(&[None, Some(0), Some(1), Some(2), Some(64)]),
                lease: seconds_and_a_half(1 + chance.below(5)),
            },
            10..=12 => Self::Extend {
                name,
                id,
                ttl,
                rank,
                repair: chance.below(2) == 0,
            },
            13 => Self::Extend {
                name,
                id,
                ttl: Duration::ZERO,
                rank,
                repair: false,
            },
            14..=16 => Self::Release { name, id },
            17 => Self::Foreign { name },
            // The counter is kept for 60 s: the short steps of a run do not add up to that.
            _ => Self::Later(1000 * chance.pick(&[1, 1, 2, 2, 3, 3, 90])),
        }
    }
}

struct Pair([Subject; 2]);

impl Pair {
    async fn start(signature: &Signature) -> Self {
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
        Act::Enqueue {
            name,
            id,
            rank,
            ttl,
            room,
            lease,
        } => {
            let ask = Enqueue {
                resource: resource(NAMES[name]),
                id,
                number: subject.number(rank),
                ttl,
                room,
            };
            let answer = only(node.enqueue(&[ask], subject.terms(lease)).await);
            match answer {
                Standing::Granted {
                    seq,
                    left,
                    outranked,
                } => format!(
                    "granted {} {} {outranked}",
                    subject.rank(seq),
                    about(left.as_millis() as u64)
                ),
                Standing::Waiting {
                    number,
                    ahead,
                    holder_left,
                    ..
                } => format!(
                    "waiting {} {ahead} {:?}",
                    subject.rank(number),
                    holder_left.map(|left| about(left.as_millis() as u64))
                ),
                Standing::Full {
                    waiting,
                    holder_left,
                } => format!(
                    "full {waiting} {:?}",
                    holder_left.map(|left| about(left.as_millis() as u64))
                ),
                Standing::Superseded => "superseded".into(),
            }
        }
        Act::Extend {
            name,
            id,
            ttl,
            rank,
            repair,
        } => {
            let ask = Extend {
                resource: resource(NAMES[name]),
                id,
                ttl,
                token: subject.number(rank).unwrap_or(0),
                repair,
            };
            match only(
                node.extend(&[ask], subject.terms(Duration::from_secs(5)))
                    .await,
            ) {
                Extended::Stands { seq } => format!("stands {}", subject.rank(seq)),
                other => format!("{other:?}"),
            }
        }
        Act::Release { name, id } => {
            let ask = Release {
                resource: resource(NAMES[name]),
                id,
            };
            let released: Released = only(
                node.release(&[ask], subject.terms(Duration::from_secs(5)))
                    .await,
            );
            format!("{released:?}")
        }
        Act::Foreign { name } => {
            let ttl = Duration::from_millis(3500);
            subject
                .subject
                .set_nx(NAMES[name], "foreign", ttl)
                .to_string()
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
                let lease = about(place.lease_end.saturating_sub(clock));
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
        if let Event::Granted { id, seq, .. } = event {
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
    let signature = Signature::new(Rng, "differential", true);
    let mut pair = Pair::start(&signature).await;
    for seed in seeds {
        let mut chance = Chance(seed);
        pair.restart();
        let mut ids = Vec::new();
        for _ in 0..4 {
            let id = HolderId::new(Rng, &signature, 1_700_000_000_000);
            ids.extend([id.clone(), id.next(), id.next().next()]);
        }
        let mut past = Vec::new();
        for _ in 0..80 {
            let act = Act::draw(&mut chance, &ids, pair.0[0].numbers.len());
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
