//! That every promise holds, and that each lie of a node breaks the one that it offends.

use super::*;
use crate::{node::Lie, scenario::Scenario, world::Budget};

/// What was violated; what is only to be seen sometimes may lie beyond a bound.
fn violated((violated, states): Findings) -> (Vec<(&'static str, String)>, usize) {
    let offends = |(_, how): &(&str, String)| how != "never";
    (violated.into_iter().filter(offends).collect(), states)
}

#[test]
fn every_promise_holds() {
    for scenario in scenarios() {
        let name = scenario.name;
        let (violated, states) = violated(explore(scenario));
        assert!(violated.is_empty(), "{name}, {states} states: {violated:?}");
    }
}

#[test]
fn every_promise_holds_to_the_end_of_random_walks() {
    for scenario in walks() {
        let name = scenario.name;
        let (violated, states) = violated(walk(scenario, WALKED));
        assert!(violated.is_empty(), "{name}, {states} states: {violated:?}");
    }
}

fn walk_named(name: &str) -> Scenario {
    let mut scenarios = walks().into_iter();
    scenarios.find(|scenario| scenario.name == name).unwrap()
}

/// Whether nodes that lie like this break `promise`, in walks of the scenario with this name.
fn breaks(lie: Lie, promise: &str, name: &str) {
    let scenario = walk_named(name);
    broken(Scenario { lie, ..scenario }, promise, WALKED);
}

fn broken(scenario: Scenario, promise: &str, states: usize) {
    let lie = scenario.lie;
    let (violated, states) = violated(walk(scenario, states));
    let found = |(name, _): &(&str, String)| name.starts_with(promise);
    assert!(
        violated.iter().any(found),
        "{lie:?} went unnoticed in {states} states: {violated:?}"
    );
}

#[test]
fn a_vote_that_is_given_twice_makes_two_holders() {
    breaks(Lie::GivesItsVoteTwice, "S1", "2 clients, to the end");
}

#[test]
fn a_late_request_that_is_carried_out_leaves_something_behind() {
    breaks(Lie::CarriesOutLate, "C1", "2 clients, to the end");
}

#[test]
fn what_is_not_released_is_left() {
    breaks(Lie::KeepsWhatIsReleased, "C1", "2 clients, to the end");
}

#[test]
fn a_counter_that_stays_gives_a_token_twice() {
    breaks(Lie::RepeatsItsCounter, "S2", "2 clients, to the end");
}

#[test]
fn lower_numbers_for_newcomers_let_them_pass() {
    breaks(
        Lie::LetsNewcomersFirst,
        "F1",
        "2 behind a holder, to the end",
    );
}
