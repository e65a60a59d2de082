//! Fields of the reply of `INFO`.

use std::sync::Arc;

/// Returns a field of the reply, or an empty string if there is none.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_default()
}

/// The oldest supported version. The scripts use no later command.
const OLDEST: (u32, u32) = (6, 2);

/// Returns whether the server reports a version older than [`OLDEST`]. Forks report the version of
/// Redis that they are compatible with.
pub(crate) fn is_too_old(info: &str) -> bool {
    let mut numbers = field(info, "redis_version").split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
        _ => false,
    }
}

/// Returns the run ID of a server. A restart changes `run_id`; a promotion keeps it and changes
/// `master_replid`.
pub(crate) fn identity(info: &str) -> Arc<str> {
    let ids = [field(info, "run_id"), field(info, "master_replid")];
    ids.map(|id| id.get(..12).unwrap_or(id)).concat().into()
}
