//! Cost of a request to its server in instructions and cache misses, counted by valgrind's
//! cachegrind. Unlike times, the counts are reproducible, and they show where time is spent.
//!
//! Cachegrind simulates a processor with two first-level caches of 32 KiB each and a last-level
//! cache of 512 KiB. It does not count the work of the kernel. The cost of a request is the
//! difference between two runs, divided by the difference in requests.

use std::{error::Error, fs};

use bb8_redis::redis::cmd;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    load,
    peers::{Peer, TOKENS},
    process::command,
    redis::Redis,
    server::Server,
};

/// How often a run sends all requests.
const FEW: usize = 2;
const MANY: usize = 10;

/// Names of the counts in cachegrind's summary.
const COUNTED: [&str; 4] = ["I refs", "I1 misses", "D1 misses", "LL misses"];

type Counts = [f64; COUNTED.len()];

pub fn table(peers: &[Peer], redis: &Redis) -> Result<String, Box<dyn Error>> {
    let mut table = String::from(
        "| a request finds its user by | instructions | lines of code fetched | lines of data fetched | lines from beyond 512 KiB |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    for peer in peers.iter().filter(|peer| **peer != Peer::Nothing) {
        let [few, many] = [count(*peer, redis, FEW)?, count(*peer, redis, MANY)?];
        let requests = ((MANY - FEW) * TOKENS) as f64;
        let each: Vec<_> = many
            .iter()
            .zip(few)
            .map(|(many, few)| (many - few) / requests)
            .collect();
        table += &format!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.1} |\n",
            peer.title(),
            each[0],
            each[1],
            each[2],
            each[3]
        );
    }
    Ok(table)
}

fn count(peer: Peer, redis: &Redis, times: usize) -> Result<Counts, Box<dyn Error>> {
    redis.run::<()>(&cmd("FLUSHALL"));
    let summary = tempfile::NamedTempFile::new()?;
    let log = format!("--log-file={}", summary.path().display());
    let mut valgrind = command("valgrind");
    valgrind
        .args(["--tool=cachegrind", "--cache-sim=yes", &log])
        .args(["--cachegrind-out-file=/dev/null", "--LL=524288,8,64"])
        .args(["--I1=32768,8,64", "--D1=32768,8,64"])
        .arg(std::env::current_exe()?);
    let server = Server::run(valgrind, peer, &redis.url(), None)?;
    for _ in 0..times {
        load::check(&server.plan).map_err(|error| format!("{} fails: {error}", peer.name()))?;
    }
    let pid = i32::try_from(server.plan.pid).ok().and_then(Pid::from_raw);
    kill_process(pid.ok_or("it has no number")?, Signal::TERM)?;
    server.wait()?;
    read(&fs::read_to_string(summary.path())?)
}

fn read(summary: &str) -> Result<Counts, Box<dyn Error>> {
    let mut counts = Counts::default();
    for (name, count) in COUNTED.iter().zip(&mut counts) {
        let mut words = summary.lines().filter_map(|line| {
            let (_, line) = line.split_once("== ")?;
            let (what, number) = line.split_once(':')?;
            let is_it = what.split_whitespace().eq(name.split(' '));
            is_it.then(|| number.split_whitespace().next()).flatten()
        });
        let number = words.next().ok_or("valgrind does not tell its counts")?;
        *count = number.replace(',', "").parse()?;
    }
    Ok(counts)
}
