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
