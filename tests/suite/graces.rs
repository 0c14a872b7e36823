//! What a node in its restart grace costs those who ask.

use std::time::Duration;

use tokio::time::sleep;

use crate::rig::{client, nodes, orders};

#[tokio::test(start_paused = true)]
async fn l4_a_node_in_its_grace_costs_a_try_lock_nothing_in_any_order_of_answers() {
    for count in [3, 5] {
        for order in orders(count) {
            let latencies: Vec<u64> = order.iter().map(|&place| 5 * place as u64 + 1).collect();
            let cluster = nodes(&latencies);
            sleep(Duration::from_secs(40)).await;
            let redlock = client(&cluster).await;
            cluster.node(0).restart();
            sleep(Duration::from_secs(4)).await;
            for moment in 0..4 {
                let tried = redlock.try_lock("r", Duration::from_secs(10)).await;
                let guard = tried.unwrap_or_else(|error| {
                    panic!("{latencies:?}, {moment} s into the grace: {error}")
                });
                guard.expect("it is free").release().await.unwrap();
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn s5_nodes_that_started_within_five_seconds_vote_at_once() {
    let mut late = Vec::new();
    for apart in [1000, 2900, 4900] {
        let cluster = redlock_fifo::MemoryCluster::new(3);
        tokio::time::sleep(std::time::Duration::from_millis(apart)).await;
        cluster.node(0).restart();
        cluster.node(1).restart();
        let redlock = crate::rig::patient(&cluster).connect().await.unwrap();
        if tokio::time::timeout(
            std::time::Duration::from_millis(2000),
            redlock.lock("r", std::time::Duration::from_millis(10_000)),
        )
        .await
        .is_err()
        {
            late.push(apart);
        }
    }
    assert!(late.is_empty(), "{late:?}");
}
