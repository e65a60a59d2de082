//! TCP relay in front of an identity provider. It forwards bytes, and fails on request.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};

pub struct Relay {
    port: u16,
    state: Arc<State>,
    accepting: AbortHandle,
}

struct State {
    closes_reused: AtomicBool,
    connections: AtomicUsize,
    requests: AtomicUsize,
    closed: AtomicUsize,
    /// Connections with a lower number are stalled.
    stalled_below: watch::Sender<usize>,
}

impl Relay {
    /// Starts a relay to this port.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            closes_reused: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            stalled_below: watch::Sender::new(0),
        });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = shared.connections.fetch_add(1, SeqCst);
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                connections.spawn(relay(number, client, server, Arc::clone(&shared)));
            }
        });
        Self {
            port,
            state,
            accepting: accepting.abort_handle(),
        }
    }

    /// Returns the URL with the port of the relay instead of its own.
    pub fn in_front_of(&self, url: &str) -> String {
        let mut url = reqwest::Url::parse(url).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.into()
    }

    /// Ends each connection of HTTP/1.1 when its second request arrives, by FIN or by RST in turn.
    pub fn close_reused(&self) {
        self.state.closes_reused.store(true, SeqCst);
    }

    /// Forwards nothing more on the connections that are open now, and keeps them open.
    pub fn stall(&self) {
        let open = self.state.connections.load(SeqCst);
        self.state.stalled_below.send_replace(open);
    }

    /// Returns the number of connections that were accepted.
    pub fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }

    /// Returns the number of connections that the client closed.
    pub fn closed(&self) -> usize {
        self.state.closed.load(SeqCst)
    }

    /// Returns the number of requests of HTTP/1.1 that arrived, including those not forwarded.
    pub fn requests(&self) -> usize {
        self.state.requests.load(SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(number: usize, mut client: TcpStream, mut server: TcpStream, state: Arc<State>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut from_server) = ([0; 16 * 1024], [0; 16 * 1024]);
    let (mut is_requesting, mut is_reused) = (false, false);
    let mut stalled = state.stalled_below.subscribe();
    loop {
        tokio::select! {
            biased;
            () = async { drop(stalled.wait_for(|below| number < *below).await) } => {
                std::future::pending::<()>().await;
            }
            ready = client.readable() => {
                if ready.is_err() {
                    break;
                }
                if is_reused && !is_requesting && state.closes_reused.load(SeqCst) {
                    let mut first = [0; 1];
                    if !matches!(client.peek(&mut first).await, Ok(1)) {
                        break;
                    }
                    state.requests.fetch_add(1, SeqCst);
                    // Dropping a socket with unread bytes sends RST.
                    if number.is_multiple_of(2) {
                        let _ = client.read(&mut from_client).await;
                    }
                    break;
                }
                let length = match client.try_read(&mut from_client) {
                    Ok(0) => {
                        state.closed.fetch_add(1, SeqCst);
                        break;
                    }
                    Ok(length) => length,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                    Err(_) => break,
                };
                if !is_requesting {
                    is_requesting = true;
                    state.requests.fetch_add(1, SeqCst);
                }
                if server.write_all(&from_client[..length]).await.is_err() {
                    break;
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(length @ 1..) = read else { break };
                (is_requesting, is_reused) = (false, true);
                if client.write_all(&from_server[..length]).await.is_err() {
                    break;
                }
            }
        }
    }
}
