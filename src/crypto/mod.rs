//! Secret keys, and TLS configurations.

mod hex;
mod secret;
#[cfg(any(feature = "appwrite", feature = "introspection", feature = "tls"))]
mod tls;

pub use self::secret::{SecretKey, SecretKeyError};
#[cfg(any(feature = "appwrite", feature = "introspection", feature = "tls"))]
pub(crate) use self::tls::{Roots, TlsFault, client_config};
pub(crate) use self::{hex::hex, secret::keyed};
