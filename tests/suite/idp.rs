//! Real identity providers: their own responses, and how this crate handles them.

use std::{collections::HashMap, time::Duration};

use axum::{Form, Router, routing::post};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use tower_session_cache::{
    IntrospectionAuth, IntrospectionValidator, IntrospectionValidatorBuilder, Origin, RedisConfig,
    SessionCache, SessionCacheLayer,
};

use crate::support::{
    client::{ask, ask_for_all},
    hydra::{self, Hydra},
    idp::claims,
    keycloak::{self, Keycloak, User},
    redis::Redis,
    soon,
};

const ADA: User<'_> = User {
    name: "ada",
    password: "the password of ada",
    email: "ada@example.com",
    is_email_verified: true,
};

/// An application that receives logout tokens.
struct Application {
    url: String,
    claims: mpsc::UnboundedReceiver<Value>,
}

impl Application {
    async fn start() -> Self {
        let (sender, claims_of_tokens) = mpsc::unbounded_channel();
        let receive = async move |Form(form): Form<HashMap<String, String>>| {
            sender.send(claims(&form["logout_token"])).unwrap();
        };
        let application = Router::new().route("/logout", post(receive));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/logout", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, application).await });
        Self {
            url,
            claims: claims_of_tokens,
        }
    }

    async fn logout_token(&mut self) -> Value {
        soon("a logout token", self.claims.recv()).await.unwrap()
    }
}

#[tokio::test]
async fn keycloak_introspects_tokens_only_for_clients_in_aud() {
    let Some(keycloak) = Keycloak::start().await else {
        return;
    };
    let shop = keycloak::Client::new("shop", "the secret of shop").audience("api");
    let api = keycloak::Client::new("api", "the secret of api");
    let other = keycloak::Client::new("other", "the secret of other");
    keycloak.create_realm("test").await;
    for client in [&shop, &api, &other] {
        keycloak.create_client("test", client).await;
    }
    let id = keycloak.create_user("test", ADA).await;

    let tokens = keycloak.login("test", &shop, ADA.name, ADA.password).await;

    let access = keycloak.introspect("test", &api, &tokens.access).await;
    assert_eq!(access["active"], true, "{access}");
    assert_eq!(access["iss"], keycloak.issuer("test"));
    assert_eq!(access["sub"], id);
    assert_eq!(tokens.sub(), id);
    assert_eq!(access["sid"], tokens.sid());
    assert_eq!(access["typ"], "Bearer");
    assert_eq!(access["email"], ADA.email);
    assert_eq!(access["email_verified"], true);
    let inactive = json!({ "active": false });
    let elsewhere = keycloak.introspect("test", &other, &tokens.access).await;
    assert_eq!(elsewhere, inactive);
    let garbage = keycloak.introspect("test", &api, "garbage").await;
    assert_eq!(garbage, inactive);
}

#[tokio::test]
async fn keycloak_helpers_manage_clients_users_and_sessions() {
    let Some(keycloak) = Keycloak::start().await else {
        return;
    };
    let mut application = Application::start().await;
    let api = keycloak::Client::new("api", "the secret of api");
    let shop = keycloak::Client::new("shop", "the secret of shop")
        .audience("api")
        .service_account()
        .attribute("backchannel.logout.url", &application.url)
        .attribute("backchannel.logout.session.required", "true");
    let lean = keycloak::Client::new("lean", "the secret of lean")
        .audience("api")
        .lightweight();
    keycloak.create_realm("test").await;
    for client in [&api, &shop, &lean] {
        keycloak.create_client("test", client).await;
    }
    let ada = keycloak.create_user("test", ADA).await;
    let is_active = async |token: &str| {
        let answer = keycloak.introspect("test", &api, token).await;
        answer["active"].as_bool().unwrap()
    };
    let login = async |client| keycloak.login("test", client, ADA.name, ADA.password).await;

    // The service account is a user without a session.
    let token = keycloak.client_credentials("test", &shop).await;
    let service = keycloak.introspect("test", &api, &token).await;
    assert_eq!(service["username"], "service-account-shop");
    assert!(service.get("sid").is_none(), "{service}");

    // A lightweight token has less in it than introspection returns.
    let tokens = login(&lean).await;
    let answer = keycloak.introspect("test", &api, &tokens.access).await;
    assert!(claims(&tokens.access).get("sub").is_none());
    assert_eq!(answer["sub"], ada);

    // Each of these ends one session.
    let kept = login(&shop).await;
    let ended = login(&shop).await;
    let refreshed = keycloak.refresh("test", &shop, &ended.refresh).await;
    assert!(is_active(&ended.access).await && is_active(&refreshed.access).await);
    keycloak.logout("test", &shop, &refreshed.refresh).await;
    assert!(!is_active(&ended.access).await && !is_active(&refreshed.access).await);
    assert_eq!(application.logout_token().await["sid"], ended.sid());

    let ended = login(&shop).await;
    keycloak.revoke("test", &shop, &ended.refresh).await;
    assert!(!is_active(&ended.access).await);

    let ended = login(&shop).await;
    keycloak.end_session("test", &ended.sid()).await;
    assert!(!is_active(&ended.access).await);
    // Keycloak sends no logout token for the revocation in between.
    assert_eq!(application.logout_token().await["sid"], ended.sid());

    // Revocation of an access token ends that token only.
    let sibling = keycloak.refresh("test", &shop, &kept.refresh).await;
    keycloak.revoke("test", &shop, &sibling.access).await;
    assert!(!is_active(&sibling.access).await && is_active(&kept.access).await);

    // A disabled user has no active tokens and cannot log in.
    keycloak.disable_user("test", &ada).await;
    assert!(!is_active(&kept.access).await);
    let rejected = keycloak.try_login("test", &shop, ADA.name, ADA.password);
    assert_eq!(rejected.await.json["error"], "invalid_grant");
    keycloak.enable_user("test", &ada).await;
    assert!(is_active(&kept.access).await);

    // These end all of the user's sessions.
    let other = login(&shop).await;
    keycloak.log_out_user("test", &ada).await;
    assert!(!is_active(&kept.access).await && !is_active(&other.access).await);

    let ended = login(&shop).await;
    assert!(is_active(&ended.access).await);
    keycloak.end_all_sessions("test").await;
    assert!(!is_active(&ended.access).await);

    let ended = login(&shop).await;
    assert!(is_active(&ended.access).await);
    keycloak.delete_user("test", &ada).await;
    assert!(!is_active(&ended.access).await);
}

#[tokio::test]
async fn concurrent_keycloak_servers_share_nothing() {
    let (first, second) = tokio::join!(Keycloak::start(), Keycloak::start());
    let (Some(first), Some(second)) = (first, second) else {
        return;
    };
    let api = keycloak::Client::new("api", "the secret of api").audience("api");

    // Both servers use the same names without a conflict.
    for keycloak in [&first, &second] {
        keycloak.create_realm("test").await;
        keycloak.create_client("test", &api).await;
        keycloak.create_user("test", ADA).await;
    }

    let tokens = first.login("test", &api, ADA.name, ADA.password).await;
    let here = first.introspect("test", &api, &tokens.access).await;
    let there = second.introspect("test", &api, &tokens.access).await;
    assert_eq!(here["active"], true);
    assert_eq!(there["active"], false);
}

#[tokio::test]
async fn hydra_introspects_access_and_refresh_tokens() {
    let Some(hydra) = Hydra::start().await else {
        return;
    };
    let shop = hydra::Client::new("shop", "the secret of shop").scope("orders:read");
    hydra.create_client(&shop).await;

    let tokens = hydra.login(&shop, "ada", "orders:read").await;

    let access = hydra.introspect(&tokens.access).await;
    assert_eq!(access["active"], true, "{access}");
    assert_eq!(access["iss"], hydra.issuer());
    assert_eq!(access["sub"], "ada");
    assert_eq!(access["client_id"], "shop");
    assert_eq!(access["scope"], "openid offline orders:read");
    assert_eq!(access["token_use"], "access_token");
    assert!(access.get("ext").is_none_or(|ext| ext.get("sid").is_none()));
    let refresh = hydra.introspect(&tokens.refresh).await;
    assert_eq!(refresh["active"], true, "{refresh}");
    assert_eq!(refresh["token_use"], "refresh_token");
    let garbage = hydra.introspect("garbage").await;
    assert_eq!(garbage, json!({ "active": false }));
}

#[tokio::test]
async fn hydra_helpers_manage_tokens_and_sessions() {
    let Some(hydra) = Hydra::start().await else {
        return;
    };
    let mut application = Application::start().await;
    let shop = hydra::Client::new("shop", "the secret of shop")
        .scope("orders:read")
        .setting("backchannel_logout_uri", json!(application.url))
        .setting("backchannel_logout_session_required", json!(true));
    hydra.create_client(&shop).await;
    let is_active = async |token: &str| {
        let answer = hydra.introspect(token).await;
        answer["active"].as_bool().unwrap()
    };

    let token = hydra.client_credentials(&shop, "orders:read").await;
    let service = hydra.introspect(&token).await;
    assert_eq!(service["active"], true);
    assert_eq!(service["sub"], "shop");

    let tokens = hydra.login_with_sid(&shop, "ada", "").await;
    let access = hydra.introspect(&tokens.access).await;
    assert_eq!(access["ext"]["sid"], tokens.sid());

    // A refresh replaces the access token and keeps the session.
    let refreshed = hydra.refresh(&shop, &tokens.refresh).await;
    assert_eq!(refreshed.sid(), tokens.sid());
    assert!(!is_active(&tokens.access).await && is_active(&refreshed.access).await);

    hydra.revoke(&shop, &refreshed.access).await;
    assert!(!is_active(&refreshed.access).await);

    // A logout ends the login session only.
    let tokens = hydra.login(&shop, "ada", "").await;
    hydra.logout(&tokens).await;
    assert_eq!(application.logout_token().await["sid"], tokens.sid());
    assert!(is_active(&tokens.access).await);
    hydra.end_login_sessions("ada").await;
    assert!(is_active(&tokens.access).await);
    hydra.revoke_consents("ada").await;
    assert!(!is_active(&tokens.access).await);
}

#[tokio::test]
async fn concurrent_hydra_servers_share_nothing() {
    let (first, second) = tokio::join!(Hydra::start(), Hydra::start());
    let (Some(first), Some(second)) = (first, second) else {
        return;
    };
    let shop = hydra::Client::new("shop", "the secret of shop");
    first.create_client(&shop).await;
    second.create_client(&shop).await;

    let tokens = first.login(&shop, "ada", "").await;

    assert_eq!(first.introspect(&tokens.access).await["active"], true);
    assert_eq!(second.introspect(&tokens.access).await["active"], false);
}

/// A separate node with its own validator.
fn node(
    redis: &Redis,
    builder: IntrospectionValidatorBuilder,
) -> SessionCacheLayer<IntrospectionValidator> {
    let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
    let cache = SessionCache::builder().redis(redis).unwrap().build();
    SessionCacheLayer::new(cache.unwrap(), builder.build().unwrap())
}

#[tokio::test]
async fn keycloak_session_of_one_client_is_not_served_to_another() {
    let Some(keycloak) = Keycloak::start().await else {
        return;
    };
    let shop = keycloak::Client::new("shop", "the secret of shop").audience("a");
    let both = keycloak::Client::new("both", "the secret of both")
        .audience("a")
        .audience("b");
    let a = keycloak::Client::new("a", "the secret of a");
    let b = keycloak::Client::new("b", "the secret of b");
    keycloak.create_realm("test").await;
    for client in [&shop, &both, &a, &b] {
        keycloak.create_client("test", client).await;
    }
    let id = keycloak.create_user("test", ADA).await;
    let redis = Redis::start();
    let of = |client: &keycloak::Client, secret: &str| {
        let auth = IntrospectionAuth::basic(client.id.as_str(), secret);
        IntrospectionValidator::builder(keycloak.introspection_endpoint("test"), auth)
            .issuer(keycloak.issuer("test"))
    };
    let on_a = node(&redis, of(&a, &a.secret));
    let on_b = node(&redis, of(&b, &b.secret));
    let tokens = keycloak.login("test", &shop, ADA.name, ADA.password).await;

    assert_eq!(
        ask(&on_b, &tokens.access).await.unwrap_err(),
        401,
        "before it is cached"
    );
    let (user, info) = ask_for_all(&on_a, &tokens.access).await.unwrap();
    assert_eq!((user.id(), info.origin()), (&*id, Origin::Validator));
    assert_eq!(info.session_id(), Some(&*tokens.sid()));
    assert_eq!(info.authority().unwrap().as_str(), keycloak.issuer("test"));
    let (_, info) = ask_for_all(&on_a, &tokens.access).await.unwrap();
    assert_eq!(info.origin(), Origin::Redis);
    assert_eq!(info.session_id(), Some(&*tokens.sid()));
    for _ in 0..10 {
        assert_eq!(ask(&on_b, &tokens.access).await.unwrap_err(), 401);
    }
    // It is not served to a client that the server does not know either.
    let stranger = node(&redis, of(&b, "a wrong secret"));
    assert_eq!(ask(&stranger, &tokens.access).await.unwrap_err(), 503);

    // A token for both clients is validated and cached for each, under one authority.
    let shared = keycloak.login("test", &both, ADA.name, ADA.password).await;
    for expected in [Origin::Validator, Origin::Redis, Origin::Redis] {
        for layer in [&on_a, &on_b] {
            let (user, info) = ask_for_all(layer, &shared.access).await.unwrap();
            assert_eq!((user.id(), info.origin()), (&*id, expected));
            assert_eq!(info.authority().unwrap().as_str(), keycloak.issuer("test"));
        }
    }

    // A stricter layer of the same client applies its rules to the cached session.
    let strict = node(&redis, of(&a, &a.secret).require_scope("orders:write"));
    assert_eq!(ask(&strict, &shared.access).await.unwrap_err(), 403);
    assert_eq!(ask(&on_a, &shared.access).await.unwrap().1, Origin::Redis);
    let in_aud = node(&redis, of(&a, &a.secret).audience("b"));
    assert_eq!(ask(&in_aud, &shared.access).await.unwrap().1, Origin::Redis);
    assert_eq!(ask(&in_aud, &tokens.access).await.unwrap_err(), 401);
    assert_eq!(ask(&on_a, &tokens.access).await.unwrap().1, Origin::Redis);
}

#[tokio::test]
async fn hydra_works_without_credentials_and_with_a_nested_sid_claim() {
    let Some(hydra) = Hydra::start().await else {
        return;
    };
    let shop = hydra::Client::new("shop", "the secret of shop").scope("read");
    hydra.create_client(&shop).await;
    let redis = Redis::start();
    let of = || {
        let auth = IntrospectionAuth::none();
        IntrospectionValidator::builder(hydra.introspection_endpoint(), auth)
            .session_id_claim("ext.sid")
    };
    let layer = node(&redis, of());
    let tokens = hydra.login_with_sid(&shop, "ada", "read").await;
    let sid = tokens.sid();
    for expected in [Origin::Validator, Origin::Redis] {
        let (user, info) = ask_for_all(&layer, &tokens.access).await.unwrap();
        assert_eq!((user.id(), info.origin()), ("ada", expected));
        assert_eq!(info.session_id(), Some(&*sid));
    }
    assert_eq!(ask(&layer, "garbage").await.unwrap_err(), 401);
    let strict = node(&redis, of().require_scope("write"));
    assert_eq!(ask(&strict, &tokens.access).await.unwrap_err(), 403);
    assert_eq!(ask(&layer, &tokens.access).await.unwrap().1, Origin::Redis);
}
