//! What is left over of tasks and connections when a runtime ends, or a node never says a word.

use std::{
    env, fs,
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    net::UnixListener,
    runtime::{Builder, Handle, Runtime},
    time::timeout,
};

use crate::{
    cancelled::polled,
    process::{builder, client, now, residue, servers, until},
    server::Server,
};

const TTL: Duration = Duration::from_secs(1);

/// How many are connected besides the one who asks.
fn connections(server: &Server) -> usize {
    server.text(&["CLIENT", "LIST"]).lines().count() - 1
}

/// Ends with a holder, a waiter in a task, a ticket, a lock that was polled once, and one that never was.
/// Their handles outlive it.
async fn ends_in_the_middle(runtime: Runtime, servers: &[Server]) {
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    let ended = std::thread::spawn(move || {
        let left = runtime.block_on(async {
            let nodes = urls
                .iter()
                .fold(crate::process::patient(), |builder, url| builder.node(url));
            let redlock = nodes.fifo_ephemeral_ttl(TTL).connect().await.unwrap();
            let guard = redlock.lock("r", TTL).await.unwrap();
            let waiter = tokio::spawn(redlock.lock("r", TTL).wait_forever());
            let ticket = redlock.enqueue("r", TTL).await.unwrap();
            let mut polled_once = tokio_test::task::spawn(redlock.lock("r", TTL).wait_forever());
            assert!(polled_once.poll().is_pending());
            let never_polled = redlock.lock("r", TTL);
            (guard, waiter, ticket, polled_once, never_polled, redlock)
        });
        drop(runtime);
        let lost = left.0.lost();
        let held = left.0.is_held();
        catch_unwind(AssertUnwindSafe(move || drop((left, lost)))).expect("no drop panics");
        held
    });
    ended.join().expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_a_runtime_that_ends_leaves_leases_that_run_out_and_no_connection() {
    let servers = servers(3);
    let runtimes = [Builder::new_current_thread(), Builder::new_multi_thread()];
    for mut runtime in runtimes {
        let runtime = runtime.enable_all().build().unwrap();
        ends_in_the_middle(runtime, &servers).await;
        until("no connection is left", || {
            servers.iter().all(|server| connections(server) == 0)
        })
        .await;
        let next = client(&servers).await;
        let asked = now();
        let guard = next.lock("r", TTL).wait_forever().await.unwrap();
        // What is left of the lease, and of the places of all who waited behind it.
        assert!(now() - asked < 3 * TTL, "{:?}", now() - asked);
        guard.release().await.unwrap();
        next.shutdown().await;
        until("it has run out", || residue(&servers, "r").is_empty()).await;
    }
}

/// A socket that takes connections and says nothing, and how many are open.
async fn mute() -> (String, Arc<AtomicUsize>) {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    let place = STARTED.fetch_add(1, Ordering::Relaxed);
    let path = env::temp_dir().join(format!("redlock-fifo-mute-{}-{place}", std::process::id()));
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let url = format!("redis+unix://{}", path.display());
    let open = Arc::<AtomicUsize>::default();
    let count = open.clone();
    tokio::spawn(async move {
        let remove = Remove(path);
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = count.clone();
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut words = [0; 1024];
                while stream.read(&mut words).await.is_ok_and(|read| read > 0) {}
                count.fetch_sub(1, Ordering::Relaxed);
            });
        }
        pending::<()>().await;
        drop(remove);
    });
    (url, open)
}

struct Remove(std::path::PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_a_node_that_never_connects_keeps_no_task_and_no_connection() {
    let servers = servers(2);
    let (url, open) = mute().await;
    let alive = |open: &AtomicUsize| {
        let all = Handle::current().metrics().num_alive_tasks();
        all.saturating_sub(open.load(Ordering::Relaxed))
    };
    let idle = alive(&open);
    let next = client(&servers).await;
    for polls in 1..=6 {
        let redlock = builder(&servers).node(&url).connect().await.unwrap();
        drop(polled(redlock.lock("r", 10 * TTL), polls).await);
        let guard = timeout(2 * TTL, next.lock("r", TTL)).await;
        guard
            .expect("the next one is served")
            .unwrap()
            .release()
            .await
            .unwrap();
        // What was never sent need not be taken back.
        timeout(2 * TTL, redlock.shutdown())
            .await
            .expect("nothing is owed to it");
        assert!(
            open.load(Ordering::Relaxed) <= 2,
            "one, and one that just closes"
        );
    }
    next.shutdown().await;
    drop(next);
    until("all connections are closed", || {
        open.load(Ordering::Relaxed) == 0
    })
    .await;
    until("all tasks are gone", || alive(&open) <= idle).await;
    until("no server keeps a connection", || {
        servers.iter().all(|server| connections(server) == 0)
    })
    .await;
    assert_eq!(residue(&servers, "r"), [""; 0]);
}
