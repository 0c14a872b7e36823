//! How often each fault befell a run, and how often the protocol took each of its branches. A fault or a branch
//! that never occurs is not tested, so a zero fails.
//!
//! What happens within the client is heard from its log; what happens on nodes is seen there.

use std::{cell::RefCell, collections::BTreeMap, fmt, sync::LazyLock};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::{
    chance::{Chance, call_of},
    faults::PANIC,
    life::is_own_task,
    world::World,
};
use crate::message::{Enqueue, Extend, Extended, Standing};

pub(super) type Counts = BTreeMap<&'static str, u64>;

/// What the client logs, by its words.
pub(super) const LOGGED: &[&str] = &[
    "votes are split, giving mine back",
    "granted, but nobody took it",
    "was parked, and is polled again",
    "node restarted, its vote does not count yet",
    "numbers differ, the highest is written back",
    "some votes and no quorum, asking again",
    "counters differ, writing the fencing token",
    "the votes are short or in doubt, extending before the guard is out",
    "the votes ended before they were taken",
    "no room in the line",
    "no place in the line, giving a vote back",
    "a push came before its answer",
    "a push matches no known waiter ttl",
    "a push came after the verdict",
    "a vote came after the verdict",
    "a vote came after the end",
    "a new connection puts a counted vote in doubt",
];

/// What the network does to messages.
pub(super) const NETWORK: &[&str] = &[
    "request lost",
    "answer lost",
    "request held up by a partition",
    "reset, request never executed",
    "reset, request executed",
    "reset, request executed later",
    "push lost",
    "push late",
    "push doubled",
    "connection replaced after timeouts",
    "unanswered by a server that answers others",
    "connected again",
    "answered over an earlier connection",
];

/// What is seen on the nodes.
pub(super) const SEEN: &[&str] = &[
    "vote in one round trip",
    "vote passed on",
    "request in line",
    "request found no room",
    "request superseded",
    "outranked by a waiter",
    "vote given back in place",
    "lease prolonged",
    "lease gone",
    "vote taken again by a repair",
    "holder in line with number 0",
    "release repeated",
    "late request refused",
    "batch of several",
    "shutdown amid the work",
    #[cfg(feature = "metrics")]
    RECORDER,
];

/// How often the recorder panicked, beside the subscriber.
#[cfg(feature = "metrics")]
const RECORDER: &str = "a recorder of the user's panics";

thread_local! {
    static COUNTS: RefCell<Counts> = const { RefCell::new(Counts::new()) };
}

thread_local! {
    /// By chance of this the listener and the recorder panic, as a user's may.
    pub(super) static PANICS: RefCell<Option<Chance>> = const { RefCell::new(None) };
}

/// One more of these.
pub(super) fn count(what: &'static str) {
    COUNTS.with_borrow_mut(|counts| *counts.entry(what).or_default() += 1);
}

/// All that was counted on this thread since the last call.
pub(super) fn take() -> Counts {
    COUNTS.take()
}

impl World {
    pub(super) fn count_standing(&self, ask: &Enqueue, standing: &Standing) {
        match standing {
            Standing::Granted { outranked, .. } => {
                count(match ask.number {
                    None => "vote in one round trip",
                    Some(_) => "vote passed on",
                });
                if *outranked {
                    count("outranked by a waiter");
                }
            }
            Standing::Waiting { .. } => count("request in line"),
            Standing::Full { .. } => count("request found no room"),
            Standing::Superseded => count("request superseded"),
        }
        if call_of(ask.id.text()).is_some_and(|(_, generation)| generation > 0) {
            count("vote given back in place");
        }
    }

    pub(super) fn count_extended(&self, ask: &Extend, had: bool, extended: Extended) {
        match extended {
            Extended::Stands { .. } if !had && ask.repair => count("vote taken again by a repair"),
            Extended::Stands { .. } => count("lease prolonged"),
            Extended::InLine => count("holder in line with number 0"),
            Extended::Gone => count("lease gone"),
        }
    }
}

/// What a user has installed is called by the client's own task, and panics now and then.
fn may_panic(what: &'static str) {
    if is_own_task() && PANICS.with_borrow_mut(|panics| panics.as_mut().is_some_and(|it| it.is(3)))
    {
        count(what);
        // Without a message for each.
        std::panic::resume_unwind(Box::new("what a user has installed panics"));
    }
}

/// Hears what the clients log.
pub(super) struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("redlock_fifo")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        if let Some(asked) = &*STEPS {
            let mut all = All(String::new());
            event.record(&mut all);
            if all.0.contains(asked) {
                println!("{}", all.0);
            }
        }
        event.record(&mut Words);
        may_panic(PANIC);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// `STEPS=-0011-` prints all that the clients log of call 17, and `STEPS=` all.
static STEPS: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("STEPS").ok());

/// An event with all its fields.
struct All(String);

impl Visit for All {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

struct Words;

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let words = format!("{value:?}");
            LOGGED
                .iter()
                .filter(|known| **known == words)
                .for_each(|known| count(known));
        }
    }
}

/// Takes what the clients measure.
#[cfg(feature = "metrics")]
pub(super) mod recorder {
    use metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    };

    use super::{RECORDER, may_panic};

    #[derive(Debug)]
    pub(in crate::simulation) struct Panicking;

    impl Recorder for Panicking {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            may_panic(RECORDER);
            Counter::noop()
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            may_panic(RECORDER);
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            may_panic(RECORDER);
            Histogram::noop()
        }
    }
}
