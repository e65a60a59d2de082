//! Logouts at real identity providers under traffic: when a session is rejected, counted from the
//! request of the provider.

use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::json;
use tokio::task::JoinSet;
use tower_session_cache::{
    BackChannelLogout, IntrospectionAuth, IntrospectionValidator, RevocationReceiver,
    SessionCacheLayer,
};

use crate::support::{
    client::ask,
    hook::{Answers, Hook},
    hydra::{self, Hydra},
    idp::Tokens,
    keycloak::{self, Keycloak, User},
    node::{Node, issuer_with_keys},
    oidc_provider::{self, OidcProvider},
    pass,
    redis::Redis,
    soon,
};

/// Nodes without a local cache, and nodes with one.
const LEASES: [Option<Duration>; 2] = [None, Some(Duration::from_secs(1))];

fn rounds(full: usize, normal: usize) -> usize {
    std::env::var_os("SESSION_CACHE_FULL").map_or(normal, |_| full)
}

/// Two nodes, of which the first receives the events of a provider.
struct Fleet {
    nodes: [Node; 2],
    lease: Option<Duration>,
    answers: Answers,
}

impl Fleet {
    fn new(
        nodes: [Node; 2],
        lease: Option<Duration>,
        source: BackChannelLogout,
        hook: Hook,
    ) -> Self {
        let receiver = RevocationReceiver::new(nodes[0].cache.clone(), source);
        Self {
            nodes,
            lease,
            answers: hook.serve(&receiver),
        }
    }

    /// Ends sessions of a user, while that and other sessions of the user are requested on both nodes.
    /// Returns how many ended sessions a node served although it must have rejected them.
    async fn end_sessions(
        &mut self,
        provider: &str,
        rounds: usize,
        login: impl AsyncFn() -> Tokens,
        logout: impl AsyncFn(&Tokens),
    ) -> usize {
        let mut traffic = JoinSet::new();
        for _ in 0..2 {
            let other = login().await.access;
            for node in &self.nodes {
                node.caches(&other).await;
                traffic.spawn(requests(node.layer.clone(), other.clone()));
            }
        }
        let (mut times, mut late) = (Vec::new(), 0);
        for _ in 0..rounds {
            let session = login().await;
            let mut watched = Vec::new();
            for node in &self.nodes {
                node.caches(&session.access).await;
                let (layer, token) = (node.layer.clone(), session.access.clone());
                watched.push(tokio::spawn(requests(layer, token)));
            }
            logout(&session).await;
            let answer = self.answers.next_answer().await;
            assert_eq!(answer.status, StatusCode::OK);
            for (watched, may_lag) in watched.into_iter().zip([false, true]) {
                let end = soon("a rejection", watched).await.unwrap();
                let lease = self.lease.filter(|_| may_lag).unwrap_or_default();
                let bound = answer.answered + lease;
                late += usize::from(end.last_served.is_some_and(|served| served > bound));
                if may_lag {
                    times.push(end.rejected.saturating_duration_since(answer.arrived));
                }
            }
        }
        assert!(
            traffic.try_join_next().is_none(),
            "another session was rejected"
        );
        times.sort();
        let cache = if self.lease.is_some() {
            "with"
        } else {
            "without"
        };
        println!(
            "{provider}, {cache} a local cache: rejected on the other node {:?} (median), {:?} \
             (worst of {rounds}) after the request of the provider arrived; {late} served later",
            times[times.len() / 2],
            times[times.len() - 1],
        );
        late
    }
}

/// The end of a session on a node.
struct End {
    /// When the last request that was served began.
    last_served: Option<Instant>,
    /// When the first rejection arrived.
    rejected: Instant,
}

/// Sends requests until one is rejected.
async fn requests(layer: SessionCacheLayer<IntrospectionValidator>, token: String) -> End {
    let mut last_served = None;
    loop {
        let began = Instant::now();
        match ask(&layer, &token).await {
            Ok(_) => last_served = Some(began),
            Err(status) => {
                assert_eq!(status, StatusCode::UNAUTHORIZED);
                return End {
                    last_served,
                    rejected: Instant::now(),
                };
            }
        }
        pass().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_ends_at_keycloak_is_not_served_after_the_answer() {
    let ada = User {
        name: "ada",
        password: "the password of ada",
        email: "ada@example.com",
        is_email_verified: true,
    };
    let Some(keycloak) = Keycloak::shared().await else {
        return;
    };
    for (realm, lease) in ["times", "times-local"].into_iter().zip(LEASES) {
        let hook = Hook::bind().await;
        let shop = keycloak::Client::new("shop", "the secret of shop")
            .audience("api")
            .attribute("backchannel.logout.url", &hook.url)
            .attribute("backchannel.logout.session.required", "true");
        let api = keycloak::Client::new("api", "the secret of api");
        keycloak.create_realm(realm).await;
        for client in [&shop, &api] {
            keycloak.create_client(realm, client).await;
        }
        keycloak.create_user(realm, ada).await;
        let redis = Redis::start();
        let node = || {
            let auth = IntrospectionAuth::basic(api.id.as_str(), api.secret.as_str());
            let endpoint = keycloak.introspection_endpoint(realm);
            let validator = IntrospectionValidator::builder(endpoint, auth);
            Node::with_lease(&redis, validator.issuer(keycloak.issuer(realm)), lease)
        };
        let issuer = issuer_with_keys(keycloak.issuer(realm)).await;
        let source = BackChannelLogout::new(issuer, ["shop"]).unwrap();
        let mut fleet = Fleet::new([node(), node()], lease, source, hook);
        let late = fleet.end_sessions(
            "Keycloak",
            rounds(200, 10),
            async || keycloak.login(realm, &shop, ada.name, ada.password).await,
            async |session| keycloak.logout(realm, &shop, &session.refresh).await,
        );
        assert_eq!(late.await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_ends_at_hydra_is_not_served_after_the_answer() {
    let Some(hydra) = Hydra::start().await else {
        return;
    };
    for (id, lease) in ["shop", "shop-local"].into_iter().zip(LEASES) {
        let hook = Hook::bind().await;
        let shop = hydra::Client::new(id, "the secret of shop")
            .setting("backchannel_logout_uri", json!(hook.url))
            .setting("backchannel_logout_session_required", json!(true));
        hydra.create_client(&shop).await;
        let redis = Redis::start();
        let node = || {
            let auth = IntrospectionAuth::none();
            let validator = IntrospectionValidator::builder(hydra.introspection_endpoint(), auth)
                .session_id_claim("ext.sid")
                .issuer(hydra.issuer());
            Node::with_lease(&redis, validator, lease)
        };
        let issuer = issuer_with_keys(hydra.issuer()).await;
        let source = BackChannelLogout::new(issuer, [id]).unwrap();
        let mut fleet = Fleet::new([node(), node()], lease, source, hook);
        let late = fleet.end_sessions(
            "Hydra",
            rounds(100, 10),
            async || hydra.login_with_sid(&shop, "ada", "").await,
            async |session| hydra.logout(session).await,
        );
        assert_eq!(late.await, 0);
    }
}

/// Its access tokens name no session, and it reports them as active until it has got the answer. A
/// session that is validated before that is validated again a second later, so only the times are
/// printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_that_ends_at_oidc_provider_is_rejected_when_it_is_validated_again() {
    let hooks = [Hook::bind().await, Hook::bind().await];
    let shops = [("shop", &hooks[0]), ("shop-local", &hooks[1])]
        .map(|(id, hook)| oidc_provider::Client::new(id, "a secret").logout_uri(&hook.url));
    let api = oidc_provider::Client::new("api", "the secret of api");
    let Some(server) = OidcProvider::start(&[&shops[0], &shops[1], &api]).await else {
        return;
    };
    for ((shop, hook), lease) in shops.iter().zip(hooks).zip(LEASES) {
        let redis = Redis::start();
        let node = || {
            let auth = IntrospectionAuth::basic(api.id.as_str(), api.secret.as_str());
            let validator = IntrospectionValidator::builder(server.introspection_endpoint(), auth);
            Node::with_lease(&redis, validator.issuer(server.issuer()), lease)
        };
        let issuer = issuer_with_keys(server.issuer()).await;
        let source = BackChannelLogout::new(issuer, [shop.id.as_str()]).unwrap();
        let mut fleet = Fleet::new([node(), node()], lease, source, hook);
        fleet
            .end_sessions(
                "node-oidc-provider",
                rounds(100, 10),
                async || server.login(shop, "ada", "").await,
                async |session| server.logout(session).await,
            )
            .await;
    }
}
