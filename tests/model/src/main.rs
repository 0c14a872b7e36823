//! An exhaustive model of the protocol: ticket, vote, handoff, give-back and fence, as the page `protocol`
//! of the crate's documentation describes them.
//!
//!     cd tests/model && cargo run --release       # what was explored, and that every promise held
//!     cd tests/model && cargo test --release      # the same, and each deliberate bug is found
//!
//! Three nodes. Requests of different clients or to different nodes come in any order, and so do pushes; an
//! answer is heard before anything else happens, but for a bounded number of slow ones. A bounded number of
//! messages is lost, or overtaken on a new connection and carried out when nobody waits any more. There is
//! no time in it: leases do not run out, and whoever was not told polls once nothing else is under way. What
//! time does is for the simulation to show. "Bounded" runs end after so many steps.

mod client;
mod node;
mod protocol;
mod state;
#[cfg(test)]
mod tests;

use std::thread::available_parallelism;

use client::Bug;
use protocol::Protocol;
use stateright::{Checker, Expectation, Model};

/// Explores, and returns what was violated, each with the way there, and how many states there were.
fn explore(protocol: Protocol) -> (Vec<(&'static str, String)>, usize) {
    let threads = available_parallelism().map_or(1, usize::from);
    let checker = protocol.clone().checker().threads(threads);
    let checker = if protocol.depth > 0 {
        checker.target_max_depth(protocol.depth)
    } else {
        checker
    };
    let checker = checker.spawn_bfs().join();
    let found = checker.discoveries();
    let violated = protocol.properties().into_iter().filter_map(|property| {
        let path = found.get(property.name);
        match property.expectation {
            Expectation::Sometimes => path.is_none().then(|| (property.name, "never".to_owned())),
            _ => path.map(|path| (property.name, format!("{:#?}", path.clone().into_actions()))),
        }
    });
    (violated.collect(), checker.unique_state_count())
}

/// What has to hold.
fn protocols() -> Vec<Protocol> {
    let plain = Protocol {
        name: "2 clients, to the end",
        clients: 2,
        held: false,
        split: false,
        seqs: [0, 0, 0],
        lost: 0,
        late: 0,
        slow: 0,
        leavers: 0,
        polls: 0,
        depth: 0,
        bug: Bug::None,
    };
    let unequal = Protocol {
        name: "counters that differ",
        seqs: [0, 1, 3],
        ..plain.clone()
    };
    let slow = Protocol {
        name: "an answer is slow",
        slow: 1,
        depth: 24,
        ..plain.clone()
    };
    let lost = Protocol {
        name: "a message is lost",
        lost: 1,
        polls: 1,
        depth: 20,
        ..plain.clone()
    };
    let late = Protocol {
        name: "a request runs late",
        late: 1,
        polls: 1,
        depth: 20,
        ..plain.clone()
    };
    let queue = Protocol {
        name: "2 behind a holder",
        clients: 3,
        held: true,
        depth: 16,
        ..unequal.clone()
    };
    let leaver = Protocol {
        name: "1 of 2 behind a holder leaves",
        leavers: 1,
        depth: 13,
        ..queue.clone()
    };
    let three = Protocol {
        name: "3 clients",
        clients: 3,
        depth: 16,
        ..plain.clone()
    };
    let split = Protocol {
        name: "3 clients with a vote each",
        split: true,
        depth: 11,
        ..three.clone()
    };
    vec![
        plain, unequal, slow, lost, late, queue, leaver, three, split,
    ]
}

fn main() {
    for protocol in protocols() {
        let name = protocol.name;
        let (violated, states) = explore(protocol);
        println!("{name}: {states} states");
        for (property, how) in violated {
            let beyond = how == "never";
            println!(
                "  {property}: {}",
                if beyond { "beyond the bound" } else { &how }
            );
        }
    }
}
