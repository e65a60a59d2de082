//! Load generator: 64 connections that each send a request as soon as the last one is answered.
//!
//! The load generator must cost much less than the server it measures. It therefore parses
//! responses only before the measurement. During the measurement it compares the length, the status
//! and the user at the end.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use crate::cores::cpu_time;

const CONNECTIONS: usize = 64;

/// Requests for a server, and the user that each response must name.
pub struct Plan {
    pub address: SocketAddr,
    pub pid: u32,
    pub asks: Vec<Ask>,
}

pub struct Ask {
    request: Vec<u8>,
    user: String,
}

impl Ask {
    pub fn new(header: &str, user: &str) -> Self {
        Self {
            request: format!("GET / HTTP/1.1\r\nhost: localhost\r\n{header}\r\n\r\n").into_bytes(),
            user: user.to_owned(),
        }
    }
}

/// Measurements of one server, from one or several turns.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    answers: u64,
    time: Duration,
    /// CPU time that the server used in `time`.
    cpu: Option<Duration>,
}

impl Measured {
    pub const NOTHING: Self = Self {
        answers: 0,
        time: Duration::ZERO,
        cpu: Some(Duration::ZERO),
    };

    /// Returns the responses per second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.time.as_secs_f64()
    }

    /// Returns the server's CPU time per response, in seconds.
    pub fn cpu(&self) -> Option<f64> {
        Some(self.cpu?.as_secs_f64() / self.answers as f64)
    }

    pub fn add(&mut self, other: Self) {
        self.answers += other.answers;
        self.time += other.time;
        self.cpu = self.cpu.zip(other.cpu).map(|(one, other)| one + other);
    }
}

/// Sends each request once and parses each response. Returns the length of the responses, which
/// must be the same for all.
pub fn check(plan: &Plan) -> Result<usize, String> {
    let mut stream = std::net::TcpStream::connect(plan.address).map_err(|e| e.to_string())?;
    let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
    let mut length = None;
    for ask in &plan.asks {
        stream.write_all(&ask.request).map_err(|e| e.to_string())?;
        let answer = read_one(&mut stream)?;
        if !is_right(answer.as_bytes(), ask) {
            return Err(format!("wrong answer, not 200 with {}: {answer}", ask.user));
        }
        if *length.get_or_insert(answer.len()) != answer.len() {
            return Err(format!("answers differ in length: {answer}"));
        }
    }
    length.ok_or_else(|| "nothing to ask".to_owned())
}

fn read_one(stream: &mut std::net::TcpStream) -> Result<String, String> {
    let mut answer = Vec::new();
    loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).map_err(|e| e.to_string())?;
        answer.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.parse::<usize>().ok())
                .ok_or_else(|| format!("an answer without a length: {text}"))?;
            if body.len() >= length {
                return String::from_utf8(answer).map_err(|e| e.to_string());
            }
        }
        if count == 0 {
            return Err(format!("the connection ended within an answer: {text}"));
        }
    }
}

fn is_right(answer: &[u8], ask: &Ask) -> bool {
    answer.starts_with(b"HTTP/1.1 200 ")
        && answer
            .strip_suffix(ask.user.as_bytes())
            .is_some_and(|head| head.ends_with(b"\r\n\r\n"))
}

struct Connection {
    stream: TcpStream,
    asked: usize,
    answer: [u8; 4096],
    filled: usize,
}

/// Measures for `time`, after a warm-up of a quarter of `time`. By the end of the warm-up, the
/// processor's caches hold again what other servers evicted.
pub fn measure(plan: &Plan, length: usize, time: Duration) -> Result<Measured, String> {
    let io = |error: std::io::Error| format!("the load fails: {error}");
    let mut poll = Poll::new().map_err(io)?;
    let mut events = Events::with_capacity(CONNECTIONS);
    let mut connections = Vec::new();
    for n in 0..CONNECTIONS {
        let stream = std::net::TcpStream::connect(plan.address).map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        stream.set_nonblocking(true).map_err(io)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry()
            .register(&mut stream, Token(n), Interest::READABLE)
            .map_err(io)?;
        let mut connection = Connection {
            stream,
            // The connections start far apart, so that no two send the same token at the same time.
            asked: n * plan.asks.len() / CONNECTIONS,
            answer: [0; 4096],
            filled: 0,
        };
        connection.ask(plan)?;
        connections.push(connection);
    }
    let mut last = Instant::now();
    let warm = last + time / 4;
    let mut counted: Option<(Instant, Option<Duration>)> = None;
    let mut answers = 0_u64;
    loop {
        // The loop never sleeps. Otherwise servers would pay for waking it up, and slower servers
        // would pay more often.
        match poll.poll(&mut events, Some(Duration::ZERO)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            outcome => outcome.map_err(io)?,
        }
        if events.is_empty() {
            if last.elapsed() > Duration::from_secs(20) {
                return Err("the server does not answer".to_owned());
            }
            // Yield to Redis, which has no other core.
            std::thread::yield_now();
            continue;
        }
        last = Instant::now();
        for event in &events {
            let connection = &mut connections[event.token().0];
            if connection.read(plan, length)? {
                answers += 1;
                connection.ask(plan)?;
            }
        }
        let now = Instant::now();
        match counted {
            None if now >= warm => {
                counted = Some((now, cpu_time(plan.pid)));
                answers = 0;
            }
            Some((start, before)) if now - start >= time => {
                let cpu = cpu_time(plan.pid).zip(before);
                return Ok(Measured {
                    answers,
                    time: now - start,
                    cpu: cpu.map(|(after, before)| after.saturating_sub(before)),
                });
            }
            _ => {}
        }
    }
}

impl Connection {
    fn ask(&mut self, plan: &Plan) -> Result<(), String> {
        self.asked = (self.asked + 1) % plan.asks.len();
        let request = &plan.asks[self.asked].request;
        match self.stream.write(request) {
            Ok(count) if count == request.len() => Ok(()),
            Ok(_) => Err("a request does not fit into the socket".to_owned()),
            Err(error) => Err(format!("a request cannot be sent: {error}")),
        }
    }

    /// Returns `true` if the response is complete.
    fn read(&mut self, plan: &Plan, length: usize) -> Result<bool, String> {
        match self.stream.read(&mut self.answer[self.filled..]) {
            Ok(0) => return Err("the server has closed a connection".to_owned()),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(format!("no answer can be read: {error}")),
        }
        if self.filled < length {
            return Ok(false);
        }
        let answer = &self.answer[..self.filled];
        if self.filled > length || !is_right(answer, &plan.asks[self.asked]) {
            let answer = String::from_utf8_lossy(answer);
            return Err(format!("a wrong answer: {answer}"));
        }
        self.filled = 0;
        Ok(true)
    }
}
