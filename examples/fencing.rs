//! What a lock cannot stop, the store must: a holder that sleeps past its lease and writes all the same.
//!
//! Each lease has a fencing token, higher than all before. The store remembers the highest that it has
//! seen and refuses a write with a lower one. With SQL that is
//! `UPDATE … SET value = $1, token = $2 WHERE id = $3 AND token <= $2`, and a look at the row count.
//!
//! `cargo run --example fencing`; `REDIS_URLS=redis://a,redis://b,redis://c` for servers of yours.

use std::{env, error::Error, time::Duration};

use redlock_fifo::{BuildError, FifoRedlock};

const TTL: Duration = Duration::from_millis(300);

/// A store of one value that refuses stale writers.
#[derive(Default)]
struct Store {
    newest: u64,
    value: String,
}

#[derive(Debug, PartialEq)]
struct Stale {
    newest: u64,
}

impl Store {
    fn write(&mut self, token: u64, value: &str) -> Result<(), Stale> {
        if token < self.newest {
            return Err(Stale {
                newest: self.newest,
            });
        }
        self.newest = token;
        self.value = value.to_owned();
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redlock = connect().await?;
    let mut store = Store::default();

    // Without auto-extension this stands for a process that is stopped for longer than its ttl.
    let sleeper = redlock.lock("fencing", TTL).auto_extend(false).await?;
    let old = sleeper.fencing_token();
    println!("sleeper holds the lock with token {old}, and falls asleep");

    let waker = redlock.lock("fencing", TTL).await?;
    let new = waker.fencing_token();
    println!("its lease has run out; the next holder has token {new}");
    assert!(new > old, "fencing tokens rise");
    assert_eq!(store.write(new, "from the next holder"), Ok(()));

    // The guard knows. But a process can be stopped right after it asked its guard, so the store checks.
    assert!(!sleeper.is_held());
    let late = store.write(old, "from the sleeper");
    println!("sleeper wakes up and writes: {late:?}");
    assert_eq!(late, Err(Stale { newest: new }));
    assert_eq!(store.value, "from the next holder");

    // A release tells as well that the lease had ended before.
    println!("sleeper releases: {:?}", sleeper.release().await);
    waker.release().await?;
    redlock.shutdown().await;
    println!("The late write did no harm.");
    Ok(())
}

async fn connect() -> Result<FifoRedlock, BuildError> {
    match env::var("REDIS_URLS") {
        Ok(urls) => FifoRedlock::connect(urls.split(',')).await,
        Err(_) => Ok(FifoRedlock::in_memory(3)),
    }
}
