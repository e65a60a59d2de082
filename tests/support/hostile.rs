//! Fake Redis that accepts connections and then sends arbitrary replies.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

pub struct Hostile {
    port: u16,
    reply: Arc<Mutex<Vec<u8>>>,
    accepting: AbortHandle,
}

impl Hostile {
    pub async fn start() -> Self {
        Self::start_with_info("run_id:r\r\nmaster_replid:\r\n").await
    }

    /// Starts a server with this reply to `INFO`.
    pub async fn start_with_info(info: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let reply = Arc::<Mutex<Vec<u8>>>::default();
        let says = Arc::clone(&reply);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, info, Arc::clone(&says)));
            }
        });
        Self {
            port,
            reply,
            accepting: accepting.abort_handle(),
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/2", self.port)
    }

    /// Sets the reply, as raw bytes, to every later command except those that set up a connection.
    pub fn says(&self, reply: impl Into<Vec<u8>>) {
        *self.reply.lock().unwrap() = reply.into();
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut client: TcpStream, info: &'static str, says: Arc<Mutex<Vec<u8>>>) {
    let mut pending = Vec::new();
    let mut buffer = [0; 64 * 1024];
    while let Ok(length @ 1..) = client.read(&mut buffer).await {
        pending.extend_from_slice(&buffer[..length]);
        while let Some((name, rest)) = super::proxy::command(&pending) {
            pending.drain(..pending.len() - rest);
            let reply = match name.as_str() {
                "CLIENT" | "SELECT" => b"+OK\r\n".to_vec(),
                "SCRIPT" => b"$1\r\nx\r\n".to_vec(),
                "INFO" => format!("${}\r\n{info}\r\n", info.len()).into_bytes(),
                "TIME" => b"*2\r\n$10\r\n1732444800\r\n$1\r\n0\r\n".to_vec(),
                _ => says.lock().unwrap().clone(),
            };
            if client.write_all(&reply).await.is_err() {
                return;
            }
        }
    }
}
