//! All integration tests in one binary: it links once, and every part of `support` is used.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends by a panic, and its parts are for all tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod acl;
mod appwrite;
mod architecture;
mod axum_handlers;
mod backchannel;
mod canary;
mod close;
mod cluster;
mod composition;
mod config;
mod connections;
mod cookies;
mod credentials;
mod docs;
mod end_to_end;
mod events;
mod example;
mod faults;
mod fleet;
mod forward_auth;
mod grpc;
mod guards;
mod history;
mod hyper;
mod idp;
mod introspection;
mod layer;
mod local_cache;
mod local_stress;
mod logout_times;
mod metrics;
mod namespaces;
mod newcomer;
mod nodes;
mod outage;
mod page;
mod provider;
mod provider_lag;
mod public_api;
mod readiness;
mod redis_credentials;
mod redis_soak;
mod refresh;
mod replaced;
mod replicas;
mod request_head;
mod requirements;
mod revocation;
mod scripts;
mod secrets;
mod sentinel;
mod sentinel_stress;
mod servers;
mod sessions;
mod settled;
mod shared_cache;
mod sharing;
mod signals;
mod sockets;
mod spans;
mod stale;
mod stale_after_restart;
mod stress;
mod tls;
mod tokens;
mod ui;
mod user;
mod validators;
mod websocket;
