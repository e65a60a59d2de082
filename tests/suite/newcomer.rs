//! A user who follows only the README gets a service that works.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{
    appwrite::{Appwrite, Endpoint, Fault},
    client::http,
    process::{Running, command},
};

/// Returns the README's code block in this language that contains the text `with`.
fn block<'a>(readme: &'a str, language: &str, with: &str) -> &'a str {
    readme
        .split(&format!("```{language}\n"))
        .skip(1)
        .filter_map(|rest| rest.split("\n```").next())
        .find(|block| block.contains(with))
        .unwrap_or_else(|| panic!("no block in {language} with {with} in the README"))
}

#[tokio::test]
async fn readme_example_builds_a_service_that_authenticates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let dependencies = block(&readme, "toml", "[dependencies]");
    let code = block(&readme, "rust,no_run", "axum::serve");

    let project = tempfile::tempdir().unwrap();
    std::fs::create_dir(project.path().join("src")).unwrap();
    std::fs::write(project.path().join("src/main.rs"), code).unwrap();
    // The crate is used by path until a version is published.
    let version = r#"tower-session-cache = { version = "0.1","#;
    assert!(dependencies.contains(version), "{dependencies}");
    let by_path = format!("tower-session-cache = {{ path = {root:?},");
    let manifest = format!(
        "[package]\nname = \"newcomer\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n{}\n\n[workspace]\n",
        dependencies.replace(version, &by_path)
    );
    std::fs::write(project.path().join("Cargo.toml"), manifest).unwrap();
    // Use the locked versions, which are already here, so that nothing has to be downloaded.
    std::fs::copy(root.join("Cargo.lock"), project.path().join("Cargo.lock")).unwrap();

    // Next to the build of the tests, so that only the first run builds everything.
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(3).unwrap().join("newcomer");
    let build = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline"])
        .current_dir(project.path())
        .env("CARGO_TARGET_DIR", &target)
        // The first run builds every dependency, which takes less time without debug information.
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        // Set for the tests only (see tests/runner). A new user builds without it.
        .env_remove("RUSTC_BOOTSTRAP")
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&build.stderr).into_owned();
    assert!(build.status.success(), "{complaint}");

    let idp = Appwrite::start().await;
    idp.add_user("ada", "ada@example.com", "correct-horse");
    let token = idp.issue("ada");
    let mut service = command(target.join("debug/newcomer"))
        .env("APPWRITE_ENDPOINT", idp.endpoint())
        .env("APPWRITE_PROJECT_ID", idp.project_id())
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .spawn()
        .map(Running)
        .unwrap();
    let mut line = String::new();
    BufReader::new(service.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let url = line.trim().strip_prefix("listening on ").unwrap();

    let client = http();
    let me = || client.get(format!("{url}/me")).bearer_auth(&token).send();
    for _ in 0..2 {
        let answer = me().await.unwrap();
        assert_eq!(answer.status(), 200);
        let user: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(user["email"], "ada@example.com");
    }
    assert_eq!(idp.calls(Endpoint::Account), 1);
    let stranger = client.get(format!("{url}/me")).send().await.unwrap();
    assert_eq!(stranger.status(), 401);
    // A page of another site makes the browser send the cookie.
    let cookie = format!("a_session_{}={token}", idp.project_id());
    let forged = client
        .post(format!("{url}/logout"))
        .header("cookie", cookie)
        .header("origin", "https://attacker.example.com")
        .header("sec-fetch-site", "cross-site");
    assert_eq!(forged.send().await.unwrap().status(), 403);
    assert_eq!(me().await.unwrap().status(), 200);
    // A logout that fails at the provider still ends the session here.
    idp.fault(Endpoint::Logout, Fault::Status(500));
    let logout = client.post(format!("{url}/logout")).bearer_auth(&token);
    assert_eq!(logout.send().await.unwrap().status(), 503);
    assert_eq!(me().await.unwrap().status(), 401);
    idp.clear_faults();
    let token = idp.issue("ada");
    let me = || client.get(format!("{url}/me")).bearer_auth(&token).send();
    assert_eq!(me().await.unwrap().status(), 200);
    let logout = client.post(format!("{url}/logout")).bearer_auth(&token);
    assert_eq!(logout.send().await.unwrap().status(), 204);
    assert_eq!(me().await.unwrap().status(), 401);
}
