//! Uncontended lock and release, one of five nodes hung: it keeps its connections and answers nothing.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::{Found, Plan, servers, uncontended};
use crate::{
    driver::{Order, Team, Told},
    plot::{Plot, Row, number},
    stats::{micros, ratio},
    table::{name, table},
};

pub(crate) fn run(plan: &Plan) -> Found {
    let started = Instant::now();
    let servers = servers(5);
    let (mut rows, mut shown) = (Vec::new(), Vec::new());
    let entries = plan.entries.iter().enumerate();
    for (place, entry) in
        entries.filter(|(_, entry)| entry.quorum && entry.processes || entry.name == "floor")
    {
        let mut team = Team::new(entry, &servers, 1);
        let order = |resource, span, cycles| Order {
            resource,
            fresh: entry.fresh,
            span: Duration::from_millis(span),
            cycles,
            ..uncontended::ALONE
        };
        let (first, second) = (format!("healthy:{place}"), format!("hung:{place}"));
        team.run(order("warm", 200, 50));
        let healthy = team.run(order(&first, 400, 200));
        servers[4].pause();
        let hung = team.run(order(&second, if plan.quick { 1_500 } else { 3_000 }, 300));
        servers[4].resume();
        drop(team);
        sleep(Duration::from_millis(50));

        let (before, after) = (
            uncontended::durations(&healthy),
            uncontended::durations(&hung),
        );
        let mut row = vec![name(entry), entry.guarantees(), micros(before.median())];
        if after.len() == 0 {
            row.extend([outcome(&hung), "–".to_owned(), "–".to_owned()]);
        } else {
            row.push(micros(after.median()));
            row.push(micros(after.quantile(0.99)));
            row.push(format!("{:.2}", ratio(after.median(), before.median())));
        }
        row.extend([after.len().to_string(), hung.errors.len().to_string()]);
        rows.push(row);
        let value = |sample: &crate::stats::Sample| {
            (sample.len() > 0).then(|| sample.median().as_secs_f64() * 1e6)
        };
        let values = vec![value(&before), value(&after)];
        shown.push(Row {
            label: entry.name.to_owned(),
            note: values[1].map_or_else(
                || outcome(&hung),
                |us| format!("{} µs with one hung", number(us)),
            ),
            values,
        });
    }
    eprintln!("One of five hung: {:.0} s", started.elapsed().as_secs_f64());
    let head = [
        "subject",
        "guarantees",
        "healthy p50 µs",
        "one hung p50 µs",
        "p99 µs",
        "× healthy p50",
        "cycles",
        "errors",
    ];
    let plot = Plot {
        title: "Lock and release with one of five nodes hung, median".to_owned(),
        unit: "µs, less is better",
        series: vec!["all healthy".to_owned(), "one hung".to_owned()],
        joined: true,
        rows: shown,
    };
    Found {
        tables: table(
            "Uncontended, one of five nodes hung (SIGSTOP)",
            &head,
            &rows,
        ),
        plots: vec![("hung", plot)],
    }
}

/// Why there was no cycle.
fn outcome(told: &Told) -> String {
    if let Some(why) = &told.stalled {
        return why.clone();
    }
    match told.errors.len() {
        0 => "hangs".to_owned(),
        _ => "every call fails".to_owned(),
    }
}
