//! Who holds, who waits, and for how long: `top NAME… [--once]`.
//!
//! Looks again every second until it is interrupted; once with `--once`, or if the output is no terminal. Where nodes
//! differ from what they say together each of them is listed. Ages are by the clock of whoever holds or waits. The
//! holder's fencing token is not above the counter that is shown.
//!
//! `REDIS_URLS=redis://a,redis://b,redis://c cargo run --example top -- nightly`; without a name it takes a lock to show.
#![allow(clippy::disallowed_methods)] // The library itself takes the time from one place only.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    io::{IsTerminal, stdout},
    time::{Duration, SystemTime},
};

use redlock_fifo::{FifoRedlock, Holder, Inspection, Waiter};
use rustix::termios::tcgetwinsize;
use tokio::time::sleep;

const CLEAR: &str = "\x1b[H\x1b[2J";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Ok(urls) = env::var("REDIS_URLS") else {
        println!("REDIS_URLS is not set: nodes in memory are seen by their own process only");
        return Ok(());
    };
    let redlock = FifoRedlock::connect(urls.split(',')).await?;
    let (flags, mut names): (Vec<_>, Vec<_>) =
        env::args().skip(1).partition(|arg| arg.starts_with('-'));
    if flags.iter().any(|flag| flag != "--once") {
        return Err("usage: top NAME… [--once]".into());
    }
    let mut once = !flags.is_empty() || !stdout().is_terminal();
    let mut shown = None;
    if names.is_empty() {
        let ttl = Duration::from_secs(10);
        let guard = redlock.lock("top", ttl).await?;
        shown = Some((guard, redlock.enqueue("top", ttl).await?));
        (once, names) = (true, vec!["top".to_owned()]);
    }
    loop {
        let mut text = String::new();
        for name in &names {
            match redlock.inspect(name).await {
                Ok(seen) => describe(&mut text, &seen)?,
                Err(error) => writeln!(text, "{name}: {error}")?,
            }
        }
        if once {
            print!("{text}");
            break;
        }
        // The names of the resources stand out; a line that begins with a space belongs to one.
        let bold = |line: &str| match line.starts_with(' ') {
            true => format!("{line}\n"),
            false => format!("{BOLD}{line}{PLAIN}\n"),
        };
        let rows = tcgetwinsize(stdout()).map_or(24, |size| usize::from(size.ws_row));
        let lines = text.lines().take(rows.saturating_sub(1));
        print!("{CLEAR}{}", lines.map(bold).collect::<String>());
        std::io::Write::flush(&mut stdout())?;
        sleep(Duration::from_secs(1)).await;
    }
    drop(shown);
    redlock.shutdown().await;
    Ok(())
}

fn describe(text: &mut String, seen: &Inspection) -> Result<(), std::fmt::Error> {
    let (name, holder) = (seen.resource(), seen.holder());
    writeln!(text, "{name}, {} waiting", seen.waiters().len())?;
    write!(text, "  held by {}", who(holder))?;
    if let Some(holder) = holder {
        write!(text, ", asked {}", age(holder.since()))?;
        if let (Some(left), Some(token)) = (holder.ttl(), holder.fencing_token()) {
            write!(text, ", {left:.1?} left, counter {token}")?;
        }
    }
    writeln!(text)?;
    for (place, waiter) in (1..).zip(seen.waiters()) {
        let who = waiter.client_name().unwrap_or(waiter.id());
        writeln!(text, "  {place}. {who}, asked {}", age(waiter.since()))?;
    }
    for node in seen.nodes() {
        let (name, holds) = (node.node(), node.holder());
        let numbers =
            |waiters: &[Waiter]| -> Vec<u64> { waiters.iter().map(Waiter::number).collect() };
        let same = holds.map(Holder::id) == holder.map(Holder::id);
        if let Some(error) = node.error() {
            writeln!(text, "  ! {name}: {error}")?;
        } else if !same || numbers(node.waiters()) != numbers(seen.waiters()) {
            let waiting = node.waiters().len();
            writeln!(
                text,
                "  ! {name}: held by {}, {waiting} waiting",
                who(holds)
            )?;
        }
    }
    Ok(())
}

fn who(holder: Option<&Holder>) -> &str {
    holder.map_or("nobody", |it| it.client_name().unwrap_or(it.id()))
}

fn age(since: Option<SystemTime>) -> String {
    let age = since.and_then(|since| SystemTime::now().duration_since(since).ok());
    age.map_or_else(
        || "at an unknown time".into(),
        |age| format!("{} s ago", age.as_secs()),
    )
}
