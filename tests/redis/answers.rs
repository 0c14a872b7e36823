//! Answers that are lost, cut short or long under way: what a client makes of them.

use std::{path::PathBuf, time::Duration};

use redlock_fifo::{BuildError, ReleaseError, WrongServer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
    runtime::Runtime,
    time::{sleep, timeout},
};

use crate::{
    chaos::proxy::{Link, Way},
    links::{carrier, link, over, socket},
    process::{PATIENCE, builder, client, servers, until},
    server::Server,
};

const TTL: Duration = Duration::from_secs(10);

fn links(carrier: &Runtime, servers: &[Server]) -> Vec<Link> {
    let link = |server| link(carrier, server);
    servers.iter().map(link).collect()
}

/// Breaks all connections over these links, and then carries like that.
async fn cut(links: &[Link], servers: &[Server], next: Way) {
    for (link, server) in links.iter().zip(servers) {
        link.set(Way::Cut);
        // But for the one that asks.
        let clients = || server.text(&["CLIENT", "LIST"]).lines().count();
        until("all are gone", || clients() == 1).await;
        link.set(next);
    }
}

/// Two servers carry the release out, and their connections break before they answer; the third hangs.
#[test]
fn a_release_that_was_carried_out_unheard_is_no_lost_lease() {
    let carrier = carrier();
    let servers = servers(3);
    let links = links(&carrier, &servers);
    carrier.block_on(async {
        let redlock = over(&links).await.expect("connected");
        let guard = redlock.lock("r", TTL).await.expect("free");
        until("the lease stands on all", || {
            servers.iter().all(|it| it.number(&["EXISTS", "r"]) == 1)
        })
        .await;
        assert_eq!(guard.is_valid().await, Ok(true));
        links[0].set(Way::AnswersHeld);
        links[1].set(Way::AnswersHeld);
        links[2].set(Way::Held);
        let released = tokio::spawn(guard.release());
        until("two have carried it out", || {
            servers[..2]
                .iter()
                .all(|it| it.number(&["EXISTS", "r"]) == 0)
        })
        .await;
        cut(&links[..2], &servers, Way::Open).await;
        let outcome = timeout(PATIENCE, released).await.expect("in time");
        let outcome = outcome.expect("no panic");
        assert!(
            !matches!(outcome, Err(ReleaseError::Lost(_))),
            "{outcome:?}"
        );
    });
}

/// Of one batch, one key is somebody else's: the script ends there, and what it did before is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_beside_a_key_of_another_type_is_no_lost_lease() {
    let servers = servers(1);
    let redlock = client(&servers).await;
    for n in 0..20 {
        let (good, bad) = (format!("good{n}"), format!("bad{n}"));
        let queue = format!("{{{bad}}}:redlock-fifo:queue");
        let good = redlock.lock(good, TTL).await.expect("free");
        let bad = redlock.lock(bad, TTL).await.expect("free");
        servers[0].command(&["SET", &queue, "theirs"]);
        let (good, _) = tokio::join!(good.release(), bad.release());
        assert_eq!(good, Ok(()), "round {n}");
        servers[0].command(&["DEL", &queue]);
    }
}

/// Each answer comes within a `node_timeout`.
#[test]
fn l1_l6_a_client_connects_again_over_a_way_near_the_timeout() {
    let carrier = carrier();
    let servers = servers(3);
    let links = links(&carrier, &servers);
    carrier.block_on(async {
        let redlock = over(&links).await.expect("connected");
        let guard = redlock.lock("r", TTL).await.expect("free");
        cut(&links, &servers, Way::Slow(Duration::from_millis(190))).await;
        // Longer than the lease, if it were not renewed.
        sleep(TTL + TTL / 10).await;
        assert!(guard.is_held(), "L6");
        over(&links).await.expect("L1");
    });
}

/// Carries to a server, and closes each connection after so many bytes of its answers.
async fn cut_after(bytes: usize, socket: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                let Ok(mut server) = UnixStream::connect(socket).await else {
                    return;
                };
                let mut left = bytes;
                let (mut there, mut back) = ([0; 4096], [0; 4096]);
                while left > 0 {
                    tokio::select! {
                        Ok(length @ 1..) = client.read(&mut there) => {
                            let _ = server.write_all(&there[..length]).await;
                        }
                        Ok(length @ 1..) = server.read(&mut back) => {
                            let length = length.min(left);
                            let _ = client.write_all(&back[..length]).await;
                            left -= length;
                        }
                        else => return,
                    }
                }
            });
        }
    });
    format!("redis://127.0.0.1:{port}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_within_an_answer_is_no_wrong_server() {
    let servers = servers(3);
    for bytes in (1..300).step_by(7).chain([1000, 2000, 2930, 2940]) {
        let cut = cut_after(bytes, socket(&servers[2])).await;
        let connected = builder(&servers[..2]).node(&cut).connect().await;
        assert!(connected.is_ok(), "after {bytes} bytes: {connected:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_was_renamed_away_is_named() {
    for command in ["GET", "DEL", "INCR", "PTTL", "ZRANGE", "ZSCORE"] {
        let server = Server::start_with(&["--rename-command", command, ""]);
        let servers = [server];
        let outcome = builder(&servers).connect().await;
        let Err(BuildError::WrongServer { problem, .. }) = outcome else {
            panic!("{command}: {outcome:?}");
        };
        let right = command.to_lowercase();
        let missing = matches!(&problem, WrongServer::MissingRights { right: it } if *it == right);
        assert!(missing, "{command}: {problem:?}");
    }
}
