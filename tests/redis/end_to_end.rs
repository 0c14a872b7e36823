//! Many processes, one resource, two thousand acquisitions.

use std::{
    sync::mpsc::{self, Sender},
    thread,
    time::Duration,
};

use crate::{
    process::{Acquisition, Worker, residue, servers, urls},
    server::Server,
};

const PROCESSES: usize = 8;
const TASKS: usize = 5;
const TIMES: usize = 50;
const TOTAL: usize = PROCESSES * TASKS * TIMES;

#[test]
fn s1_s2_f1_hold_over_eight_processes() {
    let servers = servers(5);
    check(run(&servers, |_| {}));
    assert_eq!(residue(&servers, "r"), [""; 0]);
}

#[test]
fn s1_s2_f1_hold_while_a_node_loses_its_memory() {
    let servers = servers(5);
    let history = run(&servers, |served| match served {
        600 => servers[1].kill(),
        1200 => servers[1].restart(),
        _ => {}
    });
    check(history);
    assert_eq!(residue(&servers, "r"), [""; 0]);
}

/// All acquisitions, in order of acquisition. `meanwhile` is told how many there have been so far.
fn run(servers: &[Server], mut meanwhile: impl FnMut(usize)) -> Vec<Acquisition> {
    // Eight processes and five servers on a busy machine may take longer than a node may by default.
    let mut workers: Vec<Worker> = (0..PROCESSES)
        .map(|_| Worker::start_at(&urls(servers), "timeout=3000"))
        .collect();
    for worker in &mut workers {
        worker.order(&format!("load r {TASKS} {TIMES}"));
    }
    let (sender, reports) = mpsc::channel();
    let mut history = Vec::new();
    thread::scope(|scope| {
        for worker in workers {
            let sender = sender.clone();
            scope.spawn(move || pass_on(&worker, &sender));
        }
        drop(sender);
        for served in reports {
            history.push(served);
            meanwhile(history.len());
        }
    });
    history.sort_by_key(|served| served.acquired);
    history
}

/// Passes the reports of a worker on until it is done.
fn pass_on(worker: &Worker, sender: &Sender<Acquisition>) {
    loop {
        let report = worker.report();
        match report.split_first() {
            Some((word, words)) if word == "served" => {
                let served = Acquisition::read(words);
                sender.send(served).expect("the test listens");
            }
            Some((word, _)) if word == "done" => return,
            _ => panic!("not expected: {report:?}"),
        }
    }
}

fn check(history: Vec<Acquisition>) {
    assert_eq!(history.len(), TOTAL, "all are served");
    for pair in history.windows(2) {
        let [first, second] = pair else {
            unreachable!()
        };
        assert!(
            first.released <= second.acquired,
            "S1: two holders at once: {first:?} {second:?}"
        );
        assert!(first.token < second.token, "S2: {first:?} {second:?}");
    }
    // Of those that are served later, whose ticket was recorded first?
    let mut first: Option<Acquisition> = None;
    for served in history.iter().rev() {
        if let Some(passed) = first {
            assert!(
                passed.recorded > Some(served.asked),
                "F1: {served:?} passed {passed:?}"
            );
        }
        let recorded = |ticket: Acquisition| ticket.recorded.unwrap_or(Duration::MAX);
        if served.recorded.is_some() && first.is_none_or(|f| recorded(*served) < recorded(f)) {
            first = Some(*served);
        }
    }
    let took = history[TOTAL - 1].released - history[0].acquired;
    println!("{TOTAL} acquisitions in {took:?}");
}
