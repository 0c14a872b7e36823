//! Who is compared, what each guarantees, and how each is set.
//!
//! Settings that are alike for all: ttl 10 s; 500 ms for a node's answer and TCP_NODELAY where the crate lets its
//! user say so; waiters never give up; a poll delay of 5 ms, where their defaults are 50 to 200 ms.
//! `--tune` measures the handoffs to another task with other delays; the best belongs here.

use std::time::Duration;

/// What runs it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Rust,
    Node,
    Python,
}

pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// The package whose version is shown.
    pub(crate) package: &'static str,
    /// On how many nodes it can be.
    pub(crate) quorum: bool,
    /// Whether it can wait for a lock that is held; the floor cannot.
    pub(crate) waits: bool,
    /// Whether it excludes other processes while it waits; a local mutex does not.
    pub(crate) processes: bool,
    pub(crate) order: &'static str,
    pub(crate) extends: &'static str,
    pub(crate) waiting: &'static str,
    /// Its delay between two polls, in ms; 0 where it does not poll or cannot be told.
    pub(crate) poll: u64,
    /// Whether each uncontended cycle needs a resource of its own.
    pub(crate) fresh: bool,
    /// What its server must be told.
    pub(crate) config: Option<(&'static str, &'static str)>,
    pub(crate) note: &'static str,
}

impl Entry {
    pub(crate) fn fits(&self, nodes: usize) -> bool {
        self.quorum || nodes == 1
    }

    pub(crate) fn poll(&self) -> Duration {
        Duration::from_millis(self.poll)
    }

    /// Whether it is no lock but what locks are measured by.
    pub(crate) fn is_reference(&self) -> bool {
        self.package == "redis"
    }

    /// What it guarantees, in a word each.
    pub(crate) fn guarantees(&self) -> String {
        let nodes = if self.quorum { "majority" } else { "one node" };
        format!("{}; {nodes}; {}", self.order, self.extends)
    }
}

const RUST: Entry = Entry {
    name: "",
    kind: Kind::Rust,
    package: "",
    quorum: true,
    waits: true,
    processes: true,
    order: "chance",
    extends: "does not extend",
    waiting: "polls",
    poll: 5,
    fresh: false,
    config: None,
    note: "",
};

const FLOOR: Entry = Entry {
    package: "redis",
    processes: false,
    extends: "no lock",
    poll: 0,
    ..RUST
};

pub(crate) const ALL: &[Entry] = &[
    Entry {
        name: "redlock-fifo",
        package: "redlock-fifo",
        order: "FIFO",
        extends: "extends itself",
        waiting: "pushed",
        poll: 0,
        note: "defaults, with `fifo_retry_count` and `fifo_queue_length` unlimited",
        ..RUST
    },
    Entry {
        name: "floor",
        waits: false,
        order: "none",
        waiting: "cannot wait",
        note: "SET NX PX and compare-and-delete to all nodes, verdict at the majority; no validity, no clean-up",
        ..FLOOR
    },
    Entry {
        name: "floor (all answers)",
        waits: false,
        order: "none",
        waiting: "cannot wait",
        note: "the same, waiting for every node (`join_all`)",
        ..FLOOR
    },
    Entry {
        name: "local mutex + floor",
        order: "FIFO in one process",
        waiting: "local",
        note: "tokio::sync::Mutex in front of the floor; other processes are not waited for",
        ..FLOOR
    },
    Entry {
        name: "local mutex + floor (all answers)",
        order: "FIFO in one process",
        waiting: "local",
        note: "the same in front of `join_all`",
        ..FLOOR
    },
    Entry {
        name: "rslock",
        package: "rslock",
        extends: "extends in `using`",
        note: "`acquire`, random delay up to the poll; asks all, waits for all; its node timeout is fixed at 500 ms",
        ..RUST
    },
    Entry {
        name: "redis-lock",
        package: "redis-lock",
        note: "`lock_across`; lock returns at the majority, unlock waits for all",
        ..RUST
    },
    Entry {
        name: "distributed-lock",
        package: "distributed-lock-redis",
        extends: "extends itself",
        fresh: true,
        note: "`try_acquire` in a loop; releases only the nodes that answered first, so a fresh resource for each uncontended cycle",
        ..RUST
    },
    Entry {
        name: "redisson RedLock",
        package: "redisson",
        extends: "extends itself",
        note: "`lock_with_retries`, not `lock`, which measures the network first; pool of 128",
        ..RUST
    },
    Entry {
        name: "redlock-async",
        package: "redlock-async",
        note: "`lock`/`unlock`, random delay up to the poll; connects for each command; no node timeout",
        ..RUST
    },
    Entry {
        name: "redlock",
        package: "redlock",
        note: "blocking, a thread for each waiter; random delay up to the poll; connects for each command, nodes in turn; no node timeout",
        ..RUST
    },
    Entry {
        name: "redsync",
        package: "redsync",
        extends: "extends by hand",
        note: "blocking, a thread for each waiter; poll ± half; connects for each command, nodes in turn",
        ..RUST
    },
    Entry {
        name: "rust_redlock",
        package: "rust_redlock",
        extends: "extends by hand",
        note: "blocking, a thread for each waiter; connects for each command, nodes in turn; counts a success only if the last node agrees",
        ..RUST
    },
    Entry {
        name: "async-redis-lock",
        package: "async-redis-lock",
        quorum: false,
        extends: "extends itself",
        ..RUST
    },
    Entry {
        name: "distkit",
        package: "distkit",
        quorum: false,
        extends: "extends itself",
        note: "its poll timer's first tick costs about 1 ms also where the lock is free",
        ..RUST
    },
    Entry {
        name: "rdlock",
        package: "rdlock",
        quorum: false,
        waiting: "pushed, to all waiters",
        poll: 0,
        config: Some(("notify-keyspace-events", "KA")),
        note: "keyspace notifications, switched on for its turns only; connects for each lock",
        ..RUST
    },
    Entry {
        name: "rds_lock",
        package: "rds_lock",
        quorum: false,
        extends: "extends itself",
        ..RUST
    },
    Entry {
        name: "redisson FairLock",
        package: "redisson",
        quorum: false,
        order: "claims FIFO",
        waiting: "polls, fixed 100 ms",
        note: "tries again after the poll where it gives up",
        ..RUST
    },
    Entry {
        name: "npm redlock",
        kind: Kind::Node,
        package: "redlock",
        extends: "extends in `using`",
        note: "`acquire` without its own retries in a loop, poll ± half, since its retries trip over the keys of their own lost votes; ioredis",
        ..RUST
    },
    Entry {
        name: "redlock-py",
        kind: Kind::Python,
        package: "redlock-py",
        note: "a thread for each waiter; nodes in turn",
        ..RUST
    },
    Entry {
        name: "Python redlock-fifo",
        kind: Kind::Python,
        package: "redlock-fifo",
        order: "FIFO by a ladder",
        extends: "extends on request",
        note: "a thread for each waiter; `fifo_queue_length` 64 (its default); both delays are the poll",
        ..RUST
    },
];

/// The version of a crate that this comparison is built with.
pub(crate) fn crate_version(package: &str) -> String {
    let lock = include_str!("../Cargo.lock");
    let head = format!("name = \"{package}\"\nversion = \"");
    let found: Vec<&str> = lock
        .split(&head)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    // Of several, the newest is the last.
    found.last().copied().unwrap_or("?").to_owned()
}
