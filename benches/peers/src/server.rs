//! Server in a separate process, and how its parent learns which requests to send.
//!
//! The server is the same program, started with the peer's name. It writes its address, and then a
//! line for each of its users: the header to send, a tab, and the user's ID.

use std::{
    env,
    error::Error,
    io::{BufRead, BufReader, Read, Write, stdout},
    process::{Child, Command, Stdio},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    cores::{Cores, pin},
    load::{Ask, Plan},
    peers::{self, Peer},
    process::{Running, command},
};

/// Running server, which ends when this value is dropped.
pub struct Server {
    pub peer: Peer,
    pub plan: Plan,
    process: Running,
}

impl Server {
    pub fn start(peer: Peer, redis: &str, cores: Option<Cores>) -> Result<Self, Box<dyn Error>> {
        Self::run(command(env::current_exe()?), peer, redis, cores)
    }

    /// Starts a server with a command that takes this program's arguments.
    pub fn run(
        mut command: Command,
        peer: Peer,
        redis: &str,
        cores: Option<Cores>,
    ) -> Result<Self, Box<dyn Error>> {
        command.args(["serve", peer.name(), redis]);
        if let Some(cores) = cores {
            command.arg(cores.server.to_string());
        }
        let mut process = Running(command.stdout(Stdio::piped()).spawn()?);
        let plan = read_plan(&mut process.0)
            .map_err(|error| format!("{} does not come up: {error}", peer.name()))?;
        Ok(Self {
            peer,
            plan,
            process,
        })
    }

    /// Waits until the process has ended.
    pub fn wait(mut self) -> Result<(), Box<dyn Error>> {
        self.process.0.wait()?;
        Ok(())
    }
}

fn read_plan(process: &mut Child) -> Result<Plan, Box<dyn Error>> {
    let out = process.stdout.take().ok_or("it has no output")?;
    let mut lines = BufReader::new(out.take(1 << 20)).lines();
    let address = lines.next().ok_or("it says nothing")??.parse()?;
    let mut asks = Vec::new();
    while asks.len() < peers::TOKENS {
        let line = lines.next().ok_or("it does not say what to ask")??;
        let (header, user) = line.split_once('\t').ok_or("a line without a tab")?;
        asks.push(Ask::new(header, user));
    }
    Ok(Plan {
        address,
        pid: process.id(),
        asks,
    })
}

/// Runs the server in the child process, until the process is killed.
pub fn serve(peer: Peer, redis: &str, cpu: Option<usize>) -> Result<(), Box<dyn Error>> {
    if let Some(cpu) = cpu {
        pin(cpu)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let served = peers::serve(peer, redis).await?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut lines = format!("{}\n", listener.local_addr()?);
        for (header, user) in &served.headers {
            lines += &format!("{header}\t{user}\n");
        }
        stdout().write_all(lines.as_bytes())?;
        stdout().flush()?;
        if peer == Peer::Nothing {
            let user = served.headers.first().ok_or("no users")?.1.clone();
            answer_without_reading(listener, &user).await?;
        } else {
            axum::serve(listener, served.app).await?;
        }
        Ok(())
    })
}

async fn answer_without_reading(listener: TcpListener, user: &str) -> Result<(), Box<dyn Error>> {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{user}",
        user.len()
    );
    loop {
        let (mut stream, _) = listener.accept().await?;
        let answer = answer.clone();
        tokio::spawn(async move {
            let mut request = [0; 4096];
            while let Ok(1..) = stream.read(&mut request).await {
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
            }
        });
    }
}
