//! Secret keys, signed tokens, and TLS configurations.

mod hex;
#[cfg(feature = "oidc-events")]
mod jws;
mod secret;
#[cfg(any(
    feature = "appwrite",
    feature = "introspection",
    feature = "oidc-events",
    feature = "tls"
))]
mod tls;

#[cfg(feature = "oidc-events")]
pub use self::jws::JwsAlgorithm;
#[cfg(all(feature = "oidc-events", feature = "testing"))]
pub(crate) use self::jws::TestSigner;
#[cfg(feature = "oidc-events")]
pub(crate) use self::jws::{Jws, JwsError, KeySet, strict_object};
pub use self::secret::{SecretKey, SecretKeyError};
#[cfg(any(
    feature = "appwrite",
    feature = "introspection",
    feature = "oidc-events",
    feature = "tls"
))]
pub(crate) use self::tls::{Roots, TlsFault, client_config};
pub(crate) use self::{hex::hex, secret::keyed};
