//! An axum service whose handlers await the lock: `POST /work/NAME/MS` works for so long under the lock of that name.
//!
//! Who hangs up leaves the line: axum drops the handler, and with it the wait. Who waits for too long gets 503 and its
//! place in line. Work stops when its lease is lost. On SIGTERM or Ctrl-C those who wait get 503, those who work finish,
//! and the process ends when the servers have confirmed that nothing is left.
//!
//! `REDIS_URLS=redis://a,redis://b,redis://c cargo run --example axum_service -- 127.0.0.1:3000`; without `REDIS_URLS`
//! the nodes are in memory, and without an address it only starts and drains.

use std::{env, error::Error, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use redlock_fifo::{BuildError, FifoRedlock, LockError};
use tokio::{
    net::TcpListener,
    signal::{
        ctrl_c,
        unix::{SignalKind, signal},
    },
    time::sleep,
};

const TTL: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(2);

type Answer = (StatusCode, String);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redlock = connect().await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let address = env::args().nth(1);
    if address.is_none() {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)?;
    }
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0")).await?;
    println!("listening on {}", listener.local_addr()?);

    let service = Router::new()
        .route("/work/{name}/{millis}", post(work))
        .with_state(redlock.clone());
    let line = redlock.clone();
    axum::serve(listener, service)
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = ctrl_c() => {}
            }
            println!("draining");
            line.shutdown().await; // Ends all waiting, not the work.
        })
        .await?;
    redlock.shutdown().await; // The work has ended by now: waits until its locks are released.
    println!("drained");
    Ok(())
}

/// Dropped at any await if the client hangs up: then neither ticket nor lease is left.
async fn work(
    State(redlock): State<FifoRedlock>,
    Path((name, millis)): Path<(String, u64)>,
) -> Result<String, Answer> {
    let lock = redlock.lock(name, TTL).wait_timeout(PATIENCE);
    let guard = lock.await.map_err(unavailable)?;
    tokio::select! {
        biased;
        why = guard.lost() => Err((StatusCode::INTERNAL_SERVER_ERROR, format!("stopped: {why}\n"))),
        () = sleep(Duration::from_millis(millis)) => {
            let token = guard.fencing_token();
            // An answer means that the lock is free again, and that it was ours until now.
            match guard.release().await {
                Ok(()) => Ok(format!("done, token {token}\n")),
                Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))),
            }
        }
    }
}

fn unavailable(error: LockError) -> Answer {
    let reason = match error {
        LockError::TimedOut { position, .. } => format!("busy, {position} ahead of you in line"),
        other => other.to_string(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, reason + "\n")
}

async fn connect() -> Result<FifoRedlock, BuildError> {
    match env::var("REDIS_URLS") {
        Ok(urls) => FifoRedlock::connect(urls.split(',')).await,
        Err(_) => Ok(FifoRedlock::in_memory(3)),
    }
}
