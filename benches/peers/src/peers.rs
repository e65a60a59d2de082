//! Peers that are measured. Every handler responds with the ID of the user that it finds in the
//! request's extensions, so that all do the same work except for how the user got there.

mod handwritten;
mod login;
mod ours;
mod plain;
mod sessions;

use axum::Router;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tower_session_cache::UserData;

pub const TOKENS: usize = 1_000;

/// Peer of a row in the table. The order is that of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// No HTTP at all. It shows the maximum rate of the load generator.
    Nothing,
    NoAuthentication,
    ConstantUser,
    BareMap,
    RawGet,
    OursLocal,
    OursTier,
    OursRedis,
    SessionsMoka,
    SessionsRedis,
    Login,
    Handwritten,
}

impl Peer {
    pub const ALL: [Self; 12] = [
        Self::Nothing,
        Self::NoAuthentication,
        Self::ConstantUser,
        Self::BareMap,
        Self::RawGet,
        Self::OursLocal,
        Self::OursTier,
        Self::OursRedis,
        Self::SessionsMoka,
        Self::SessionsRedis,
        Self::Login,
        Self::Handwritten,
    ];

    /// Returns the name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::NoAuthentication => "no-authentication",
            Self::ConstantUser => "constant-user",
            Self::BareMap => "bare-map",
            Self::RawGet => "raw-get",
            Self::OursLocal => "ours-local",
            Self::OursTier => "ours-tier",
            Self::OursRedis => "ours-redis",
            Self::SessionsMoka => "tower-sessions-moka",
            Self::SessionsRedis => "tower-sessions-redis",
            Self::Login => "axum-login",
            Self::Handwritten => "handwritten",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|peer| peer.name() == name)
    }

    /// Returns the title in the table and the picture.
    pub fn title(self) -> &'static str {
        match self {
            Self::Nothing => "no HTTP: a fixed answer to whatever comes",
            Self::NoAuthentication => "axum, no authentication",
            Self::ConstantUser => "a constant user in the extensions",
            Self::BareMap => "a map from tokens to users, never changed",
            Self::RawGet => "one raw GET on a shared connection",
            Self::OursLocal => "this crate, in the process",
            Self::OursTier => "this crate, Redis behind a local cache",
            Self::OursRedis => "this crate, Redis asked every time",
            Self::SessionsMoka => "tower-sessions, moka before Redis",
            Self::SessionsRedis => "tower-sessions, Redis",
            Self::Login => "axum-login, Redis",
            Self::Handwritten => "by hand on bb8-redis defaults, GET + GET",
        }
    }

    pub fn is_ours(self) -> bool {
        matches!(self, Self::OursLocal | Self::OursTier | Self::OursRedis)
    }
}

/// Router of a peer, and for each of its users the header to send and the user's ID.
pub struct Served {
    pub app: Router,
    pub headers: Vec<(String, String)>,
}

pub async fn serve(peer: Peer, redis: &str) -> Result<Served, Box<dyn std::error::Error>> {
    match peer {
        Peer::Nothing | Peer::NoAuthentication => Ok(plain::no_authentication()),
        Peer::ConstantUser => Ok(plain::constant_user()),
        Peer::BareMap => Ok(plain::bare_map()),
        Peer::RawGet => plain::raw_get(redis).await,
        Peer::OursLocal => ours::local().await,
        Peer::OursTier => ours::tier(redis).await,
        Peer::OursRedis => ours::redis(redis).await,
        Peer::SessionsMoka => sessions::moka(redis).await,
        Peer::SessionsRedis => sessions::redis(redis).await,
        Peer::Login => login::redis(redis).await,
        Peer::Handwritten => handwritten::redis(redis).await,
    }
}

/// User with as much data as a record of this crate holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    pub id: String,
    pub email: String,
    pub name: String,
    pub email_verified: bool,
    pub tier: String,
    pub created_at: String,
    pub updated_at: String,
}

impl User {
    fn nth(n: usize) -> Self {
        Self {
            id: user_id(n),
            email: "ada.lovelace@example.com".to_owned(),
            name: "Ada Lovelace".to_owned(),
            email_verified: true,
            tier: "pro".to_owned(),
            created_at: "2024-05-01T12:00:00.123456+00:00".to_owned(),
            updated_at: "2025-05-01T12:00:00.123456+00:00".to_owned(),
        }
    }
}

fn user(n: usize) -> UserData {
    let User {
        id,
        email,
        name,
        email_verified,
        tier,
        created_at,
        updated_at,
    } = User::nth(n);
    let date = |text: String| text.parse::<DateTime<Utc>>().ok();
    UserData::builder(id)
        .email(email)
        .name(name)
        .email_verified(email_verified)
        .tier(tier)
        .created_at(date(created_at))
        .updated_at(date(updated_at))
        .build()
}

/// Returns an ID. All IDs have the same length, so that all responses do, too.
fn user_id(n: usize) -> String {
    format!("user-{n:06}")
}

/// Returns a token of 64 characters.
fn token(n: usize) -> String {
    format!("token-{n:058}")
}

fn bearers() -> impl Iterator<Item = String> {
    (0..TOKENS).map(|n| format!("authorization: Bearer {}", token(n)))
}

/// Returns the bearer token of a request, for the peers that read it themselves.
fn bearer(headers: &axum::http::HeaderMap) -> Option<&str> {
    headers
        .get(axum::http::header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")
}
