//! Which poll delay serves each subject best.

use std::time::Duration;

use super::{Plan, servers};
use crate::{
    driver::Team,
    table::{name, table},
    workloads::contended,
};

const DELAYS: [u64; 6] = [2, 5, 10, 20, 50, 100];

/// Handoffs to another task per second, 16 and 64 tasks, 1 ms hold, on five nodes or the one.
pub(crate) fn run(plan: &Plan) -> String {
    let mut rows = Vec::new();
    for entry in plan.entries.iter().filter(|entry| entry.waiting == "polls") {
        let servers = servers(if entry.quorum { 5 } else { 1 });
        let mut row = vec![name(entry)];
        for poll in DELAYS {
            let rate = |tasks: usize| {
                let delay = Duration::from_millis(poll);
                let mut team = Team::polling(entry, &servers, 1, delay);
                contended::sample(&mut team, tasks, &format!("{poll}:{tasks}")).handoffs
            };
            row.push(format!("{:.0} / {:.0}", rate(16), rate(64)));
        }
        eprintln!("{}", row.join(" | "));
        rows.push(row);
    }
    let heads = DELAYS.map(|poll| format!("{poll} ms"));
    let mut head = vec!["poll delay"];
    head.extend(heads.iter().map(String::as_str));
    table(
        "Handoffs to another task/s, 16 / 64 tasks, 1 ms hold",
        &head,
        &rows,
    )
}
