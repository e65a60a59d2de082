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

/// Error codes of a server that takes no writes: it is a replica, has too few replicas, cannot save,
/// or is full.
const NO_WRITES: [&str; 5] = ["READONLY", "MASTERDOWN", "NOREPLICAS", "MISCONF", "OOM"];

/// Returns whether the server reports that it takes no writes. Before Redis 7 the error of a command
/// in a script is only quoted in the error of the script.
pub(crate) fn rejects_writes(error: &RedisError) -> bool {
    match (error.code(), error.detail()) {
        (Some("ERR"), Some(detail)) => NO_WRITES
            .iter()
            .any(|code| detail.contains(&format!(": -{code} "))),
        (Some(code), _) => NO_WRITES.contains(&code),
        (None, _) => false,
    }
}

/// Returns whether the server does not have the database, or does not permit to select it.
pub(crate) fn is_database_rejected(error: &RedisError) -> bool {
    let text = error.to_string();
    text.starts_with("Redis server refused to switch database")
}

/// Returns whether the server, or a proxy in front of it, does not have a command.
pub(crate) fn is_command_rejected(error: &RedisError) -> bool {
    let kind = error.kind();
    (kind == ErrorKind::Server(ServerErrorKind::ResponseError) || kind == ErrorKind::Extension)
        && error.to_string().contains("command")
        && !rejects_writes(error)
}

fn advice(error: &RedisError) -> Option<&'static str> {
    if is_database_rejected(error) {
        return Some(
            "set `database` of `RedisConfig` to 0 and leave it out of the URL, because clusters \
             and many managed servers have no other, or grant the user `+select`",
        );
    }
    if is_unauthenticated(error) {
        return Some("check user and password in the URL against the server's ACL");
    }
    // Before Redis 7, a missing right of a script is no NOPERM.
    let in_script = "The user executing the script can't";
    if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        || error.to_string().contains(in_script)
    {
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

#[cfg(test)]
mod tests {
    use bb8_redis::redis::parse_redis_value;

    use super::*;

    #[test]
    fn every_report_of_a_server_that_takes_no_writes_is_recognized() {
        let in_script =
            "ERR Error running script (call to f_9ff8): @user_script:1: @user_script: 1: -";
        for (text, expected) in [
            (
                "READONLY You can't write against a read only replica.",
                true,
            ),
            (
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
                true,
            ),
            ("NOREPLICAS Not enough good replicas to write.", true),
            (
                "MISCONF Redis is configured to save RDB snapshots, but",
                true,
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                true,
            ),
            (
                "NOPERM this user has no permissions to access one of the keys",
                false,
            ),
            ("BUSY Redis is busy running a script.", false),
            ("WRONGTYPE Operation against a key", false),
        ] {
            for text in [text.to_owned(), format!("{in_script}{text} ")] {
                let reply = parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
                let error = reply.extract_error().unwrap_err();
                assert_eq!(rejects_writes(&error), expected, "{text}");
            }
        }
    }
}
