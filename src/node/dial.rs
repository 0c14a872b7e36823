//! Opening a connection.
//!
//! The crate opens the socket itself, to bound how much a server can make it keep ([`bounded`]).

mod bounded;
mod frames;
mod push;
mod socket;

use std::sync::Arc;

use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisError, RedisResult,
    aio::MultiplexedConnection,
};

use super::{
    Context,
    address::Address,
    connection::{Connection, Handed, Own},
    fault,
    health::Health,
};
use crate::error::NodeError;

use bounded::Bounded;
use push::listener;

/// More than the driver's 50 slots: concurrent calls that wait for a slot lose their order.
const SLOTS: usize = 8192;

/// Where connections come from.
pub(super) enum Source {
    Address(Box<Address>),
    Handed(Arc<dyn Handed>),
}

/// A fresh connection.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    /// Whether it can carry pushes.
    pub(super) listens: bool,
    /// The server does not know the protocol that carries pushes.
    pub(super) dated: bool,
}

impl Source {
    /// Opens a connection; `health` hears of its end.
    pub(super) async fn dial(
        &self,
        context: &Context,
        health: &Arc<Health>,
    ) -> Result<Dialled, NodeError> {
        let address = match self {
            Self::Address(address) => address,
            Self::Handed(handed) => {
                return Ok(Dialled {
                    connection: Connection::Handed(handed.clone()),
                    listens: false,
                    dated: false,
                });
            }
        };
        let wanted = address.info().redis_settings().protocol();
        let (opened, used) = match open(address, wanted, context, health).await? {
            Err(error) if wanted.supports_resp3() && lacks_resp3(&error) => {
                let fallback = ProtocolVersion::RESP2;
                (open(address, fallback, context, health).await?, fallback)
            }
            opened => (opened, wanted),
        };
        let connection = opened.map_err(|error| fault::no_connection(&error))?;
        Ok(Dialled {
            connection: Connection::Own(connection),
            listens: used.supports_resp3(),
            dated: used != wanted,
        })
    }
}

/// The inner error came from the server, and connecting with another protocol version may avoid it.
async fn open(
    address: &Address,
    protocol: ProtocolVersion,
    context: &Context,
    health: &Arc<Health>,
) -> Result<RedisResult<Own>, NodeError> {
    let settings = address.info().redis_settings().clone();
    let settings = settings
        .set_protocol(protocol)
        .set_lib_name(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

    // Every call has a deadline of its own, and so has the handshake as a whole.
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_pipeline_buffer_size(SLOTS);
    let config = if protocol.supports_resp3() {
        config.set_push_sender(listener(context.clone(), health.clone()))
    } else {
        config
    };
    let stream = Bounded::new(socket::open(address).await?, health.clone());
    let opened = MultiplexedConnection::new_with_config(&settings, stream, config).await;
    Ok(opened.map(|(connection, driver)| Own::start(connection, driver)))
}

fn lacks_resp3(error: &RedisError) -> bool {
    error.kind() == ErrorKind::RESP3NotSupported
        || error.code() == Some("NOPROTO")
        || fault::is_unknown(error)
}
