//! Comparison of the whole stack: the cost of a request behind this crate, behind its peers and
//! behind nothing, measured in alternating rounds of one run.
//!
//! `cargo run --release` prints the table. It starts Redis (`REDIS_SERVER`, or `redis-server`) and
//! the servers. Each server is a separate process. All servers run on one core; Redis and the load
//! generator share another core. Absolute figures apply only to this machine. Ratios are comparable
//! between machines if nothing else is running.
//!
//! - `--write` also updates the table in the README and its picture, `docs/performance.svg`.
//! - `--quick` runs one short round of everything, to check that it works, not how fast it is.
//! - `--count` counts instructions and cache misses with valgrind instead, to explain the times.
//! - `--rounds N`, `--seed N` and `--only NAME,NAME` narrow down a search. The seed determines the
//!   order of the peers in each turn.

mod cores;
mod count;
mod load;
mod peers;
mod picture;
#[path = "../../../tests/support/process.rs"]
mod process;
#[allow(
    dead_code,
    unreachable_pub,
    reason = "made for tests, of which this takes a part"
)]
#[path = "../../../tests/support/redis.rs"]
mod redis;
mod report;
mod server;

use std::{env, error::Error, fs, path::Path, process::ExitCode, time::Duration};

use bb8_redis::redis::cmd;

use self::{
    cores::{Cores, Spinner},
    load::Measured,
    peers::Peer,
    redis::Redis,
    report::Report,
    server::Server,
};

const BEGIN: &str = "<!-- written by benches/peers -->\n";
const END: &str = "<!-- up to here -->\n";

/// Turns of each peer in a round. The speed of a shared machine changes within a second, so the
/// compared measurements must be closer together than that.
const TURNS: usize = 10;

struct Settings {
    rounds: usize,
    /// Duration of one turn.
    time: Duration,
    seed: u64,
    peers: Vec<Peer>,
    writes: bool,
    counts: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["serve", peer, redis, ref cpu @ ..] => match Peer::named(peer) {
            Some(peer) => server::serve(peer, redis, cpu.first().and_then(|cpu| cpu.parse().ok())),
            None => Err("no such peer".into()),
        },
        ref arguments => read(arguments).and_then(|settings| compare(&settings)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read(arguments: &[&str]) -> Result<Settings, Box<dyn Error>> {
    let mut settings = Settings {
        rounds: 15,
        time: Duration::from_millis(100),
        seed: 9,
        peers: Peer::ALL.into(),
        writes: false,
        counts: false,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} takes a value"));
        match *argument {
            "--quick" => (settings.rounds, settings.time) = (1, Duration::from_millis(20)),
            "--write" => settings.writes = true,
            "--count" => settings.counts = true,
            "--rounds" => settings.rounds = value()?.parse()?,
            "--seed" => settings.seed = value()?.parse()?,
            "--only" => {
                let named = |name| Peer::named(name).ok_or(format!("there is no peer {name}"));
                settings.peers = value()?.split(',').map(named).collect::<Result<_, _>>()?;
            }
            _ => return Err(format!("unknown argument {argument}; see src/main.rs").into()),
        }
    }
    Ok(settings)
}

fn compare(settings: &Settings) -> Result<(), Box<dyn Error>> {
    if settings.counts {
        let redis = Redis::start();
        println!("{}", count::table(&settings.peers, &redis)?);
        return Ok(());
    }
    let cores = Cores::find();
    match cores {
        // Pin before Redis is started, so that Redis runs on this core as well.
        Some(cores) => cores::pin(cores.rest)?,
        None => eprintln!("servers and load share their cores, which blurs all ratios"),
    }
    let redis = Redis::start();
    let spinner = cores.map(Spinner::start);
    eprintln!("seed {}", settings.seed);
    let mut random = settings.seed;
    let mut report = Report { rounds: Vec::new() };
    for n in 1..=settings.rounds {
        // Start new servers in each round, because the memory layout of a process varies by chance.
        redis.run::<()>(&cmd("FLUSHALL"));
        let mut servers = Vec::new();
        for peer in &settings.peers {
            let server = Server::start(*peer, &redis.url(), cores)?;
            let length = load::check(&server.plan)
                .map_err(|error| format!("{} fails: {error}", peer.name()))?;
            servers.push((server, length));
        }
        let mut round: Vec<_> = settings
            .peers
            .iter()
            .map(|peer| (*peer, Measured::NOTHING))
            .collect();
        for _ in 0..TURNS {
            shuffle(&mut servers, &mut random);
            for (server, length) in &servers {
                let measured = load::measure(&server.plan, *length, settings.time)
                    .map_err(|error| format!("{} fails: {error}", server.peer.name()))?;
                let of_server = round.iter_mut().filter(|(peer, _)| *peer == server.peer);
                of_server.for_each(|(_, sum)| sum.add(measured));
            }
        }
        report.rounds.push(round);
        eprintln!("round {n} of {}", settings.rounds);
    }
    drop(spinner);
    let table = report.table();
    println!("{table}");
    println!("{}", report.verdicts());
    if settings.writes {
        write(&table, &picture::draw(&report))?;
    }
    Ok(())
}

/// Shuffles by Fisher and Yates, with Steele's SplitMix64.
fn shuffle<T>(items: &mut [T], random: &mut u64) {
    for n in (1..items.len()).rev() {
        *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = *random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        items.swap(n, (bits % (n as u64 + 1)) as usize);
    }
}

fn write(table: &str, picture: &str) -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = fs::read_to_string(root.join("README.md"))?;
    let parts = readme.split_once(BEGIN).zip(readme.split_once(END));
    let ((before, _), (_, after)) = parts.ok_or("the README has no place for the table")?;
    let readme = format!("{before}{BEGIN}\n{table}\n{END}{after}");
    fs::write(root.join("README.md"), readme)?;
    fs::create_dir_all(root.join("docs"))?;
    fs::write(root.join("docs/performance.svg"), picture)?;
    Ok(())
}
