//! The settings, validated as a whole before anything is sent.

mod validity;

use std::time::Duration;

use validity::{drift, undrifted};

use crate::{
    error::{ArgumentError, BuildError},
    resource::{MAX_TTL, MIN_TTL, Ttl},
};

/// The longest waiter ttl. The scripts have the same limit: it bounds a vote that is handed over.
const MAX_WAITER_TTL: Duration = Duration::from_secs(3600);

/// The shortest time that a node may be given to answer.
const MIN_NODE_TIMEOUT: Duration = Duration::from_millis(10);

/// The longest name of a client, in bytes.
const MAX_CLIENT_NAME: usize = 128;

/// Every setting of a client. The builder documents them for users.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) retry_count: u32,
    pub(crate) retry_delay: Duration,
    /// `None`: waiters never give up.
    pub(crate) fifo_retry_count: Option<u32>,
    pub(crate) fifo_retry_delay: Duration,
    /// `None`: any number of waiters.
    pub(crate) fifo_queue_length: Option<u64>,
    pub(crate) fifo_ephemeral_ttl: Duration,
    pub(crate) node_timeout: Duration,
    pub(crate) clock_drift_factor: f64,
    pub(crate) key_prefix: String,
    pub(crate) restart_grace: Duration,
    pub(crate) cold_start_grace: bool,
    pub(crate) auto_extend: bool,
    pub(crate) max_hold: Option<Duration>,
    /// Guards that are held for longer are warned of; `None`: none.
    pub(crate) long_hold: Option<Duration>,
    /// `None`: host name and process id.
    pub(crate) client_name: Option<String>,
    #[cfg(feature = "tls")]
    pub(crate) tls: TlsSettings,
}

/// Which authorities to trust and which certificate to show, in PEM form. Read when a node needs it.
#[cfg(feature = "tls")]
#[derive(Clone, Default)]
pub(crate) struct TlsSettings {
    /// `None`: the authorities that the platform trusts.
    pub(crate) ca: Option<Vec<u8>>,
    /// Certificate chain and private key.
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
}

/// Tells whether they are set, and nothing of their content.
#[cfg(feature = "tls")]
impl std::fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSettings")
            .field("ca", &self.ca.is_some())
            .field("client", &self.client.is_some())
            .finish()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retry_count: 1,
            retry_delay: Duration::from_millis(200),
            fifo_retry_count: Some(30),
            fifo_retry_delay: Duration::from_millis(200),
            fifo_queue_length: Some(64),
            fifo_ephemeral_ttl: Duration::from_secs(5),
            node_timeout: Duration::from_millis(500),
            clock_drift_factor: 0.01,
            key_prefix: String::new(),
            restart_grace: Duration::from_secs(30),
            cold_start_grace: false,
            auto_extend: true,
            max_hold: None,
            long_hold: Some(Duration::from_secs(600)),
            client_name: None,
            #[cfg(feature = "tls")]
            tls: TlsSettings::default(),
        }
    }
}

impl Config {
    /// Refuses settings that are out of range or contradict each other.
    pub(crate) fn validate(&self) -> Result<(), BuildError> {
        let refuse = |setting, reason| Err(BuildError::InvalidSetting { setting, reason });
        if !(0.0..=0.5).contains(&self.clock_drift_factor) {
            return refuse("clock_drift_factor", "must lie between 0 and 0.5");
        }
        if self.retry_count == 0 {
            return refuse("retry_count", "must be at least 1");
        }
        if self.fifo_retry_count == Some(0) {
            return refuse("fifo_retry_count", "must be at least 1, or unlimited");
        }
        if self.fifo_queue_length == Some(0) {
            return refuse("fifo_queue_length", "must be at least 1, or unlimited");
        }
        if self.node_timeout < MIN_NODE_TIMEOUT {
            return refuse("node_timeout", "must be at least 10 ms");
        }
        if !(MIN_TTL..=MAX_WAITER_TTL).contains(&self.fifo_ephemeral_ttl) {
            return refuse("fifo_ephemeral_ttl", "must lie between 20 ms and an hour");
        }
        if self.max_hold == Some(Duration::ZERO) {
            return refuse("max_hold", "must not be zero");
        }
        if self.long_hold == Some(Duration::ZERO) {
            return refuse("long_hold", "must not be zero");
        }
        let spans = [
            ("retry_delay", self.retry_delay),
            ("fifo_retry_delay", self.fifo_retry_delay),
            ("fifo_ephemeral_ttl", self.fifo_ephemeral_ttl),
            ("node_timeout", self.node_timeout),
            ("restart_grace", self.restart_grace),
        ];
        if let Some((setting, _)) = spans.iter().find(|(_, span)| *span > MAX_TTL) {
            return refuse(setting, "is longer than 68 years");
        }
        if self.fifo_retry_count.is_some() && self.poll().is_zero() {
            return refuse(
                "fifo_retry_count",
                "counts polls of no length: give retry_delay or fifo_retry_delay a length",
            );
        }
        if self.key_prefix.len() >= crate::resource::MAX_NAME {
            return refuse("key_prefix", "leaves no room for a name");
        }
        if self.key_prefix.contains(['{', '}']) && !crate::resource::has_tag(&self.key_prefix) {
            return refuse("key_prefix", "has a brace but no hash tag");
        }
        match &self.client_name {
            Some(name) if name.is_empty() || name.len() > MAX_CLIENT_NAME => {
                refuse("client_name", "must have between 1 and 128 bytes")
            }
            Some(name) if name.chars().any(char::is_control) => {
                refuse("client_name", "must not hold control characters")
            }
            _ => Ok(()),
        }
    }

    /// How far apart the nodes' clocks may be for fencing tokens to rise after a loss of memory (S2). A new counter
    /// gets half of the grace on top; a second less covers how far a start is ahead of the clock, and uptimes in whole
    /// seconds. `None` if that leaves nothing: no two clocks show the very same time.
    pub(crate) fn most_apart(&self) -> Option<Duration> {
        let span = (self.restart_grace / 2).saturating_sub(Duration::from_secs(1));
        (!span.is_zero()).then_some(span)
    }

    /// How often a lease of `ttl` is renewed if the user asks for `every`: often enough for one renewal to be answered
    /// in time, and no more often than is of use.
    pub(crate) fn interval(&self, every: Duration, ttl: Ttl) -> Result<Duration, ArgumentError> {
        if every.is_zero() {
            return Err(ArgumentError::ZeroInterval);
        }
        let most = self.validity(ttl.get()) * 2 / 3;
        if every > most {
            return Err(ArgumentError::IntervalTooLong { every, most });
        }
        Ok(every.max(MIN_TTL.min(most)))
    }

    /// How long a waiter waits without moving forward: in Python a poll takes `retry_delay` and
    /// `fifo_retry_delay`. `None`: for ever.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.fifo_retry_count
            .map(|polls| self.poll().saturating_mul(polls))
    }

    /// For how long a lease of `ttl` can be trusted from the send of its request.
    pub(crate) fn validity(&self, ttl: Duration) -> Duration {
        validity::of(ttl, self.clock_drift_factor)
    }

    /// The ttl of a lease that can be trusted for `validity`.
    pub(crate) fn ttl_of(&self, validity: Duration) -> Duration {
        undrifted(validity, self.clock_drift_factor)
    }

    /// How long `span` is at most by a clock that is slower than ours.
    pub(crate) fn by_a_slow_clock(&self, span: Duration) -> Duration {
        span.saturating_add(drift(span, self.clock_drift_factor))
    }

    /// For how long the vote of a restarted node does not count: the leases that it may have forgotten last longer by a
    /// clock that is slower than ours.
    pub(crate) fn grace(&self) -> Duration {
        if self.restart_grace.is_zero() {
            return Duration::ZERO;
        }
        self.by_a_slow_clock(self.restart_grace)
    }

    /// How long a request of a lease of `ttl` may take: short enough to try thrice within its validity.
    pub(crate) fn timeout(&self, ttl: Duration) -> Duration {
        self.node_timeout.min(self.validity(ttl) / 3)
    }

    /// How often the head of the line asks. There is a least, or a client would do nothing else.
    pub(crate) fn head_poll(&self) -> Duration {
        self.fifo_retry_delay.max(Duration::from_millis(1))
    }

    /// How often a waiter refreshes its place: three times while a vote that grows from it can be trusted.
    pub(crate) fn keep_alive(&self, waiter_ttl: Duration) -> Duration {
        self.validity(waiter_ttl) / 3
    }

    fn poll(&self) -> Duration {
        self.retry_delay.saturating_add(self.fifo_retry_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Spoil = fn(&mut Config);

    #[test]
    fn defaults_are_valid_and_wait_as_long_as_python() {
        let config = Config::default();
        config.validate().expect("valid");
        assert_eq!(config.patience(), Some(Duration::from_secs(12)));
    }

    #[test]
    fn zero_and_contradictory_settings_are_refused_by_name() {
        let cases: [(&str, Spoil); 12] = [
            ("retry_count", |c| c.retry_count = 0),
            ("fifo_retry_count", |c| c.fifo_retry_count = Some(0)),
            ("fifo_queue_length", |c| c.fifo_queue_length = Some(0)),
            ("fifo_ephemeral_ttl", |c| {
                c.fifo_ephemeral_ttl = Duration::from_millis(2)
            }),
            ("node_timeout", |c| c.node_timeout = Duration::ZERO),
            ("clock_drift_factor", |c| c.clock_drift_factor = f64::NAN),
            ("clock_drift_factor", |c| c.clock_drift_factor = -0.1),
            ("max_hold", |c| c.max_hold = Some(Duration::ZERO)),
            ("long_hold", |c| c.long_hold = Some(Duration::ZERO)),
            ("client_name", |c| c.client_name = Some(String::new())),
            ("restart_grace", |c| c.restart_grace = Duration::MAX),
            ("fifo_retry_count", |c| {
                c.retry_delay = Duration::ZERO;
                c.fifo_retry_delay = Duration::ZERO;
            }),
        ];
        for (name, spoil) in cases {
            let mut config = Config::default();
            spoil(&mut config);
            match config.validate() {
                Err(BuildError::InvalidSetting { setting, .. }) => assert_eq!(setting, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
