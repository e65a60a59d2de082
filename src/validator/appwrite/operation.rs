//! Operations of Appwrite's API that the validator uses.

use std::fmt;

use http::{Method, StatusCode};

use crate::validator::http::Repeat;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Account,
    Session,
    Login,
    Logout,
    LogoutEverywhere,
    Recovery,
}

impl Operation {
    pub(super) fn success(self) -> StatusCode {
        match self {
            Self::Account | Self::Session | Self::Recovery => StatusCode::OK,
            Self::Login => StatusCode::CREATED,
            Self::Logout | Self::LogoutEverywhere => StatusCode::NO_CONTENT,
        }
    }

    pub(super) fn method(self) -> Method {
        match self {
            Self::Account | Self::Session => Method::GET,
            Self::Login => Method::POST,
            Self::Logout | Self::LogoutEverywhere => Method::DELETE,
            Self::Recovery => Method::PUT,
        }
    }

    /// Returns whether a call may be carried out twice. A second logout finds no session, which
    /// counts as a success. A second login would create another session, and a second recovery
    /// would be rejected.
    pub(super) fn repeat(self) -> Repeat {
        match self {
            Self::Account | Self::Session | Self::Logout | Self::LogoutEverywhere => Repeat::Once,
            Self::Login | Self::Recovery => Repeat::Never,
        }
    }

    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Account => "/account",
            Self::Session | Self::Logout => "/account/sessions/current",
            Self::LogoutEverywhere => "/account/sessions",
            Self::Login => "/account/sessions/email",
            Self::Recovery => "/account/recovery",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method(), self.path())
    }
}
