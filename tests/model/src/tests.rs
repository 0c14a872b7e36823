//! That every promise holds, and that each deliberate bug breaks the one that it offends.

use super::*;

#[test]
fn every_promise_holds() {
    for protocol in protocols() {
        let (name, whole) = (protocol.name, protocol.depth == 0);
        let (violated, states) = explore(protocol);
        // What is to be seen sometimes may lie beyond a bound.
        let violated: Vec<_> = violated
            .iter()
            .filter(|(_, how)| whole || how != "never")
            .collect();
        assert!(violated.is_empty(), "{name}, {states} states: {violated:?}");
    }
}

/// Whether `bug` breaks `promise`; explored is the protocol with this name, to another depth if one is given.
fn breaks(bug: Bug, promise: &str, name: &str, depth: Option<usize>) {
    let mut protocols = protocols().into_iter();
    let protocol = protocols.find(|protocol| protocol.name == name).unwrap();
    let depth = depth.unwrap_or(protocol.depth);
    let (violated, states) = explore(Protocol {
        bug,
        depth,
        ..protocol
    });
    let found = |(name, how): &(&str, String)| name.starts_with(promise) && how != "never";
    assert!(
        violated.iter().any(found),
        "{bug:?} went unnoticed in {states} states: {violated:?}"
    );
}

#[test]
fn a_smaller_quorum_makes_two_holders() {
    breaks(Bug::QuorumMinusOne, "S1", "2 clients, to the end", None);
}

#[test]
fn a_release_that_does_not_compare_takes_anothers_lease() {
    let name = "1 of 2 behind a holder leaves";
    breaks(Bug::ReleaseWithoutComparing, "S1", name, None);
}

#[test]
fn a_token_that_is_not_written_back_comes_again() {
    breaks(Bug::NoFence, "S2", "counters that differ", None);
}

#[test]
fn a_vote_that_counts_after_the_fence_gives_a_token_that_was_not_written() {
    breaks(Bug::LateVoteCounted, "S2", "counters that differ", None);
}

#[test]
fn the_minimum_for_a_ticket_lets_a_later_one_pass() {
    breaks(Bug::TicketByMinimum, "F1", "2 behind a holder", None);
}

#[test]
fn votes_that_nobody_gives_back_are_in_everybodys_way() {
    let name = "3 clients with a vote each";
    breaks(Bug::NeverGivesBack, "L1", name, Some(0));
}

#[test]
fn a_node_that_the_clean_up_forgets_keeps_its_vote() {
    breaks(
        Bug::CleanUpOfAQuorumOnly,
        "C1",
        "2 clients, to the end",
        None,
    );
}
