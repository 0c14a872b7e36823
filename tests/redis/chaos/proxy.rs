//! What stands between one process and one server, and can be made to fail.
//!
//! Bytes are carried in order, both ways. What is held back is carried when the way opens again, also
//! for a client that has long gone: so a request may run late, as it does on a real network.

use std::{path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    runtime::Runtime,
    sync::watch,
    time::sleep,
};

/// How a link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Each piece takes that long.
    Slow(Duration),
    /// Nothing gets through, and nobody is told.
    Held,
    /// Requests get through and are carried out; answers and pushes do not.
    AnswersHeld,
    /// Every connection breaks, and none can be made.
    Cut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Way {
    fn lets_through(self, direction: Direction) -> bool {
        match self {
            Self::Open | Self::Slow(_) => true,
            Self::AnswersHeld => direction == Direction::ToServer,
            Self::Held | Self::Cut => false,
        }
    }

    fn delay(self) -> Duration {
        match self {
            Self::Slow(delay) => delay,
            _ => Duration::ZERO,
        }
    }
}

/// The way of one process to one server.
#[derive(Debug)]
pub(crate) struct Link {
    url: String,
    way: watch::Sender<Way>,
}

impl Link {
    /// Carries from a port of its own to `socket`, for as long as `runtime` lives.
    pub(crate) fn start(runtime: &Runtime, socket: PathBuf) -> Self {
        let (way, ways) = watch::channel(Way::Open);
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, socket.clone(), ways.clone()));
            }
        });
        Self {
            url: format!("redis://127.0.0.1:{port}"),
            way,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Carries like this from now on.
    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn connect(client: TcpStream, socket: PathBuf, mut ways: watch::Receiver<Way>) {
    let cut = |way: &Way| *way == Way::Cut;
    if cut(&ways.borrow_and_update()) {
        return;
    }
    // Without it every small answer waits for the acknowledgement of the one before.
    let _ = client.set_nodelay(true);
    let Ok(server) = UnixStream::connect(socket).await else {
        return;
    };
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let (there, back) = (ways.clone(), ways.clone());
    tokio::select! {
        () = carry(from_client, to_server, there, Direction::ToServer) => {}
        () = carry(from_server, to_client, back, Direction::ToClient) => {}
        _ = ways.wait_for(cut) => {}
    }
}

/// Carries until either end is gone.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut ways: watch::Receiver<Way>,
    direction: Direction,
) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let opened = ways.wait_for(|way| way.lets_through(direction)).await;
        let Ok(delay) = opened.map(|way| way.delay()) else {
            return;
        };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
