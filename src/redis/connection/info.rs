//! What the reply of `INFO` says.

use std::sync::Arc;

/// A field of INFO's reply, empty if there is none.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_default()
}

/// Names the run of a server. One that is promoted keeps its run id and gets a new replication id.
pub(crate) fn identity(info: &str) -> Arc<str> {
    let ids = [field(info, "run_id"), field(info, "master_replid")];
    ids.map(|id| id.get(..12).unwrap_or(id)).concat().into()
}
