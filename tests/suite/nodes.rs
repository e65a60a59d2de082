//! Two processes of the example with one Redis and one Appwrite that responds late. After a logout
//! or a password reset, neither process serves a session that was validated before it. During a
//! deployment one of them is of the previous version.

use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{
    appwrite::{Appwrite, Endpoint},
    client::http,
    example,
    process::Running,
    redis::Redis,
    soon,
};

/// Few users, so that most rounds begin with the marks of earlier rounds.
const USERS: usize = 4;

struct Nodes {
    appwrite: Appwrite,
    redis: Redis,
    client: Client,
    urls: [String; 2],
    _processes: [Running; 2],
}

impl Nodes {
    /// Starts two servers of this version.
    async fn start() -> Self {
        Self::start_beside(example::start).await
    }

    /// Starts a server of this version, and another one.
    async fn start_beside(start: impl FnOnce(&[(&str, &str)]) -> Running) -> Self {
        let appwrite = Appwrite::start().await;
        for user in 0..USERS {
            appwrite.add_user(&id(user), &email(user), "password-0");
        }
        let redis = Redis::start();
        let settings = [
            ("REDIS_URL", redis.url()),
            ("APPWRITE_ENDPOINT", appwrite.endpoint()),
            ("APPWRITE_PROJECT_ID", appwrite.project_id().to_owned()),
            // Long enough for Redis to respond on a busy machine.
            ("SESSION_CACHE_REDIS_TIMEOUT_MS", "60000".to_owned()),
            // Nothing reads their logs.
            ("RUST_LOG", "off".to_owned()),
        ];
        let settings = settings.each_ref().map(|(name, value)| (*name, &**value));
        let mut processes = [example::start(&settings), start(&settings)];
        let urls = processes.each_mut().map(example::url);
        Self {
            appwrite,
            redis,
            client: http(),
            urls,
            _processes: processes,
        }
    }

    /// Sends the request in a task. It is under way when this returns, or soon after.
    fn me(&self, node: usize, token: &str) -> JoinHandle<StatusCode> {
        let url = format!("{}/api/v1/auth/me", self.urls[node]);
        let request = self.client.get(url).bearer_auth(token);
        tokio::spawn(async move { send(request).await.0 })
    }

    fn post(&self, node: usize, what: &str) -> RequestBuilder {
        let url = format!("{}/api/v1/auth/{what}", self.urls[node]);
        self.client.post(url)
    }

    async fn asks(&self, node: usize, token: &str) -> StatusCode {
        self.me(node, token).await.unwrap()
    }

    /// Sends requests until one causes no call. Soon after a reset, a session is validated again at
    /// growing intervals.
    async fn until_cached(&self, node: usize, token: &str) {
        soon("a request that is served from the cache", async {
            loop {
                let calls = self.appwrite.calls(Endpoint::Account);
                assert_eq!(self.asks(node, token).await, 200);
                if self.appwrite.calls(Endpoint::Account) == calls {
                    return;
                }
            }
        })
        .await;
    }

    /// Sends requests for the tokens to both nodes, and returns when all their validations have a
    /// result that Appwrite still holds back.
    async fn in_flight(&self, tokens: &[&str]) -> Vec<JoinHandle<StatusCode>> {
        let calls = self.appwrite.calls(Endpoint::Account);
        let flights: Vec<_> = tokens
            .iter()
            .flat_map(|token| [self.me(0, token), self.me(1, token)])
            .collect();
        let held = calls + flights.len();
        self.appwrite.wait_for_calls(Endpoint::Account, held).await;
        flights
    }
}

fn id(user: usize) -> String {
    format!("user-{user}")
}

fn email(user: usize) -> String {
    format!("user-{user}@example.com")
}

async fn send(request: RequestBuilder) -> (StatusCode, Value) {
    let answer = soon("an answer", request.send()).await.unwrap();
    let status = answer.status();
    (status, answer.json().await.unwrap_or_default())
}

fn rounds() -> usize {
    match std::env::var_os("SESSION_CACHE_FULL") {
        Some(_) => 1_000,
        None => 100,
    }
}

fn randomness() -> (u64, StdRng) {
    let seed = match std::env::var("SESSION_CACHE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::rng().random(),
    };
    (seed, StdRng::seed_from_u64(seed))
}

#[tokio::test]
async fn all_nodes_reject_a_token_after_logout_at_one_node() {
    log_out_at_one_node(Nodes::start().await).await;
}

#[tokio::test]
async fn all_nodes_reject_old_sessions_after_a_password_reset() {
    reset_passwords(Nodes::start().await).await;
}

#[tokio::test]
async fn previous_version_rejects_a_token_after_logout_at_this_one() {
    if let Some(server) = example::previous_server() {
        let nodes = Nodes::start_beside(|settings| example::start_program(server, settings));
        log_out_at_one_node(nodes.await).await;
    }
}

#[tokio::test]
async fn previous_version_rejects_old_sessions_after_a_password_reset_at_this_one() {
    if let Some(server) = example::previous_server() {
        let nodes = Nodes::start_beside(|settings| example::start_program(server, settings));
        reset_passwords(nodes.await).await;
    }
}

async fn log_out_at_one_node(nodes: Nodes) {
    let (seed, mut random) = randomness();
    for round in 0..rounds() {
        let at = format!("round {round}, SESSION_CACHE_SEED={seed}");
        let user = id(random.random_range(0..USERS));
        let (token, other) = (nodes.appwrite.issue(&user), nodes.appwrite.issue(&user));
        assert_eq!(nodes.asks(0, &token).await, 200, "{at}");

        // The logout request is authenticated from the cache, and held before Appwrite acts on it.
        let bar = nodes.appwrite.bar(Endpoint::Logout);
        let arrivals = nodes.appwrite.arrivals(Endpoint::Logout);
        let request = nodes.post(0, "logout").bearer_auth(&token);
        let logout = tokio::spawn(async move { send(request).await.0 });
        nodes
            .appwrite
            .wait_for_arrivals(Endpoint::Logout, arrivals + 1)
            .await;
        // Redis may evict the record at any time when its memory is full.
        let record = crate::support::peer::session_key(&token);
        nodes
            .redis
            .run::<()>(bb8_redis::redis::cmd("DEL").arg(&record));
        let gate = nodes.appwrite.hold(Endpoint::Account);
        let early = nodes.in_flight(&[&token, &other]).await;
        drop(bar);
        assert_eq!(logout.await.unwrap(), 204, "{at}");

        let mut late = vec![nodes.me(0, &token), nodes.me(1, &token)];
        if random.random() {
            for late in late.drain(..) {
                assert_eq!(late.await.unwrap(), 401, "{at}, validations in flight");
            }
        }
        drop(gate);
        for early in early {
            early.await.unwrap();
        }
        late.extend([nodes.me(1, &token), nodes.me(0, &token)]);
        for late in late {
            assert_eq!(late.await.unwrap(), 401, "{at}");
        }
        // Another session of the user is not affected.
        for node in [0, 1] {
            nodes.until_cached(node, &other).await;
        }
    }
    assert_eq!(nodes.appwrite.violations(), [""; 0]);
}

async fn reset_passwords(nodes: Nodes) {
    let (seed, mut random) = randomness();
    for round in 0..rounds() {
        let at = format!("round {round}, SESSION_CACHE_SEED={seed}");
        let user = random.random_range(0..USERS);
        let tokens = [(); 3].map(|()| nodes.appwrite.issue(&id(user)));
        let [cached, flying @ ..] = tokens.each_ref().map(|token| &**token);
        assert_eq!(nodes.asks(random.random_range(0..2), cached).await, 200);

        let gate = nodes.appwrite.hold(Endpoint::Account);
        let early = nodes.in_flight(&flying).await;
        let password = format!("password-{}", round + 1);
        let new = json!({
            "user_id": id(user),
            "secret": nodes.appwrite.recovery_secret(&id(user)),
            "password": password,
        });
        let (status, _) = send(nodes.post(0, "reset-password").json(&new)).await;
        assert_eq!(status, 204, "{at}");

        // These requests join an in-flight validation, or begin after it.
        let late = tokens
            .iter()
            .flat_map(|token| [nodes.me(0, token), nodes.me(1, token)]);
        let mut late: Vec<_> = late.collect();
        for _ in 0..random.random_range(0..100) {
            tokio::task::yield_now().await;
        }
        drop(gate);
        for early in early {
            early.await.unwrap();
        }
        for node in [1, 0] {
            late.extend(tokens.iter().map(|token| nodes.me(node, token)));
        }
        for late in late {
            assert_eq!(late.await.unwrap(), 401, "{at}");
        }

        // The user can log in again immediately, and is served from the cache.
        let login = json!({ "email": email(user), "password": password });
        let (status, answer) = send(nodes.post(1, "login").json(&login)).await;
        assert_eq!(status, 200, "{at}");
        let token = answer["token"].as_str().unwrap();
        let calls = nodes.appwrite.calls(Endpoint::Account);
        assert_eq!(nodes.asks(0, token).await, 200, "{at}");
        // A second call follows if the mark is too recent to be sure that the validation knew it.
        let calls = nodes.appwrite.calls(Endpoint::Account) - calls;
        assert!((1..=2).contains(&calls), "{at}: {calls} calls");
        for node in [1, 0, 1, 0] {
            nodes.until_cached(node, token).await;
        }
    }
    assert_eq!(nodes.appwrite.violations(), [""; 0]);
}
