//! Sockets to servers.

use std::{io, net::SocketAddr, time::Duration};

use futures::future::select_ok;
use redis::{ConnectionAddr, aio::AsyncStream, io::tcp::socket2::SockRef};
use tokio::net::{TcpStream, lookup_host};

/// Until when a peer must have acknowledged what was sent, or its machine is taken for gone.
#[cfg(any(target_os = "linux", target_os = "android"))]
const USER_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection of any kind.
pub(super) type Stream = Box<dyn AsyncStream + Send + Unpin>;

/// Connects to `address`.
pub(super) async fn open(address: &ConnectionAddr) -> io::Result<Stream> {
    match address {
        ConnectionAddr::Tcp(host, port) => Ok(Box::new(tcp(host, *port).await?)),
        #[cfg(unix)]
        ConnectionAddr::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
        _ => Err(unsupported()),
    }
}

/// Connects to the first to answer of all addresses that `host` has.
async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let attempts: Vec<_> = lookup_host((host, port))
        .await?
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

/// Without nodelay a slow server costs 40 ms more. Without linger zero what is left in the socket of an
/// abandoned connection is still sent, and runs late.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO))?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}

fn unsupported() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "there are no such sockets on this platform",
    )
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

    /// `localhost` is two addresses where there is IPv6, and here only one of them listens.
    #[tokio::test]
    async fn all_addresses_of_a_name_are_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        tcp("localhost", port).await.expect("connected");
        let nobody = tcp("name.invalid", port).await;
        assert!(nobody.is_err());
    }
}
