//! Identity provider of one cell. It accepts every token, after a fixed time, and counts its calls.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{sleep, timeout},
};

pub struct Provider {
    address: SocketAddr,
    calls: Arc<AtomicU64>,
    /// Numbers of the nodes that called.
    callers: UnboundedReceiver<usize>,
}

impl Provider {
    pub async fn start(takes: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(AtomicU64::new(0));
        let (sender, callers) = unbounded_channel();
        let counted = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (calls, sender) = (Arc::clone(&counted), sender.clone());
                tokio::spawn(async move {
                    // An error means that the node was killed.
                    let _ = answer(stream, takes, &calls, &sender).await;
                });
            }
        });
        Self {
            address,
            calls,
            callers,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of calls since the last time.
    pub fn take_calls(&mut self) -> u64 {
        while self.callers.try_recv().is_ok() {}
        self.calls.swap(0, Relaxed)
    }

    /// Waits for the next call, and returns the number of the node that made it.
    pub async fn next_caller(&mut self) -> usize {
        let caller = timeout(Duration::from_secs(60), self.callers.recv()).await;
        caller.expect("a node to call the provider").unwrap()
    }
}

async fn answer(
    mut stream: TcpStream,
    takes: Duration,
    calls: &AtomicU64,
    callers: &UnboundedSender<usize>,
) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(&mut stream).read_line(&mut line).await?;
    calls.fetch_add(1, Relaxed);
    let _ = callers.send(line.trim().parse().unwrap());
    sleep(takes).await;
    stream.write_all(b"ok\n").await
}

/// Calls the provider, as the validator of a node does.
pub async fn call(address: SocketAddr, node: usize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("{node}\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    match line.as_str() {
        "ok\n" => Ok(()),
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}
