//! Issuers of signed events.

use std::{fmt, sync::Arc};

use super::{
    issuer_url::checked_url,
    refusal::{Refusal, RefusalKind},
    signed_event::SignedEvent,
};
use crate::{
    config_error::ConfigError,
    crypto::{Jws, JwsAlgorithm, JwsError},
    model::Authority,
    validator::{
        http::{HttpSettings, Url},
        jwks::{KeySource, VerificationError},
    },
};

const UNAVAILABLE: &str = "the keys of the issuer are unavailable";

/// An issuer of signed events, such as an OpenID provider: its URL, its public keys and the
/// algorithms that it signs with.
///
/// The keys are fetched when the first event arrives, from the `jwks_uri` in the issuer's metadata
/// (`/.well-known/openid-configuration`), and cached. If an event names an unknown key, they are
/// fetched again: at most every 30 seconds, and once for all events that wait. Keys that are an hour
/// old are fetched again as well; if that fails, the old ones are used. While a key cannot be
/// fetched, events are answered with 503, so that the sender repeats them. Clones share the keys.
///
/// # Security
///
/// A key is never taken from an event. `none` and the HMAC algorithms do not exist here, and an RSA
/// key must have at least 2,048 bits. An event that requires an extension (`crit`) is refused.
///
/// ```
/// use tower_session_cache::{BackChannelLogout, EventIssuer};
///
/// let realm = EventIssuer::new("https://keycloak.example.com/realms/shop")?;
/// let logouts = BackChannelLogout::new(realm, ["shop-web", "shop-app"])?;
/// # let _ = logouts;
/// # Ok::<(), tower_session_cache::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct EventIssuer(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) issuer: String,
    pub(super) authority: Authority,
    pub(super) algorithms: Vec<JwsAlgorithm>,
    pub(super) keys: KeySource,
    pub(super) allows_http: bool,
    pub(super) http: HttpSettings,
}

impl EventIssuer {
    /// Returns the URL of the issuer.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.issuer
    }

    /// Fetches the keys, unless they are cached. Call it at startup, so that the first event does
    /// not wait for them: some issuers do not repeat an event that is not answered in time.
    ///
    /// # Errors
    ///
    /// Returns [`RefusalKind::Unavailable`] if the keys cannot be fetched now. The log says why. The
    /// next event causes another attempt.
    pub async fn fetch_keys(&self) -> Result<(), Refusal> {
        let loaded = self.0.keys.load().await;
        loaded.map_err(|_| Refusal::new(RefusalKind::Unavailable, UNAVAILABLE))
    }

    /// Returns the authority of the issuer's sessions.
    pub(super) fn authority(&self) -> &Authority {
        &self.0.authority
    }

    /// Checks the URL of an endpoint of this issuer, and returns the settings for calls to it.
    pub(super) fn endpoint(&self, url: &str) -> Result<(Url, HttpSettings), ConfigError> {
        Ok((checked_url(url, self.0.allows_http)?, self.0.http.clone()))
    }

    /// Verifies a token of one of the types, and that it comes from this issuer. The type `None` is
    /// that of a token without `typ`.
    pub(super) async fn verify(
        &self,
        token: &str,
        types: &[Option<&str>],
    ) -> Result<SignedEvent, Refusal> {
        let token = Jws::parse(token, &self.0.algorithms).map_err(refusal)?;
        let typ = token.typ().map(str::to_ascii_lowercase);
        // "application/" may be omitted (RFC 7515, section 4.1.9).
        let typ = typ
            .as_deref()
            .map(|typ| typ.strip_prefix("application/").unwrap_or(typ));
        if !types.contains(&typ) {
            let reason = "the token is of another type";
            return Err(Refusal::new(RefusalKind::InvalidRequest, reason));
        }
        let claims = match self.0.keys.claims(&token).await {
            Ok(claims) => claims,
            Err(VerificationError::Invalid(error)) => return Err(refusal(error)),
            Err(VerificationError::Unavailable) => {
                return Err(Refusal::new(RefusalKind::Unavailable, UNAVAILABLE));
            }
        };
        let event = SignedEvent::new(claims);
        event.check_issuer(&self.0.issuer)?;
        Ok(event)
    }
}

fn refusal(error: JwsError) -> Refusal {
    let kind = match error {
        JwsError::TooLong | JwsError::Malformed | JwsError::CriticalExtension => {
            RefusalKind::InvalidRequest
        }
        JwsError::Algorithm
        | JwsError::UnknownKey
        | JwsError::UnfitKey
        | JwsError::AmbiguousKey => RefusalKind::InvalidKey,
        JwsError::Signature => RefusalKind::AuthenticationFailed,
    };
    Refusal::new(kind, error.as_str())
}

impl fmt::Debug for EventIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventIssuer")
            .field("issuer", &self.0.issuer)
            .field("authority", &self.0.authority)
            .field("algorithms", &self.0.algorithms)
            .finish_non_exhaustive()
    }
}
