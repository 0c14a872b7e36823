//! The experiment that Jepsen made with the locks of etcd 3.4: processes add to a shared set under a lock
//! with leases of 2 s while some of them are paused every 5 s. Of the updates that were acknowledged about
//! 18 % were lost there. A lock with leases cannot prevent that; a store that checks fencing tokens can.
//!
//! Each way of writing has a set, a lock and a task per process of its own, so all go through the same
//! pauses. By default the times are scaled down, to take some seconds. The original ones, for five minutes:
//!
//! ```text
//! REDLOCK_FIFO_LOST_UPDATES_SECONDS=300 cargo test --test redis lost_updates -- --nocapture
//! ```

use std::{collections::BTreeSet, env, sync::mpsc::Receiver, thread, time::Duration};

use crate::{
    chance::Chance,
    process::{PATIENCE, Worker, now, servers},
    server::Server,
};

mod store;
mod writer;

use store::Check;
pub(crate) use writer::add;

const PROCESSES: usize = 5;

/// How many are paused at a time.
const PAUSED: usize = 2;

/// What one run is like.
#[derive(Clone, Copy, Debug)]
struct Setting {
    lease: Duration,
    /// From one pause to the next, and how long each is.
    every: Duration,
    pause: Duration,
    /// How long it goes on.
    time: Duration,
}

impl Setting {
    fn from_env() -> Self {
        let original = Self {
            lease: Duration::from_secs(2),
            every: Duration::from_secs(5),
            pause: Duration::from_secs(4),
            time: Duration::from_secs(300),
        };
        match env::var("REDLOCK_FIFO_LOST_UPDATES_SECONDS") {
            Ok(seconds) => Self {
                time: Duration::from_secs(seconds.parse().expect("seconds")),
                ..original
            },
            Err(_) => Self {
                lease: original.lease / 4,
                every: original.every / 4,
                pause: original.pause / 4,
                time: Duration::from_secs(12),
            },
        }
    }
}

/// What became of the updates of one set.
#[derive(Debug, Default)]
struct Outcome {
    acknowledged: usize,
    lost: usize,
    /// Refused by the store, or given up by the writer.
    refused: usize,
}

#[test]
fn s2_no_update_is_lost_in_a_store_that_checks_fencing_tokens() {
    let setting = Setting::from_env();
    let (servers, store) = (servers(5), Server::start());
    let mut workers: Vec<Worker> = (0..PROCESSES)
        .map(|place| start(place, &servers, &store, setting))
        .collect();
    pause_some(&servers, &workers, setting);
    workers.iter_mut().for_each(|worker| worker.order("stop"));
    let reports: Vec<Vec<String>> = workers.iter_mut().flat_map(read).collect();
    let outcomes = Check::ALL.map(|check| (check, outcome(check, &reports, &store)));
    println!("{}", table(setting, &outcomes));
    for (check, outcome) in &outcomes {
        assert!(
            outcome.acknowledged > 0,
            "{check:?}: nothing was ever added"
        );
        if *check == Check::ReadsAndWrites {
            assert_eq!(outcome.lost, 0, "S2");
        }
    }
    let stale = |(_, outcome): &(Check, Outcome)| outcome.lost + outcome.refused;
    let stale: usize = outcomes.iter().map(stale).sum();
    assert!(stale > 0, "no pause ever came between a read and a write");
}

fn start(place: usize, servers: &[Server], store: &Server, setting: Setting) -> Worker {
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    let lease = setting.lease.as_millis();
    let mut worker = Worker::start_at(&urls, &format!("name={place},lease={}", lease / 2));
    worker.order(&format!("add {} {lease}", store.url()));
    worker
}

/// Stops some of the processes for longer than their leases, again and again. Among them is the holder of
/// one of the locks, of each in turn, so that a few pauses are enough for all sets.
fn pause_some(servers: &[Server], workers: &[Worker], setting: Setting) {
    let mut chance = Chance::new(u64::from(std::process::id()), 0);
    let until = now() + setting.time;
    for check in Check::ALL.into_iter().cycle() {
        if now() >= until {
            return;
        }
        thread::sleep(setting.every - setting.pause);
        let mut places: Vec<usize> = (0..workers.len()).collect();
        chance.shuffle(&mut places);
        if let Some(holder) = holder(&servers[0], check) {
            places.sort_by_key(|place| *place != holder);
        }
        let paused = || places.iter().take(PAUSED).map(|&place| &workers[place]);
        paused().for_each(Worker::pause);
        thread::sleep(setting.pause);
        paused().for_each(Worker::resume);
    }
}

/// The place of the process that has the vote of this server.
fn holder(server: &Server, check: Check) -> Option<usize> {
    let id: Option<String> =
        redis::from_redis_value(server.command(&["GET", check.set()])).expect("a text or nil");
    let id = id?;
    let name = id.split(':').nth(2).expect("a name");
    Some(name.parse().expect("the place of a process"))
}

/// All that a worker reports until it is done.
fn read(worker: &mut Worker) -> Vec<Vec<String>> {
    let reports: Receiver<Vec<String>> = worker.take_reports();
    let mut read = Vec::new();
    loop {
        let report = reports.recv_timeout(PATIENCE).expect("it hangs or died");
        if report[0] == "done" {
            return read;
        }
        read.push(report);
    }
}

fn outcome(check: Check, reports: &[Vec<String>], store: &Server) -> Outcome {
    let set = store.text(&["GET", check.set()]);
    let set: BTreeSet<&str> = set.split(' ').collect();
    let mut outcome = Outcome::default();
    for report in reports.iter().filter(|report| report[1] == check.set()) {
        match report[0].as_str() {
            "added" => {
                outcome.acknowledged += 1;
                outcome.lost += usize::from(!set.contains(report[2].as_str()));
            }
            _ => outcome.refused += 1,
        }
    }
    outcome
}

fn table(setting: Setting, outcomes: &[(Check, Outcome)]) -> String {
    let Setting {
        lease,
        every,
        pause,
        time,
    } = setting;
    let mut table = format!(
        "Leases of {lease:?}, {PAUSED} of {PROCESSES} processes paused every {every:?} for {pause:?}, \
         for {time:?}:\n\n\
         | before a write | acknowledged | lost | lost, % | refused |\n|---|---|---|---|---|\n"
    );
    for (check, outcome) in outcomes {
        let Outcome {
            acknowledged,
            lost,
            refused,
        } = outcome;
        let percent = 100.0 * ratio(*lost, *acknowledged);
        let check = check.describe();
        table += &format!("| {check} | {acknowledged} | {lost} | {percent:.1} | {refused} |\n");
    }
    table
}

fn ratio(part: usize, whole: usize) -> f64 {
    let count = |number| f64::from(u32::try_from(number).expect("few"));
    count(part) / count(whole.max(1))
}
