//! What is drawn once for a run: nodes, clients, how long things take, which behaviours and faults there are.

use std::time::Duration;

use redlock_fifo::{FifoRedlock, MemoryCluster};

use crate::chance::Chance;

/// What the caller of the program asks of all runs.
pub(crate) struct Terms {
    pub(crate) skip: Vec<String>,
    pub(crate) without: Vec<String>,
    pub(crate) loud: bool,
}

/// What happens to the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Nothing.
    Calm,
    /// One node at a time, with pauses in which a lease is repaired (L5).
    Gentle,
    /// A minority at a time hangs, is slow, loses pushes, restarts.
    Rough,
    /// Majorities hang, too.
    Outages,
    /// Keys are deleted, clocks stepped, another Redlock client takes keys: most promises are void.
    Wild,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) retry_count: u32,
    pub(crate) retry_delay: Duration,
    pub(crate) fifo_retry_count: Option<u32>,
    pub(crate) fifo_retry_delay: Duration,
    pub(crate) queue: Option<u64>,
    pub(crate) ephemeral: Duration,
    pub(crate) node_timeout: Duration,
    pub(crate) drift: f64,
    pub(crate) auto: bool,
    pub(crate) max_hold: Option<Duration>,
}

#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) weather: Weather,
    pub(crate) restarts: bool,
    pub(crate) latency: Vec<Duration>,
    pub(crate) deaf: bool,
    pub(crate) prefix: &'static str,
    pub(crate) grace: Duration,
    pub(crate) cold: bool,
    pub(crate) clients: Vec<Settings>,
    pub(crate) tasks: Vec<u64>,
    pub(crate) resources: u64,
    pub(crate) ttls: (u64, u64),
    pub(crate) horizon: Duration,
    /// Futures are dropped half-way.
    pub(crate) cancel: bool,
    /// Futures are kept unpolled.
    pub(crate) keep: bool,
    /// Tickets are taken long after they were given.
    pub(crate) late: bool,
    /// Questions about a guard in tight loops and side by side.
    pub(crate) spam: bool,
    /// Guards and futures are forgotten.
    pub(crate) forget: bool,
    /// Hundreds at once.
    pub(crate) burst: bool,
    /// Guards are extended by less than they were locked for.
    pub(crate) shorter: bool,
    /// Clients are shut down.
    pub(crate) shut: bool,
}

/// From `least` to `most`, as many draws in each power of two.
pub(crate) fn log(chance: &mut Chance, least: u64, most: u64) -> u64 {
    let (least, most) = (least.max(1), most.max(least.max(1)));
    let steps = (most / least).max(1).ilog2() + 1;
    let low = least << chance.below(u64::from(steps));
    (low + chance.below(low)).clamp(least, most)
}

pub(crate) fn log_millis(chance: &mut Chance, least: u64, most: u64) -> Duration {
    Duration::from_millis(log(chance, least, most))
}

impl Plan {
    pub(crate) fn draw(seed: u64, terms: &Terms) -> Self {
        let chance = &mut Chance::new(seed, 1);
        let with = |chance: &mut Chance, times, name: &str| {
            let drawn = chance.once_in(times);
            drawn && !terms.without.iter().any(|without| without == name)
        };
        let nodes = [1, 3, 3, 3, 5][chance.place(5)];
        let weather = match chance.below(10) {
            0..=4 => Weather::Calm,
            5 => Weather::Gentle,
            6 | 7 => Weather::Rough,
            8 => Weather::Outages,
            _ => Weather::Wild,
        };
        let weather = if nodes == 1 && weather != Weather::Wild {
            Weather::Calm
        } else {
            weather
        };
        let restarts =
            !matches!(weather, Weather::Calm) && nodes > 1 && with(chance, 2, "restarts");
        let cap = [0, 0, 2, 10, 30, 100][chance.place(6)];
        let even = chance.once_in(2).then(|| chance.millis(0, cap + 1));
        let latency: Vec<_> = (0..nodes)
            .map(|_| even.unwrap_or_else(|| chance.millis(0, cap + 1)))
            .collect();
        let slowest = latency
            .iter()
            .max()
            .map_or(0, |most| u64::try_from(most.as_millis()).unwrap());
        // Three of four runs have only settings that suit the nodes' round trips.
        let sound = !chance.once_in(4);
        let room = if sound { slowest * 4 + 10 } else { 1 };
        let grace = match chance.below(5) {
            0 => Duration::ZERO,
            1 | 2 => log_millis(chance, 2100, 60_000),
            3 => log_millis(chance, 20, 60_000),
            _ => Duration::from_secs(30),
        };
        let least = if sound { (room * 6).max(30) } else { 20 };
        let base = log(chance, least, 60_000);
        let mut ttls = ((base / 4).max(least), (base * 4).min(60_000).max(least));
        let grace_millis = u64::try_from(grace.as_millis()).unwrap();
        if restarts && grace_millis >= least && !chance.once_in(4) {
            ttls = (ttls.0.min(grace_millis), ttls.1.min(grace_millis));
        }
        let horizon = (base * 8).clamp(2_000, 60_000);
        let horizon = if weather == Weather::Calm {
            horizon
        } else {
            horizon.max(20_000)
        };
        let slow = latency.iter().all(|span| !span.is_zero());
        let clients: Vec<_> = (0..2 + chance.below(3))
            .map(|_| Settings::draw(chance, sound, room, slow))
            .collect();
        Self {
            seed,
            weather,
            restarts,
            deaf: with(chance, 6, "deaf"),
            prefix: ["", "", "p:", "{x}"][chance.place(4)],
            grace,
            cold: chance.once_in(8),
            tasks: clients.iter().map(|_| 1 + chance.below(3)).collect(),
            clients,
            resources: 1 + chance.below(2),
            ttls,
            horizon: Duration::from_millis(horizon),
            cancel: with(chance, 2, "cancel"),
            keep: with(chance, 3, "keep"),
            late: with(chance, 3, "late"),
            spam: with(chance, 3, "spam"),
            forget: with(chance, 6, "forget"),
            burst: with(chance, 25, "burst"),
            shut: with(chance, 10, "shut"),
            shorter: with(chance, 2, "shorter"),
            latency,
        }
    }

    pub(crate) fn quorum(&self) -> usize {
        self.latency.len() / 2 + 1
    }

    pub(crate) fn slowest(&self) -> Duration {
        self.latency.iter().max().copied().unwrap_or_default()
    }

    /// Whether all the clocks and memories are such that S1 is promised.
    pub(crate) fn safe(&self) -> bool {
        let covered = !self.restarts || Duration::from_millis(self.ttls.1) <= self.grace;
        self.weather != Weather::Wild && covered
    }

    /// Whether settings and ttl suit the round trips, so that what is promised of time can be asked for.
    pub(crate) fn sound(&self, client: usize, ttl: Duration) -> bool {
        let settings = &self.clients[client];
        let need = self.slowest() * 4 + Duration::from_millis(8);
        let left = |span: Duration| {
            span.mul_f64(1.0 - settings.drift)
                .saturating_sub(Duration::from_millis(2))
        };
        let margin = left(ttl).saturating_sub(ttl / 3);
        let alive = left(settings.ephemeral).saturating_sub(settings.ephemeral / 3);
        need <= settings.node_timeout.min(ttl / 3)
            && need <= margin
            && need <= alive
            && need <= settings.ephemeral / 3
    }

    /// For how long at most a client counts no vote of a node that has restarted: by a clock that drifts, too.
    pub(crate) fn longest_grace(&self) -> Duration {
        let drift = self.clients.iter().map(|settings| settings.drift);
        let drift = drift.fold(0.0, f64::max);
        self.grace + self.grace.mul_f64(drift) + Duration::from_millis(2)
    }

    /// Whether that is so for every client and ttl of the run.
    pub(crate) fn all_sound(&self) -> bool {
        (0..self.clients.len()).all(|client| self.sound(client, Duration::from_millis(self.ttls.0)))
    }

    pub(crate) fn most(&self, of: impl Fn(&Settings) -> Duration) -> Duration {
        self.clients.iter().map(of).max().unwrap_or_default()
    }

    pub(crate) async fn connect(&self, place: usize, cluster: &MemoryCluster) -> FifoRedlock {
        let settings = &self.clients[place];
        let builder = FifoRedlock::builder()
            .memory(cluster)
            .client_name(format!("c{place}"))
            .key_prefix(self.prefix)
            .restart_grace(self.grace)
            .cold_start_grace(self.cold)
            .retry_count(settings.retry_count)
            .retry_delay(settings.retry_delay)
            .fifo_retry_count(settings.fifo_retry_count)
            .fifo_retry_delay(settings.fifo_retry_delay)
            .fifo_queue_length(settings.queue)
            .fifo_ephemeral_ttl(settings.ephemeral)
            .node_timeout(settings.node_timeout)
            .clock_drift_factor(settings.drift)
            .auto_extend(settings.auto)
            .max_hold(settings.max_hold);
        builder
            .connect()
            .await
            .expect("settings that the builder accepts")
    }
}

impl Settings {
    fn draw(chance: &mut Chance, sound: bool, room: u64, slow: bool) -> Self {
        let drift = match chance.below(6) {
            0 => 0.0,
            1 => f64::from(u32::try_from(chance.below(51)).unwrap()) / 100.0,
            _ => 0.01,
        };
        let span = if sound { room * 6 } else { 20 };
        let poll = if slow && chance.once_in(12) {
            Duration::ZERO
        } else {
            log_millis(chance, 5, 1000)
        };
        Self {
            retry_count: 1 + u32::try_from(chance.below(4)).unwrap(),
            retry_delay: log_millis(chance, 1, 1000),
            fifo_retry_count: match chance.below(3) {
                0 => None,
                1 => Some(30),
                _ => Some(u32::try_from(log(chance, 1, 200)).unwrap()),
            },
            fifo_retry_delay: poll,
            queue: match chance.below(3) {
                0 => None,
                1 => Some(64),
                _ => Some(1 + chance.below(6)),
            },
            ephemeral: log_millis(chance, span.max(20), 60_000),
            node_timeout: log_millis(chance, if sound { room } else { 10 }, 1000),
            drift,
            auto: !chance.once_in(4),
            max_hold: chance.once_in(8).then(|| log_millis(chance, 20, 60_000)),
        }
    }
}
