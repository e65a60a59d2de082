//! Mistakes that users are likely to make, and the compiler's message for each.
//!
//! Every file in `tests/ui` lists words that must occur in the compiler's output, in this order.
//! The rest of the output changes from release to release, so it is not checked. The files are
//! compiled with the same libraries as this test. A separate project, as trybuild creates it, would
//! build all dependencies again.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Returns the crates that a file may use, as arguments for the compiler.
fn externs() -> Vec<String> {
    let test = env::current_exe().unwrap();
    let mut folders = test.ancestors().skip(1);
    let (deps, profile, target) = (folders.next(), folders.next(), folders.next());
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Everything is built already. Cargo only reports where.
    cargo
        .args([
            "test",
            "--no-run",
            "--locked",
            "--offline",
            "--all-features",
        ])
        .args(["--test", "suite", "--message-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", target.unwrap())
        // Set for the tests only (see tests/runner). With it, cargo would build everything again.
        .env_remove("RUSTC_BOOTSTRAP");
    if profile.unwrap().ends_with("release") {
        cargo.arg("--release");
    }
    // Some build scripts depend on these variables, and would run again.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_CRATE_",
            "CARGO_BIN_",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        {
            cargo.env_remove(name);
        }
    }
    let output = cargo.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");

    let mut arguments = vec!["-L".to_owned()];
    arguments.push(format!("dependency={}", deps.unwrap().display()));
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let message: Value = serde_json::from_str(line).unwrap();
        let name = message["target"]["name"].as_str().unwrap_or_default();
        let files = message["filenames"].as_array();
        let library = files
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .find(|file| file.ends_with(".rlib"));
        if let Some(library) = library
            && ["axum", "http", "tower", "tower_session_cache"].contains(&name)
        {
            arguments.push("--extern".to_owned());
            arguments.push(format!("{name}={library}"));
        }
    }
    assert_eq!(arguments.len(), 2 + 2 * 4, "{arguments:?}");
    arguments
}

/// Returns whether the file compiles, and the compiler's output.
fn compile(file: &Path, externs: &[String]) -> (bool, String) {
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition", "2024", "--crate-type", "lib", "--emit"])
        .args(["metadata", "--color", "never", "--out-dir"])
        .arg(out.path())
        .env_remove("RUSTC_BOOTSTRAP")
        .args(externs)
        .arg(file)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.success(), said)
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui");
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn compiler_errors_for_common_mistakes_are_helpful() {
    let externs = externs();
    let mut wrong = 0;
    for file in files() {
        let source = fs::read_to_string(&file).unwrap();
        let words: Vec<_> = source
            .lines()
            .filter_map(|line| line.strip_prefix("//~ "))
            .collect();
        let (compiles, said) = compile(&file, &externs);
        let name = file.display();
        assert_eq!(compiles, words.is_empty(), "{name}\n{said}");
        // `right.rs` must compile. If not, a mistake in this test would look like one in the files.
        assert_eq!(compiles, file.ends_with("right.rs"), "{name}");
        let mut rest = said.as_str();
        for word in words {
            let found = rest.split_once(word);
            let (_, after) = found.unwrap_or_else(|| panic!("{name}: no {word:?} in\n{said}"));
            rest = after;
        }
        wrong += usize::from(!compiles);
    }
    assert!(wrong >= 10, "{wrong}");
}
