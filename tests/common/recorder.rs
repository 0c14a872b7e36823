//! Keeps the metrics that are told, each compared with the page that lists them.

// Not every test binary needs all of it.
#![allow(dead_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

use crate::events::{PAGE, code};

/// All values by name and labels: sums of counters and gauges, all values of a histogram; and what was described.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<BTreeMap<String, Vec<f64>>>, Mutex<BTreeSet<String>>);

struct Entry(Arc<Ledger>, String);

impl Entry {
    fn values(&self, change: impl FnOnce(&mut Vec<f64>)) {
        change(self.0.0.lock().unwrap().entry(self.1.clone()).or_default());
    }

    fn add(&self, value: f64) {
        self.values(|values| match values.first_mut() {
            Some(sum) => *sum += value,
            None => values.push(value),
        });
    }
}

impl CounterFn for Entry {
    fn increment(&self, value: u64) {
        self.add(value as f64);
    }

    fn absolute(&self, _: u64) {
        unreachable!("counters only rise");
    }
}

impl GaugeFn for Entry {
    fn increment(&self, value: f64) {
        self.add(value);
    }

    fn decrement(&self, value: f64) {
        self.add(-value);
    }

    fn set(&self, _: f64) {
        unreachable!("several clients share a gauge");
    }
}

impl HistogramFn for Entry {
    fn record(&self, value: f64) {
        self.values(|values| values.push(value));
    }
}

pub(crate) struct Recorded(pub(crate) Arc<Ledger>);

impl Recorded {
    fn described(&self, key: &KeyName, kind: &str) {
        assert_eq!(listed().get(key.as_str()), Some(&kind), "{key:?}");
        let mut all = self.0.1.lock().unwrap();
        all.insert(key.as_str().to_owned());
    }

    fn entry(&self, key: &Key) -> Arc<Entry> {
        let labels = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()));
        let labels: Vec<_> = labels.collect();
        assert!(
            listed().contains_key(key.name()),
            "{} is not listed",
            key.name()
        );
        let name = key
            .name()
            .strip_prefix("redlock_fifo_")
            .expect("our prefix");
        Arc::new(Entry(
            self.0.clone(),
            format!("{name}{{{}}}", labels.join(",")),
        ))
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.described(&key, "counter");
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.described(&key, "gauge");
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.described(&key, "histogram");
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.entry(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.entry(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.entry(key))
    }
}

/// The rows of the metrics: name and kind.
pub(crate) fn listed() -> BTreeMap<&'static str, &'static str> {
    let rows = PAGE
        .lines()
        .filter(|line| line.starts_with("| `redlock_fifo_"));
    rows.map(|line| (code(line)[0], line.split(" | ").nth(1).unwrap()))
        .collect()
}

impl Ledger {
    pub(crate) fn values(&self, name: &str) -> Vec<f64> {
        let all = self.0.lock().unwrap();
        let known: BTreeSet<_> = all.keys().collect();
        all.get(name)
            .unwrap_or_else(|| panic!("no {name} in {known:?}"))
            .clone()
    }

    pub(crate) fn described(&self) -> BTreeSet<String> {
        self.1.lock().unwrap().clone()
    }

    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.values(name).iter().sum()
    }
}
