//! Benchmark of a fleet: how often the nodes on one Redis validate one session in total, next to one
//! node alone, and how long they wait if the node that validates it is killed.
//!
//! `cargo bench --bench fleet` takes about two minutes, and `cargo bench --bench fleet -- --quick`
//! one. Each node is a separate process: this program, started again. Each cell of a
//! table has its own Redis and its own provider, which counts its calls, and the cells run at the
//! same time. The sessions have a TTL of 10 seconds. The variables `NODES` (8), `MANY` (50, nodes
//! that share one process), `SESSIONS` (1, of which the result is the mean), `SECONDS` (42, at least
//! 14) and `PROVIDER_MS` (100) change the setup. The last table shows what Redis does for one request.

#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a program that ends by a panic, and takes a part of what others share"
)]

mod costs;
mod node;
mod nodes;
#[path = "../../tests/support/process.rs"]
mod process;
mod provider;
#[path = "../../tests/support/redis.rs"]
mod redis;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use futures_util::future::{join, join_all};

use self::{
    node::{MODES, Mode},
    nodes::{Fleet, Size},
};

/// How often each node is asked for each session, in the columns of the table.
const PERIODS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(1_600)];
/// Validations of the fleet, for each one of a node alone.
const LIMIT: f64 = 1.3;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect(name))
}

/// Size of a run.
#[derive(Clone, Copy)]
struct Setup {
    nodes: usize,
    many: usize,
    sessions: usize,
    load: Duration,
    provider: Duration,
    /// Cold tokens per cell.
    tokens: usize,
    /// Nodes that are killed, one for each token.
    kills: usize,
    /// Requests for each figure of the last table.
    requests: usize,
}

impl Setup {
    fn read() -> Self {
        let is_quick = std::env::args().any(|argument| argument == "--quick");
        let (seconds, tokens, kills, requests) = match is_quick {
            true => (14, 5, 1, 500),
            false => (42, 20, 4, 2_000),
        };
        Self {
            nodes: setting("NODES", 8) as usize,
            many: setting("MANY", 50) as usize,
            sessions: setting("SESSIONS", 1) as usize,
            load: Duration::from_secs(setting("SECONDS", seconds)),
            provider: Duration::from_millis(setting("PROVIDER_MS", 100)),
            tokens,
            kills,
            requests,
        }
    }
}

fn main() {
    let node = node::Settings::read();
    let runtime = match node {
        Some(_) => tokio::runtime::Builder::new_current_thread(),
        None => tokio::runtime::Builder::new_multi_thread(),
    }
    .enable_all()
    .build()
    .unwrap();
    runtime.block_on(async {
        match node {
            Some(node) => node::run(node).await,
            None => run(Setup::read()).await,
        }
    });
}

async fn run(setup: Setup) {
    let one = Size {
        processes: 1,
        nodes: 1,
    };
    let few = Size {
        processes: setup.nodes,
        nodes: 1,
    };
    let many = Size {
        processes: 1,
        nodes: setup.many,
    };
    let (alone, fleet) = join(rows(setup, one), rows(setup, few)).await;
    table(
        &format!("{} nodes, each a process", setup.nodes),
        &fleet,
        &alone,
    );
    let (many, killed) = join(rows(setup, many), killed_rows(setup)).await;
    table(
        &format!("{} nodes in one process", setup.many),
        &many,
        &alone,
    );
    killed_table(setup, &killed, &alone);
    costs::run(setup).await;
}

/// Validations of one mode.
struct Row {
    /// For each session, under load.
    loaded: Vec<f64>,
    /// For each cold token: the mean, and the most.
    cold: (f64, u64),
}

async fn rows(setup: Setup, size: Size) -> Vec<Row> {
    join_all(MODES.map(|mode| async move {
        let loaded = PERIODS.map(|period| async move {
            let mut fleet = Fleet::start(mode, size, setup.provider).await;
            let outcome = fleet.load(period, setup.load, setup.sessions, None).await;
            assert_eq!(outcome.failed, 0, "requests that were not served");
            outcome.calls as f64 / setup.sessions as f64
        });
        let (loaded, cold) = join(join_all(loaded), cold(mode, size, setup)).await;
        Row { loaded, cold }
    }))
    .await
}

async fn cold(mode: Mode, size: Size, setup: Setup) -> (f64, u64) {
    let mut fleet = Fleet::start(mode, size, setup.provider).await;
    let mut calls = Vec::new();
    for token in 0..setup.tokens {
        calls.push(fleet.ask(token).await.calls);
    }
    let mean = calls.iter().sum::<u64>() as f64 / calls.len() as f64;
    (mean, calls.into_iter().max().unwrap())
}

fn table(title: &str, fleet: &[Row], alone: &[Row]) {
    println!(
        "\n| {title} | each asked every 0.1 s | every 1.6 s | a cold token, all nodes at the same time |"
    );
    println!("| --- | --- | --- | --- |");
    for ((mode, row), alone) in MODES.iter().zip(fleet).zip(alone) {
        let mut cells = vec![mode.name().to_owned()];
        for (calls, alone) in row.loaded.iter().zip(&alone.loaded) {
            let limit = alone * LIMIT;
            let verdict = verdict(*calls <= limit);
            cells.push(format!(
                "{calls:.1}; one node {alone:.1}, limit {limit:.1} {verdict}"
            ));
        }
        let (mean, most) = row.cold;
        let (alone, _) = alone.cold;
        let verdict = verdict(most <= 1);
        cells.push(format!(
            "{mean:.1}, at most {most}; one node {alone:.1}, limit 1 {verdict}"
        ));
        println!("| {} |", cells.join(" | "));
    }
}

fn verdict(holds: bool) -> &'static str {
    if holds { "holds" } else { "DOES NOT HOLD" }
}

/// Outcome of one mode in which nodes are killed while they validate.
struct KilledRow {
    /// Validations of each cold token, the one of the killed node included, and the longest wait.
    cold: Vec<(u64, Duration)>,
    /// Validations for each session under load, and the longest wait of the nodes that remain.
    loaded: (f64, Duration),
}

async fn killed_rows(setup: Setup) -> Vec<KilledRow> {
    let size = Size {
        processes: setup.nodes,
        nodes: 1,
    };
    join_all(MODES.map(|mode| async move {
        let cold = async {
            let mut fleet = Fleet::start(mode, size, slow(setup)).await;
            let mut cold = Vec::new();
            for token in 0..setup.kills {
                let outcome = fleet.ask_and_kill(token).await;
                assert_eq!(outcome.failed, 0, "requests that were not served");
                cold.push((outcome.calls, outcome.slowest));
            }
            cold
        };
        let loaded = async {
            let mut fleet = Fleet::start(mode, size, slow(setup)).await;
            // The second validation is the first that replaces a record, after about 8 seconds.
            let killed = Some(1);
            let outcome = fleet
                .load(PERIODS[0], setup.load, setup.sessions, killed)
                .await;
            let calls = outcome.calls as f64 / setup.sessions as f64;
            (calls, outcome.slowest)
        };
        let (cold, loaded) = join(cold, loaded).await;
        KilledRow { cold, loaded }
    }))
    .await
}

/// Time that the provider takes while a node is killed.
fn slow(setup: Setup) -> Duration {
    3 * setup.provider
}

fn killed_table(setup: Setup, rows: &[KilledRow], alone: &[Row]) {
    let slow = slow(setup);
    // A waiting node gives the killed one this time, and then validates the token.
    let longest = (2 * slow).min(Duration::from_secs(1)) + slow;
    println!(
        "\n| {} nodes, one killed while it validates ({slow:?}) | cold token: validations | \
         longest wait of the others | each asked every 0.1 s: validations | longest wait |",
        setup.nodes
    );
    println!("| --- | --- | --- | --- | --- |");
    for ((mode, row), alone) in MODES.iter().zip(rows).zip(alone) {
        let most = row.cold.iter().map(|(calls, _)| *calls).max().unwrap();
        let waited = row.cold.iter().map(|(_, waited)| *waited).max().unwrap();
        let (calls, waited_under_load) = row.loaded;
        // The validation of the killed node is lost, so another one takes its place.
        let limit = alone.loaded[0] * LIMIT + 1.0;
        println!(
            "| {} | at most {most}, limit 2 {} | {waited:.1?}, limit {longest:.1?} plus a tenth {} \
             | {calls:.1}, limit {limit:.1} {} | {waited_under_load:.1?} |",
            mode.name(),
            verdict(most <= 2),
            verdict(waited <= longest.mul_f64(1.1)),
            verdict(calls <= limit),
        );
    }
}
