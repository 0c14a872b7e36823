//! The builder: nodes, settings, connect.

mod connect;

use std::{fmt, time::Duration};

use crate::{
    builder::connect::Source,
    config::Config,
    error::BuildError,
    node::{memory::MemoryCluster, redis::RedisNode},
    redlock::FifoRedlock,
};
#[cfg(test)]
use crate::{
    node::{Context, Node},
    runtime::clock::Clock,
};

/// Builds a [`FifoRedlock`] from nodes and settings.
///
/// The settings have the names, defaults and meaning of the Python project `redlock-fifo` where that has
/// them.
///
/// # Examples
///
/// ```no_run
/// # use std::time::Duration;
/// # #[tokio::main]
/// # async fn main() -> Result<(), redlock_fifo::BuildError> {
/// let redlock = redlock_fifo::FifoRedlock::builder()
///     .node("redis://a")
///     .node("redis://b")
///     .node("redis://c")
///     .key_prefix("billing:")
///     .fifo_queue_length(1000)
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
#[must_use = "a builder does nothing until it connects"]
pub struct FifoRedlockBuilder {
    sources: Vec<Source>,
    config: Config,
}

impl FifoRedlockBuilder {
    /// Adds the server at `url` as a node: `redis://[user:password@]host[:port][/db]`, or
    /// `redis+unix:///path`. The connection speaks RESP3, unless the URL says `?protocol=resp2`; then the node
    /// is polled, as it cannot push. `rediss://` in place of `redis://` means TLS, with the feature `tls`. The
    /// server's certificate is always verified, so `#insecure` is refused.
    pub fn node(mut self, url: impl AsRef<str>) -> Self {
        self.sources.push(Source::Url(url.as_ref().to_owned()));
        self
    }

    /// Adds a node that is reached through a connection of yours: a `ConnectionManager`, a cluster or
    /// sentinel connection, or any other that can be cloned.
    ///
    /// Such a node is polled every `fifo_retry_delay`, as it cannot push. A restart of the server is seen
    /// only when it surfaces as an error, so S5 (no vote from a server that forgot) is weaker there; and
    /// behind a cluster or sentinel a failover may lose the lock, as replication there is asynchronous. How to
    /// hand such a connection over: [`tuning`](crate::docs::tuning).
    pub fn connection<C>(mut self, connection: C) -> Self
    where
        C: redis::aio::ConnectionLike + Clone + Send + Sync + 'static,
    {
        self.sources
            .push(Source::Connection(Box::new(|name, context, roster| {
                RedisNode::over(name, connection, context, roster)
            })));
        self
    }

    /// Adds all nodes of `cluster`, which other clients can share. Cannot be mixed with real nodes.
    pub fn memory(mut self, cluster: &MemoryCluster) -> Self {
        self.sources.push(Source::Memory(cluster.clone()));
        self
    }

    /// The name of this client in [`FifoRedlock::inspect`], 1 to 128 bytes.
    ///
    /// Defaults to host name and process id, because that is what an operator looks for.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.config.client_name = Some(name.into());
        self
    }

    /// How often the nodes are asked when too few of them answer.
    ///
    /// Defaults to 1, as in Python: a caller who asks again soon anyway wants to know at once.
    pub fn retry_count(mut self, attempts: u32) -> Self {
        self.config.retry_count = attempts;
        self
    }

    /// The pause between the attempts of `retry_count`.
    ///
    /// Defaults to 200 ms, as in Python.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.config.retry_delay = delay;
        self
    }

    /// After how many polls in a row without moving forward a waiter gives up; `None` means never. A poll
    /// counts as `retry_delay` plus `fifo_retry_delay`, as in Python.
    ///
    /// Defaults to 30, as in Python, which makes 12 s. If a holder may work for longer, set `None` here, or
    /// [`LockRequest::wait_forever`](crate::LockRequest::wait_forever) on the request.
    pub fn fifo_retry_count(mut self, polls: impl Into<Option<u32>>) -> Self {
        self.config.fifo_retry_count = polls.into();
        self
    }

    /// How often the first in line asks the nodes, in case the message of its turn is lost. Zero means as often
    /// as possible.
    ///
    /// Defaults to 200 ms, as in Python. Servers that push pass the turn on at once, whatever this setting is.
    pub fn fifo_retry_delay(mut self, delay: Duration) -> Self {
        self.config.fifo_retry_delay = delay;
        self
    }

    /// How many requests may wait for one resource, besides the holder; `None` means any number.
    ///
    /// Defaults to 64, as in Python. Later requests keep trying to get into the line, and fail with `QueueFull`
    /// when they time out. They get in in order of arrival among those of one client, but not between clients.
    pub fn fifo_queue_length(mut self, waiters: impl Into<Option<u64>>) -> Self {
        self.config.fifo_queue_length = waiters.into();
        self
    }

    /// For how long a node keeps the place of a waiter that it does not hear of, 20 ms to an hour. If the ttl of
    /// a request is shorter, the ttl counts instead.
    ///
    /// Defaults to 5 s, as in Python. All dead waiters together delay the next live one by at most this long.
    /// A client that is cut off for longer loses its places.
    pub fn fifo_ephemeral_ttl(mut self, ttl: Duration) -> Self {
        self.config.fifo_ephemeral_ttl = ttl;
        self
    }

    /// How long one node may take to answer, at least 10 ms. A request never waits for longer than a third of the
    /// ttl, and a keep-alive for two thirds of the waiter ttl. The time counts from when the command is sent.
    ///
    /// Defaults to 500 ms, because that is far above any healthy answer. A slow node is not waited for when the
    /// others make a quorum.
    pub fn node_timeout(mut self, timeout: Duration) -> Self {
        self.config.node_timeout = timeout;
        self
    }

    /// By which part of a ttl clocks may drift apart within that ttl, 0 to 0.5.
    ///
    /// Defaults to 0.01, as in every Redlock, because only broken clocks drift by more.
    pub fn clock_drift_factor(mut self, factor: f64) -> Self {
        self.config.clock_drift_factor = factor;
        self
    }

    /// The prefix of all keys. A brace in it must belong to a whole `{hash tag}`.
    ///
    /// Defaults to none, so that this crate and other Redlock clients exclude each other under the same names.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.config.key_prefix = prefix.into();
        self
    }

    /// For how long the vote of a server does not count after the server restarted. Set it to the longest lease of
    /// *any* client that the server may have forgotten, and to the same value in all clients.
    ///
    /// Defaults to 30 s. A longer ttl is allowed, but then a restart may let in a second holder. Zero turns the
    /// protection off, for servers that lose nothing (`appendfsync always`).
    pub fn restart_grace(mut self, grace: Duration) -> Self {
        self.config.restart_grace = grace;
        self
    }

    /// Whether servers that all started together are in their restart grace, too.
    ///
    /// Defaults to false, because a new deployment looks like that and should be usable at once. A power failure
    /// that loses all leases looks the same: if that is the greater risk for you, set this to true.
    pub fn cold_start_grace(mut self, cold: bool) -> Self {
        self.config.cold_start_grace = cold;
        self
    }

    /// Whether guards are extended in the background.
    ///
    /// Defaults to true, because work that takes longer than planned is the rule.
    pub fn auto_extend(mut self, auto_extend: bool) -> Self {
        self.config.auto_extend = auto_extend;
        self
    }

    /// The longest that one guard may hold the lock; `None` means as long as the guard lives.
    ///
    /// Defaults to none, because only you know how long the work may take. The setting bounds the harm of a
    /// forgotten guard, or of work that hangs.
    pub fn max_hold(mut self, max_hold: impl Into<Option<Duration>>) -> Self {
        self.config.max_hold = max_hold.into();
        self
    }

    /// After how long a held guard is warned of in the log, once for each guard; `None` means never.
    ///
    /// Defaults to 10 minutes, because most locks are held for far less, and a longer one is often a forgotten
    /// guard or work that hangs. Set `None` if guards are meant to live long, as in leader election.
    pub fn long_hold(mut self, long_hold: impl Into<Option<Duration>>) -> Self {
        self.config.long_hold = long_hold.into();
        self
    }

    /// The certificate authorities, one or more in PEM form, that the certificate of a `rediss://` server
    /// must come from. No others are trusted then. Needs the feature `tls`.
    ///
    /// Defaults to those that the platform trusts (on Linux, the files that OpenSSL would read; they can
    /// be named in `SSL_CERT_FILE`), because certificates of a public authority need no setup.
    ///
    /// [`connect`](Self::connect) refuses a value that is no certificate, and any value if no node has a
    /// `rediss://` URL, with [`BuildError::InvalidSetting`].
    #[cfg(feature = "tls")]
    pub fn tls_ca_pem(mut self, authorities: impl Into<Vec<u8>>) -> Self {
        self.config.tls.ca = Some(authorities.into());
        self
    }

    /// The certificate that this client shows to `rediss://` servers, with the certificates that link it to its
    /// authority, and its private key (PKCS #8, PKCS #1 or SEC 1), both in PEM form. A password still goes into
    /// the URL. Needs the feature `tls`.
    ///
    /// Defaults to none, because only servers with `tls-auth-clients yes` ask for a certificate. That is the
    /// default of Redis.
    ///
    /// [`connect`](Self::connect) refuses a value that is no certificate, no key or the key of another
    /// certificate, and any value if no node has a `rediss://` URL, with [`BuildError::InvalidSetting`]. The key
    /// appears in no error, `Debug` or log.
    #[cfg(feature = "tls")]
    pub fn tls_client_pem(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.config.tls.client = Some((certificate.into(), key.into()));
        self
    }

    /// Connects, and returns once a quorum of the nodes has shaken hands.
    ///
    /// A node that is down is no error. The other nodes are waited for, to find out servers that cannot be nodes,
    /// but for no longer than `node_timeout` after the quorum. Call this within a tokio runtime. The client lives
    /// on that runtime: its background task starts here, and when the runtime ends every call says so
    /// ([`ClientStopped`](crate::ClientStopped)).
    ///
    /// # Cancel safety
    ///
    /// Dropping this future closes the connections.
    ///
    /// # Errors
    ///
    /// Returns [`BuildError`]. Errors in the settings are reported before any I/O.
    pub async fn connect(self) -> Result<FifoRedlock, BuildError> {
        let client = connect::connect(self.sources, self.config).await?;
        Ok(FifoRedlock::new(client))
    }

    /// A client on nodes of any kind: those of the simulation.
    #[cfg(test)]
    pub(crate) fn on_nodes(
        self,
        clock: Clock,
        nodes: usize,
        open: impl Fn(usize, Context) -> std::sync::Arc<dyn Node>,
    ) -> FifoRedlock {
        FifoRedlock::new(connect::to_nodes(self.config, clock, nodes, open))
    }

    /// A client on so many new memory nodes, with all settings at their defaults.
    ///
    /// # Panics
    ///
    /// If `nodes` is 0.
    pub(crate) fn in_memory(nodes: usize) -> FifoRedlock {
        assert!(nodes > 0, "a lock needs at least one node");
        let cluster = MemoryCluster::new(nodes);
        FifoRedlock::new(connect::to_memory(&[cluster], Config::default()))
    }
}

impl fmt::Debug for FifoRedlockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URLs may hold passwords.
        f.debug_struct("FifoRedlockBuilder")
            .field("nodes", &self.sources.len())
            .field("config", &self.config)
            .finish()
    }
}
