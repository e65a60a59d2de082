//! Other servers that are reached as one that was named, but for where they are.

use bb8_redis::redis::{ConnectionAddr, ConnectionInfo};

/// The same user, password, database and certificates at another address.
pub(super) fn at(how: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let host = host.to_owned();
    how.clone().set_addr(match how.addr() {
        ConnectionAddr::TcpTls { tls_params, .. } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host, port),
    })
}
