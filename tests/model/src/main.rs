//! Explores the state machine that ships.
//!
//!     cd tests/model && cargo run --release       # what was explored, and that every promise held
//!     cd tests/model && cargo test --release      # the same, and each lie of a node or a network is found
//!
//! What a client believes and asks is the crate's own code (`src/request`), and what a node answers is the memory
//! nodes' table (`src/node/table`), which is compared with the scripts on servers call by call. Only what lies between
//! is made here: requests of different clients, or to different nodes, arrive in any order, and so do pushes. An answer
//! is heard before anything else happens, but for a bounded number of slow ones. A bounded number of connections
//! breaks, of requests is carried out after that, of nodes forgets all. Time goes on when nothing else can happen, and a
//! bounded number of times when something is under way. Each scenario is explored to its end, or to a depth.

#![allow(dead_code, unused_imports)]

#[path = "../../../src/config/mod.rs"]
mod config;
#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/event.rs"]
mod event;
#[path = "../../../src/holder.rs"]
mod holder;
#[path = "../../../src/message.rs"]
mod message;
#[path = "../../../src/quorum.rs"]
mod quorum;
#[path = "../../../src/request/mod.rs"]
mod request;
#[path = "../../../src/resource.rs"]
mod resource;
#[path = "../../../src/servers/mod.rs"]
mod servers;
#[path = "../../../src/node/table/mod.rs"]
mod table;
#[path = "../../../src/time.rs"]
mod time;

mod client;
mod explore;
mod node;
mod runtime;
mod scenario;
#[cfg(test)]
mod tests;
mod world;

use explore::{Findings, explore, walk};
use scenario::{scenarios, walks};

/// How many states the walks of a scenario see.
const WALKED: usize = 200_000;

fn main() {
    for scenario in scenarios() {
        let (name, depth) = (scenario.name, scenario.depth);
        let how = if depth > 0 {
            format!(", to depth {depth}")
        } else {
            String::new()
        };
        tell(name, &how, &explore(scenario));
    }
    for scenario in walks() {
        tell(scenario.name, ", at random", &walk(scenario, WALKED));
    }
}

fn tell(name: &str, how: &str, (violated, states): &Findings) {
    println!("{name}{how}: {states} states");
    for (promise, how) in violated {
        let beyond = how == "never";
        println!(
            "  {promise}: {}",
            if beyond { "beyond the bound" } else { how }
        );
    }
}
