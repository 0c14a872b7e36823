//! Random faults, within what the promises allow, on many seeds. A failure names its seed; `SEED=n`
//! replays it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redlock_fifo::{FifoRedlock, LockGuard, MemoryCluster};
use tokio::time::{Instant, sleep};

const LONGEST_TTL: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_secs(4);

/// splitmix64: enough for choosing faults.
#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}

/// What happened, in order.
#[derive(Default)]
struct History {
    last_token: u64,
    /// (asked, recorded, served), by ticket.
    tickets: Vec<(Instant, Instant, Option<Instant>)>,
    holder: Option<Arc<LockGuard>>,
    served: usize,
    problems: Vec<String>,
}

impl History {
    fn serve(&mut self, guard: &Arc<LockGuard>) {
        if !guard.is_held() {
            return;
        }
        if self.holder.as_ref().is_some_and(|other| other.is_held()) {
            self.problems.push("S1: two holders at once".into());
        }
        if guard.fencing_token() <= self.last_token {
            self.problems.push(format!(
                "S2: token {} after {}",
                guard.fencing_token(),
                self.last_token
            ));
        }
        self.last_token = guard.fencing_token();
        self.holder = Some(guard.clone());
        self.served += 1;
    }
}

async fn worker(redlock: FifoRedlock, history: Arc<Mutex<History>>, mut chance: Chance) {
    for _ in 0..6 {
        let ttl = [
            Duration::from_millis(400),
            Duration::from_secs(1),
            LONGEST_TTL,
        ][chance.below(3) as usize];
        sleep(chance.millis(300)).await;
        let patience = Duration::from_millis(200 + chance.below(60_000));
        let guard = match chance.below(4) {
            0 => redlock.try_lock("r", ttl).await.ok().flatten(),
            1 => redlock.lock("r", ttl).wait_timeout(patience).await.ok(),
            _ => {
                let asked = Instant::now();
                let Ok(mut ticket) = redlock.enqueue("r", ttl).await else {
                    continue;
                };
                let index = {
                    let mut history = history.lock().unwrap();
                    history.tickets.push((asked, Instant::now(), None));
                    history.tickets.len() - 1
                };
                let guard = tokio::time::timeout(patience, ticket.acquire()).await;
                let guard = guard.ok().and_then(Result::ok);
                if guard.is_some() {
                    let mut history = history.lock().unwrap();
                    let now = Instant::now();
                    history.tickets[index].2 = Some(now);
                }
                guard
            }
        };
        let Some(guard) = guard else { continue };
        let guard = Arc::new(guard);
        history.lock().unwrap().serve(&guard);
        let longest = if chance.below(5) == 0 { 5000 } else { 50 };
        let hold = chance.millis(longest);
        tokio::select! {
            () = sleep(hold) => {}
            _ = guard.lost() => {}
        }
        let mut history = history.lock().unwrap();
        if history
            .holder
            .as_ref()
            .is_some_and(|holder| Arc::ptr_eq(holder, &guard))
        {
            history.holder = None;
        }
        drop(history);
        drop(guard);
    }
}

async fn chaos(cluster: MemoryCluster, mut chance: Chance, over: Arc<AtomicBool>) {
    let nodes = cluster.len() as u64;
    while !over.load(Ordering::Relaxed) {
        // A minority at most is sick at a time, restart grace included.
        let sick: Vec<usize> = (0..chance.below(nodes / 2 + 1))
            .map(|_| chance.below(nodes) as usize)
            .collect();
        let mut longest = Duration::ZERO;
        for &place in &sick {
            let node = cluster.node(place);
            match chance.below(5) {
                0 => {
                    node.stop();
                    sleep(chance.millis(2000)).await;
                    node.restart();
                    longest = GRACE;
                }
                1 => {
                    node.restart();
                    longest = GRACE;
                }
                2 => {
                    node.pause();
                    sleep(chance.millis(2000)).await;
                    node.resume();
                }
                3 => node.set_latency(chance.millis(400)),
                _ => node.lose_pushes(true),
            }
        }
        sleep(longest + chance.millis(500)).await;
        for node in cluster.nodes() {
            node.set_latency(chance.millis(3));
            node.lose_pushes(false);
        }
        sleep(chance.millis(1000)).await;
    }
}

fn run(seed: u64) -> (usize, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut chance = Chance(seed);
        let cluster = MemoryCluster::new(if chance.below(2) == 0 { 3 } else { 5 });
        sleep(Duration::from_secs(60)).await;
        let history = Arc::new(Mutex::new(History::default()));
        let mut clients = Vec::new();
        let mut workers = Vec::new();
        for _ in 0..3 {
            let client = FifoRedlock::builder()
                .memory(&cluster)
                .restart_grace(GRACE)
                .fifo_retry_delay(chance.millis(200))
                .fifo_queue_length(if chance.below(3) == 0 { 2 } else { 64 })
                .connect()
                .await
                .unwrap();
            for _ in 0..3 {
                let chance = Chance(chance.below(u64::MAX));
                workers.push(tokio::spawn(worker(
                    client.clone(),
                    history.clone(),
                    chance,
                )));
            }
            clients.push(client);
        }
        let over = Arc::new(AtomicBool::new(false));
        let chaos = chaos(
            cluster.clone(),
            Chance(chance.below(u64::MAX)),
            over.clone(),
        );
        let chaos = tokio::spawn(chaos);
        for worker in workers {
            worker.await.unwrap();
        }
        // What was stopped is started again: a shutdown does not wait for a node that stays down.
        over.store(true, Ordering::Relaxed);
        chaos.await.unwrap();
        for node in cluster.nodes() {
            node.resume();
            node.set_latency(Duration::ZERO);
        }
        for client in &clients {
            client.shutdown().await;
        }
        let mut history = history.lock().unwrap();
        let left: Vec<_> = cluster.nodes().map(|node| node.used()).collect();
        if left.iter().any(|used| !used.is_empty()) {
            let keys: Vec<_> = cluster
                .nodes()
                .map(|node| (node.get("r"), node.ttl("r")))
                .collect();
            history.problems.push(format!(
                "C1: left behind {left:?} {keys:?} {:?}",
                cluster.node(0)
            ));
        }
        let tickets = history.tickets.clone();
        for (a, earlier) in tickets.iter().enumerate() {
            for (b, later) in tickets.iter().enumerate() {
                let overtook = earlier
                    .2
                    .zip(later.2)
                    .is_some_and(|(first, second)| first > second);
                if earlier.1 < later.0 && overtook {
                    history
                        .problems
                        .push(format!("F1: ticket {b} was served before {a}"));
                }
            }
        }
        (history.served, history.problems.clone())
    })
}

#[test]
fn promises_hold_under_random_faults_of_a_minority() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..seed + 1).unwrap(),
        Err(_) => 0..std::env::var("SEEDS").map_or(60, |seeds| seeds.parse().unwrap()),
    };
    let mut served = 0;
    let mut bad = Vec::new();
    for seed in seeds.clone() {
        let (count, problems) = run(seed);
        served += count;
        if !problems.is_empty() {
            bad.push((seed, problems));
        }
    }
    println!("{served} acquisitions over {seeds:?}");
    assert!(
        bad.is_empty(),
        "{} bad: {:#?}",
        bad.len(),
        &bad[..bad.len().min(5)]
    );
    assert!(served > 0);
}
