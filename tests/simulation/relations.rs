//! How the settings of a run relate to each other and to the round trip: which of these have been tried.

use super::{
    count,
    history::{Ms, Settings},
};

/// All of them.
pub(super) const RELATIONS: &[&str] = &[
    "restart_grace below a waiter ttl",
    "restart_grace between a ttl and a waiter ttl",
    "restart_grace above every ttl and waiter ttl",
    "a ttl below the waiter ttl",
    "a ttl above the waiter ttl",
    "a ttl below three round trips",
    "a ttl below ten round trips",
    "a waiter ttl below three round trips",
    "a waiter ttl below ten round trips",
    "node_timeout below a round trip",
    "node_timeout above a third of a ttl",
    "waiter ttls that differ",
    "polls that differ",
    "node_timeouts that differ",
    "drift factors that differ",
    "a drift factor of zero",
    "a drift factor of a half",
    "a retry_delay of zero",
    "a first round that is tried again",
];

/// Counts those that hold between clients with these settings, and the ttls that they ask for.
pub(super) fn count(own: &[Settings], ttls: &[Ms]) {
    let any = |holds: &dyn Fn(&Settings, Ms) -> bool| {
        own.iter()
            .any(|own| ttls.iter().any(|ttl| holds(own, *ttl)))
    };
    let differ = |of: &dyn Fn(&Settings) -> Ms| own.iter().any(|it| of(it) != of(&own[0]));
    let found = [
        any(&|own, _| own.grace < own.ephemeral),
        any(&|own, ttl| ttl <= own.grace && own.grace < own.ephemeral),
        !any(&|own, ttl| own.grace < own.ephemeral.max(ttl)),
        any(&|own, ttl| ttl < own.ephemeral),
        any(&|own, ttl| ttl > own.ephemeral),
        any(&|own, ttl| ttl < 3 * own.round_trip()),
        any(&|own, ttl| ttl < 10 * own.round_trip()),
        any(&|own, _| own.ephemeral < 3 * own.round_trip()),
        any(&|own, _| own.ephemeral < 10 * own.round_trip()),
        any(&|own, _| own.node_timeout < own.round_trip()),
        any(&|own, ttl| own.node_timeout > ttl / 3),
        differ(&|own| own.ephemeral),
        differ(&|own| own.poll),
        differ(&|own| own.node_timeout),
        differ(&|own| own.drift),
        any(&|own, _| own.drift == 0),
        any(&|own, _| own.drift == 500),
        any(&|own, _| own.retry == 0),
        any(&|own, _| own.attempts > 1),
    ];
    for (name, _) in RELATIONS.iter().zip(found).filter(|(_, found)| *found) {
        count::count(name);
    }
}
