//! A bad network in front of a redis-server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::redis::TestRedis;

/// What happens to bytes that go one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Pass,
    /// Each piece is held back this long.
    Delay(Duration),
    /// Nothing moves and nothing is closed: a half-open connection. Moves on when set to another.
    Stall,
    /// Bytes vanish; the connection stays open.
    Vanish,
}

/// A TCP proxy on a loopback port. Ends with its value.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    to_server: watch::Sender<Flow>,
    to_client: watch::Sender<Flow>,
    /// Counts up to end all connections.
    resets: watch::Sender<u64>,
    /// How many of the next replies are lost together with their connection.
    lost_replies: AtomicUsize,
}

impl Proxy {
    /// Forwards to the server's unix socket, which may come and go.
    pub async fn start(redis: &TestRedis) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("binding a loopback port");
        let address = listener.local_addr().expect("address of a bound socket");
        let shared = Arc::new(Shared {
            to_server: watch::Sender::new(Flow::Pass),
            to_client: watch::Sender::new(Flow::Pass),
            resets: watch::Sender::new(0),
            lost_replies: AtomicUsize::new(0),
        });
        let acceptor = tokio::spawn(accept(listener, redis.socket(), Arc::clone(&shared)));
        Self { address, shared, acceptor }
    }

    pub fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// What happens to requests from now on.
    pub fn to_server(&self, flow: Flow) {
        self.shared.to_server.send_replace(flow);
    }

    /// What happens to replies from now on.
    pub fn to_client(&self, flow: Flow) {
        self.shared.to_client.send_replace(flow);
    }

    /// Ends all connections; new ones are served.
    pub fn reset(&self) {
        self.shared.resets.send_modify(|resets| *resets += 1);
    }

    /// The server executes what it is sent, but the next `count` pieces of its replies never
    /// arrive: their connections end instead.
    pub fn lose_replies(&self, count: usize) {
        self.shared.lost_replies.store(count, Ordering::SeqCst);
    }

    /// How many of the replies to lose were not lost yet.
    pub fn replies_to_lose(&self) -> usize {
        self.shared.lost_replies.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.reset();
    }
}

async fn accept(listener: TcpListener, upstream: PathBuf, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        client.set_nodelay(true).ok();
        // A server that is away refuses: the client sees its connection closed at once.
        if let Ok(server) = UnixStream::connect(&upstream).await {
            tokio::spawn(connect(client, server, Arc::clone(&shared)));
        }
    }
}

async fn connect(client: TcpStream, server: UnixStream, shared: Arc<Shared>) {
    let mut resets = shared.resets.subscribe();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Whichever ends first ends the connection: the other halves are dropped.
    tokio::select! {
        () = forward(from_client, to_server, shared.to_server.subscribe(), None) => {}
        () = forward(from_server, to_client, shared.to_client.subscribe(), Some(&shared.lost_replies)) => {}
        _ = resets.changed() => {}
    }
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut flow: watch::Receiver<Flow>,
    losses: Option<&AtomicUsize>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let less = |count: usize| count.checked_sub(1);
        if losses.is_some_and(|losses| {
            losses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
        }) {
            return;
        }
        let Ok(now) = flow.wait_for(|flow| *flow != Flow::Stall).await.map(|flow| *flow) else {
            return;
        };
        match now {
            Flow::Vanish => continue,
            Flow::Delay(time) => tokio::time::sleep(time).await,
            Flow::Pass | Flow::Stall => {}
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
