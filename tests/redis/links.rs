//! Clients whose ways to real servers can be made to fail.

use std::path::PathBuf;

use redlock_fifo::{BuildError, FifoRedlock, FifoRedlockBuilder};
use tokio::runtime::{Builder, Runtime};

use crate::{chaos::proxy::Link, process::patient, server::Server};

/// A runtime that carries between clients and servers.
pub(crate) fn carrier() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(2).enable_all();
    builder.build().expect("a runtime")
}

/// Where `server` listens.
pub(crate) fn socket(server: &Server) -> PathBuf {
    let url = server.socket_url();
    url.strip_prefix("redis+unix://").expect("a socket").into()
}

/// A way to `server`, for as long as the carrier lives.
pub(crate) fn link(carrier: &Runtime, server: &Server) -> Link {
    Link::start(carrier, socket(server))
}

/// A client over these ways, whose waiters never give up.
pub(crate) async fn over(links: &[Link]) -> Result<FifoRedlock, BuildError> {
    let urls = links.iter().map(Link::url);
    let builder = urls.fold(patient(), FifoRedlockBuilder::node);
    builder.connect().await
}
