//! Secret keys, and the TLS provider of the process.

mod hex;
mod secret;
#[cfg(any(feature = "appwrite", feature = "introspection", feature = "tls"))]
mod tls_provider;

pub use self::secret::{SecretKey, SecretKeyError};
#[cfg(any(feature = "appwrite", feature = "introspection", feature = "tls"))]
pub(crate) use self::tls_provider::install_tls_provider;
pub(crate) use self::{hex::hex, secret::keyed};
