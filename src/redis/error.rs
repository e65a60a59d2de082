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
        return Some("check the user and the password in the URL against the server's ACL");
    }
    if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) {
        return Some("give the user the ACL rules that the page docs::deployment lists");
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
            "no CA that is trusted here has signed the server's certificate; hand its CA to \
             RedisTls::root_certificates, unless it is somebody else who answers there"
        }
        Fault::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            "the server's certificate has expired; renew it, or set this machine's clock"
        }
        Fault::InvalidCertificate(
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. },
        ) => "the server's certificate is not valid yet; set this machine's clock",
        Fault::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => {
            "the server's certificate is for another host; write the URL with the name that the \
             certificate has, or make one for this name"
        }
        Fault::InvalidCertificate(_) => "the server's certificate cannot be used; make another",
        Fault::InvalidMessage(_) => {
            "what answers there speaks no TLS; name the port of Redis's tls-port"
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
            "the server wants a certificate of this client that it trusts; hand one to \
             RedisTls::client_certificate"
        }
        _ => return None,
    })
}
