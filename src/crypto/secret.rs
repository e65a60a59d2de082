//! Secret keys, which cannot be printed and are erased from memory with their last owner.

use std::{error::Error as StdError, fmt, path::Path, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A secret of at least 32 bytes, from which the keys of one purpose are derived.
///
/// Generate it, for example with `openssl rand -base64 32`, instead of choosing it by hand. It
/// prints as `SecretKey(…)`, cannot be compared, and its bytes are overwritten when the last clone
/// is dropped.
///
/// ```
/// use tower_session_cache::SecretKey;
///
/// let key = SecretKey::from_bytes("gdYy3bfNfx4OgBd1xgU9cHcPpq1yQ7DoRkkRgkV4T3w=")?;
/// assert_eq!(format!("{key:?}"), "SecretKey(…)");
/// assert!(SecretKey::from_bytes("hunter2").is_err());
/// # Ok::<(), tower_session_cache::SecretKeyError>(())
/// ```
#[derive(Clone)]
pub struct SecretKey(Arc<Zeroizing<Vec<u8>>>);

impl SecretKey {
    /// Creates a key from the bytes of a secret, which need not be text.
    ///
    /// # Errors
    ///
    /// Returns [`SecretKeyError::TooShort`] for less than 32 bytes.
    pub fn from_bytes(secret: impl Into<Vec<u8>>) -> Result<Self, SecretKeyError> {
        let secret = Zeroizing::new(secret.into());
        if secret.len() < 32 {
            return Err(SecretKeyError::TooShort);
        }
        Ok(Self(Arc::new(secret)))
    }

    /// Reads the secret from an environment variable, without white space around it.
    ///
    /// # Errors
    ///
    /// Returns [`SecretKeyError::Missing`] if the variable is not set, and
    /// [`SecretKeyError::TooShort`] for less than 32 bytes.
    pub fn from_env(name: &str) -> Result<Self, SecretKeyError> {
        let secret = std::env::var(name).map_err(|_| SecretKeyError::Missing)?;
        Self::from_bytes(Zeroizing::new(secret).trim())
    }

    /// Reads the secret from a file, such as one that an orchestrator mounts, without white space
    /// around it.
    ///
    /// # Errors
    ///
    /// Returns [`SecretKeyError::Missing`] if the file cannot be read, and
    /// [`SecretKeyError::TooShort`] for less than 32 bytes.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, SecretKeyError> {
        let secret = std::fs::read(path).map_err(|_| SecretKeyError::Missing)?;
        Self::from_bytes(Zeroizing::new(secret).trim_ascii())
    }

    /// Derives a separate key for each purpose, so that the use of one reveals nothing about
    /// another.
    pub(crate) fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(keyed(&self.0, purpose.as_bytes()))
    }
}

/// Computes HMAC-SHA-256.
pub(crate) fn keyed(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length, so this never fails.
    Hmac::<Sha256>::new_from_slice(key)
        .map(|mac| mac.chain_update(message).finalize().into_bytes().into())
        .unwrap_or_default()
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

/// Reason why there is no secret key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SecretKeyError {
    /// The variable is not set, or the file cannot be read.
    Missing,
    /// The secret has less than 32 bytes.
    TooShort,
}

impl fmt::Display for SecretKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "the secret key is missing; set the environment variable, or check that the file \
                 exists and is readable"
            }
            Self::TooShort => {
                "the secret key must have at least 32 bytes; generate one with `openssl rand \
                 -base64 32`"
            }
        })
    }
}

impl StdError for SecretKeyError {}
