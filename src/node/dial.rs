//! Opening a connection.

mod push;

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, ProtocolVersion, RedisError, RedisResult,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};

use super::{
    Context,
    address::Address,
    connection::{Connection, Handed},
    fault,
    session::Health,
};
use crate::error::NodeError;

use push::listener;

/// Until when a peer must have acknowledged what was sent, or its machine is taken for gone.
#[cfg(any(target_os = "linux", target_os = "android"))]
const USER_TIMEOUT: Duration = Duration::from_secs(2);

/// More than the driver's 50 slots: concurrent calls that wait for a slot lose their order.
const SLOTS: usize = 8192;

/// Where connections come from.
pub(super) enum Source {
    Address(Address),
    Handed(Arc<dyn Handed>),
}

/// A fresh connection.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    /// Whether it can carry pushes.
    pub(super) listens: bool,
    /// The server does not know the protocol that carries them.
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
        let (opened, used) = match open(address, wanted, context, health).await {
            Err(error) if wanted.supports_resp3() && lacks_resp3(&error) => {
                let fallback = ProtocolVersion::RESP2;
                (open(address, fallback, context, health).await, fallback)
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

async fn open(
    address: &Address,
    protocol: ProtocolVersion,
    context: &Context,
    health: &Arc<Health>,
) -> RedisResult<MultiplexedConnection> {
    // Without nodelay a slow server costs 40 ms more. Without linger zero what is left in the socket
    // of an abandoned connection is still sent, and runs late.
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_linger_time(Duration::ZERO);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let tcp = tcp.set_user_timeout(USER_TIMEOUT);
    let settings = address.info().redis_settings().clone();
    let settings = settings
        .set_protocol(protocol)
        .set_lib_name(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let info = address
        .info()
        .clone()
        .set_tcp_settings(tcp)
        .set_redis_settings(settings);

    // Every call has a deadline of its own, and so has the handshake as a whole.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(SLOTS);
    let config = if protocol.supports_resp3() {
        config.set_push_sender(listener(context.clone(), health.clone()))
    } else {
        config
    };
    Client::open(info)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

fn lacks_resp3(error: &RedisError) -> bool {
    error.kind() == ErrorKind::RESP3NotSupported
        || error.code() == Some("NOPROTO")
        || fault::is_unknown(error)
}
