//! Sockets to servers.

use std::{io, net::SocketAddr, time::Duration};

use futures::future::select_ok;
use redis::{ConnectionAddr, aio::AsyncStream, io::tcp::socket2::SockRef};
use tokio::net::{TcpStream, lookup_host};

use crate::{
    error::NodeError,
    node::{address::Address, fault},
};

/// Within this time a peer must acknowledge what was sent, or its machine counts as gone.
#[cfg(any(target_os = "linux", target_os = "android"))]
const USER_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection of any kind.
pub(super) type Stream = Box<dyn AsyncStream + Send + Unpin>;

/// Connects to `address`.
pub(super) async fn open(address: &Address) -> Result<Stream, NodeError> {
    match address.info().addr() {
        ConnectionAddr::Tcp(host, port) => {
            let stream = tcp(host, *port)
                .await
                .map_err(|error| fault::no_socket(&error))?;
            #[cfg(feature = "tls")]
            if address.is_encrypted() {
                // Never a plain connection in place of an encrypted one.
                let lacking = || NodeError::Down("TLS is not set up".to_owned());
                let tls = address.tls().ok_or_else(lacking)?;
                return Ok(Box::new(tls.over(host, stream).await?));
            }
            Ok(Box::new(stream))
        }
        #[cfg(unix)]
        ConnectionAddr::Unix(path) => match tokio::net::UnixStream::connect(path).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(fault::no_socket(&error)),
        },
        _ => Err(NodeError::Down("there are no such sockets here".to_owned())),
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    first(lookup_host((host, port)).await?).await
}

/// Connects to the first to answer of all `addresses` that a name has.
async fn first(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let attempts: Vec<_> = addresses
        .map(|address| Box::pin(connect(address)))
        .collect();
    if attempts.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no address found for the host",
        ));
    }
    Ok(select_ok(attempts).await?.0)
}

/// Without `nodelay` a slow server costs 40 ms more. Without `linger` of zero, the bytes left in the socket of an
/// abandoned connection are still sent, and run late.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO))?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_socket_sends_at_once_and_leaves_nothing_behind() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let stream = tcp("127.0.0.1", port).await.expect("connected");
        assert!(stream.nodelay().expect("set"));
        let socket = SockRef::from(&stream);
        assert_eq!(socket.linger().expect("set"), Some(Duration::ZERO));
        #[cfg(any(target_os = "linux", target_os = "android"))]
        assert_eq!(socket.tcp_user_timeout().expect("set"), Some(USER_TIMEOUT));
    }

    #[tokio::test]
    async fn all_addresses_of_a_name_are_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let listens = listener.local_addr().expect("an address");
        let nobody = SocketAddr::from(([127, 0, 0, 2], listens.port()));
        for addresses in [[nobody, listens], [listens, nobody]] {
            let stream = first(addresses.into_iter()).await.expect("connected");
            assert_eq!(stream.peer_addr().expect("connected"), listens);
        }
        assert!(first([nobody, nobody].into_iter()).await.is_err());
        assert!(first([].into_iter()).await.is_err());
    }
}
