//! The client handle: [`FifoRedlock`].

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    acquire::{self, LockRequest},
    builder::FifoRedlockBuilder,
    client::Client,
    error::{BuildError, LockError, ReleaseError},
    guard::LockGuard,
    inspection::{Inspection, NodeInspection},
    ticket::Ticket,
};

/// A client of the lock: cheap to clone, shared by all tasks of a service.
///
/// It keeps one connection to each node, and one task that keeps all its tickets and leases.
///
/// # Examples
///
/// ```no_run
/// # use std::time::Duration;
/// use redlock_fifo::FifoRedlock;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redlock = FifoRedlock::connect(["redis://a", "redis://b", "redis://c"]).await?;
/// let guard = redlock.lock("invoice:42", Duration::from_secs(10)).await?;
/// println!("mine, with fencing token {}", guard.fencing_token());
/// guard.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FifoRedlock {
    pub(crate) client: Arc<Client>,
}

impl FifoRedlock {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client: Arc::new(client),
        }
    }

    /// Connects to independent Redis or Valkey servers, with all settings at their defaults.
    ///
    /// Each server is one node. Three nodes survive the failure of one, five the failure of two. Returns once a
    /// quorum has shaken hands. A node that is down is no error: it is connected when it is back.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future closes the connections.
    ///
    /// # Errors
    ///
    /// [`BuildError`]: no quorum could be reached, or a server can never be a node.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), redlock_fifo::BuildError> {
    /// use redlock_fifo::FifoRedlock;
    /// let redlock = FifoRedlock::connect(["redis://a", "redis://b", "redis://c"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(
        urls: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, BuildError> {
        let builder = urls
            .into_iter()
            .fold(Self::builder(), |builder, url| builder.node(url));
        builder.connect().await
    }

    /// A builder, for other settings and other connections.
    pub fn builder() -> FifoRedlockBuilder {
        FifoRedlockBuilder::default()
    }

    /// A client on a fresh [`MemoryCluster`](crate::MemoryCluster) of `nodes` nodes, for tests and examples.
    ///
    /// # Panics
    ///
    /// If `nodes` is zero.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), redlock_fifo::LockError> {
    /// let redlock = redlock_fifo::FifoRedlock::in_memory(3);
    /// let guard = redlock.lock("a", std::time::Duration::from_secs(1)).await?;
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    pub fn in_memory(nodes: usize) -> Self {
        FifoRedlockBuilder::in_memory(nodes)
    }

    /// Asks for the lock on `resource`, in order of arrival. Await the returned request to get the guard.
    ///
    /// `ttl` is how long the lease lasts without being extended, in whole milliseconds, at least 20. The guard
    /// extends it whenever a third of that is over. A short ttl frees the lock sooner after a crash; a long one
    /// tolerates longer pauses. 10 s suits most jobs. The order is decided when a quorum of the nodes records the
    /// request, not when this is called.
    ///
    /// With the default settings the request gives up after 12 s without moving forward. If a holder may work for
    /// longer, set [`LockRequest::wait_forever`] or [`LockRequest::wait_timeout`].
    ///
    /// # Examples
    ///
    /// Leave the line when a client hangs up:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let redlock = redlock_fifo::FifoRedlock::in_memory(3);
    /// # async fn hung_up() { std::future::pending().await }
    /// tokio::select! {
    ///     guard = redlock.lock("invoice:42", Duration::from_secs(10)) => {
    ///         guard?.release().await?;
    ///     }
    ///     () = hung_up() => {} // the place in line is free again
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn lock(&self, resource: impl Into<String>, ttl: Duration) -> LockRequest {
        LockRequest::new(self.client.clone(), resource.into(), ttl)
    }

    /// Takes the lock if it is free and nobody waits for it; returns `None` if not.
    ///
    /// An error always means "could not tell". If several clients try at once, each may get `None` although the
    /// lock is free, when the nodes' votes are split between them.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`LockError::NoQuorum`] if too few nodes answered, or have restarted too recently to vote;
    /// [`LockError::TimedOut`] if the client's runtime is blocked for as long as requests wait by its settings;
    /// [`LockError::ShutDown`]; [`LockError::Stopped`]; [`LockError::Argument`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let redlock = redlock_fifo::FifoRedlock::in_memory(3);
    /// if let Some(guard) = redlock.try_lock("nightly", Duration::from_secs(10)).await? {
    ///     // This replica runs the job tonight.
    ///     guard.release().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_lock(
        &self,
        resource: impl Into<String>,
        ttl: Duration,
    ) -> Result<Option<LockGuard>, LockError> {
        acquire::try_lock(&self.client, &resource.into(), ttl).await
    }

    /// Takes a place in line, and returns a ticket once a quorum of the nodes has recorded it. Requests that are
    /// made after that are served later.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`LockError::QueueFull`] at once if there is no room; [`LockError::NoQuorum`] if too few nodes
    /// answered; [`LockError::TimedOut`] if the client's runtime is blocked for as long as requests wait by its
    /// settings; [`LockError::ShutDown`]; [`LockError::Stopped`]; [`LockError::Argument`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let redlock = redlock_fifo::FifoRedlock::in_memory(3);
    /// let mut ticket = redlock.enqueue("deploy", Duration::from_secs(10)).await?;
    /// // … say that it is queued, then:
    /// let guard = ticket.acquire().await?;
    /// # guard.release().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn enqueue(
        &self,
        resource: impl Into<String>,
        ttl: Duration,
    ) -> Result<Ticket, LockError> {
        let place = acquire::enqueue(&self.client, &resource.into(), ttl).await?;
        Ok(Ticket::new(place))
    }

    /// Runs `work` under the lock, and stops it when the lease is lost.
    ///
    /// When the lease is lost, `work` is dropped at its next await, by a timer of the runtime that polls this
    /// future. The value of work that finished under the lease is not thrown away: if only the release is not
    /// confirmed, the value is returned and the clean-up goes on in the background.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future drops `work` and releases the lock in the background.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Self::lock), and [`LockError::LeaseLost`] if the lease ended before the work did.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let redlock = redlock_fifo::FifoRedlock::in_memory(3);
    /// let total = redlock
    ///     .with_lock("billing", Duration::from_secs(10), async |guard| {
    ///         bill(guard.fencing_token()).await
    ///     })
    ///     .await?;
    /// # async fn bill(_: u64) -> u64 { 7 }
    /// # assert_eq!(total, 7);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn with_lock<T>(
        &self,
        resource: impl Into<String>,
        ttl: Duration,
        work: impl AsyncFnOnce(&LockGuard) -> T,
    ) -> Result<T, LockError> {
        let guard = self.lock(resource, ttl).await?;
        let value = tokio::select! {
            biased;
            why = guard.lost() => return Err(LockError::LeaseLost(why)),
            value = work(&guard) => value,
        };
        match guard.release().await {
            Err(ReleaseError::Lost(why)) => Err(LockError::LeaseLost(why)),
            Ok(()) | Err(ReleaseError::Unconfirmed(_) | ReleaseError::Stopped(_)) => Ok(value),
        }
    }

    /// Tells who holds `resource` and who waits for it, as each node knows it, and merged.
    ///
    /// This changes nothing. It waits for all nodes, and for a hung one at most `node_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    ///
    /// # Errors
    ///
    /// [`LockError::NoQuorum`] if too few nodes answered; [`LockError::Stopped`]; [`LockError::Argument`] if the
    /// name is not valid.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let redlock = redlock_fifo::FifoRedlock::in_memory(3);
    /// let guard = redlock.lock("deploy", Duration::from_secs(10)).await?;
    /// let inspection = redlock.inspect("deploy").await?;
    /// let holder = inspection.holder().expect("held");
    /// println!("held by {:?}, {} waiting", holder.client_name(), inspection.waiters().len());
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn inspect(&self, resource: &str) -> Result<Inspection, LockError> {
        let reports = self.client.inspect(resource).await?;
        let nodes = &self.client.nodes;
        let views = nodes.list.iter().zip(reports);
        let views = views.map(|(node, report)| NodeInspection::new(node.name(), report));
        Ok(Inspection::merge(resource, nodes.quorum, views.collect()))
    }

    /// Leaves every line, and returns when a quorum of the nodes has confirmed everything that was dropped, left or
    /// released before, or everything has expired. Nodes beyond the quorum are waited for until they have
    /// confirmed, too, or have failed several times, which takes about a second for a node that is down.
    ///
    /// New and waiting requests get [`LockError::ShutDown`]. Guards that are still held stay valid, and can be
    /// released or dropped later. Await this on SIGTERM, so that the places and locks of this process are free at
    /// once.
    ///
    /// # Cancel safety
    ///
    /// If this future is dropped, the client stays shut down and the clean-up goes on; call again to wait for it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let redlock = redlock_fifo::FifoRedlock::in_memory(3);
    /// drop(redlock.lock("report", Duration::from_secs(10)).await?);
    /// redlock.shutdown().await; // now the lock is free on all nodes
    /// # Ok(())
    /// # }
    /// ```
    pub async fn shutdown(&self) {
        self.client.shut_down().await;
    }
}

impl fmt::Debug for FifoRedlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<&str> = self
            .client
            .nodes
            .list
            .iter()
            .map(|node| node.name())
            .collect();
        f.debug_struct("FifoRedlock")
            .field("nodes", &nodes)
            .finish()
    }
}
