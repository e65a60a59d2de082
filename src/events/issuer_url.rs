//! URLs of an issuer and its endpoints.

use crate::{
    config_error::ConfigError,
    validator::http::{Url, is_loopback, parse_endpoint},
};

/// Parses a URL of an issuer and checks that no other party can modify what it returns.
pub(super) fn checked_url(text: &str, allows_http: bool) -> Result<Url, ConfigError> {
    let url = parse_endpoint(text).map_err(|_| {
        ConfigError::new(
            "the URLs of an event issuer must be absolute, begin with https:// and contain no \
             user name or password; use the values of `issuer` and `jwks_uri` in the issuer's \
             metadata",
        )
    })?;
    if url.scheme() == "http" && !is_loopback(&url) && !allows_http {
        return Err(ConfigError::new(
            "the URLs of an event issuer must begin with https://, because http:// lets an \
             attacker on the network choose the keys; use https://, or call `allow_http` if \
             no other party can modify the traffic",
        ));
    }
    Ok(url)
}
