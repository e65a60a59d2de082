//! A TCP proxy before Redis that reads along, and fails on request.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinSet},
};

pub struct Proxy {
    port: u16,
    commands: Arc<Mutex<Vec<String>>>,
    fault: watch::Sender<Fault>,
    accepting: AbortHandle,
}

/// What happens to replies from now on.
#[derive(Clone, Copy)]
pub enum Fault {
    None,
    Delay(Duration),
    /// They are lost, and so is all that would follow on their connections, which stay open.
    Swallow,
    /// The same, but new connections get as far as `+OK`.
    SwallowAfterGreeting,
    /// Half of each goes through, and then its connection ends.
    Cut,
}

impl Proxy {
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let commands = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&commands);
        let (fault, faults) = watch::channel(Fault::None);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                connections.spawn(requests(from_client, to_server, Arc::clone(&log)));
                connections.spawn(replies(from_server, to_client, faults.clone()));
            }
        });
        Self {
            port,
            commands,
            fault,
            accepting: accepting.abort_handle(),
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/2", self.port)
    }

    pub fn fault(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// The names of the commands that came since the last call, in order.
    pub fn commands(&self) -> Vec<String> {
        std::mem::take(&mut self.commands.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, log: Arc<Mutex<Vec<String>>>) {
    let mut pending = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        pending.extend_from_slice(&buffer[..length]);
        while let Some((name, rest)) = command(&pending) {
            log.lock().unwrap().push(name);
            pending.drain(..pending.len() - rest);
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

async fn replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut faults: watch::Receiver<Fault>,
) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let fault = *faults.borrow_and_update();
        let passes = match fault {
            Fault::None => length,
            Fault::Delay(by) => {
                tokio::time::sleep(by).await;
                length
            }
            Fault::SwallowAfterGreeting if buffer.starts_with(b"+OK") => length,
            Fault::Swallow | Fault::SwallowAfterGreeting => {
                while let Ok(1..) = from.read(&mut buffer).await {}
                break;
            }
            Fault::Cut => length / 2,
        };
        if to.write_all(&buffer[..passes]).await.is_err() || passes < length {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// The name of the first command, and how many bytes follow it; nothing while it is incomplete.
pub fn command(bytes: &[u8]) -> Option<(String, usize)> {
    let (count, mut rest) = number(bytes, b'*')?;
    let mut name = None;
    for _ in 0..count {
        let (length, after) = number(rest, b'$')?;
        let argument = after.get(..length)?;
        name.get_or_insert_with(|| String::from_utf8_lossy(argument).to_uppercase());
        rest = after.get(length + 2..)?;
    }
    Some((name?, rest.len()))
}

fn number(bytes: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    assert_eq!(bytes[0], kind, "not what redis-rs sends");
    let number = std::str::from_utf8(&bytes[1..end]).unwrap();
    Some((number.parse().unwrap(), &bytes[end + 2..]))
}
