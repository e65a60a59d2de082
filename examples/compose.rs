//! Service for machines with signed tokens and people with sessions: two layers in `optional` mode,
//! and a guard that requires either of the two.
//!
//! `cargo run --example compose`

use std::{error::Error, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{Request, header, request::Builder},
    routing::get,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::BodyExt;
use serde::Deserialize;
use sha2::Sha256;
use tower::ServiceExt;
use tower_http::{
    cors::{Any, CorsLayer},
    csrf::CsrfLayer,
};
use tower_session_cache::{
    Authority, Guard, Namespace, SessionCache, SessionCacheLayer, SessionToken, SessionValidator,
    TokenSource, UserData, ValidatedSession, ValidationError, testing::TestValidator,
};

/// Validator that checks the signature of a JWT (HS256) locally. Behind the cache, a token is
/// checked once and can be revoked.
struct Machines {
    key: Vec<u8>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: i64,
}

impl Machines {
    fn mac(&self, signed: &str) -> Result<Hmac<Sha256>, ValidationError> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.key);
        let mac = mac.map_err(ValidationError::misconfigured)?;
        Ok(mac.chain_update(signed))
    }

    fn sign(&self, sub: &str, exp: i64) -> Result<String, ValidationError> {
        let header = BASE64.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let claims = serde_json::json!({ "sub": sub, "exp": exp }).to_string();
        let signed = format!("{header}.{}", BASE64.encode(claims));
        let signature = self.mac(&signed)?.finalize().into_bytes();
        Ok(format!("{signed}.{}", BASE64.encode(signature)))
    }
}

impl SessionValidator for Machines {
    // Cached records of this namespace are accepted in place of a validation by this validator.
    fn namespace(&self) -> Namespace {
        Namespace::named("machines")
    }

    // The issuer of the tokens. User IDs are unique only within one authority.
    fn authority(&self) -> Authority {
        "https://machines.example.com".into()
    }

    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        let refused = || ValidationError::invalid();
        let token = token.expose_secret();
        let (signed, signature) = token.rsplit_once('.').ok_or_else(refused)?;
        let signature = BASE64.decode(signature).map_err(|_| refused())?;
        // The algorithm is fixed. The `alg` in the token's own header is ignored.
        let mac = self.mac(signed)?;
        mac.verify_slice(&signature).map_err(|_| refused())?;
        let (_, claims) = signed.split_once('.').ok_or_else(refused)?;
        let claims = BASE64.decode(claims).map_err(|_| refused())?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| refused())?;
        // The layer rejects a token that has expired.
        let end = DateTime::from_timestamp(claims.exp, 0).ok_or_else(refused)?;
        Ok(ValidatedSession::new(UserData::new(claims.sub)).with_expires_at(end))
    }

    // There are no rules beyond the signature, so every record of the namespace is accepted.
    fn accepts(&self, _: &UserData) -> bool {
        true
    }
}

fn app(machines: Arc<Machines>, people: impl SessionValidator) -> Result<Router, Box<dyn Error>> {
    let cache = SessionCache::builder().build()?;
    // The layers share a cache. Each uses the records of its validator's namespace.
    let machines = SessionCacheLayer::new(cache.clone(), machines).optional();
    let people = SessionCacheLayer::new(cache, people)
        .with_token_source(TokenSource::cookie("session"))
        // This is the inner layer. Without this setting it would ignore the machines, because its
        // validator cannot validate their tokens.
        .trust_outer_user()
        .optional();
    let me = async |user: UserData| user.id().to_owned();
    let greeting = async |user: Option<UserData>| match user {
        Some(user) => format!("Hello, {}!", user.id()),
        None => "Hello, stranger!".to_owned(),
    };
    Ok(Router::new()
        .route("/me", get(me))
        // The guard rejects anonymous requests to the routes above.
        .route_layer(Guard::signed_in())
        .route("/", get(greeting))
        // The layer that is added last runs first.
        .layer(people)
        .layer(machines)
        // Browsers also send cookies with requests that other sites trigger.
        .layer(CsrfLayer::new())
        // CORS must be outermost, because a preflight has no session and the page must be able to
        // read a rejection.
        .layer(CorsLayer::new().allow_origin(Any)))
}

async fn tell(app: &Router, who: &str, request: Builder) -> Result<(), Box<dyn Error>> {
    let request = request.body(Body::empty())?;
    let asked = format!("{who}: {} {}", request.method(), request.uri());
    let answer = app.clone().oneshot(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    println!("{asked}: {status} {:?}", String::from_utf8_lossy(&body));
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let machines = Arc::new(Machines {
        key: b"a key of 32 bytes, kept secret!".to_vec(),
    });
    // Replace with your identity provider: `AppwriteValidator`, or your own `SessionValidator`.
    let people = TestValidator::new().with_session("s3cr3t", UserData::new("ada"));
    let app = app(Arc::clone(&machines), people)?;

    let now = Utc::now().timestamp();
    let jwt = format!("Bearer {}", machines.sign("machine-7", now + 60)?);
    let expired = format!("Bearer {}", machines.sign("machine-7", now - 1)?);
    for path in ["/", "/me"] {
        let get = |name, value: &str| Request::get(path).header(name, value);
        tell(&app, "a machine", get(header::AUTHORIZATION, &jwt)).await?;
        tell(&app, "a person", get(header::COOKIE, "session=s3cr3t")).await?;
        tell(&app, "an expired one", get(header::AUTHORIZATION, &expired)).await?;
    }
    let preflight = Request::options("/me").header(header::ORIGIN, "https://app.example.com");
    tell(&app, "a preflight", preflight).await?;
    Ok(())
}
