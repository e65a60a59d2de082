//! The cryptography of all TLS here: rustls takes exactly one provider for a process.

use rustls::crypto::{CryptoProvider, ring};

/// Installs one, unless the application has.
pub(crate) fn install_tls_provider() {
    if CryptoProvider::get_default().is_none() {
        // Fails only when somebody else was faster, and theirs serves as well.
        let _ = ring::default_provider().install_default();
    }
}
