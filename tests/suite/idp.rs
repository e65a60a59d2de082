//! Real identity providers: their own responses, and how this crate handles them.

use std::{collections::HashMap, time::Duration};

use axum::{Form, Router, routing::post};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use tower_session_cache::{
    IntrospectionAuth, IntrospectionValidator, IntrospectionValidatorBuilder, Origin, RedisConfig,
    SessionCache, SessionCacheLayer, SessionValidator, ValidationErrorKind,
};

use crate::support::{
    client::{ask, ask_for_all, rejection, token},
    gateway::Gateway,
    hydra::{self, Hydra},
    idp::{claims, until_inactive},
    keycloak::{self, Keycloak, User},
    oidc_provider::{self, OidcProvider},
    redis::Redis,
    soon,
};

const ADA: User<'_> = User {
    name: "ada",
    password: "the password of ada",
    email: "ada@example.com",
    is_email_verified: true,
};

/// Longer than a server takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A layer without Redis that validates a token for each request.
struct Gate {
    cache: SessionCache,
    validator: IntrospectionValidator,
    layer: SessionCacheLayer<IntrospectionValidator>,
}

impl Gate {
    fn new(validator: IntrospectionValidatorBuilder) -> Self {
        let validator = validator.timeout(PATIENCE).build().unwrap();
        let cache = SessionCache::builder().validation_timeout(2 * PATIENCE);
        let cache = cache.build().unwrap().for_validator(&validator);
        Self {
            layer: SessionCacheLayer::new(cache.clone(), validator.clone()),
            cache,
            validator,
        }
    }

    /// Returns the user's ID, or the status of the rejection.
    async fn admits(&self, text: &str) -> Result<String, StatusCode> {
        let _ = self.cache.invalidate_token(&token(text)).await.unwrap();
        let (user, origin) = ask(&self.layer, text).await?;
        assert_eq!(origin, Origin::Validator);
        Ok(user.id().to_owned())
    }

    /// Asserts that the layer does not read a token of 20 kB, and that the server rejects it.
    async fn rejects_a_long_token(&self) {
        let long = "a".repeat(20_000);
        assert_eq!(ask(&self.layer, &long).await, Err(StatusCode::BAD_REQUEST));
        let error = self.validator.validate(token(&long)).await.unwrap_err();
        assert_eq!(error.kind(), ValidationErrorKind::Invalid);
    }
}

fn id(id: &str) -> Result<String, StatusCode> {
    Ok(id.to_owned())
}

const UNAUTHORIZED: Result<String, StatusCode> = Err(StatusCode::UNAUTHORIZED);
const FORBIDDEN: Result<String, StatusCode> = Err(StatusCode::FORBIDDEN);
const UNAVAILABLE: Result<String, StatusCode> = Err(StatusCode::SERVICE_UNAVAILABLE);

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
async fn keycloak_access_tokens_are_accepted_and_others_rejected() {
    const REALM: &str = "access";
    let Some(keycloak) = Keycloak::shared().await else {
        return;
    };
    let shop = keycloak::Client::new("shop", "the secret of shop")
        .audience("api")
        .service_account();
    let brief = keycloak::Client::new("brief", "the secret of brief")
        .audience("api")
        .attribute("access.token.lifespan", "1");
    let api = keycloak::Client::new("api", "the secret of api");
    let other = keycloak::Client::new("other", "the secret of other");
    keycloak.create_realm(REALM).await;
    for client in [&shop, &brief, &api, &other] {
        keycloak.create_client(REALM, client).await;
    }
    let ada = keycloak.create_user(REALM, ADA).await;
    let of = |client: &keycloak::Client, secret: &str| {
        let auth = IntrospectionAuth::basic(client.id.as_str(), secret);
        IntrospectionValidator::builder(keycloak.introspection_endpoint(REALM), auth)
            .issuer(keycloak.issuer(REALM))
            .require_token_type()
    };
    let gate = Gate::new(of(&api, &api.secret));
    let introspect = async |token: &str| keycloak.introspect(REALM, &api, token).await;
    let inactive = json!({ "active": false });

    let expiring = keycloak.login(REALM, &brief, ADA.name, ADA.password).await;
    let tokens = keycloak.login(REALM, &shop, ADA.name, ADA.password).await;
    let access = introspect(&tokens.access).await;
    assert_eq!(access["active"], true, "{access}");
    assert_eq!(access["iss"], keycloak.issuer(REALM));
    assert_eq!(access["sub"], ada);
    assert_eq!(tokens.sub(), ada);
    assert_eq!(access["sid"], tokens.sid());
    assert_eq!(access["typ"], "Bearer");
    assert_eq!(access["token_type"], "Bearer");
    assert_eq!(access["email"], ADA.email);
    assert_eq!(access["email_verified"], true);
    assert_eq!(gate.admits(&tokens.access).await, id(&ada));

    // Keycloak reports these as inactive, and an ID token as active to the client that it is for.
    let offline = keycloak.login_offline(REALM, &shop, ADA.name, ADA.password);
    let offline = offline.await;
    assert_eq!(claims(&offline.refresh)["typ"], "Offline");
    assert_eq!(gate.admits(&offline.access).await, id(&ada));
    for token in [&tokens.refresh, &tokens.id, &offline.refresh, "garbage"] {
        assert_eq!(introspect(token).await, inactive);
        assert_eq!(gate.admits(token).await, UNAUTHORIZED);
    }
    gate.rejects_a_long_token().await;
    let own = keycloak.introspect(REALM, &shop, &tokens.id).await;
    assert_eq!(own["active"], true, "{own}");
    assert_eq!(
        (&own["typ"], &own["token_type"]),
        (&json!("ID"), &json!("ID"))
    );
    let of_shop = Gate::new(of(&shop, &shop.secret));
    assert_eq!(of_shop.admits(&tokens.id).await, UNAUTHORIZED);

    // A service account is a user. Its tokens differ from others by `username` and the missing `sid`.
    let machine = keycloak.client_credentials(REALM, &shop).await;
    let service = introspect(&machine).await;
    assert_eq!(service["username"], "service-account-shop");
    assert!(service.get("sid").is_none(), "{service}");
    let account = service["sub"].as_str().unwrap();
    assert!(account != ada && account != "shop");
    assert_eq!(gate.admits(&machine).await, id(account));

    // A client must be in `aud` and have the right secret.
    let elsewhere = keycloak.introspect(REALM, &other, &tokens.access).await;
    assert_eq!(elsewhere, inactive);
    let elsewhere = Gate::new(of(&other, &other.secret));
    assert_eq!(elsewhere.admits(&tokens.access).await, UNAUTHORIZED);
    let wrong = keycloak::Client::new("api", "a wrong secret");
    let refused = keycloak.try_introspect(REALM, &wrong, &tokens.access).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refused.json["error"], "invalid_client");
    let wrong = Gate::new(of(&wrong, &wrong.secret));
    assert_eq!(wrong.admits(&tokens.access).await, UNAVAILABLE);
    let elsewhere = Gate::new(of(&api, &api.secret).audience("other"));
    assert_eq!(elsewhere.admits(&tokens.access).await, UNAUTHORIZED);

    until_inactive(async || introspect(&expiring.access).await).await;
    assert_eq!(gate.admits(&expiring.access).await, UNAUTHORIZED);

    // The tokens of a disabled user are inactive, and active again once the user is enabled.
    keycloak.disable_user(REALM, &ada).await;
    assert_eq!(gate.admits(&tokens.access).await, UNAUTHORIZED);
    keycloak.enable_user(REALM, &ada).await;
    assert_eq!(gate.admits(&tokens.access).await, id(&ada));

    let revoked = keycloak.refresh(REALM, &shop, &tokens.refresh).await;
    keycloak.revoke(REALM, &shop, &revoked.access).await;
    assert_eq!(gate.admits(&revoked.access).await, UNAUTHORIZED);
    assert_eq!(gate.admits(&tokens.access).await, id(&ada));
    keycloak.logout(REALM, &shop, &tokens.refresh).await;
    assert_eq!(gate.admits(&tokens.access).await, UNAUTHORIZED);
    assert_eq!(gate.admits(&offline.access).await, id(&ada));
    keycloak.log_out_user(REALM, &ada).await;
    assert_eq!(gate.admits(&offline.access).await, UNAUTHORIZED);
}

#[tokio::test]
async fn keycloak_helpers_manage_clients_users_and_sessions() {
    const REALM: &str = "helpers";
    let Some(keycloak) = Keycloak::shared().await else {
        return;
    };
    let mut application = Application::start().await;
    let api = keycloak::Client::new("api", "the secret of api");
    let shop = keycloak::Client::new("shop", "the secret of shop")
        .audience("api")
        .attribute("backchannel.logout.url", &application.url)
        .attribute("backchannel.logout.session.required", "true");
    let lean = keycloak::Client::new("lean", "the secret of lean")
        .audience("api")
        .lightweight();
    keycloak.create_realm(REALM).await;
    for client in [&api, &shop, &lean] {
        keycloak.create_client(REALM, client).await;
    }
    let ada = keycloak.create_user(REALM, ADA).await;
    let is_active = async |token: &str| {
        let answer = keycloak.introspect(REALM, &api, token).await;
        answer["active"].as_bool().unwrap()
    };
    let login = async |client| keycloak.login(REALM, client, ADA.name, ADA.password).await;

    // A lightweight token has less in it than introspection returns.
    let tokens = login(&lean).await;
    let answer = keycloak.introspect(REALM, &api, &tokens.access).await;
    assert!(claims(&tokens.access).get("sub").is_none());
    assert_eq!(answer["sub"], ada);

    // Each of these ends one session.
    let kept = login(&shop).await;
    let ended = login(&shop).await;
    let refreshed = keycloak.refresh(REALM, &shop, &ended.refresh).await;
    assert!(is_active(&ended.access).await && is_active(&refreshed.access).await);
    keycloak.logout(REALM, &shop, &refreshed.refresh).await;
    assert!(!is_active(&ended.access).await && !is_active(&refreshed.access).await);
    assert_eq!(application.logout_token().await["sid"], ended.sid());

    let ended = login(&shop).await;
    keycloak.revoke(REALM, &shop, &ended.refresh).await;
    assert!(!is_active(&ended.access).await);

    let ended = login(&shop).await;
    keycloak.end_session(REALM, &ended.sid()).await;
    assert!(!is_active(&ended.access).await);
    // Keycloak sends no logout token for the revocation in between.
    assert_eq!(application.logout_token().await["sid"], ended.sid());

    // Revocation of an access token ends that token only.
    let sibling = keycloak.refresh(REALM, &shop, &kept.refresh).await;
    keycloak.revoke(REALM, &shop, &sibling.access).await;
    assert!(!is_active(&sibling.access).await && is_active(&kept.access).await);

    // A disabled user has no active tokens and cannot log in.
    keycloak.disable_user(REALM, &ada).await;
    assert!(!is_active(&kept.access).await);
    let rejected = keycloak.try_login(REALM, &shop, ADA.name, ADA.password);
    assert_eq!(rejected.await.json["error"], "invalid_grant");
    keycloak.enable_user(REALM, &ada).await;
    assert!(is_active(&kept.access).await);

    // These end all of the user's sessions.
    let other = login(&shop).await;
    keycloak.log_out_user(REALM, &ada).await;
    assert!(!is_active(&kept.access).await && !is_active(&other.access).await);

    let ended = login(&shop).await;
    assert!(is_active(&ended.access).await);
    keycloak.end_all_sessions(REALM).await;
    assert!(!is_active(&ended.access).await);

    let ended = login(&shop).await;
    assert!(is_active(&ended.access).await);
    keycloak.delete_user(REALM, &ada).await;
    assert!(!is_active(&ended.access).await);
}

#[tokio::test]
async fn concurrent_keycloak_servers_share_nothing() {
    let (first, second) = tokio::join!(Keycloak::shared(), Keycloak::start());
    let (Some(first), Some(second)) = (first, second) else {
        return;
    };
    let api = keycloak::Client::new("api", "the secret of api").audience("api");

    // Both servers use the same names without a conflict.
    for keycloak in [&*first, &second] {
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
async fn hydra_access_tokens_are_accepted_and_others_rejected() {
    let Some(hydra) = Hydra::start().await else {
        return;
    };
    let shop = hydra::Client::new("shop", "the secret of shop").scope("orders:read");
    let brief = hydra::Client::new("brief", "the secret of brief").setting(
        "authorization_code_grant_access_token_lifespan",
        json!("1s"),
    );
    hydra.create_client(&shop).await;
    hydra.create_client(&brief).await;
    let of = |auth| {
        IntrospectionValidator::builder(hydra.introspection_endpoint(), auth)
            .issuer(hydra.issuer())
            .require_token_type()
    };
    let gate = Gate::new(of(IntrospectionAuth::none()));
    let inactive = json!({ "active": false });

    let expiring = hydra.login(&brief, "ada", "").await;
    let tokens = hydra.login(&shop, "ada", "orders:read").await;
    let access = hydra.introspect(&tokens.access).await;
    assert_eq!(access["active"], true, "{access}");
    assert_eq!(access["iss"], hydra.issuer());
    assert_eq!(access["sub"], "ada");
    assert_eq!(access["client_id"], "shop");
    assert_eq!(access["scope"], "openid offline orders:read");
    assert_eq!(access["token_type"], "Bearer");
    assert_eq!(access["token_use"], "access_token");
    assert!(access.get("ext").is_none_or(|ext| ext.get("sid").is_none()));
    assert_eq!(gate.admits(&tokens.access).await, id("ada"));

    // A refresh token differs from an access token by `token_use` alone.
    let refresh = hydra.introspect(&tokens.refresh).await;
    assert_eq!(refresh["active"], true, "{refresh}");
    assert_eq!(refresh["token_type"], "Bearer");
    assert_eq!(refresh["token_use"], "refresh_token");
    assert_eq!(gate.admits(&tokens.refresh).await, UNAUTHORIZED);
    for token in [&*tokens.id, "garbage"] {
        assert_eq!(hydra.introspect(token).await, inactive);
        assert_eq!(gate.admits(token).await, UNAUTHORIZED);
    }
    gate.rejects_a_long_token().await;

    // The subject of a client's own token is the client.
    let machine = hydra.client_credentials(&shop, "orders:read").await;
    let service = hydra.introspect(&machine).await;
    assert_eq!(
        (&service["sub"], &service["client_id"]),
        (&json!("shop"), &json!("shop"))
    );
    assert_eq!(gate.admits(&machine).await, FORBIDDEN);
    assert_eq!(rejection(&gate.layer, &machine).await.reason(), "no_user");

    let machines = Gate::new(of(IntrospectionAuth::none()).or_user_id_claim("client_id"));
    assert_eq!(machines.admits(&machine).await, id("shop"));
    assert_eq!(machines.admits(&tokens.access).await, id("ada"));

    // Hydra ignores credentials here. `aud` is empty unless a login requests an audience.
    let wrong = Gate::new(of(IntrospectionAuth::basic("shop", "a wrong secret")));
    assert_eq!(wrong.admits(&tokens.access).await, id("ada"));
    assert_eq!(access["aud"], json!([]));
    let elsewhere = Gate::new(of(IntrospectionAuth::none()).audience("other"));
    assert_eq!(elsewhere.admits(&tokens.access).await, UNAUTHORIZED);

    until_inactive(async || hydra.introspect(&expiring.access).await).await;
    assert_eq!(gate.admits(&expiring.access).await, UNAUTHORIZED);

    // A logout and the end of a login keep the tokens active. The end of a consent does not.
    hydra.logout(&tokens).await;
    hydra.end_login_sessions("ada").await;
    assert_eq!(gate.admits(&tokens.access).await, id("ada"));
    let revoked = hydra.login(&shop, "ada", "").await;
    hydra.revoke(&shop, &revoked.access).await;
    assert_eq!(gate.admits(&revoked.access).await, UNAUTHORIZED);
    hydra.revoke_consents("ada").await;
    assert_eq!(gate.admits(&tokens.access).await, UNAUTHORIZED);
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

/// Clients of node-oidc-provider: `shop` logs users in, and the others introspect tokens. The ID and
/// the secret of the second contain characters that must be encoded in a header.
fn oidc_clients() -> [oidc_provider::Client; 3] {
    [
        oidc_provider::Client::new("shop", "the secret of shop"),
        oidc_provider::Client::new("orders api:1", "%41+&=:/the secret of api"),
        oidc_provider::Client::new("other", "the secret of other"),
    ]
}

fn on_oidc_provider(
    endpoint: &str,
    client: &oidc_provider::Client,
) -> IntrospectionValidatorBuilder {
    let auth = IntrospectionAuth::basic(client.id.as_str(), client.secret.as_str());
    IntrospectionValidator::builder(endpoint, auth)
}

#[tokio::test]
async fn oidc_provider_access_tokens_are_accepted_and_others_rejected() {
    let [shop, api, other] = oidc_clients();
    let Some(server) = OidcProvider::start(&[&shop, &api, &other]).await else {
        return;
    };
    let of = |client: &oidc_provider::Client| {
        on_oidc_provider(&server.introspection_endpoint(), client).issuer(server.issuer())
    };
    let gate = Gate::new(of(&api));
    let strict = Gate::new(of(&api).require_token_type());
    let introspect = async |token: &str| {
        let response = server.introspect(&api, token).await;
        response.expect_success().json
    };
    let inactive = json!({ "active": false });

    let expires = json!({ "expiresIn": 1 });
    let expiring = server.access_token(&shop, "ada", expires).await;
    let tokens = server.login(&shop, "ada", "").await;
    let access = introspect(&tokens.access).await;
    assert_eq!(access["active"], true, "{access}");
    assert_eq!(access["iss"], server.issuer());
    assert_eq!(access["sub"], "ada");
    assert_eq!(access["client_id"], "shop");
    assert_eq!(access["scope"], "openid");
    assert_eq!(access["token_type"], "Bearer");
    assert!(access.get("sid").is_none(), "{access}");
    assert_eq!(gate.admits(&tokens.access).await, id("ada"));
    assert_eq!(strict.admits(&tokens.access).await, id("ada"));

    // A refresh token differs from an access token by the missing `token_type` alone.
    let refresh = introspect(&tokens.refresh).await;
    assert_eq!(refresh["active"], true, "{refresh}");
    let mut access = access;
    for claim in ["exp", "iat", "token_type"] {
        access.as_object_mut().unwrap().remove(claim);
    }
    let mut without_times = refresh;
    for claim in ["exp", "iat"] {
        without_times.as_object_mut().unwrap().remove(claim);
    }
    assert_eq!(without_times, access);
    assert_eq!(gate.admits(&tokens.refresh).await, id("ada"));
    assert_eq!(strict.admits(&tokens.refresh).await, UNAUTHORIZED);

    // The server rejects an ID token, like any JWT, as a token that it never introspects.
    let rejected = server.introspect(&api, &tokens.id).await;
    assert_eq!(rejected.status, StatusCode::BAD_REQUEST);
    assert_eq!(rejected.json["error"], "unsupported_token_type");
    assert_eq!(gate.admits(&tokens.id).await, UNAUTHORIZED);
    assert_eq!(introspect("garbage").await, inactive);
    assert_eq!(gate.admits("garbage").await, UNAUTHORIZED);
    gate.rejects_a_long_token().await;

    // A client's own token has no subject.
    let machine = server.client_credentials(&shop).await;
    let service = introspect(&machine).await;
    assert_eq!(service["active"], true, "{service}");
    assert!(service.get("sub").is_none(), "{service}");
    assert_eq!(gate.admits(&machine).await, FORBIDDEN);
    assert_eq!(rejection(&gate.layer, &machine).await.reason(), "no_user");

    let machines = Gate::new(of(&api).or_user_id_claim("client_id"));
    assert_eq!(machines.admits(&machine).await, id("shop"));
    assert_eq!(machines.admits(&tokens.access).await, id("ada"));

    // The policy of this server: a client must be in `aud` if there is one, as with Keycloak.
    let named = json!({ "aud": api.id });
    let named = server.access_token(&shop, "ada", named).await;
    assert_eq!(introspect(&named).await["aud"], json!(api.id));
    let in_aud = Gate::new(of(&api).audience(api.id.as_str()));
    assert_eq!(in_aud.admits(&named).await, id("ada"));
    assert_eq!(in_aud.admits(&tokens.access).await, UNAUTHORIZED);
    let elsewhere = server.introspect(&other, &named).await;
    assert_eq!(elsewhere.expect_success().json, inactive);
    assert_eq!(Gate::new(of(&other)).admits(&named).await, UNAUTHORIZED);
    let wrong = oidc_provider::Client::new(&api.id, "a wrong secret");
    let rejected = server.introspect(&wrong, &tokens.access).await;
    assert_eq!(rejected.status, StatusCode::UNAUTHORIZED);
    assert_eq!(rejected.json["error"], "invalid_client");
    assert_eq!(
        Gate::new(of(&wrong)).admits(&tokens.access).await,
        UNAVAILABLE
    );

    until_inactive(async || introspect(&expiring).await).await;
    assert_eq!(gate.admits(&expiring).await, UNAUTHORIZED);

    // The server looks up an account for a refresh, but not for an introspection.
    server.disable_account("ada").await;
    let rejected = server.try_refresh(&shop, &tokens.refresh).await;
    assert_eq!(rejected.json["error"], "invalid_grant");
    assert_eq!(gate.admits(&tokens.access).await, id("ada"));
    server.enable_account("ada").await;
    server.refresh(&shop, &tokens.refresh).await;

    // Revocation and logout end the grant, and a logout keeps that of an offline token.
    let offline = server.login(&shop, "ada", "offline_access").await;
    for logged_in in [&tokens, &offline] {
        assert_eq!(gate.admits(&logged_in.access).await, id("ada"));
        server.logout(logged_in).await;
    }
    assert_eq!(gate.admits(&tokens.access).await, UNAUTHORIZED);
    assert_eq!(introspect(&tokens.refresh).await, inactive);
    assert_eq!(gate.admits(&offline.access).await, id("ada"));
    server.revoke(&shop, &offline.access).await;
    assert_eq!(gate.admits(&offline.access).await, UNAUTHORIZED);
    assert_eq!(introspect(&offline.refresh).await, inactive);
}

#[tokio::test]
async fn rate_limited_tokens_wait_while_a_real_provider_serves_others() {
    let [shop, api, _] = oidc_clients();
    let Some(server) = OidcProvider::start(&[&shop, &api]).await else {
        return;
    };
    let gateway = Gateway::start(server.issuer()).await;
    let endpoint = gateway.endpoint(&server.introspection_endpoint());
    let gate = Gate::new(on_oidc_provider(&endpoint, &api));
    let login = async |user: &str| server.access_token(&shop, user, json!({})).await;

    assert_eq!(gate.admits(&login("ada").await).await, id("ada"));
    // Three limited tokens may reduce the number of concurrent calls, but never to zero.
    for _ in 0..3 {
        let limited = login("bea").await;
        gateway.limit(&limited);
        assert_eq!(gate.admits(&limited).await, UNAVAILABLE);
        for user in ["ada", "bea", "cid"] {
            assert_eq!(gate.admits(&login(user).await).await, id(user));
        }
        // The token is not introspected again before the time that the response states.
        let calls = gateway.calls();
        let rejection = rejection(&gate.layer, &limited).await;
        assert_eq!(rejection.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(rejection.retry_after().is_some());
        assert_eq!(gateway.calls(), calls);
    }
    assert_eq!(gateway.calls(), 1 + 3 * 4);
}

#[tokio::test]
async fn connection_that_closes_when_it_is_reused_fails_no_validation() {
    let [shop, api, _] = oidc_clients();
    let Some(server) = OidcProvider::start(&[&shop, &api]).await else {
        return;
    };
    let gateway = Gateway::start(server.issuer()).await;
    gateway.close_second_request();
    let endpoint = gateway.endpoint(&server.introspection_endpoint());
    let gate = Gate::new(on_oidc_provider(&endpoint, &api));

    for user in 0..12 {
        let user = user.to_string();
        let token = server.access_token(&shop, &user, json!({})).await;
        assert_eq!(gate.admits(&token).await, id(&user));
    }
    assert_eq!(gateway.forwarded(), 12);
    assert!(gateway.calls() > 12, "no connection was reused");
}

/// A separate node with its own validator.
fn node(
    redis: &Redis,
    builder: IntrospectionValidatorBuilder,
) -> SessionCacheLayer<IntrospectionValidator> {
    let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
    let cache = SessionCache::builder().redis(redis).unwrap();
    let cache = cache.validation_timeout(2 * PATIENCE).build();
    SessionCacheLayer::new(cache.unwrap(), builder.timeout(PATIENCE).build().unwrap())
}

/// A handle of another process on the same Redis.
fn cache(redis: &Redis) -> SessionCache {
    let redis = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
    SessionCache::builder()
        .redis(redis)
        .unwrap()
        .build()
        .unwrap()
}

#[tokio::test]
async fn keycloak_session_of_one_client_is_not_served_to_another() {
    const REALM: &str = "sessions";
    let Some(keycloak) = Keycloak::shared().await else {
        return;
    };
    let shop = keycloak::Client::new("shop", "the secret of shop").audience("a");
    let both = keycloak::Client::new("both", "the secret of both")
        .audience("a")
        .audience("b");
    let a = keycloak::Client::new("a", "the secret of a");
    let b = keycloak::Client::new("b", "the secret of b");
    keycloak.create_realm(REALM).await;
    for client in [&shop, &both, &a, &b] {
        keycloak.create_client(REALM, client).await;
    }
    let id = keycloak.create_user(REALM, ADA).await;
    let redis = Redis::start();
    let of = |client: &keycloak::Client, secret: &str| {
        let auth = IntrospectionAuth::basic(client.id.as_str(), secret);
        IntrospectionValidator::builder(keycloak.introspection_endpoint(REALM), auth)
            .issuer(keycloak.issuer(REALM))
    };
    let on_a = node(&redis, of(&a, &a.secret));
    let on_b = node(&redis, of(&b, &b.secret));
    let tokens = keycloak.login(REALM, &shop, ADA.name, ADA.password).await;

    assert_eq!(
        ask(&on_b, &tokens.access).await.unwrap_err(),
        401,
        "before it is cached"
    );
    let (user, info) = ask_for_all(&on_a, &tokens.access).await.unwrap();
    assert_eq!((user.id(), info.origin()), (&*id, Origin::Validator));
    assert_eq!(info.session_id(), Some(&*tokens.sid()));
    assert_eq!(info.authority().unwrap().as_str(), keycloak.issuer(REALM));
    let (_, info) = ask_for_all(&on_a, &tokens.access).await.unwrap();
    assert_eq!(info.origin(), Origin::Redis);
    assert_eq!(info.session_id(), Some(&*tokens.sid()));
    for _ in 0..10 {
        assert_eq!(ask(&on_b, &tokens.access).await.unwrap_err(), 401);
    }
    // It is not served to a client that the server does not know either.
    let stranger = node(&redis, of(&b, "a wrong secret"));
    let more = keycloak.login(REALM, &shop, ADA.name, ADA.password).await;
    ask(&on_a, &more.access).await.unwrap();
    assert_eq!(ask(&stranger, &more.access).await.unwrap_err(), 503);

    // A token for both clients is validated and cached for each, under one authority.
    let shared = keycloak.login(REALM, &both, ADA.name, ADA.password).await;
    for expected in [Origin::Validator, Origin::Redis, Origin::Redis] {
        for layer in [&on_a, &on_b] {
            let (user, info) = ask_for_all(layer, &shared.access).await.unwrap();
            assert_eq!((user.id(), info.origin()), (&*id, expected));
            assert_eq!(info.authority().unwrap().as_str(), keycloak.issuer(REALM));
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

/// A logout with one token of a login reaches the others on every node, whatever the server still
/// says of them.
#[tokio::test]
async fn keycloak_logout_with_one_token_ends_its_siblings() {
    const REALM: &str = "siblings";
    let Some(keycloak) = Keycloak::shared().await else {
        return;
    };
    let shop = keycloak::Client::new("shop", "the secret of shop").audience("api");
    let api = keycloak::Client::new("api", "the secret of api");
    keycloak.create_realm(REALM).await;
    for client in [&shop, &api] {
        keycloak.create_client(REALM, client).await;
    }
    keycloak.create_user(REALM, ADA).await;
    let redis = Redis::start();
    let of = || {
        let auth = IntrospectionAuth::basic(api.id.as_str(), api.secret.as_str());
        IntrospectionValidator::builder(keycloak.introspection_endpoint(REALM), auth)
            .issuer(keycloak.issuer(REALM))
    };
    let (one, other) = (node(&redis, of()), node(&redis, of()));
    let older = keycloak.login(REALM, &shop, ADA.name, ADA.password).await;
    let newer = keycloak.refresh(REALM, &shop, &older.refresh).await;
    let elsewhere = keycloak.login(REALM, &shop, ADA.name, ADA.password).await;
    for layer in [&one, &other] {
        for tokens in [&older, &newer, &elsewhere] {
            ask(layer, &tokens.access).await.unwrap();
        }
    }
    let (_, session) = ask_for_all(&one, &newer.access).await.unwrap();
    // No logout reaches the server, so it says that both are active.
    let cache = cache(&redis);
    let _ = cache.log_out(&session).await.unwrap();
    for layer in [&one, &other] {
        for tokens in [&older, &newer] {
            assert_eq!(ask(layer, &tokens.access).await.unwrap_err(), 401);
        }
        ask(layer, &elsewhere.access).await.unwrap();
    }
    let answer = keycloak.introspect(REALM, &api, &older.access).await;
    assert_eq!(answer["active"], true);
    let later = keycloak.refresh(REALM, &shop, &newer.refresh).await;
    assert_eq!(ask(&other, &later.access).await.unwrap_err(), 401);
}

/// Hydra accepts a token with and without its prefix, also after its login has ended.
#[tokio::test]
async fn hydra_logout_reaches_both_spellings_of_a_token() {
    let Some(hydra) = Hydra::start().await else {
        return;
    };
    let shop = hydra::Client::new("shop", "the secret of shop");
    hydra.create_client(&shop).await;
    for prefix in [None, Some("ory_at_")] {
        let redis = Redis::start();
        let of = || {
            let auth = IntrospectionAuth::none();
            let builder = IntrospectionValidator::builder(hydra.introspection_endpoint(), auth)
                .session_id_claim("ext.sid");
            match prefix {
                Some(prefix) => builder.token_prefix(prefix),
                None => builder,
            }
        };
        let (one, other) = (node(&redis, of()), node(&redis, of()));
        let tokens = hydra.login_with_sid(&shop, "ada", "").await;
        let bare = tokens.access.strip_prefix("ory_at_").unwrap();
        ask(&one, &tokens.access).await.unwrap();
        let (_, session) = ask_for_all(&one, bare).await.unwrap();
        let is_one_session = prefix.is_some();
        assert_eq!(session.origin() == Origin::Redis, is_one_session);
        hydra.logout(&tokens).await;
        let cache = cache(&redis);
        let _ = cache.log_out(&session).await.unwrap();
        assert_eq!(hydra.introspect(&tokens.access).await["active"], true);
        for layer in [&one, &other] {
            for text in [&*tokens.access, bare] {
                assert_eq!(ask(layer, text).await.unwrap_err(), 401, "{prefix:?}");
            }
        }
        let refreshed = hydra.refresh(&shop, &tokens.refresh).await;
        assert_eq!(ask(&other, &refreshed.access).await.unwrap_err(), 401);
    }
}
