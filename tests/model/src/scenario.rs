//! What is explored.

use crate::{node::Lie, world::Budget};

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) clients: usize,
    pub(crate) nodes: usize,
    /// Whether the first client begins as the holder.
    pub(crate) held: bool,
    /// It ends when so many were served; 0: when all are done.
    pub(crate) served: u8,
    pub(crate) left: Budget,
    pub(crate) lie: Lie,
    /// How many steps are taken at most; 0: all there are.
    pub(crate) depth: usize,
}

/// What is walked at random to its end.
pub(crate) fn walks() -> Vec<Scenario> {
    let whole = |name, clients, held| Scenario {
        name,
        clients,
        nodes: 3,
        held,
        served: 0,
        left: Budget {
            slow: 2,
            breaks: 2,
            leavers: 1,
            waits: 2,
            holds: 2,
            moments: 100,
            ..Budget::default()
        },
        lie: Lie::None,
        depth: 0,
    };
    let forgets = |mut scenario: Scenario| {
        scenario.left.forgets = 1;
        scenario
    };
    vec![
        whole("2 clients, to the end", 2, false),
        whole("3 clients, to the end", 3, false),
        whole("2 behind a holder, to the end", 3, true),
        forgets(whole("3 clients and a node that forgets", 3, false)),
        Scenario {
            lie: Lie::TellsNobody,
            ..whole("2 behind a holder, and nobody is told", 3, true)
        },
        Scenario {
            nodes: 5,
            ..whole("2 clients and 5 nodes", 2, false)
        },
    ]
}

/// What has to hold.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let two = Scenario {
        name: "2 clients, until one is served",
        clients: 2,
        nodes: 3,
        held: false,
        served: 1,
        left: Budget {
            moments: 4,
            ..Budget::default()
        },
        lie: Lie::None,
        depth: 0,
    };
    let with = |name, change: fn(&mut Budget), depth| {
        let mut scenario = Scenario {
            name,
            depth,
            ..two.clone()
        };
        change(&mut scenario.left);
        scenario
    };
    let behind = |name, change: fn(&mut Budget), depth| Scenario {
        held: true,
        served: 0,
        ..with(name, change, depth)
    };
    let three = |name, change: fn(&mut Budget), depth| Scenario {
        clients: 3,
        ..with(name, change, depth)
    };
    vec![
        Scenario {
            depth: 18,
            ..two.clone()
        },
        Scenario {
            name: "1 behind a holder, to the end",
            held: true,
            served: 0,
            ..two.clone()
        },
        with("an answer is slow", |left| left.slow = 1, 14),
        with("time passes meanwhile", |left| left.waits = 1, 14),
        with("a connection breaks", |left| left.breaks = 1, 12),
        with("a node forgets", |left| left.forgets = 1, 11),
        with("one may leave", |left| left.leavers = 1, 14),
        three("3 clients", |_| {}, 11),
        behind(
            "behind a holder, an answer is slow",
            |left| left.slow = 1,
            18,
        ),
        behind("behind a holder, time passes", |left| left.waits = 1, 16),
        behind("behind a holder that renews", |left| left.holds = 2, 16),
        behind(
            "behind a holder, a connection breaks",
            |left| left.breaks = 1,
            14,
        ),
        behind(
            "behind a holder, a node forgets",
            |left| left.forgets = 1,
            12,
        ),
        Scenario {
            clients: 3,
            ..behind("2 behind a holder", |_| {}, 13)
        },
    ]
}
