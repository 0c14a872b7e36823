//! Many who want one resource: tasks of one process, and processes.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::{Found, Plan, servers, turns};
use crate::{
    driver::{Order, Team, Told},
    outcome::Outcome,
    plot::{Plot, Row, number},
    stats::millis,
    table::{name, table},
};

#[derive(Clone, Copy)]
struct Setup {
    nodes: usize,
    processes: usize,
    tasks: usize,
    hold: Duration,
    span: Duration,
    rounds: usize,
}

impl Setup {
    fn title(&self) -> String {
        let who = match (self.processes, self.tasks) {
            (1, tasks) => format!("{tasks} tasks"),
            (processes, _) => format!("{processes} processes"),
        };
        let nodes = if self.nodes == 1 { "node" } else { "nodes" };
        format!(
            "{who}, {} ms hold, {} {nodes}",
            self.hold.as_millis(),
            self.nodes
        )
    }
}

pub(crate) fn tasks(plan: &Plan) -> Found {
    let mut found = Found::default();
    let mut shown = Vec::new();
    for nodes in [1, 5] {
        for tasks in [16, 64] {
            if plan.quick && nodes == 1 && tasks == 64 {
                continue;
            }
            let setup = Setup {
                nodes,
                processes: 1,
                tasks,
                hold: Duration::from_millis(1),
                span: Duration::from_millis(if plan.quick { 500 } else { 1_500 }),
                rounds: if plan.quick { 1 } else { 2 },
            };
            let outcomes = measure(plan, setup);
            found.tables.push_str(&report(plan, setup, &outcomes));
            if nodes == 5 {
                shown.push((setup.title(), outcomes));
            }
        }
    }
    found.plots.push(("handoffs", handoffs(plan, &shown)));
    if let Some((title, outcomes)) = shown.last() {
        found.plots.push(("waits", waits(plan, title, outcomes)));
    }
    found
}

pub(crate) fn processes(plan: &Plan) -> Found {
    let mut found = Found::default();
    let mut shown = Vec::new();
    for nodes in if plan.quick { vec![5] } else { vec![1, 5] } {
        let setup = Setup {
            nodes,
            processes: 8,
            tasks: 1,
            hold: Duration::from_millis(1),
            span: Duration::from_millis(if plan.quick { 500 } else { 1_500 }),
            rounds: if plan.quick { 1 } else { 2 },
        };
        let outcomes = measure(plan, setup);
        found.tables.push_str(&report(plan, setup, &outcomes));
        shown.push((setup.title(), outcomes));
    }
    found.plots.push(("processes", handoffs(plan, &shown)));
    found
}

/// The setup of redlock4j's own benchmark of fair locks; at best one of 20/s.
pub(crate) fn redlock4j(plan: &Plan) -> Found {
    let setup = Setup {
        nodes: 3,
        processes: 5,
        tasks: 1,
        hold: Duration::from_millis(50),
        span: Duration::from_millis(if plan.quick { 1_000 } else { 5_000 }),
        rounds: 1,
    };
    let outcomes = measure(plan, setup);
    let mut rows = Vec::new();
    for (entry, outcome) in plan.entries.iter().zip(&outcomes) {
        let Some(outcome) = outcome else { continue };
        let mut row = vec![name(entry), entry.guarantees()];
        row.push(format!("{:.1}", outcome.per_second));
        row.extend(outcome.row().split_off(1));
        row.push(millis(outcome.late));
        row.push(trouble(outcome));
        rows.push(row);
    }
    let head = [
        &["subject", "guarantees"],
        &Outcome::HEAD[..],
        &["p99.9 wait ms", "trouble"],
    ];
    let title = format!(
        "redlock4j's benchmark: {}; the ideal is 20/s",
        setup.title()
    );
    Found {
        tables: table(&title, &head.concat(), &rows),
        plots: Vec::new(),
    }
}

/// `None` for those that do not fit.
fn measure(plan: &Plan, setup: Setup) -> Vec<Option<Outcome>> {
    let started = Instant::now();
    let servers = servers(setup.nodes);
    let mut all: Vec<Vec<Told>> = vec![Vec::new(); plan.entries.len()];
    for round in 0..setup.rounds {
        for place in turns(plan.entries.len(), round) {
            let entry = plan.entries[place];
            let fits =
                entry.fits(setup.nodes) && entry.waits && (setup.processes == 1 || entry.processes);
            if !fits {
                continue;
            }
            let mut team = Team::new(entry, &servers, setup.processes);
            all[place].push(run(&mut team, setup, &format!("{place}:{round}")));
            drop(team);
            sleep(Duration::from_millis(20));
        }
    }
    eprintln!(
        "{}: {:.0} s",
        setup.title(),
        started.elapsed().as_secs_f64()
    );
    let judge =
        |told: &Vec<Told>| (!told.is_empty()).then(|| Outcome::of(told, setup.span, setup.hold));
    all.iter().map(judge).collect()
}

fn run(team: &mut Team<'_>, setup: Setup, resource: &str) -> Told {
    let (warm, wanted) = (format!("warm:{resource}"), format!("wanted:{resource}"));
    let order = Order {
        resource: &wanted,
        fresh: false,
        tasks: setup.tasks,
        hold: setup.hold,
        // All processes begin together.
        delay: Duration::from_millis(30),
        span: setup.span,
        cycles: usize::MAX,
    };
    // Connections, scripts and threads are made before it counts.
    team.run(Order {
        resource: &warm,
        span: Duration::from_millis(100),
        ..order
    });
    team.run(order)
}

/// For the tuning: one run of `tasks` tasks on five nodes, or one if that is all there can be.
pub(crate) fn sample(team: &mut Team<'_>, tasks: usize, resource: &str) -> Outcome {
    let setup = Setup {
        nodes: 5,
        processes: 1,
        tasks,
        hold: Duration::from_millis(1),
        span: Duration::from_millis(1_000),
        rounds: 1,
    };
    let told = run(team, setup, resource);
    Outcome::of(&[told], setup.span, setup.hold)
}

fn report(plan: &Plan, setup: Setup, outcomes: &[Option<Outcome>]) -> String {
    let mut rows = Vec::new();
    for (entry, outcome) in plan.entries.iter().zip(outcomes) {
        let Some(outcome) = outcome else { continue };
        let mut row = vec![name(entry), entry.guarantees()];
        row.extend(outcome.row());
        row.push(trouble(outcome));
        rows.push(row);
    }
    let head = [&["subject", "guarantees"], &Outcome::HEAD[..], &["trouble"]].concat();
    table(&format!("One resource: {}", setup.title()), &head, &rows)
}

fn trouble(outcome: &Outcome) -> String {
    match (&outcome.stalled, outcome.errors) {
        (Some(why), _) => why.clone(),
        (None, 0) if outcome.per_second == 0.0 => "nobody was served".to_owned(),
        (None, 0) => String::new(),
        (None, errors) => format!("{errors} errors"),
    }
}

fn handoffs(plan: &Plan, shown: &[(String, Vec<Option<Outcome>>)]) -> Plot {
    let mut rows = Vec::new();
    for (place, entry) in plan.entries.iter().enumerate() {
        let of = |outcomes: &Vec<Option<Outcome>>| {
            let rate = outcomes[place].as_ref()?.handoffs;
            (rate > 0.0).then_some(rate)
        };
        let values: Vec<_> = shown.iter().map(|(_, outcomes)| of(outcomes)).collect();
        let last = shown
            .last()
            .and_then(|(_, outcomes)| outcomes[place].as_ref());
        if shown.iter().all(|(_, outcomes)| outcomes[place].is_none()) {
            continue;
        }
        let note = match last {
            Some(outcome) => format!(
                "{:.0} % overtook; {}",
                100.0 * outcome.inversions,
                entry.order
            ),
            None => "one node only".to_owned(),
        };
        rows.push(Row {
            label: entry.name.to_owned(),
            values,
            note,
        });
    }
    Plot {
        title: "One resource: handoffs to another task or process".to_owned(),
        unit: "per second, more is better; none where it reached none",
        series: shown.iter().map(|(title, _)| title.clone()).collect(),
        joined: false,
        rows,
    }
}

fn waits(plan: &Plan, title: &str, outcomes: &[Option<Outcome>]) -> Plot {
    let mut rows = Vec::new();
    for (entry, outcome) in plan.entries.iter().zip(outcomes) {
        let Some(outcome) = outcome else { continue };
        if outcome.median.is_zero() {
            continue;
        }
        let ms = |wait: Duration| Some(wait.as_secs_f64() * 1e3);
        rows.push(Row {
            label: entry.name.to_owned(),
            values: vec![ms(outcome.median), ms(outcome.longest)],
            note: format!(
                "longest {} × median; {}",
                number(outcome.longest.as_secs_f64() / outcome.median.as_secs_f64()),
                entry.order
            ),
        });
    }
    Plot {
        title: format!("Waiting for one resource: {title}"),
        unit: "ms",
        series: vec!["median wait".to_owned(), "longest wait".to_owned()],
        joined: true,
        rows,
    }
}
