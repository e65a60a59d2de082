//! TCP proxy in front of Redis that parses the traffic and fails on request.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::SeqCst},
    },
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
    faults: Arc<Faults>,
    accepting: AbortHandle,
}

/// Fault that applies to replies from now on.
#[derive(Clone, Copy)]
pub enum Fault {
    None,
    Delay(Duration),
    /// Drops replies and everything that would follow on their connections, which stay open.
    Swallow,
    /// Like `Swallow`, but new connections receive replies up to `+OK`.
    SwallowAfterGreeting,
    /// Drops a push and everything that would follow on its connection, which stays open.
    SwallowPushes,
    /// Forwards half of a reply, and then ends its connection.
    Cut,
}

struct Faults {
    /// Port to which new connections are forwarded.
    server: AtomicU16,
    fault: Mutex<Fault>,
    withholds_pushes: AtomicBool,
    words_of_redis_6: AtomicBool,
    declared_keys_only: AtomicBool,
    refuses: AtomicBool,
    /// Number of connections so far, and of those that carry nothing any more.
    accepted: AtomicUsize,
    forgotten: AtomicUsize,
    /// Number of requests that such a connection has lost.
    lost: AtomicUsize,
    holds_lookups: watch::Sender<bool>,
    holds_tracking: watch::Sender<bool>,
    /// Whether commands are held, and how many times held commands were released.
    holds_commands: watch::Sender<(bool, u64)>,
    /// Number of connections on which replies are dropped now, and of all on which they were.
    swallowing: AtomicUsize,
    swallowed: AtomicUsize,
    /// Number of held replies and requests. `pongs` is the number of forwarded PONGs.
    held: AtomicUsize,
    pongs: AtomicUsize,
    /// Number of the PONG after which everything is dropped.
    last_pong: AtomicUsize,
}

impl Faults {
    fn has_forgotten(&self, connection: usize) -> bool {
        connection <= self.forgotten.load(SeqCst)
    }

    /// Reads everything that follows on a connection, and forwards nothing.
    async fn swallow(&self, from: &mut OwnedReadHalf) {
        self.swallowing.fetch_add(1, SeqCst);
        self.swallowed.fetch_add(1, SeqCst);
        while let Ok(1..) = from.read(&mut [0; 16 * 1024]).await {}
        self.swallowing.fetch_sub(1, SeqCst);
    }

    async fn wait_while(&self, holds: &watch::Sender<bool>) {
        let mut holds = holds.subscribe();
        self.held.fetch_add(1, SeqCst);
        let _ = holds.wait_for(|holds| !holds).await;
        self.held.fetch_sub(1, SeqCst);
    }
}

impl Proxy {
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let commands = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&commands);
        let faults = Arc::new(Faults {
            server: AtomicU16::new(server),
            fault: Mutex::new(Fault::None),
            withholds_pushes: AtomicBool::new(false),
            words_of_redis_6: AtomicBool::new(false),
            declared_keys_only: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            forgotten: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            holds_lookups: watch::Sender::new(false),
            holds_tracking: watch::Sender::new(false),
            holds_commands: watch::Sender::new((false, 0)),
            swallowing: AtomicUsize::new(0),
            swallowed: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            pongs: AtomicUsize::new(0),
            last_pong: AtomicUsize::new(usize::MAX),
        });
        let now = Arc::clone(&faults);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                // The set keeps what has ended until it is taken out.
                while connections.try_join_next().is_some() {}
                if now.refuses.load(SeqCst) {
                    continue;
                }
                let server = now.server.load(SeqCst);
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let (log, faults) = (Arc::clone(&log), Arc::clone(&now));
                let number = now.accepted.fetch_add(1, SeqCst) + 1;
                connections.spawn(requests(number, from_client, to_server, log, faults));
                connections.spawn(replies(number, from_server, to_client, Arc::clone(&now)));
            }
        });
        Self {
            port,
            commands,
            faults,
            accepting: accepting.abort_handle(),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/2", self.port)
    }

    pub fn fault(&self, fault: Fault) {
        self.faults.last_pong.store(usize::MAX, SeqCst);
        *self.faults.fault.lock().unwrap() = fault;
    }

    /// Returns the number of connections on which a reply, and everything after it, was dropped.
    pub fn swallowing(&self) -> usize {
        self.faults.swallowing.load(SeqCst)
    }

    /// Returns the number of connections on which a reply or a push, and everything after it, has
    /// been dropped so far.
    pub fn swallowed(&self) -> usize {
        self.faults.swallowed.load(SeqCst)
    }

    /// Forwards replies, but no pushes.
    pub fn withhold_pushes(&self, withhold: bool) {
        self.faults.withholds_pushes.store(withhold, SeqCst);
    }

    /// Reports the error of a command in a script as Redis 6.2.5 does.
    pub fn use_words_of_redis_6(&self) {
        self.faults.words_of_redis_6.store(true, SeqCst);
    }

    /// Lets scripts that are loaded from now on access only the keys that they declare, as Dragonfly
    /// does.
    pub fn require_declared_keys(&self) {
        self.faults.declared_keys_only.store(true, SeqCst);
    }

    /// Forwards everything except the replies to lookups.
    pub fn hold_lookups(&self, hold: bool) {
        self.faults.holds_lookups.send_replace(hold);
    }

    /// Forwards everything except the requests for tracking.
    pub fn hold_tracking(&self, hold: bool) {
        self.faults.holds_tracking.send_replace(hold);
    }

    /// Forwards no commands from now on. They are still listed.
    pub fn hold_commands(&self, hold: bool) {
        let holds = &self.faults.holds_commands;
        holds.send_modify(|(holds, _)| *holds = hold);
    }

    /// Releases the commands that have arrived, but no later ones.
    pub fn let_commands_go(&self) {
        let holds = &self.faults.holds_commands;
        holds.send_modify(|(_, times)| *times += 1);
    }

    /// Returns the number of replies to lookups and requests for tracking that are held now.
    pub fn held(&self) -> usize {
        self.faults.held.load(SeqCst)
    }

    /// Returns the number of forwarded PONGs.
    pub fn pongs(&self) -> usize {
        self.faults.pongs.load(SeqCst)
    }

    /// Forwards one more PONG, and then [drops everything](Fault::Swallow).
    pub fn swallow_after_a_pong(&self) {
        self.faults.last_pong.store(self.pongs() + 1, SeqCst);
    }

    /// Forwards new connections to another server. Existing connections are unchanged.
    pub fn lead_to(&self, server: u16) {
        self.faults.server.store(server, SeqCst);
    }

    /// Forwards nothing on the existing connections any more, and leaves them open, as a load
    /// balancer or NAT that has dropped their state does.
    pub fn forget_connections(&self) {
        let accepted = self.faults.accepted.load(SeqCst);
        self.faults.forgotten.store(accepted, SeqCst);
    }

    /// Returns the number of requests that were lost on such connections.
    pub fn lost(&self) -> usize {
        self.faults.lost.load(SeqCst)
    }

    /// Ends every new connection immediately. Existing connections are unchanged.
    pub fn refuse(&self, refuse: bool) {
        self.faults.refuses.store(refuse, SeqCst);
    }

    /// Returns the names of the commands that arrived since the last call, in order.
    pub fn commands(&self) -> Vec<String> {
        std::mem::take(&mut self.commands.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn requests(
    number: usize,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    log: Arc<Mutex<Vec<String>>>,
    faults: Arc<Faults>,
) {
    let (mut pending, mut held) = (Vec::new(), Vec::new());
    let mut buffer = [0; 16 * 1024];
    let mut holds = faults.holds_commands.subscribe();
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => {
                let Ok(length @ 1..) = read else { break };
                if faults.has_forgotten(number) {
                    faults.lost.fetch_add(1, SeqCst);
                    continue;
                }
                held.extend_from_slice(&buffer[..length]);
                pending.extend_from_slice(&buffer[..length]);
                while let Some((name, rest)) = command(&pending) {
                    log.lock().unwrap().push(name);
                    pending.drain(..pending.len() - rest);
                }
                if holds.borrow().0 {
                    continue;
                }
                if faults.declared_keys_only.load(SeqCst) {
                    if !pending.is_empty() {
                        continue;
                    }
                    held = with_declared_keys_only(&held);
                }
            }
            _ = holds.changed() => {}
        }
        let tracking = b"TRACKING";
        if held.windows(tracking.len()).any(|word| word == tracking) {
            faults.wait_while(&faults.holds_tracking).await;
        }
        if to.write_all(&std::mem::take(&mut held)).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

async fn replies(
    number: usize,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    faults: Arc<Faults>,
) {
    let mut pending = Vec::new();
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if faults.has_forgotten(number) {
            continue;
        }
        let fault = *faults.fault.lock().unwrap();
        match fault {
            Fault::None | Fault::SwallowPushes => {}
            Fault::Delay(by) => tokio::time::sleep(by).await,
            Fault::SwallowAfterGreeting if buffer.starts_with(b"+OK") => {}
            Fault::Swallow | Fault::SwallowAfterGreeting => {
                faults.swallow(&mut from).await;
                break;
            }
            Fault::Cut => {
                let _ = to.write_all(&buffer[..length / 2]).await;
                break;
            }
        }
        pending.extend_from_slice(&buffer[..length]);
        while let Some(length) = frame(&pending) {
            let mut frame: Vec<u8> = pending.drain(..length).collect();
            if faults.words_of_redis_6.load(SeqCst) {
                frame = words_of_redis_6(frame);
            }
            if frame[0] == b'>' && faults.withholds_pushes.load(SeqCst) {
                continue;
            }
            if frame[0] == b'>' && matches!(fault, Fault::SwallowPushes) {
                faults.swallow(&mut from).await;
                return;
            }
            // No other reply to a command of this crate is a list.
            if frame[0] == b'*' {
                faults.wait_while(&faults.holds_lookups).await;
            }
            if to.write_all(&frame).await.is_err() {
                return;
            }
            if frame == b"+PONG\r\n" {
                let pong = faults.pongs.fetch_add(1, SeqCst) + 1;
                if pong >= faults.last_pong.load(SeqCst) {
                    *faults.fault.lock().unwrap() = Fault::Swallow;
                }
            }
        }
    }
    let _ = to.shutdown().await;
}

/// Rewrites `-READONLY You can't write. script: 9ff8…, on @user_script:1.`
fn words_of_redis_6(frame: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(&frame);
    let Some((error, script)) = text.split_once(" script: ") else {
        return frame;
    };
    let hash = script.split(',').next().unwrap();
    format!(
        "-ERR Error running script (call to f_{hash}): @user_script:1: @user_script: 1: {error}\r\n"
    )
    .into_bytes()
}

/// Returns the length of the first reply or push, or `None` while it is incomplete.
fn frame(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || -> usize {
        let text = std::str::from_utf8(&bytes[1..line - 2]).unwrap();
        // A length of -1 means null.
        text.parse::<i64>().unwrap().try_into().unwrap_or(0)
    };
    let parts = match bytes[0] {
        b'$' | b'=' | b'!' if bytes[1] == b'-' => 0,
        b'$' | b'=' | b'!' => {
            let end = line + number() + 2;
            return (bytes.len() >= end).then_some(end);
        }
        b'*' | b'~' | b'>' => number(),
        b'%' => 2 * number(),
        _ => 0,
    };
    (0..parts).try_fold(line, |at, _| Some(at + frame(&bytes[at..])?))
}

/// Replaces `redis` in a script by functions that reject keys that are not declared.
const DECLARED_KEYS_ONLY: &str = "\
local real, declared = redis, {}
for _, key in ipairs(KEYS) do declared[key] = true end
local function checked(run, command, ...)
  local key = ...
  if command ~= 'TIME' and not declared[key] then
    return {err = 'ERR script tried accessing undeclared key, key: ' .. key}
  end
  return run(command, ...)
end
local redis = {
  pcall = function(...) return checked(real.pcall, ...) end,
  call = function(...)
    local reply = checked(real.call, ...)
    if type(reply) == 'table' and reply.err then error(reply.err) end
    return reply
  end,
}
";

fn with_declared_keys_only(mut commands: &[u8]) -> Vec<u8> {
    let mut forwarded = Vec::new();
    while let Some((mut arguments, rest)) = arguments(commands) {
        let script;
        if let [name, b"LOAD", code] = &arguments[..]
            && *name == b"SCRIPT"
        {
            script = [DECLARED_KEYS_ONLY.as_bytes(), code].concat();
            arguments[2] = &script;
        }
        forwarded.extend(format!("*{}\r\n", arguments.len()).bytes());
        for argument in arguments {
            forwarded.extend(format!("${}\r\n", argument.len()).bytes());
            forwarded.extend([argument, b"\r\n"].concat());
        }
        commands = &commands[commands.len() - rest..];
    }
    forwarded
}

/// Returns the name of the first command and the number of bytes after it, or `None` while the
/// command is incomplete.
pub fn command(bytes: &[u8]) -> Option<(String, usize)> {
    let (arguments, rest) = arguments(bytes)?;
    let name = String::from_utf8_lossy(arguments.first()?);
    Some((name.to_uppercase(), rest))
}

/// Returns the name and the arguments of the first command, and the number of bytes after it.
fn arguments(bytes: &[u8]) -> Option<(Vec<&[u8]>, usize)> {
    let (count, mut rest) = number(bytes, b'*')?;
    let mut arguments = Vec::new();
    for _ in 0..count {
        let (length, after) = number(rest, b'$')?;
        arguments.push(after.get(..length)?);
        rest = after.get(length + 2..)?;
    }
    Some((arguments, rest.len()))
}

fn number(bytes: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    assert_eq!(bytes[0], kind, "not what redis-rs sends");
    let number = std::str::from_utf8(&bytes[1..end]).unwrap();
    Some((number.parse().unwrap(), &bytes[end + 2..]))
}
