//! Receiver of the events that identity providers push when a session ends or a user changes.
//!
//! An event never admits a request. A [`RevocationSource`] reads whose sessions an authentic event
//! concerns, and the [`RevocationReceiver`] invalidates them, so that they are validated again. A
//! duplicate, a replay or events in the wrong order therefore cost validations and nothing else.
//!
//! An event is remembered only after it has been applied, so that a sender which repeats a failed
//! delivery is not taken for a duplicate.

mod applied_events;
mod appwrite;
#[cfg(feature = "oidc-events")]
mod back_channel_logout;
mod body;
mod header_secret;
#[cfg(feature = "oidc-events")]
mod issuer;
#[cfg(feature = "oidc-events")]
mod issuer_builder;
#[cfg(feature = "oidc-events")]
mod issuer_url;
mod json_event;
mod monitor;
mod outcome;
#[cfg(feature = "oidc-events")]
mod poll;
mod receiver;
mod refusal;
mod request_body;
mod revoked;
mod secret_header;
#[cfg(feature = "oidc-events")]
mod shared_signals;
#[cfg(feature = "oidc-events")]
mod signed_event;
mod source;
mod standard_webhook;
#[cfg(feature = "oidc-events")]
mod subject;

pub use self::{
    appwrite::AppwriteWebhook,
    body::EventResponseBody,
    header_secret::HeaderSecret,
    outcome::EventOutcome,
    receiver::RevocationReceiver,
    refusal::{Refusal, RefusalKind},
    revoked::Revoked,
    source::RevocationSource,
    standard_webhook::StandardWebhook,
};
#[cfg(fuzzing)]
pub(crate) use self::{appwrite::user as appwrite_user, json_event::JsonEvent};
#[cfg(feature = "oidc-events")]
pub use self::{
    back_channel_logout::BackChannelLogout, issuer::EventIssuer,
    issuer_builder::EventIssuerBuilder, poll::SharedSignalsPoll, shared_signals::SharedSignals,
};
#[cfg(all(fuzzing, feature = "oidc-events"))]
pub(crate) use self::{back_channel_logout::logout_token, subject::Subject};
