//! Futures that were polled once and then no more.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_test::{assert_pending, task::spawn};

use crate::{
    process::{PATIENCE, builder, client, now, servers, until},
    server::Server,
};

/// What a busy machine may add to a promised time.
const SLACK: Duration = Duration::from_secs(2);

/// Whether this server has given its vote for `r`.
fn votes(server: &Server) -> bool {
    server.number(&["EXISTS", "r"]) == 1
}

#[tokio::test]
async fn c4_a_lock_future_polled_once_in_its_first_round_delays_the_next_by_one_waiter_lease() {
    let ttl = Duration::from_secs(20);
    let lease = Duration::from_secs(1);
    let servers = servers(3);
    let patient = builder(&servers).fifo_ephemeral_ttl(lease);
    let (one, two) = (
        patient.connect().await.expect("connected"),
        client(&servers).await,
    );
    let mut kept = spawn(one.lock("r", ttl));
    assert_pending!(kept.poll());
    until("the votes are given", || servers.iter().all(votes)).await;
    let asked = now();
    let next = timeout(PATIENCE, two.lock("r", ttl).wait_forever()).await;
    let guard = next.expect("served").expect("served");
    let waited = now() - asked;
    println!("served {waited:?} behind a future that nobody polls, {lease:?} each");
    assert!(waited <= lease + SLACK, "C4: {waited:?}");
    // Polled again, it is first in line again.
    let mut last = two.enqueue("r", ttl).await.expect("enqueued");
    assert_pending!(kept.poll());
    until("it stands in line again", || {
        servers[0].number(&["ZCARD", "{r}:redlock-fifo:queue"]) == 2
    })
    .await;
    guard.release().await.expect("held");
    tokio::select! {
        biased;
        guard = last.acquire() => panic!("C4: the last was first: {guard:?}"),
        guard = kept => guard.expect("served").release().await.expect("held"),
    }
}

#[tokio::test]
async fn l6_a_lock_future_that_is_polled_once_and_taken_late_gives_a_lease_that_lasts() {
    let ttl = Duration::from_secs(3);
    let servers = servers(3);
    let redlock = client(&servers).await;
    let mut kept = spawn(redlock.lock("r", ttl));
    assert_pending!(kept.poll());
    until("the votes are given", || servers.iter().all(votes)).await;
    sleep(Duration::from_millis(2300)).await;
    let guard = kept.await.expect("free");
    let lost = timeout(2 * ttl, guard.lost()).await;
    assert!(lost.is_err(), "L6: {lost:?}");
}
