//! Lua scripts for everything that must be read or changed in Redis as one.

macro_rules! script {
    ($file:literal) => {
        concat!(
            include_str!("scripts/common.lua"),
            include_str!(concat!("scripts/", $file))
        )
    };
}

/// A script, by its index in [`SCRIPTS`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Script {
    Lookup,
    Fill,
    RevokeToken,
    RevokeUser,
    JoinSession,
    EndSession,
    Drop,
    Reserve,
    Reject,
    Probe,
}

/// The scripts. Each is loaded into every server on connecting, so that no request waits for a
/// reload after a restart.
pub(crate) const SCRIPTS: [&str; 10] = [
    script!("lookup.lua"),
    script!("fill.lua"),
    script!("revoke_token.lua"),
    script!("revoke_user.lua"),
    script!("join_session.lua"),
    script!("end_session.lua"),
    script!("drop.lua"),
    script!("reserve.lua"),
    script!("reject.lua"),
    script!("probe.lua"),
];
