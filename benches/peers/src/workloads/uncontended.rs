//! Lock and release when nobody is in the way.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::{Found, Plan, servers, turns};
use crate::{
    catalog::Entry,
    driver::{Order, Team, Told},
    plot::{Plot, Row, number},
    stats::{Sample, micros, ratio},
    table::{name, table},
};

const NODES: [usize; 3] = [1, 3, 5];

/// A block ends after so many cycles or so much time.
const CYCLES: usize = 100;
const BLOCK: Duration = Duration::from_millis(400);

/// Cycles one after another.
pub(crate) const ALONE: Order<'static> = Order {
    resource: "alone",
    fresh: false,
    tasks: 1,
    hold: Duration::ZERO,
    delay: Duration::ZERO,
    span: BLOCK,
    cycles: CYCLES,
};

pub(crate) fn durations(told: &Told) -> Sample {
    let mut sample = Sample::default();
    for one in &told.served {
        sample.add(Duration::from_nanos(one.done - one.asked));
    }
    sample
}

pub(crate) fn run(plan: &Plan) -> Found {
    let mut found = Found::default();
    let mut values = vec![vec![None; NODES.len()]; plan.entries.len()];
    for (column, nodes) in NODES.into_iter().enumerate() {
        let started = Instant::now();
        let measured = measure(plan, nodes);
        let floor = plan
            .entries
            .iter()
            .zip(&measured)
            .find(|(entry, _)| entry.name == "floor");
        let floor = floor.map(|(_, told)| durations(told).median());
        let mut rows = Vec::new();
        for (place, (entry, told)) in plan.entries.iter().zip(&measured).enumerate() {
            if !entry.fits(nodes) {
                continue;
            }
            let sample = durations(told);
            if sample.len() > 0 {
                values[place][column] = Some(sample.median().as_secs_f64() * 1e6);
            }
            rows.push(row(entry, told, &sample, floor));
        }
        let head = [
            "subject",
            "guarantees",
            "p50 µs",
            "p99 µs",
            "× floor p50",
            "cycles",
            "errors",
        ];
        let title = format!("Uncontended lock and release, {nodes} nodes");
        found
            .tables
            .push_str(&table(&title.replace("1 nodes", "1 node"), &head, &rows));
        eprintln!("{title}: {:.0} s", started.elapsed().as_secs_f64());
    }
    let rows = plan.entries.iter().zip(values).map(|(entry, values)| Row {
        label: entry.name.to_owned(),
        note: match values.last().copied().flatten() {
            Some(last) => format!("{} µs on 5; {}", number(last), entry.order),
            None => "one node only".to_owned(),
        },
        values,
    });
    let plot = Plot {
        title: "Uncontended lock and release, median".to_owned(),
        unit: "µs, less is better",
        series: NODES.map(|nodes| format!("{nodes} nodes")).to_vec(),
        joined: false,
        rows: rows
            .filter(|row| row.values.iter().any(Option::is_some))
            .collect(),
    };
    found.plots.push(("uncontended", plot));
    found
}

fn measure(plan: &Plan, nodes: usize) -> Vec<Told> {
    let servers = servers(nodes);
    let rounds = if plan.quick { 3 } else { 14 };
    let mut teams: Vec<_> = plan
        .entries
        .iter()
        .map(|entry| Team::new(entry, &servers, 1))
        .collect();
    let mut all = vec![Told::default(); teams.len()];
    for round in 0..rounds {
        for place in turns(teams.len(), round) {
            let team = &mut teams[place];
            if !team.entry.fits(nodes) || all[place].stalled.is_some() {
                continue;
            }
            // A cycle that was cut off may have left its key.
            let resource = format!("alone:{place}:{round}");
            let order = Order {
                resource: &resource,
                fresh: team.entry.fresh,
                ..ALONE
            };
            let told = team.run(order);
            // The first round warms up.
            if round > 0 || told.stalled.is_some() {
                all[place].extend(told);
            }
            // What the slowest node still does must not weigh on the next block.
            sleep(Duration::from_millis(5));
        }
    }
    all
}

fn row(entry: &Entry, told: &Told, sample: &Sample, floor: Option<Duration>) -> Vec<String> {
    let mut row = vec![name(entry), entry.guarantees()];
    if sample.len() == 0 {
        let why = told.stalled.as_ref().or(told.errors.first());
        row.push(why.map_or("nothing reached", String::as_str).to_owned());
        row.extend(["–", "–"].map(str::to_owned));
    } else {
        row.push(micros(sample.median()));
        row.push(micros(sample.quantile(0.99)));
        row.push(floor.map_or("–".to_owned(), |floor| {
            format!("{:.2}", ratio(sample.median(), floor))
        }));
    }
    row.push(sample.len().to_string());
    row.push(told.errors.len().to_string());
    row
}
