//! What a lease is owed by nodes that are well: to be renewed (L6), and to stand on all of them for its full ttl.
//!
//! A node is well for a client while everything that is sent arrives in time; see `World::healthy_for`.

use super::{
    history::{Ms, What},
    world::World,
};

/// A node that has been well for so long has heard of everything that was to be taken back on it.
const SETTLED: Ms = 5000;

impl World {
    /// The lease of a guard has ended: notes it if a quorum that had voted for it was well all along (L6).
    pub(super) fn check_loss(&mut self, number: u16) {
        let call = self.history.call(number).clone();
        let settings = self.history.settings_of(number);
        let now = self.now();
        let Some(had) = call.had else { return };
        if call.limited || call.renews.is_none() || !settings.answers_in_time(call.ttl) {
            return;
        }
        // What was wrong before that may have cost the lease, and what was wrong in between as well.
        let longest = call.longest + settings.ephemeral + 2 * settings.node_timeout;
        let span = (now - call.asked).min(longest);
        let since = had.max(now.saturating_sub(call.longest));
        let well = |node: &usize| {
            let voted = self.servers[*node].voted_since(call.resource, number);
            self.healthy_for(call.client, *node) >= span
                && voted.is_some_and(|voted| voted <= since)
        };
        let healthy = (0..self.servers.len()).filter(well).count();
        if healthy >= self.history.settings.quorum {
            self.note(What::LostBeside {
                call: number,
                healthy,
                span,
            });
        }
    }

    /// Notes which nodes that are well have not got the key of a guard for as long as they should: until
    /// `valid_until`, as the guard had it a few round trips ago, or for two thirds of the ttl if it is renewed.
    pub(super) fn check_whole(&mut self, number: u16, valid_until: Ms) {
        let call = self.history.call(number).clone();
        let settings = self.history.settings_of(number).clone();
        let (now, few) = (self.now(), settings.few());
        if !settings.answers_in_time(call.ttl) || !settings.waits_in_time(call.first) {
            return;
        }
        let least = match call.renews {
            None => {
                let left = valid_until.saturating_sub(now);
                // What was granted and not taken yet was kept fresh, node by node.
                left.saturating_sub(left / 50 + 3 + call.lag + few)
            }
            // It is sent again after a third, and answered a round trip later.
            Some(every) => {
                let due = now - call.changed >= few + every / 8;
                if !due || call.limited || every > call.ttl / 3 + 1 {
                    return;
                }
                call.ttl
                    .saturating_sub(call.ttl / 50 + every + few + call.lag)
            }
        };
        for node in 0..self.servers.len() {
            let server = &self.servers[node];
            let meddled = server.meddled.is_some_and(|meddled| {
                // It can know when it renews the next time.
                let known = call.knows_after().map(|span| meddled + span + 2 * few);
                meddled >= call.asked && known.is_none_or(|known| now < known)
            });
            // Who has the vote meanwhile gives it back when it asks the next time.
            let holder = server.holder(call.resource, now);
            let taken = holder.is_some_and(|holder| holder != number);
            let poll = self.history.settings.poll;
            let asks =
                |since: Ms| now < since + 2 * few + 2 * poll + call.knows_after().unwrap_or(0);
            let taken =
                taken && (asks(call.had.unwrap_or(now)) || server.meddled.is_some_and(asks));
            // What the node has from an old snapshot stands until it runs out.
            let taken = taken || holder.is_some_and(|holder| server.restored.contains(&holder));
            let left = server.key_left(call.resource, number, now).unwrap_or(0);
            if left < least && !meddled && !taken && self.is_settled(node, call.resource, number) {
                self.note(What::Part {
                    call: number,
                    node,
                    left,
                    least,
                });
            }
        }
    }

    /// Whether nothing but the clients themselves keeps a node from having the key of that call.
    fn is_settled(&self, node: usize, resource: usize, number: u16) -> bool {
        let now = self.now();
        let client = self.history.call(number).client;
        let well = |client: usize| {
            let entered = now - self.entered[client];
            let way = &self.ways[client][node];
            self.healthy_for(client, node) >= SETTLED.min(entered)
                && way.weather.loses_pushes == 0
                && way.weather.late_pushes <= way.weather.delay.1
        };
        // Who uses the resource, and has not crashed; and what one that crashed has left.
        let others = self.history.numbered().filter(|(other, call)| {
            *other != number && call.resource == resource && call.client != client
        });
        let mut others = others.map(|(_, call)| call.client);
        let holder = self.servers[node].holder(resource, now);
        let left_over = holder
            .filter(|holder| *holder != number)
            .is_some_and(|holder| {
                let call = self.history.call(holder);
                // Whoever has the vote alone gives it back when it has heard of the others.
                let entered = now - self.entered[call.client];
                let hears = |node| self.healthy_for(call.client, node) >= SETTLED.min(entered);
                let all = (0..self.servers.len()).all(hears);
                call.idle || self.lives[call.client].is_dead() || !all
            });
        !left_over && well(client) && others.all(|other| self.lives[other].is_dead() || well(other))
    }

    /// Whether every lease should stand on all nodes, and none is about to begin.
    pub(super) fn is_whole(&self) -> bool {
        let now = self.now();
        let few = self.history.settings.few();
        let owed = |call: u16| {
            let it = self.history.call(call);
            let meddled = self
                .servers
                .iter()
                .filter_map(|server| server.meddled)
                .max();
            // It can know when it renews the next time; one that does not never does.
            let known = match meddled.filter(|meddled| *meddled >= it.asked) {
                None => true,
                Some(meddled) => it
                    .knows_after()
                    .is_some_and(|span| meddled + span + 2 * few < now),
            };
            known && it.had.is_some_and(|had| had + few < now)
        };
        let calls = self.history.calls.iter().map(|call| call.resource);
        let mut resources: Vec<usize> = calls.skip(1).collect();
        resources.sort_unstable();
        resources.dedup();
        resources.into_iter().all(|resource| {
            let holders = self
                .servers
                .iter()
                .map(|server| server.holder(resource, now));
            let holders: Vec<_> = holders.collect();
            let out = |holder: &Option<u16>| holder.is_some_and(|call| self.is_out(call));
            let guards = self.guards.iter().map(|out| out.call);
            let mut guards = guards.filter(|call| self.history.call(*call).resource == resource);
            // Where there is no guard the votes of a grant may be few.
            let equal = holders.iter().all(|holder| *holder == holders[0]);
            (equal || holders.iter().any(out)) && guards.all(owed)
        })
    }

    fn is_out(&self, call: u16) -> bool {
        self.guards.iter().any(|out| out.call == call)
    }

    /// A call was told that there is no quorum: notes how many nodes could be reached all the time, and were past
    /// their grace, if it is a quorum.
    pub(super) fn check_no_quorum(&mut self, number: u16) {
        let call = self.history.call(number).clone();
        let settings = self.history.settings_of(number).clone();
        let (now, asked) = (self.now(), call.asked);
        let patient = now - asked > settings.round_trip();
        if !patient || !settings.answers_in_time(call.ttl) || !settings.waits_in_time(call.first) {
            return;
        }
        let could = |node: &usize| {
            // Uptime is counted in whole seconds.
            let started = self.servers[*node].started;
            let grace = settings.grace + settings.grace * settings.drift / 1000;
            let counts = started == 0 || started + grace + 2000 <= asked;
            // It may have been connected in the very millisecond after.
            counts && self.healthy_for(call.client, *node) > now - asked
        };
        let healthy = (0..self.servers.len()).filter(could).count();
        if healthy >= settings.quorum {
            self.note(What::NoQuorumBeside {
                call: number,
                healthy,
            });
        }
    }
}
