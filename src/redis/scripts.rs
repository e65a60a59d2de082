//! The scripts: everything that must be seen or changed in Redis as one.

macro_rules! script {
    ($file:literal) => {
        concat!(
            include_str!("scripts/common.lua"),
            include_str!(concat!("scripts/", $file))
        )
    };
}

/// A script by its place in [`SCRIPTS`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Script {
    Lookup,
    Fill,
    RevokeToken,
    RevokeUser,
    Drop,
    Probe,
}

/// Loaded into every server that is connected, so that a restart puts no reload in a request's way.
pub(crate) const SCRIPTS: [&str; 6] = [
    script!("lookup.lua"),
    script!("fill.lua"),
    script!("revoke_token.lua"),
    script!("revoke_user.lua"),
    script!("drop.lua"),
    script!("probe.lua"),
];
