//! The metrics, through the facade `metrics`. Without the feature of that name all of this does nothing.
//!
//! No label has an unbounded set of values: resources and holder ids are no labels. The label of a node is its address,
//! without credentials.

/// How long requests waited, by how that ended: `acquired`, `left`.
pub(crate) const WAIT: &str = "redlock_fifo_wait_seconds";
/// How long leases were held, by how that ended: `released`, `lost`.
pub(crate) const HOLD: &str = "redlock_fifo_hold_seconds";
/// How many waiters were ahead of a request when its place was agreed.
pub(crate) const AHEAD: &str = "redlock_fifo_waiters_ahead";
/// How much of the ttl was left when a renewal got through.
pub(crate) const MARGIN: &str = "redlock_fifo_renewal_margin_ratio";
/// Requests of this process that are in line.
pub(crate) const WAITERS: &str = "redlock_fifo_waiters";
/// Leases that this process holds.
pub(crate) const HOLDERS: &str = "redlock_fifo_holders";
/// The leases among them that stand on a bare quorum of the nodes: one fault of a node may end them.
pub(crate) const BARE: &str = "redlock_fifo_bare_quorum_holders";
/// Open connections to a node.
pub(crate) const NODES_UP: &str = "redlock_fifo_node_connections";
/// Leases that were granted after a wait in line.
pub(crate) const HANDOFFS: &str = "redlock_fifo_handoffs_total";
/// Renewals that got through to a quorum.
pub(crate) const RENEWALS: &str = "redlock_fifo_renewals_total";
/// Leases that were lost, by cause.
pub(crate) const LOST: &str = "redlock_fifo_leases_lost_total";
/// How often votes were given back.
pub(crate) const SPLIT_VOTES: &str = "redlock_fifo_split_votes_total";
/// Grants that were passed on because nobody polled.
pub(crate) const UNPOLLED: &str = "redlock_fifo_unpolled_grants_total";
/// Calls that ended without a guard, by reason.
pub(crate) const REFUSALS: &str = "redlock_fifo_refusals_total";
/// Calls to a node that failed, by node and kind.
#[cfg(feature = "metrics")]
pub(crate) const NODE_ERRORS: &str = "redlock_fifo_node_errors_total";

/// A label's name and its value.
type Label<'a> = Option<(&'static str, &'a str)>;

#[cfg(feature = "metrics")]
mod facade {
    use metrics::{
        Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    };

    use super::*;

    fn labels(label: Label<'_>) -> Vec<metrics::Label> {
        let own = |(name, value): (&'static str, &str)| metrics::Label::new(name, value.to_owned());
        label.map(own).into_iter().collect()
    }

    pub(crate) fn count(name: &'static str, label: Label<'_>) {
        counter!(name, labels(label)).increment(1);
    }

    pub(crate) fn count_node_error(node: &str, kind: &'static str) {
        counter!(NODE_ERRORS, "node" => node.to_owned(), "error" => kind).increment(1);
    }

    pub(crate) fn change(name: &'static str, by: f64, label: Label<'_>) {
        gauge!(name, labels(label)).increment(by);
    }

    pub(crate) fn observe(name: &'static str, value: f64, label: Label<'_>) {
        histogram!(name, labels(label)).record(value);
    }

    /// Tells the recorder what they are; it must be there by then. All that can be told of beforehand starts at
    /// zero: of what appears with its first event, an alert on a rise does not see that.
    pub(crate) fn describe() {
        let histograms = [
            (WAIT, Unit::Seconds, "How long requests waited."),
            (HOLD, Unit::Seconds, "How long leases were held."),
            (AHEAD, Unit::Count, "Waiters ahead when a place was agreed."),
            (MARGIN, Unit::Count, "Part of the ttl left at a renewal."),
        ];
        for (name, unit, help) in histograms {
            describe_histogram!(name, unit, help);
        }
        for (name, help) in [
            (WAITERS, "Requests of this process that are in line."),
            (HOLDERS, "Leases that this process holds."),
            (
                BARE,
                "Leases of this process that stand on a bare quorum of the nodes.",
            ),
            (NODES_UP, "Connections to the node that stand."),
        ] {
            describe_gauge!(name, Unit::Count, help);
        }
        for (name, help) in [
            (HANDOFFS, "Leases that were had by waiting in line."),
            (RENEWALS, "Renewals that got through to a quorum."),
            (LOST, "Leases that were lost."),
            (SPLIT_VOTES, "How often votes were given back."),
            (UNPOLLED, "Grants passed on because nobody polled."),
            (REFUSALS, "Calls that ended without a guard."),
            (NODE_ERRORS, "Calls to the node that failed."),
        ] {
            describe_counter!(name, Unit::Count, help);
        }
        for name in [HANDOFFS, RENEWALS, SPLIT_VOTES, UNPOLLED] {
            counter!(name).increment(0);
        }
        for cause in ["expired", "quorum_lost", "max_hold"] {
            counter!(LOST, "cause" => cause).increment(0);
        }
        for reason in [
            "timed_out",
            "queue_full",
            "no_quorum",
            "shut_down",
            "stopped",
        ] {
            counter!(REFUSALS, "reason" => reason).increment(0);
        }
        for name in [WAITERS, HOLDERS, BARE] {
            gauge!(name).increment(0.0);
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod facade {
    use super::Label;

    pub(crate) fn count(_: &'static str, _: Label<'_>) {}

    pub(crate) fn count_node_error(_: &str, _: &'static str) {}

    pub(crate) fn change(_: &'static str, _: f64, _: Label<'_>) {}

    pub(crate) fn observe(_: &'static str, _: f64, _: Label<'_>) {}

    pub(crate) fn describe() {}
}

pub(crate) use facade::{change, count, count_node_error, describe, observe};
