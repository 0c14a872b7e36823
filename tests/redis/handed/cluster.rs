//! A cluster of three masters as one node.

use std::time::Duration;

use futures::{FutureExt, future::join_all};
use redis::{cluster::ClusterClient, cluster_async::ClusterConnection};
use redlock_fifo::{FifoRedlock, LockGuard, Ticket};
use tokio::time::timeout;

use super::{TTL, left_over, no_quorum, over, port, serves_in_order};
use crate::{
    process::{PATIENCE, now, patient, until},
    server::Server,
};

const MASTERS: usize = 3;

const SLOTS: usize = 16_384;

/// The place of the master that has `slot`.
fn owner(slot: usize) -> usize {
    slot * MASTERS / SLOTS
}

/// Three masters that have met, with a third of the slots each.
async fn masters() -> Vec<Server> {
    let start = |_| Server::start_tcp(&["--cluster-enabled", "yes"]);
    let masters: Vec<Server> = (0..MASTERS).map(start).collect();
    for (place, master) in masters.iter().enumerate() {
        let slots = (0..SLOTS).filter(|slot| owner(*slot) == place);
        let slots: Vec<String> = slots.map(|slot| slot.to_string()).collect();
        // Not `ADDSLOTSRANGE`: Redis 6.2 does not have it.
        let slots = slots.iter().map(String::as_str);
        master.command(
            &["CLUSTER", "ADDSLOTS"]
                .into_iter()
                .chain(slots)
                .collect::<Vec<_>>(),
        );
        masters[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port(master)]);
    }
    until("the masters are a cluster", || {
        masters.iter().all(|master| {
            let info = master.text(&["CLUSTER", "INFO"]);
            let all = format!("cluster_known_nodes:{MASTERS}\r\n");
            info.contains("cluster_state:ok") && info.contains(&all)
        })
    })
    .await;
    masters
}

async fn connection(masters: &[Server]) -> ClusterConnection {
    let client = ClusterClient::new(masters.iter().map(Server::url)).expect("urls");
    client.get_async_connection().await.expect("connected")
}

/// `count` names for each master, in the order of the masters.
fn names(masters: &[Server], count: usize) -> Vec<String> {
    let slot = |name: &str| masters[0].number(&["CLUSTER", "KEYSLOT", name]);
    let at = |place| {
        let all = (0..).map(|number| format!("r{number}"));
        all.filter(move |name| owner(usize::try_from(slot(name)).expect("a slot")) == place)
            .take(count)
    };
    (0..MASTERS).flat_map(at).collect()
}

async fn lock_all(client: &FifoRedlock, names: &[String], ttl: Duration) -> Vec<LockGuard> {
    let locks = names.iter().map(|name| async move {
        let guard = client.lock(name, ttl).await;
        guard.unwrap_or_else(|error| panic!("{name}: {error}"))
    });
    join_all(locks).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_cluster_serves_in_order() {
    let masters = masters().await;
    let connect = || async { over(connection(&masters).await).await };
    let clients = [connect().await, connect().await, connect().await];
    for name in names(&masters, 1) {
        serves_in_order(&clients, &name).await;
    }
    for client in clients {
        client.shutdown().await;
    }
    assert_eq!(left_over(&masters), [""; 0]);
    for master in &masters {
        assert_eq!(master.keys().len(), 1, "the counter of its own resource");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_and_places_in_many_slots_are_kept() {
    const SHORT: Duration = Duration::from_secs(2);
    let masters = masters().await;
    let holding = over(connection(&masters).await).await;
    let waiting = patient().fifo_ephemeral_ttl(SHORT);
    let waiting = waiting.connection(connection(&masters).await).connect();
    let waiting = waiting.await.expect("a node");
    let names = names(&masters, 10);
    let guards = lock_all(&holding, &names, SHORT).await;
    let mut waiters = Vec::new();
    for name in &names {
        let mut ticket = waiting.enqueue(name, TTL).await.expect("enqueued");
        waiters.push(tokio::spawn(async move { ticket.acquire().await }));
    }
    let over = now() + 2 * SHORT;
    until("what was not renewed has ended", || now() > over).await;
    assert!(guards.iter().all(LockGuard::is_held));
    for (number, name) in names.iter().enumerate() {
        let queue = format!("{{{name}}}:redlock-fifo:queue");
        assert_eq!(masters[number / 10].number(&["ZCARD", &queue]), 1, "{name}");
    }
    // Released in the background, all of them at once.
    drop(guards);
    let served = timeout(PATIENCE, join_all(waiters)).await.expect("served");
    for guard in served {
        drop(guard.expect("no panic").expect("served"));
    }
    holding.shutdown().await;
    waiting.shutdown().await;
    assert_eq!(left_over(&masters), [""; 0]);
    for master in &masters {
        // A batch over several slots would be refused, and then sent again one by one.
        let errors = master.text(&["INFO", "errorstats"]);
        assert!(!errors.contains("CROSSSLOT"), "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_forgot_the_scripts_learns_them_again() {
    let masters = masters().await;
    let client = over(connection(&masters).await).await;
    for master in &masters {
        master.command(&["SCRIPT", "FLUSH"]);
    }
    let guards = lock_all(&client, &names(&masters, 1), TTL).await;
    for guard in guards {
        guard.release().await.expect("held");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_one_node_however_many_masters_it_has() {
    let masters = masters().await;
    let client = over(connection(&masters).await).await;
    masters[1].kill();
    let tally = no_quorum(&client, &names(&masters, 1)[1]).await;
    assert_eq!((tally.needed(), tally.answered()), (1, 0), "{tally}");
}

/// Moves the slot of all that is on one master to another, as a resharding does, but key by key and with a
/// second between the keys.
async fn move_slot(masters: &[Server], name: &str, from: &Server, to: &Server) {
    let slot = from.number(&["CLUSTER", "KEYSLOT", name]).to_string();
    let id = |master: &Server| master.text(&["CLUSTER", "MYID"]);
    let set = |master: &Server, state: &str, id: &str| {
        master.command(&["CLUSTER", "SETSLOT", &slot, state, id]);
    };
    set(to, "IMPORTING", &id(from));
    set(from, "MIGRATING", &id(to));
    for key in from.keys() {
        let next = now() + Duration::from_secs(1);
        from.command(&["MIGRATE", "127.0.0.1", &port(to), &key, "0", "5000"]);
        until("some have asked for it meanwhile", || now() > next).await;
    }
    for master in [to, from].into_iter().chain(masters) {
        set(master, "NODE", &id(to));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_and_its_line_move_with_their_slot() {
    let masters = masters().await;
    let holding = over(connection(&masters).await).await;
    let waiting = over(connection(&masters).await).await;
    let name = &names(&masters, 1)[0];
    let guard = holding.lock(name, TTL).await.expect("free");
    let token = guard.fencing_token();
    let mut first = waiting.enqueue(name, TTL).await.expect("enqueued");
    let mut second = holding.enqueue(name, TTL).await.expect("enqueued");
    let serve = async |ticket: &mut Ticket| {
        let served = timeout(PATIENCE, ticket.acquire()).await;
        served.expect("in time").expect("served")
    };
    let moved = async {
        move_slot(&masters, name, &masters[0], &masters[1]).await;
        assert_eq!(masters[0].keys(), [""; 0]);
        assert!(guard.is_held());
        guard.extend(2 * TTL).await.expect("held");
        guard.release().await.expect("held");
    };
    let (one, ()) = tokio::join!(serve(&mut first), moved);
    assert!(one.fencing_token() > token, "S2");
    let token = one.fencing_token();
    assert!(second.acquire().now_or_never().is_none(), "F1");
    one.release().await.expect("held");
    assert!(serve(&mut second).await.fencing_token() > token, "S2");
    holding.shutdown().await;
    waiting.shutdown().await;
    assert_eq!(left_over(&masters), [""; 0]);
    assert_eq!(masters[1].keys().len(), 1, "the counter");
}
