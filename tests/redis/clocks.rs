//! One node whose clock is far off rules nothing on the others.

use std::{sync::Arc, time::Duration};

use redlock_fifo::FifoRedlockBuilder;

use crate::{
    fake::{Act, Call, Fake, Manner, Script, now_millis},
    process::{builder, servers},
};

/// Forty days, in milliseconds.
const AHEAD: u64 = 40 * 24 * 3600 * 1000;

/// A node that votes as a good server with such a clock would: every counter starts from its clock.
fn votes_from_the_future() -> Manner {
    Arc::new(|call: &Call| {
        let now = now_millis() + AHEAD;
        let groups = |value: &str| {
            let all = value.repeat(call.ids().len());
            format!("*{}\r\n:{now}\r\n{all}", call.ids().len() + 1)
        };
        let answer = match (call.words[0].as_str(), call.script) {
            ("TIME", _) => {
                let (seconds, micros) = (now / 1000, format!("{:06}", now % 1000 * 1000));
                format!("*2\r\n$10\r\n{seconds}\r\n$6\r\n{micros}\r\n")
            }
            (_, Some(Script::Enqueue)) => {
                groups(&format!("*4\r\n:1\r\n:{}\r\n:9000\r\n:0\r\n", now * 1000))
            }
            _ => return None,
        };
        Some(vec![Act::Send(answer.into_bytes())])
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_a_clock_far_ahead_on_one_node_makes_no_other_keep_its_counters() {
    let servers = servers(2);
    let fake = Fake::start(votes_from_the_future()).await;
    let redlock = FifoRedlockBuilder::node(builder(&servers), fake.url());
    let redlock = redlock.connect().await.expect("connected");
    let mut locked = 0;
    for name in 0..200 {
        let lock = redlock.lock(format!("r{name}"), Duration::from_secs(9));
        if let Ok(guard) = lock.await {
            locked += 1;
            let _ = guard.release().await;
        }
    }
    redlock.shutdown().await;
    assert!(locked > 150, "two healthy servers are a quorum: {locked}");
    for server in &servers {
        let keys = server.keys();
        let counters = keys.iter().filter(|key| key.ends_with(":seq"));
        let kept = counters.map(|key| (server.number(&["PTTL", key]), key));
        // A minute, and what the lease was kept for.
        let long: Vec<_> = kept
            .filter(|(left, _)| !(0..=120_000).contains(left))
            .collect();
        assert!(
            long.is_empty(),
            "{} of 200 are kept for long, as {:?}",
            long.len(),
            long[0]
        );
    }
}
