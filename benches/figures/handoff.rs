//! From the call of release to the next holder's guard.

use std::time::{Duration, Instant};

use redlock_fifo::{FifoRedlock, LockGuard, Ticket};
use tokio::time::sleep;

use crate::{
    TTL, client,
    floor::Floor,
    runtime, servers,
    stats::{Sample, micros, ratio, table},
};

/// After that the waiter stands in line on all nodes, and everything has gone to sleep.
const REST: Duration = Duration::from_millis(2);

/// After that the machine has turned to other things, too, as it does while the holder works.
const LONG_REST: Duration = Duration::from_millis(50);

/// Two clients by hand pass the lock to each other.
async fn by_hand(pair: &[Floor; 2], nodes: usize, handoffs: usize, rest: Duration) -> Sample {
    let mut sample = Sample::default();
    let commands = pair.each_ref().map(|floor| floor.scripts("floor"));
    pair[0].full_round(&commands[0].lock).await;
    for turn in 0..handoffs {
        let (holds, waits) = (turn % 2, (turn + 1) % 2);
        pair[waits].full_round(&commands[waits].lock).await;
        sleep(rest).await;
        let start = Instant::now();
        tokio::join!(
            pair[holds].round(&commands[holds].unlock),
            pair[waits].told()
        );
        sample.add(start.elapsed());
        pair[waits].drain(nodes - (nodes / 2 + 1)).await;
    }
    pair[handoffs % 2]
        .full_round(&commands[handoffs % 2].unlock)
        .await;
    sample
}

async fn wait(mut ticket: Ticket) -> (LockGuard, Instant) {
    let guard = ticket.acquire().await.expect("its turn");
    (guard, Instant::now())
}

/// Two clients of the crate pass the lock to each other.
async fn by_crate(pair: &[FifoRedlock; 2], handoffs: usize, rest: Duration) -> Sample {
    let mut sample = Sample::default();
    let mut guard = pair[0].lock("r", TTL).await.expect("free");
    for turn in 0..handoffs {
        let ticket = pair[(turn + 1) % 2].enqueue("r", TTL).await.expect("room");
        let waiter = tokio::spawn(wait(ticket));
        sleep(rest).await;
        let start = Instant::now();
        let (released, next) = tokio::join!(guard.release(), waiter);
        released.expect("held");
        let (next, at) = next.expect("no panic");
        sample.add(at - start);
        guard = next;
    }
    guard.release().await.expect("held");
    sample
}

pub(crate) fn run() {
    let mut rows = Vec::new();
    for (nodes, rest, rounds, handoffs) in [
        (1, REST, 20, 50),
        (3, REST, 20, 50),
        (5, REST, 20, 50),
        (3, LONG_REST, 8, 20),
    ] {
        let servers = servers(nodes);
        let (mut ours, mut floor) = (Sample::default(), Sample::default());
        runtime().block_on(async {
            let floors = [
                Floor::connect(&servers, 1).await,
                Floor::connect(&servers, 2).await,
            ];
            let clients = [client(&servers).await, client(&servers).await];
            for round in 0..rounds {
                let by_crate = by_crate(&clients, handoffs, rest).await;
                let by_hand = by_hand(&floors, nodes, handoffs, rest).await;
                if round >= 2 {
                    ours.extend(by_crate);
                    floor.extend(by_hand);
                }
            }
        });
        rows.push(vec![
            nodes.to_string(),
            rest.as_millis().to_string(),
            micros(ours.median()),
            micros(ours.quantile(0.99)),
            micros(floor.median()),
            format!("{:.2}", ratio(ours.median(), floor.median())),
        ]);
    }
    let head = [
        "nodes",
        "ms since the last",
        "p50 µs",
        "p99 µs",
        "same scripts and push by hand, p50 µs",
        "× floor",
    ];
    table("Handoff: from release to the next guard", &head, &rows);
}
