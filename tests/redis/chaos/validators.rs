//! The validators, each against a history that breaks its promise and one that just keeps it.

use std::time::Duration;

use super::{
    faults::{Fault, Kind},
    history::History,
    promises::Trial,
};

/// A history of two processes. A line is a life and a report; times in it are milliseconds.
fn history(lines: &[&str]) -> History {
    let mut history = History::default();
    for slot in 0..2 {
        history.born(slot);
    }
    for line in lines {
        let (life, report) = line.split_once(' ').expect("a report");
        // In front of the times there is the number of a request, but for a stall, which has none.
        let times_from = if report.starts_with("stalled") { 1 } else { 2 };
        let nanos = |(place, word): (usize, &str)| match word.parse::<u64>() {
            Ok(millis) if place >= times_from => (millis * 1_000_000).to_string(),
            _ => word.to_owned(),
        };
        let words: Vec<String> = report.split(' ').enumerate().map(nanos).collect();
        history.enter(life.parse().expect("a life"), &words);
    }
    history
}

type Validator = fn(Trial<'_>) -> Trial<'_>;

const S1: Validator = |trial| trial.s1();
const S2: Validator = |trial| trial.s2();
const S2_OVERLAPPING: Validator = |trial| trial.s2_of_overlapping_leases();
const S3: Validator = |trial| trial.s3();
const F1: Validator = |trial| trial.f1();
const L1: Validator = |trial| trial.l1();

fn violations(history: &History, faults: &[Fault], validator: Validator) -> Vec<String> {
    let trial = Trial::new(history, faults, Duration::ZERO);
    validator(trial).findings().violations
}

fn bites(validator: Validator, promise: &str, lines: &[&str]) {
    let found = violations(&history(lines), &[], validator);
    assert!(
        found.len() == 1 && found[0].starts_with(promise),
        "{found:?}"
    );
}

fn spares(validator: Validator, lines: &[&str]) {
    assert_eq!(violations(&history(lines), &[], validator), [""; 0]);
}

/// Request 1 of life 0, and request 1 of life 1 that is served at `at`, both of the same resource.
fn two<'a>(first: &'a [&'a str], second: &'a [&'a str]) -> Vec<&'a str> {
    let asked = ["0 asked 1 r 0", "1 asked 1 r 5"];
    [&asked, first, second].concat()
}

#[test]
fn s1_sees_a_lease_that_another_one_overlaps_though_its_holder_is_dead() {
    let first = ["0 acquired 1 10 7", "0 held 1 10 100"];
    let second = |at| [format!("1 acquired 1 {at} 8"), format!("1 held 1 {at} 100")];
    for (at, bite) in [(109, true), (110, false)] {
        let second = second(at);
        let lines = two(&first, &[]);
        let lines = [&lines[..], &[&second[0], &second[1]]].concat();
        if bite {
            bites(S1, "S1", &lines);
        } else {
            spares(S1, &lines);
        }
    }
    let released = ["0 acquired 1 10 7", "0 held 1 10 100", "0 released 1 20"];
    spares(
        S1,
        &two(&released, &["1 acquired 1 21 8", "1 held 1 21 100"]),
    );
}

#[test]
fn s2_sees_a_token_that_stands_still() {
    let first = ["0 acquired 1 10 8", "0 held 1 10 5"];
    for validator in [S2, S2_OVERLAPPING] {
        bites(
            validator,
            "S2",
            &two(&first, &["1 acquired 1 21 8", "1 held 1 21 5"]),
        );
        spares(
            validator,
            &two(&first, &["1 acquired 1 21 9", "1 held 1 21 5"]),
        );
    }
}

#[test]
fn s3_sees_a_loss_that_is_told_late_or_never() {
    let next = ["1 acquired 1 100 8", "1 held 1 100 100"];
    let late = ["0 acquired 1 10 7", "0 held 1 10 50", "0 lost 1 900"];
    bites(S3, "S3", &two(&late, &next));
    let never = ["0 acquired 1 10 7", "0 held 1 10 50", "0 released 1 900"];
    bites(S3, "S3", &two(&never, &next));
    let early = ["0 acquired 1 10 7", "0 held 1 10 50", "0 lost 1 60"];
    spares(S3, &two(&early, &next));
    let stalled = [&late[..], &["0 stalled 90 890"]].concat();
    spares(S3, &two(&stalled, &next));
}

#[test]
fn f1_sees_a_ticket_that_is_passed() {
    let passed = ["0 recorded 1 4", "0 acquired 1 50 9", "0 held 1 50 5"];
    let newcomer = ["1 acquired 1 40 8", "1 held 1 40 5"];
    let lines = two(&passed, &newcomer);
    bites(F1, "F1", &lines);
    // At the same time: no order was promised.
    let late = ["0 recorded 1 6", "0 acquired 1 50 9", "0 held 1 50 5"];
    spares(F1, &two(&late, &newcomer));
    let left = ["0 recorded 1 4", "0 left 1 39"];
    spares(F1, &two(&left, &newcomer));
    let waits = ["0 recorded 1 4"];
    bites(F1, "F1", &two(&waits, &newcomer));

    let millis = Duration::from_millis;
    let out = |node| Fault {
        kind: Kind::Cut,
        nodes: vec![node],
        slot: Some(0),
        from: millis(10),
        to: millis(20),
    };
    let history = history(&lines);
    let two_nodes = [out(0), out(1), out(1)];
    assert_eq!(
        violations(&history, &two_nodes, F1).len(),
        1,
        "a quorum is left"
    );
    let three_nodes = [out(0), out(1), out(2)];
    assert_eq!(violations(&history, &three_nodes, F1), [""; 0]);
}

#[test]
fn l1_sees_a_free_resource_that_nobody_gets() {
    let first = ["0 acquired 1 10 7", "0 held 1 10 50", "0 released 1 20"];
    let next = ["1 acquired 1 2000 8", "1 held 1 2000 100"];
    bites(L1, "L1", &two(&first, &next));
    let holds = ["0 acquired 1 10 7", "0 held 1 10 1500"];
    spares(L1, &two(&holds, &next));
    let stalled = [&first[..], &["0 stalled 20 60"]].concat();
    spares(L1, &two(&stalled, &next));
    let much_later = ["1 acquired 1 9000 8", "1 held 1 9000 100"];
    bites(L1, "L1", &two(&stalled, &much_later));
}
