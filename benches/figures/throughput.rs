//! Many lockers of distinct resources.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{TTL, builder, floor::Floor, runtime, servers, stats::table};

const SPAN: Duration = Duration::from_millis(700);
const ROUNDS: usize = 4;

/// Cycles per second of `lockers` tasks that each repeat `cycle` until the time is over.
async fn rate<F, C>(lockers: usize, cycle: F) -> f64
where
    F: Fn(usize) -> C + Clone + Send + 'static,
    C: Future<Output = ()> + Send,
{
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for locker in 0..lockers {
        let cycle = cycle.clone();
        tasks.spawn(async move {
            let mut cycles = 0u32;
            while start.elapsed() < SPAN {
                cycle(locker).await;
                cycles += 1;
            }
            cycles
        });
    }
    let cycles: u32 = tasks.join_all().await.iter().sum();
    f64::from(cycles) / start.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

pub(crate) fn run() {
    let servers = servers(5);
    let mut rows = Vec::new();
    for lockers in [1, 16, 256, 4096] {
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        runtime().block_on(async {
            let hand = Arc::new(Floor::connect(&servers, 1).await);
            let commands: Vec<_> = (0..lockers)
                .map(|n| hand.scripts(&format!("floor:{n}")))
                .collect();
            let commands = Arc::new(commands);
            let names: Arc<[String]> = (0..lockers).map(|n| format!("r:{n}")).collect();
            // Thousands at once on two cores take longer than a node may take by default.
            let redlock = builder(&servers)
                .node_timeout(TTL / 3)
                .connect()
                .await
                .expect("nodes");
            for _ in 0..ROUNDS {
                let (redlock, names) = (redlock.clone(), names.clone());
                let by_crate = move |locker: usize| {
                    let (redlock, names) = (redlock.clone(), names.clone());
                    async move {
                        let guard = redlock.lock(&*names[locker], TTL).await.expect("free");
                        guard.release().await.expect("held");
                    }
                };
                ours.push(rate(lockers, by_crate).await);
                let (hand, commands) = (hand.clone(), commands.clone());
                let by_hand = move |locker: usize| {
                    let (hand, commands) = (hand.clone(), commands.clone());
                    async move { hand.cycle(&commands[locker]).await }
                };
                floor.push(rate(lockers, by_hand).await);
            }
        });
        let (ours, floor) = (median(ours), median(floor));
        rows.push(vec![
            lockers.to_string(),
            format!("{ours:.0}"),
            format!("{floor:.0}"),
            format!("{:.2}", ours / floor),
        ]);
    }
    let head = [
        "lockers",
        "cycles/s",
        "same scripts by hand, cycles/s",
        "× floor",
    ];
    table("Throughput on distinct resources, five nodes", &head, &rows);
}
