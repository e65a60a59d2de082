//! Cryptography provider of all TLS in this crate. rustls takes exactly one provider per process.

use rustls::crypto::{CryptoProvider, ring};

/// Installs a provider, unless the application has installed one.
pub(crate) fn install_tls_provider() {
    if CryptoProvider::get_default().is_none() {
        // This fails only if another thread has installed a provider first, which serves as well.
        let _ = ring::default_provider().install_default();
    }
}
