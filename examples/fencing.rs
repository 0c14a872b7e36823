//! What a lock cannot stop, the store must: a holder that is paused past its lease and writes all the same.
//!
//! Each lease has a fencing token, higher than all before. The store keeps the highest that it has seen in the row, and
//! an `UPDATE` with a lower one finds no row. The store is SQLite, driven by its command line (`sqlite3`), so that
//! the example needs no C compiler; with a driver, bind the token as a 64-bit integer and look at the row count.
//!
//! `REDIS_URLS=redis://a,redis://b,redis://c cargo run --example fencing` stops a real process (SIGSTOP) between its
//! check and its write. Without `REDIS_URLS` a guard that is not extended stands for that.

use std::{
    env,
    error::Error,
    io::{BufRead, BufReader, stdin},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use redlock_fifo::{BuildError, FifoRedlock, LockGuard};
use rustix::process::{Pid, Signal, kill_process};

const TTL: Duration = Duration::from_millis(600);

/// A table with one row.
struct Store(PathBuf);

impl Store {
    fn run(&self, sql: &str) -> Result<String, Box<dyn Error>> {
        let output = Command::new("sqlite3")
            .args(["-batch", "-cmd", ".timeout 5000"])
            .args([self.0.as_os_str(), sql.as_ref()])
            .output()
            .map_err(|error| format!("sqlite3 is needed: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr)?.into());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Whether the write was taken: not if a later holder has written.
    fn write(&self, guard: &LockGuard, value: &str) -> Result<bool, Box<dyn Error>> {
        let token = guard.fencing_token();
        let update = format!(
            "UPDATE plan SET value = '{value}', token = {token} WHERE id = 1 AND token <= {token}; \
             SELECT changes();"
        );
        Ok(self.run(&update)? == "1")
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redlock = connect().await?;
    if let Some(path) = env::args().nth(1) {
        // The process that will be paused.
        let guard = redlock.lock("fencing", TTL).await?;
        assert!(guard.is_held(), "it looks before it writes");
        println!("checked");
        stdin().read_line(&mut String::new())?;
        println!("{}", Store(path.into()).write(&guard, "from the sleeper")?);
        return Ok(());
    }
    let store = Store(env::temp_dir().join(format!("fencing-{}.db", std::process::id())));
    store.run("CREATE TABLE plan (id INTEGER PRIMARY KEY, value TEXT, token INTEGER); INSERT INTO plan VALUES (1, '', 0)")?;

    let late = if env::var("REDIS_URLS").is_ok() {
        let mut sleeper = Command::new(env::current_exe()?)
            .arg(&store.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pid = Pid::from_child(&sleeper);
        let mut said = BufReader::new(sleeper.stdout.take().ok_or("piped")?).lines();
        assert_eq!(said.next().transpose()?.as_deref(), Some("checked"));
        kill_process(pid, Signal::STOP)?;
        println!("the sleeper has checked its guard, and is stopped before it writes");
        succeed(&redlock, &store).await?;
        kill_process(pid, Signal::CONT)?;
        drop(sleeper.stdin.take());
        let late = said.next().transpose()?;
        sleeper.wait()?;
        late.as_deref() == Some("true")
    } else {
        let sleeper = redlock.lock("fencing", TTL).auto_extend(false).await?;
        succeed(&redlock, &store).await?;
        store.write(&sleeper, "from the sleeper")?
    };
    println!("the sleeper goes on and writes; taken: {late}");
    assert!(!late);
    assert_eq!(store.run("SELECT value FROM plan")?, "from the next holder");
    std::fs::remove_file(&store.0)?;
    redlock.shutdown().await;
    println!("The late write did no harm.");
    Ok(())
}

/// Waits until the sleeper's lease has run out, and writes.
async fn succeed(redlock: &FifoRedlock, store: &Store) -> Result<(), Box<dyn Error>> {
    let guard = redlock.lock("fencing", TTL).await?;
    let taken = store.write(&guard, "from the next holder")?;
    println!("its lease has run out; the next holder writes; taken: {taken}");
    assert!(taken);
    Ok(guard.release().await?)
}

async fn connect() -> Result<FifoRedlock, BuildError> {
    match env::var("REDIS_URLS") {
        Ok(urls) => FifoRedlock::connect(urls.split(',')).await,
        Err(_) => Ok(FifoRedlock::in_memory(3)),
    }
}
