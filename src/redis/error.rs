//! Errors of Redis and TLS, with hints for the operator.

use bb8_redis::redis::{ErrorKind, RedisError, ServerErrorKind};

/// Returns the error, followed by what to do about it if that is known.
pub(crate) fn with_hint(error: &RedisError) -> String {
    match advice(error) {
        Some(advice) => format!("{error}: {advice}"),
        None => error.to_string(),
    }
}

/// Returns whether the server wants another user or password. The error depends on the version of
/// the protocol.
pub(crate) fn is_unauthenticated(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH"))
}

fn advice(error: &RedisError) -> Option<&'static str> {
    if is_unauthenticated(error) {
        return Some("check user and password in the URL against the server's ACL");
    }
    if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) {
        return Some("grant the user the ACL rules listed in docs::deployment");
    }
    #[cfg(feature = "tls")]
    if let Some(fault) = tls(error) {
        return about(fault);
    }
    None
}

#[cfg(feature = "tls")]
fn tls(error: &RedisError) -> Option<&rustls::Error> {
    use std::{error::Error, io, sync::Arc};

    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(fault) = error.downcast_ref() {
            return Some(fault);
        }
        // For these two types `source` skips the error that they contain.
        next = if let Some(shared) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
            Some(&**shared)
        } else if let Some(error) = error.downcast_ref::<io::Error>() {
            error.get_ref().map(|inner| inner as &(dyn Error + 'static))
        } else {
            error.source()
        };
    }
    None
}

#[cfg(feature = "tls")]
fn about(fault: &rustls::Error) -> Option<&'static str> {
    use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error as Fault};

    Some(match fault {
        Fault::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature) => {
            "the server's certificate is not signed by a trusted CA; check that the address \
             belongs to the right server, then pass its CA to `RedisTls::root_certificates`"
        }
        Fault::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "the server's certificate has expired; renew it, or correct the clock of this machine"
        }
        Fault::InvalidCertificate(
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. },
        ) => "the server's certificate is not valid yet; correct the clock of this machine",
        Fault::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => {
            "the server's certificate is for another host; use the name of the certificate in the \
             URL, or issue a certificate for the name in the URL"
        }
        Fault::InvalidCertificate(_) => "the server's certificate is invalid; issue another",
        Fault::InvalidMessage(_) => {
            "the server does not use TLS on this port; use the port of Redis's `tls-port`"
        }
        Fault::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::UnknownCA
            | Alert::DecryptError
            | Alert::AccessDenied
            | Alert::HandshakeFailure,
        ) => {
            "the server requires a client certificate that it trusts; pass one to \
             `RedisTls::client_certificate`"
        }
        _ => return None,
    })
}
