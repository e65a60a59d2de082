//! Real `redis-server` processes, one for each test that needs one.

use std::{
    ffi::OsString,
    io::ErrorKind,
    net::TcpListener,
    ops::Range,
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use bb8_redis::redis::{Client, Cmd, FromRedisValue, RedisResult, cmd};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::process::{Running, command};

/// Running server. The process ends when this value is dropped.
pub struct Redis {
    process: Running,
    port: u16,
    folder: TempDir,
    arguments: Vec<String>,
    is_paused: AtomicBool,
    is_killed: bool,
    /// Cluster bus port, if the server is a node of a cluster.
    bus: Option<u16>,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with additional lines of configuration, such as `--requirepass`.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::on_free_ports(|| Self::try_start(arguments))
    }

    /// Makes several attempts, because another process may take a free port before the server binds
    /// it. An attempt must choose its ports itself.
    pub fn on_free_ports(attempt: impl Fn() -> Option<Self>) -> Self {
        (0..20)
            .find_map(|_| attempt())
            .expect("redis-server to start; is it installed?")
    }

    /// Returns `None` if a port has been taken by another process.
    pub fn try_start(arguments: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
        let port = free_port();
        Some(Self {
            process: spawn(port, &folder, &arguments)?,
            port,
            folder,
            arguments,
            is_paused: AtomicBool::new(false),
            is_killed: false,
            bus: None,
        })
    }

    /// Starts a server on a port that must be free.
    pub fn start_on(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = spawn(port, &folder, &[]).expect("the port to be free still");
        Self {
            process,
            port,
            folder,
            arguments: Vec::new(),
            is_paused: AtomicBool::new(false),
            is_killed: false,
            bus: None,
        }
    }

    pub fn url(&self) -> String {
        // A cluster has only database 0.
        let database = if self.bus.is_some() { "" } else { "/2" };
        format!("redis://127.0.0.1:{}{database}", self.port)
    }

    pub fn in_cluster(mut self, bus: u16) -> Self {
        self.bus = Some(bus);
        self
    }

    pub fn bus(&self) -> Option<u16> {
        self.bus
    }

    pub fn is_running(&self) -> bool {
        !self.is_killed && !self.is_paused.load(SeqCst)
    }

    /// Returns the folder with the files of the server.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn kill(&mut self) {
        self.resume();
        let _ = self.process.0.kill();
        self.process.0.wait().unwrap();
        self.is_killed = true;
    }

    /// Restarts the server on its port after [`kill`](Self::kill).
    pub fn restart(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(process) = spawn(self.port, &self.folder, &self.arguments) {
                self.process = process;
                self.is_killed = false;
                return;
            }
        }
        panic!("redis-server does not come up on its port again");
    }

    /// Stops the process. It keeps its connections and sends no replies.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        self.is_paused.store(true, SeqCst);
    }

    pub fn resume(&self) {
        if self.is_paused.swap(false, SeqCst) {
            self.signal(Signal::CONT);
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.0.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Sends a command on a new connection and blocks until the reply arrives.
    pub fn run<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command
            .query(&mut connection(&self.url()).unwrap())
            .unwrap()
    }

    pub fn connection(&self) -> bb8_redis::redis::Connection {
        connection(&self.url()).unwrap()
    }

    /// Like [`run`](Self::run), for commands that may fail.
    pub fn try_run<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let client = Client::open(self.url())?;
        command.query(&mut client.get_connection_with_timeout(Duration::from_secs(20))?)
    }

    pub fn get(&self, key: &str) -> Option<String> {
        self.run(cmd("GET").arg(key))
    }

    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) {
        self.run::<()>(cmd("SET").arg(key).arg(value.as_ref()));
    }

    /// Returns the connections that track changes.
    pub fn listeners(&self) -> Vec<u64> {
        self.clients_with(|flags| flags.contains('t'))
    }

    /// Returns all other connections.
    pub fn other_clients(&self) -> Vec<u64> {
        self.clients_with(|flags| !flags.contains('t'))
    }

    fn clients_with(&self, wanted: impl Fn(&str) -> bool) -> Vec<u64> {
        let clients: String = self.run(cmd("CLIENT").arg("LIST"));
        let field = |client: &str, name: &str| {
            let mut fields = client.split(' ');
            fields.find_map(|field| Some(field.strip_prefix(name)?.to_owned()))
        };
        clients
            .lines()
            .filter(|client| field(client, "flags=").is_some_and(|flags| wanted(&flags)))
            .map(|client| field(client, "id=").unwrap().parse().unwrap())
            .collect()
    }

    pub fn end_client(&self, id: u64) {
        // The connection may already have ended.
        let _: i64 = self.run(cmd("CLIENT").arg("KILL").arg("ID").arg(id));
    }

    pub fn ttl(&self, key: &str) -> i64 {
        self.run(cmd("TTL").arg(key))
    }

    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.run(cmd("KEYS").arg("*"));
        keys.sort();
        keys
    }

    /// Returns the server's clock in seconds since the Unix epoch.
    pub fn time(&self) -> f64 {
        let (seconds, micros): (f64, f64) = self.run(&cmd("TIME"));
        seconds + micros / 1e6
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // A paused process would be killed as well, but only a running one shuts down cleanly.
        self.resume();
    }
}

fn connection(url: &str) -> Option<bb8_redis::redis::Connection> {
    let client = Client::open(url).unwrap();
    client
        .get_connection_with_timeout(Duration::from_secs(20))
        .ok()
}

/// Returns a port that no other test of this process gets. It is below the ports that systems give to
/// outgoing connections (32768 and above on Linux, 49152 on macOS), so that no client of another
/// test takes it before the server binds it.
pub fn free_port() -> u16 {
    const PORTS: Range<u16> = 17_000..26_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run side by side start at different ports.
    let start = std::process::id().wrapping_mul(611);
    for _ in PORTS {
        let next = start.wrapping_add(NEXT.fetch_add(1, Relaxed));
        let port = PORTS.start + (next % u32::from(PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("all ports are taken");
}

fn program() -> OsString {
    std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into())
}

/// Returns whether the servers of the tests are older than Redis 7.
pub fn is_before_7() -> bool {
    static IS_BEFORE_7: OnceLock<bool> = OnceLock::new();
    *IS_BEFORE_7.get_or_init(|| {
        let output = Command::new(program()).arg("--version").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let version = text.split("v=").nth(1).unwrap();
        version.split('.').next().unwrap().parse::<u32>().unwrap() < 7
    })
}

fn spawn(port: u16, folder: &TempDir, arguments: &[String]) -> Option<Running> {
    let server = program();
    let for_all = std::env::var("REDIS_SERVER_ARGUMENTS").unwrap_or_default();
    let child = command(server)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--daemonize", "no", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder.path())
        .args(for_all.split_whitespace())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut process = match child {
        Ok(child) => Running(child),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("redis-server is not installed; tests/run installs it")
        }
        Err(error) => panic!("{error}"),
    };
    let pid = format!("process_id:{}\r\n", process.0.id());
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if process.0.try_wait().unwrap().is_some() {
            return None;
        }
        // The server on this port must be the one that was started. A server that requires a
        // password is that one as well, since no other test's server uses the port of this test.
        let info = Client::open(format!("redis://127.0.0.1:{port}"))
            .unwrap()
            .get_connection_with_timeout(Duration::from_millis(200))
            .and_then(|mut connection| cmd("INFO").arg("server").query::<String>(&mut connection));
        match info {
            Ok(info) if info.contains(&pid) => return Some(process),
            Ok(_) => return None,
            Err(error) if error.to_string().contains("NOAUTH") => return Some(process),
            // The server needs the processor that a spinning loop would take.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    None
}
