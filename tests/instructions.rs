//! Instructions per cache hit. Unlike times, the counts are reproducible, so no slowdown goes
//! unnoticed.
//!
//! Valgrind counts them, and the result is the difference between many hits and few. Valgrind has
//! no SHA instructions, so about 6,500 instructions of a hit in Redis compute the name of the key.
//! A real processor needs a fraction of them.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends by a panic, and takes a part of what others share"
)]

#[path = "support/process.rs"]
mod process;
#[path = "support/redis.rs"]
mod redis;

use std::{path::PathBuf, process::Command};

/// The compiler for which the figures below were counted. For another one the tolerance is larger.
const COMPILER: &str = "rustc 1.95.0";
const LOCAL: u64 = 3_156;
const REDIS: u64 = 38_600;

/// Builds the program as users build it.
fn program() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            "session-cache-instructions",
        ])
        .args(["--message-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // Instrumentation of this test, such as coverage, must not apply to the counted program.
        .env_remove("RUSTFLAGS")
        .env_remove("LLVM_PROFILE_FILE")
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let messages = String::from_utf8(built.stdout).unwrap();
    let (_, program) = messages
        .rsplit_once("\"executable\":\"")
        .expect("cargo names the executable");
    program.split('"').next().unwrap().into()
}

fn instructions(program: &PathBuf, kind: &str, hits: u64, url: &str) -> u64 {
    let counted = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(
            [kind, &hits.to_string(), url]
                .iter()
                .filter(|argument| !argument.is_empty()),
        )
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&counted.stderr);
    assert!(counted.status.success(), "{output}");
    let (_, count) = output.split_once("Collected : ").expect("a count");
    count.lines().next().unwrap().trim().parse().unwrap()
}

#[test]
fn instructions_per_hit_are_unchanged() {
    let has = |program: &str| Command::new(program).arg("--version").output();
    if has("valgrind").is_err() {
        eprintln!("SKIPPED: instructions are not counted because valgrind is missing");
        return;
    }
    let compiler = String::from_utf8(has("rustc").unwrap().stdout).unwrap();
    let percent = if compiler.starts_with(COMPILER) {
        4
    } else {
        15
    };
    let server = redis::Redis::start();
    let program = program();
    for (kind, url, before) in [("local", "", LOCAL), ("redis", &*server.url(), REDIS)] {
        let few = instructions(&program, kind, 500, url);
        // Otherwise the sessions of the first run would still be cached, and be hit immediately.
        server.run::<()>(&bb8_redis::redis::cmd("FLUSHALL"));
        let many = instructions(&program, kind, 1_500, url);
        let each = (many - few) / 1_000;
        println!("{kind}: {each} instructions a hit, {before} before");
        assert!(
            each.abs_diff(before) <= before * percent / 100,
            "{kind}: {each} instructions a hit, {before} before; if this is intended, change the figure here"
        );
    }
}
