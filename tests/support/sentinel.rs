//! Sentinels: real ones for a primary and its replicas, and a fake one that replies as a test sets.

use std::{
    fs,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bb8_redis::redis::{Client, Cmd, FromRedisValue, RedisError, cmd};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use super::{
    process::{Running, command},
    proxy,
    redis::{Redis, free_port},
};

/// Name of the primary on all sentinels here.
pub const NAME: &str = "sessions";

/// Three servers and three sentinels.
pub struct Set {
    pub servers: Vec<Redis>,
    sentinels: Vec<Sentinel>,
}

/// Real sentinel. The process ends when this value is dropped.
pub struct Sentinel {
    port: u16,
    _process: Running,
    _folder: TempDir,
}

impl Sentinel {
    /// Starts a sentinel with these lines of configuration. If a line starts with `tls-`, the
    /// sentinel has only a TLS port.
    pub fn start(lines: &[String]) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let own = if lines.iter().any(|line| line.starts_with("tls-")) {
            format!("port 0\ntls-port {port}\n")
        } else {
            format!("port {port}\n")
        };
        let path = folder.path().join("sentinel.conf");
        fs::write(&path, own + "bind 127.0.0.1\n" + &lines.join("\n")).unwrap();
        let server = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let child = command(server)
            .arg(&path)
            .arg("--sentinel")
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self {
            port,
            _process: Running(child.unwrap()),
            _folder: folder,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let client = Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        command.query(&mut client.get_connection_with_timeout(Duration::from_secs(20))?)
    }

    fn field(&self, name: &str) -> Option<String> {
        let mut about = cmd("SENTINEL");
        let about: Vec<String> = self.ask(about.arg("MASTER").arg(NAME)).ok()?;
        let at = about.iter().position(|field| field == name)?;
        about.get(at + 1).cloned()
    }
}

impl Set {
    pub fn start() -> Self {
        let primary = Redis::start();
        let port = primary.port().to_string();
        let replica = ["--replicaof", "127.0.0.1", &port];
        let servers = vec![
            primary,
            Redis::start_with(&replica),
            Redis::start_with(&replica),
        ];
        let lines = [
            format!("sentinel monitor {NAME} 127.0.0.1 {port} 2"),
            format!("sentinel down-after-milliseconds {NAME} 2000"),
            format!("sentinel failover-timeout {NAME} 10000"),
            format!("sentinel parallel-syncs {NAME} 2"),
        ];
        let set = Self {
            servers,
            sentinels: (0..3).map(|_| Sentinel::start(&lines)).collect(),
        };
        set.wait("sentinels and replicas that know each other", |set| {
            let is = |sentinel: &Sentinel, name, value: &str| {
                sentinel.field(name).is_some_and(|it| it == value)
            };
            set.sentinels.iter().all(|sentinel| {
                is(sentinel, "num-other-sentinels", "2") && is(sentinel, "num-slaves", "2")
            }) && set.replicas() == 2
        });
        set
    }

    pub fn urls(&self) -> Vec<String> {
        let ports = self.sentinels.iter().map(Sentinel::port);
        ports
            .map(|port| format!("redis://127.0.0.1:{port}"))
            .collect()
    }

    /// Returns the address of the primary that most sentinels report.
    pub fn primary(&self) -> &Redis {
        let ports: Vec<_> = self
            .sentinels
            .iter()
            .filter_map(|sentinel| sentinel.field("port")?.parse::<u16>().ok())
            .collect();
        let count = |port: u16| ports.iter().filter(|other| **other == port).count();
        let servers = self.servers.iter();
        servers.max_by_key(|server| count(server.port())).unwrap()
    }

    /// Returns the replicas that the primary has now.
    pub fn replicas(&self) -> usize {
        let info: String = self.primary().run(cmd("INFO").arg("replication"));
        info.matches("state=online").count()
    }

    /// Kills the primary and waits for another one. The killed server restarts in its old role.
    pub fn fail_over(&mut self) {
        let old = self.primary().port();
        let at = |set: &Self| set.servers.iter().position(|it| it.port() == old).unwrap();
        let index = at(self);
        self.servers[index].kill();
        self.wait("another primary", |set| {
            let primary = set.primary();
            primary.port() != old
                && primary
                    .run::<String>(cmd("INFO").arg("replication"))
                    .contains("role:master")
        });
        self.servers[index].restart();
    }

    pub fn wait(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !condition(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Fake sentinel that replies as it is set to.
pub struct Fake {
    port: u16,
    says: Arc<Mutex<Says>>,
    accepting: AbortHandle,
}

#[derive(Clone, Copy)]
pub enum Says {
    /// Replies with the primary of this failover, on this port.
    Primary(u64, u16),
    /// Replies that it knows no primary of that name.
    Unknown,
    /// Sends no reply, and continues to accept connections.
    Nothing,
}

impl Fake {
    pub async fn start(says: Says) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let says = Arc::new(Mutex::new(says));
        let now = Arc::clone(&says);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(answer(client, Arc::clone(&now)));
            }
        });
        Self {
            port,
            says,
            accepting: accepting.abort_handle(),
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(mut client: TcpStream, says: Arc<Mutex<Says>>) {
    let (mut pending, mut buffer) = (Vec::new(), [0; 1024]);
    let mut asks_for_address = false;
    while let Ok(length @ 1..) = client.read(&mut buffer).await {
        pending.extend_from_slice(&buffer[..length]);
        while let Some((name, rest)) = proxy::command(&pending) {
            assert_eq!(name, "SENTINEL");
            pending.drain(..pending.len() - rest);
            let says = *says.lock().unwrap();
            let reply = match says {
                Says::Nothing => continue,
                Says::Unknown => "-ERR No such master with that name\r\n".to_owned(),
                // The client requests both, one after the other.
                Says::Primary(_, port) if asks_for_address => {
                    let port = port.to_string();
                    format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len())
                }
                Says::Primary(epoch, _) => {
                    let epoch = epoch.to_string();
                    format!(
                        "*2\r\n$12\r\nconfig-epoch\r\n${}\r\n{epoch}\r\n",
                        epoch.len()
                    )
                }
            };
            asks_for_address = !asks_for_address;
            if client.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
