//! Lock and release when nobody is in the way.

use std::time::{Duration, Instant};

use redlock_fifo::FifoRedlock;

use crate::{
    TTL, client,
    floor::{Commands, Floor},
    runtime,
    server::Server,
    servers,
    stats::{Sample, micros, ratio, table},
};

const ROUNDS: usize = 40;
const CYCLES: usize = 100;

/// A block of cycles by hand.
pub(crate) async fn by_hand(floor: &Floor, commands: &Commands, cycles: usize) -> Sample {
    let mut sample = Sample::default();
    for _ in 0..cycles {
        let start = Instant::now();
        floor.cycle(commands).await;
        sample.add(start.elapsed());
    }
    sample
}

/// A block of cycles by the crate.
pub(crate) async fn by_crate(redlock: &FifoRedlock, resource: &str, cycles: usize) -> Sample {
    let mut sample = Sample::default();
    for _ in 0..cycles {
        let start = Instant::now();
        let guard = redlock.lock(resource, TTL).await.expect("free");
        guard.release().await.expect("held");
        sample.add(start.elapsed());
    }
    sample
}

/// Those that are compared: the lock, the same scripts by hand, the bare commands.
pub(crate) struct Sides {
    redlock: FifoRedlock,
    floor: Floor,
    scripts: Commands,
    bare: Commands,
}

impl Sides {
    pub(crate) async fn connect(servers: &[Server]) -> Self {
        let floor = Floor::connect(servers, 1).await;
        Self {
            redlock: client(servers).await,
            scripts: floor.scripts("floor"),
            bare: floor.bare("bare"),
            floor,
        }
    }

    /// A block of cycles of one of the three.
    pub(crate) async fn block(&self, side: usize, cycles: usize) -> Sample {
        match side {
            0 => by_crate(&self.redlock, "r", cycles).await,
            1 => by_hand(&self.floor, &self.scripts, cycles).await,
            _ => by_hand(&self.floor, &self.bare, cycles).await,
        }
    }
}

pub(crate) fn run() {
    let mut rows = Vec::new();
    for nodes in [1, 3, 5] {
        let servers = servers(nodes);
        let mut samples = [Sample::default(), Sample::default(), Sample::default()];
        runtime().block_on(async {
            let sides = Sides::connect(&servers).await;
            for round in 0..ROUNDS {
                for (side, sample) in samples.iter_mut().enumerate() {
                    // What the slowest node still does must not weigh on the next block; and each block comes
                    // after a rest, as a machine is slower then.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let block = sides.block(side, CYCLES).await;
                    // The first rounds warm up.
                    if round >= ROUNDS / 8 {
                        sample.extend(block);
                    }
                }
            }
        });
        let [ours, scripts, bare] = samples;
        rows.push(vec![
            nodes.to_string(),
            micros(ours.median()),
            micros(ours.quantile(0.99)),
            micros(scripts.median()),
            micros(bare.median()),
            format!("{:.2}", ratio(ours.median(), scripts.median())),
            format!("{:.2}", ratio(ours.median(), bare.median())),
        ]);
    }
    let head = [
        "nodes",
        "p50 µs",
        "p99 µs",
        "same scripts by hand, p50 µs",
        "bare SET NX + compare-and-delete, p50 µs",
        "× scripts",
        "× bare",
    ];
    table("Uncontended lock and release", &head, &rows);
}
