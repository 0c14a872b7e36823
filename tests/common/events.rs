//! Hears the events that the crate tells of, and compares each with the page that lists them.

// Not every test binary needs all of it.
#![allow(dead_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, Once},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::DefaultGuard,
};

/// The page that lists everything.
pub(crate) const PAGE: &str = include_str!("../../src/docs/observability.md");

/// One event as it was told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) level: String,
    pub(crate) fields: BTreeMap<&'static str, String>,
}

impl Told {
    pub(crate) fn name(&self) -> &str {
        self.get("message")
    }

    pub(crate) fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }

    pub(crate) fn number(&self, field: &str) -> u64 {
        let text = self.get(field);
        text.parse().unwrap_or_else(|_| panic!("{field}: {self:?}"))
    }
}

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// Has a subscriber hear this thread.
#[allow(dead_code)] // Not every binary has one of its own.
pub(crate) fn set_default(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    DEAF.call_once(|| {
        // Where there is another already, that one will do.
        let _ = tracing::subscriber::set_global_default(Deaf);
    });
    tracing::subscriber::set_default(subscriber)
}

/// Hears the stable events of this thread. Spans are kept as events named by their place.
#[derive(Clone, Default)]
pub(crate) struct Listener(Arc<Mutex<Vec<Told>>>);

impl Listener {
    pub(crate) fn listen() -> (Self, DefaultGuard) {
        let listener = Self::default();
        let guard = set_default(listener.clone());
        (listener, guard)
    }

    /// All that was told, each checked against the page.
    pub(crate) fn told(&self) -> Vec<Told> {
        let told = self.0.lock().unwrap().clone();
        let events = told.iter().filter(|told| !told.name().is_empty());
        events.for_each(assert_listed);
        told
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.told().into_iter().map(|told| told.name().to_owned());
        names.filter(|name| !name.is_empty()).collect()
    }

    pub(crate) fn only(&self, name: &str) -> Told {
        let told = self.told();
        let mut found = told.iter().filter(|told| told.name() == name);
        let first = found.next().unwrap_or_else(|| panic!("{name}: {told:#?}"));
        assert!(found.next().is_none(), "{name} was told twice: {told:#?}");
        first.clone()
    }

    pub(crate) fn spans(&self) -> Vec<Told> {
        let told = self.told();
        let spans = told.into_iter().filter(|told| told.name().is_empty());
        spans.collect()
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "redlock_fifo"
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let mut told = Told::default();
        attributes.record(&mut told);
        let mut all = self.0.lock().unwrap();
        told.level = attributes.metadata().level().to_string();
        all.push(told);
        span::Id::from_u64(all.len() as u64)
    }

    fn record(&self, id: &span::Id, values: &span::Record<'_>) {
        let mut all = self.0.lock().unwrap();
        values.record(&mut all[id.into_u64() as usize - 1]);
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut told = Told {
            level: event.metadata().level().to_string(),
            ..Told::default()
        };
        event.record(&mut told);
        self.0.lock().unwrap().push(told);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

static DEAF: Once = Once::new();

/// Wants to be told of everything, and heeds nothing. Without a subscriber that is always there, an event whose
/// place another thread meets for the first time while an listener opens may be taken for one that nobody wants.
struct Deaf;

impl Subscriber for Deaf {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The words in code type of a text.
pub(crate) fn code(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The rows of the events: name, level, fields.
pub(crate) fn listed() -> BTreeMap<&'static str, (&'static str, BTreeSet<&'static str>)> {
    let rows = PAGE.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" |");
        let (level, event, fields) = (cells.next()?, cells.next()?, cells.next()?);
        let level = ["ERROR", "WARN", "INFO", "DEBUG"]
            .into_iter()
            .find(|&known| known == level)?;
        let mut fields: BTreeSet<_> = code(fields).into_iter().collect();
        if event.contains('●') {
            fields.extend(["resource", "holder_id", "ticket"]);
        }
        fields.insert("message");
        Some((code(event)[0], (level, fields)))
    });
    rows.collect()
}

fn assert_listed(told: &Told) {
    let listed = listed();
    let (level, fields) = listed
        .get(told.name())
        .unwrap_or_else(|| panic!("not listed: {told:?}"));
    let held_back = told.name() == "granted, but nobody took it" && told.level == "DEBUG";
    assert!(held_back || told.level == *level, "{told:?}");
    let optional = |field: &&str| held_back || *field == "ticket";
    for field in told.fields.keys() {
        assert!(fields.contains(field), "{field} is not listed: {told:?}");
    }
    for field in fields {
        let there = told.fields.contains_key(field);
        assert!(there || optional(field), "{field} is missing: {told:?}");
    }
}
