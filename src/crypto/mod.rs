//! Secret keys, signed tokens, and TLS configurations.

mod hex;
#[cfg(feature = "oidc-events")]
#[allow(dead_code, unreachable_pub, unused_imports)]
mod jws;
mod secret;
#[cfg(any(feature = "appwrite", feature = "introspection", feature = "tls"))]
mod tls;

#[cfg(fuzzing)]
pub(crate) use self::jws::{Jws, JwsAlgorithm, KeySet};
pub use self::secret::{SecretKey, SecretKeyError};
#[cfg(any(feature = "appwrite", feature = "introspection", feature = "tls"))]
pub(crate) use self::tls::{Roots, TlsFault, client_config};
pub(crate) use self::{hex::hex, secret::keyed};
