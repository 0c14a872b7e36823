//! S2: tokens rise across restarts, however the clocks of the nodes are apart within what is promised.

use redlock_fifo::MemoryCluster;
use tokio::time::{Duration, sleep, timeout};

use crate::rig::{client, millis};

const TTL: Duration = Duration::from_secs(10);

/// One node's clock is `ahead`. A node restarts and misses a lease by a hang; then another forgets it.
async fn tokens(ahead: f64, pauses: [u64; 2]) -> (u64, u64) {
    let cluster = MemoryCluster::new(3);
    cluster.node(2).step_clock(ahead);
    // This is no new deployment.
    sleep(Duration::from_secs(100)).await;
    let redlock = client(&cluster).await;
    cluster.node(1).restart();
    sleep(millis(pauses[0])).await;
    cluster.node(1).pause();
    let guard = redlock.lock("r", TTL).await.unwrap();
    let first = guard.fencing_token();
    guard.release().await.unwrap();
    sleep(millis(pauses[1])).await;
    cluster.node(1).resume();
    cluster.node(0).restart();
    cluster.node(2).stop();
    let guard = redlock.lock("r", TTL).wait_forever().await.unwrap();
    (first, guard.fencing_token())
}

#[tokio::test(start_paused = true)]
async fn s2_tokens_rise_over_two_restarts_within_a_grace() {
    let mut lower = Vec::new();
    for ahead in [0.0, 2.0, 5.0, 9.0, -9.0, 13.0, -13.0] {
        for pauses in [[100, 700], [1000, 1000], [3000, 2000], [10_000, 2000]] {
            let (first, second) = tokens(ahead, pauses).await;
            if second <= first {
                lower.push((ahead, pauses, first - second));
            }
        }
    }
    assert!(lower.is_empty(), "{lower:?}");
}

#[tokio::test(start_paused = true)]
async fn s2_tokens_rise_over_a_restart_in_a_new_deployment() {
    for ahead in [0.0, 5.0, 9.0, 13.0, -9.0] {
        let cluster = MemoryCluster::new(3);
        cluster.node(2).step_clock(ahead);
        let redlock = client(&cluster).await;
        // Past the seconds within which nodes have started together.
        sleep(Duration::from_secs(7)).await;
        cluster.node(1).pause();
        let guard = redlock.lock("r", TTL).await.unwrap();
        let first = guard.fencing_token();
        guard.release().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        cluster.node(1).resume();
        cluster.node(0).restart();
        cluster.node(2).stop();
        let guard = redlock.lock("r", TTL).wait_forever().await.unwrap();
        let second = guard.fencing_token();
        assert!(second > first, "{second} after {first}, {ahead} s ahead");
    }
}

#[tokio::test(start_paused = true)]
async fn s2_tokens_rise_where_a_minority_of_five_forgets() {
    let cluster = MemoryCluster::new(5);
    for ahead in [2, 3] {
        cluster.node(ahead).step_clock(9.0);
    }
    sleep(Duration::from_secs(100)).await;
    let redlock = client(&cluster).await;
    cluster.node(4).restart();
    sleep(Duration::from_secs(1)).await;
    for hung in [1, 4] {
        cluster.node(hung).pause();
    }
    let guard = redlock.lock("r", TTL).await.unwrap();
    let first = guard.fencing_token();
    guard.release().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    for hung in [1, 4] {
        cluster.node(hung).resume();
    }
    cluster.node(0).restart();
    for gone in [2, 3] {
        cluster.node(gone).stop();
    }
    let guard = redlock.lock("r", TTL).wait_forever().await.unwrap();
    assert!(guard.fencing_token() > first);
}

/// One node's clock is further ahead than any counter can be, and no two clocks that can be asked agree.
#[tokio::test(start_paused = true)]
async fn l1_a_clock_that_is_centuries_ahead_rules_no_counter() {
    let cluster = MemoryCluster::new(3);
    cluster.node(2).step_clock(150.0 * 365.0 * 86_400.0);
    sleep(Duration::from_secs(100)).await;
    cluster.node(1).stop();
    let redlock = client(&cluster).await;
    let guard = redlock.lock("r", TTL).await.unwrap();
    guard.release().await.unwrap();
    cluster.node(1).restart();
    sleep(Duration::from_secs(4000)).await;
    let lock = redlock.lock("r", TTL).wait_forever();
    let lock = timeout(Duration::from_secs(100), lock).await;
    assert!(matches!(lock, Ok(Ok(_))), "{lock:?}");
}
