//! Error of an invalid setting.

use std::{convert::Infallible, error::Error as StdError, fmt};

/// An invalid setting, or settings that contradict each other. The text names them and says what to
/// write instead. It shows no URL and no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(&'static str);

impl ConfigError {
    pub(crate) const fn new(text: &'static str) -> Self {
        Self(text)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl StdError for ConfigError {}

/// Allows [`SessionCacheBuilder::redis`](crate::SessionCacheBuilder::redis) to take a
/// [`RedisConfig`](crate::RedisConfig) as it takes a URL.
impl From<Infallible> for ConfigError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}
