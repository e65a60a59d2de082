//! A fleet of processes with their Redis and their provider.

use std::{process::Stdio, time::Duration};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    time::{sleep, timeout},
};

use crate::{
    node::{Mode, Settings},
    process::command,
    provider::Provider,
    redis::Redis,
};

#[derive(Clone, Copy)]
pub struct Size {
    pub processes: usize,
    /// Nodes per process.
    pub nodes: usize,
}

/// Process with one node or several.
struct Process {
    first: usize,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// What the requests of a fleet have cost.
#[derive(Default)]
pub struct Outcome {
    /// Calls of the provider.
    pub calls: u64,
    pub failed: u64,
    pub slowest: Duration,
}

pub struct Fleet {
    processes: Vec<Process>,
    provider: Provider,
    /// Nodes at the start.
    nodes: usize,
    _redis: Redis,
}

impl Fleet {
    /// Starts all processes, and waits until each node has used Redis and the provider.
    pub async fn start(mode: Mode, size: Size, provider: Duration) -> Self {
        let redis = Redis::start();
        let mut provider = Provider::start(provider).await;
        let processes = (0..size.processes).map(|n| {
            Process::start(&Settings {
                mode,
                redis: redis.url(),
                provider: provider.address(),
                first: n * size.nodes,
                nodes: size.nodes,
            })
        });
        let mut processes: Vec<_> = processes.collect();
        for process in &mut processes {
            assert_eq!(process.read().await, "ready");
        }
        provider.take_calls();
        Self {
            processes,
            provider,
            nodes: size.processes * size.nodes,
            _redis: redis,
        }
    }

    /// Asks all nodes for a token at the same time.
    pub async fn ask(&mut self, token: usize) -> Outcome {
        self.send_all(&token.to_string()).await;
        self.outcome().await
    }

    /// Asks one node for a token, then all others, and kills the first while its validation is in
    /// flight. The outcome is that of the others.
    pub async fn ask_and_kill(&mut self, token: usize) -> Outcome {
        let mut killed = self.processes.remove(0);
        killed.send(&token.to_string()).await;
        assert_eq!(self.provider.next_caller().await, killed.first);
        self.send_all(&token.to_string()).await;
        // Their lookups take a few milliseconds, and a validation takes 300.
        sleep(Duration::from_millis(50)).await;
        killed.child.kill().await.unwrap();
        self.outcome().await
    }

    /// Asks each node once per period. With `kill`, the node that makes the validation of this
    /// number is killed while it is in flight.
    pub async fn load(
        &mut self,
        period: Duration,
        time: Duration,
        sessions: usize,
        kill: Option<usize>,
    ) -> Outcome {
        let (all, period, time) = (self.nodes, period.as_millis(), time.as_millis());
        self.send_all(&format!("{all} {period} {time} {sessions}"))
            .await;
        if let Some(n) = kill {
            for _ in 0..n {
                self.provider.next_caller().await;
            }
            let caller = self.provider.next_caller().await;
            let killed = self.processes.iter().position(|it| it.first == caller);
            let mut killed = self.processes.remove(killed.expect("a node that lives"));
            killed.child.kill().await.unwrap();
        }
        self.outcome().await
    }

    async fn send_all(&mut self, line: &str) {
        join_all(self.processes.iter_mut().map(|it| it.send(line))).await;
    }

    async fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        for process in &mut self.processes {
            let line = process.read().await;
            let numbers: Vec<u64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
            let [_, failed, slowest] = numbers[..] else {
                panic!("not an outcome: {line}");
            };
            outcome.failed += failed;
            outcome.slowest = outcome.slowest.max(Duration::from_micros(slowest));
        }
        outcome.calls = self.provider.take_calls();
        outcome
    }
}

impl Process {
    fn start(settings: &Settings) -> Self {
        let mut command = command(std::env::current_exe().unwrap());
        command.args(settings.arguments());
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            first: settings.first,
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    async fn send(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.input.write_all(line.as_bytes()).await.unwrap();
    }

    async fn read(&mut self) -> String {
        let line = timeout(Duration::from_secs(120), self.output.next_line()).await;
        line.expect("a line in time")
            .unwrap()
            .expect("a node that lives")
    }
}
