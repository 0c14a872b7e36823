//! Which fault voids which promise. The validators are switched off by this table and nothing else, and the
//! page `docs::failures` is printed from it.

/// A fault, what it voids, and why.
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// The promises that do not hold beside it.
    pub(super) voids: &'static [&'static str],
    pub(super) why: &'static str,
}

pub(super) const DELAY: &str = "messages are delayed";
pub(super) const LOSS: &str = "requests or answers are lost";
pub(super) const RESET: &str = "a connection is reset";
pub(super) const PARTITION: &str = "a client and a node are partitioned";
pub(super) const ONE_WAY: &str = "nothing gets through one way";
pub(super) const ISLAND: &str = "a client is cut off from all nodes";
pub(super) const PUSHES: &str = "pushes are lost, late or doubled";
pub(super) const HUNG: &str = "a node hangs and goes on";
pub(super) const CRASH: &str = "a node is down for a while";
pub(super) const EMPTY: &str = "a node restarts empty";
pub(super) const STALE: &str = "a node restarts without the last second";
pub(super) const OLD: &str = "a node restarts with an old snapshot";
pub(super) const MEDDLED: &str =
    "one node's keys are deleted or flushed, or its clock is moved, while a lease stands";
pub(super) const STARVED: &str = "a client's own task, or its callers, get no time";
pub(super) const PANIC: &str = "a subscriber or recorder of the user's panics";
pub(super) const PAUSE: &str = "a client is paused";
pub(super) const LONG_PAUSE: &str = "a client is paused past its ttl";
pub(super) const DEATH: &str = "a client crashes";
pub(super) const DROP: &str = "a future is dropped at some await";
pub(super) const FORGET: &str = "a ticket or future is forgotten";
pub(super) const FORWARD: &str = "a node's clock is stepped forward";
pub(super) const BACK: &str = "a node's clock is stepped back";
pub(super) const RATE: &str = "clocks drift apart by more than clock_drift_factor";
pub(super) const FLUSH: &str = "FLUSHALL on a live node";
pub(super) const COLD: &str = "all nodes lose their memory at once";
pub(super) const LONG_TTL: &str = "a ttl above restart_grace";
pub(super) const FOREIGN: &str = "another Redlock client takes the key";

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: DELAY,
        voids: &[],
        why: "a late answer counts from when its command was sent, and a late request is refused",
    },
    Fault {
        name: LOSS,
        voids: &[],
        why: "what was not answered is asked again, and taken back in the end",
    },
    Fault {
        name: RESET,
        voids: &[],
        why: "whether the request is executed, never executed, or executed later after newer ones",
    },
    Fault {
        name: PARTITION,
        voids: &[],
        why: "who cannot reach a quorum loses its lease, and says so in time",
    },
    Fault {
        name: ONE_WAY,
        voids: &[],
        why: "a request that is executed and never answered is one that was lost, to its sender",
    },
    Fault {
        name: ISLAND,
        voids: &[],
        why: "its places in line and its leases run out; nobody else is harmed",
    },
    Fault {
        name: PUSHES,
        voids: &[],
        why: "state decides, not messages; a stale push is known by the lease it names",
    },
    Fault {
        name: HUNG,
        voids: &[],
        why: "what it was asked meanwhile is refused when it wakes, unless it takes something away",
    },
    Fault {
        name: CRASH,
        voids: &[],
        why: "a minority is not needed; without a quorum nothing is given",
    },
    Fault {
        name: EMPTY,
        voids: &[],
        why: "its vote does not count until all that it may have forgotten is over, as long as a majority remembers",
    },
    Fault {
        name: STALE,
        voids: &[],
        why: "the same: what it remembers wrongly, such as a lease that was released since, is over by then, too",
    },
    Fault {
        name: OLD,
        voids: &[],
        why: "the same, however old it is, and its counters are not taken for what it has counted since",
    },
    Fault {
        name: MEDDLED,
        voids: &[],
        why: "the lease stands on the others. Until a lease is whole, a few round trips after the guard was handed out or after its client could know of the last loss, it may stand on a bare quorum: one node then voids S1",
    },
    Fault {
        name: STARVED,
        voids: &[],
        why: "its leases are renewed when it goes on, or lost, and `lost()` tells so in time wherever it is polled",
    },
    Fault {
        name: PANIC,
        voids: &[],
        why: "what a user has installed is called outside of everything that it could break",
    },
    Fault {
        name: PAUSE,
        voids: &[],
        why: "its leases are renewed when it goes on, or lost",
    },
    Fault {
        name: LONG_PAUSE,
        voids: &[],
        why: "a guard that is asked after the pause says that it is lost; what is written without asking is what the fencing token stops",
    },
    Fault {
        name: DEATH,
        voids: &[],
        why: "its leases and places run out by themselves",
    },
    Fault {
        name: DROP,
        voids: &[],
        why: "whatever was sent is taken back",
    },
    Fault {
        name: FORGET,
        voids: &[],
        why: "a grant that nobody polls is passed on",
    },
    Fault {
        name: FORWARD,
        voids: &[
            "S1",
            "S2",
            "S3",
            "S5",
            "F1",
            "F2",
            "F4",
            "L6",
            "whole lease",
            "verdicts",
        ],
        why: "keys and places expire early, and a restarted node looks older than it is",
    },
    Fault {
        name: BACK,
        voids: &["S1", "S4", "S5", "F3", "C3", "L2"],
        why: "a late request may look early, also after the release; leases, places and graces last longer by as much. To a client that connects after that, the node seems to have started later, perhaps together with another that has just restarted. Beyond `restart_grace / 2 - 1 s` a loss of memory then voids S2 as well",
    },
    Fault {
        name: RATE,
        voids: &[
            "S1",
            "S2",
            "S3",
            "S4",
            "S5",
            "F2",
            "L6",
            "C4",
            "whole lease",
        ],
        why: "the holder trusts its lease for longer than the nodes keep it, a restarted node looks older than it is, and a deadline in the node's clock is off by what it drifted since it was last heard",
    },
    Fault {
        name: FLUSH,
        voids: &[
            "S1",
            "S2",
            "S2 in sequence",
            "S3",
            "F1",
            "F4",
            "L5",
            "L6",
            "whole lease",
        ],
        why: "it forgets like a restart, but nothing shows it: there is no grace, and its counter may start below tokens of nodes whose clocks are ahead",
    },
    Fault {
        name: COLD,
        voids: &[
            "S1",
            "S2",
            "S3",
            "S5",
            "F1",
            "F4",
            "L5",
            "L6",
            "whole lease",
        ],
        why: "nobody is left to remember; set `cold_start_grace` if that may happen. A second time soon after, or with a restart in the five seconds after, it voids S2 in sequence, too, where clocks are apart by more than half of what passed in between",
    },
    Fault {
        name: LONG_TTL,
        voids: &["S1", "S2", "whole lease"],
        why: "a node that restarted votes again while a lease that it forgot still stands",
    },
    Fault {
        name: FOREIGN,
        voids: &["F1", "F4", "verdicts", "whole lease"],
        why: "it knows of no line; S1 holds between the two",
    },
];

/// Whether `promise` holds beside `fault`.
pub(super) fn holds(promise: &str, fault: Option<&str>) -> bool {
    let voided = |known: &&Fault| Some(known.name) == fault && known.voids.contains(&promise);
    !FAULTS.iter().any(|known| voided(&known))
}

/// The faults that void something: they befall runs of their own.
pub(super) fn voiding() -> impl Iterator<Item = &'static Fault> {
    FAULTS.iter().filter(|fault| !fault.voids.is_empty())
}

/// The table as a page has it.
pub(super) fn table() -> String {
    let mut told = String::from("| fault | voids | because |\n|---|---|---|\n");
    for Fault { name, voids, why } in FAULTS {
        let voids = if voids.is_empty() {
            "nothing".to_owned()
        } else {
            voids.join(", ")
        };
        told += &format!("| {name} | {voids} | {why} |\n");
    }
    told
}
