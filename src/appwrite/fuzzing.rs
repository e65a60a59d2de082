//! What reads foreign bytes of Appwrite, for the fuzz targets.

use chrono::DateTime;
use http::{HeaderMap, StatusCode};

use super::{answer, client::Call, user};

/// A body, with a status from its first two bytes.
pub(crate) fn answer(bytes: &[u8]) {
    let Some((status, body)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let status = 100 + u16::from_be_bytes(*status) % 500;
    let Ok(status) = StatusCode::from_u16(status) else {
        return;
    };
    let now = DateTime::UNIX_EPOCH;
    for call in [
        Call::Account,
        Call::Session,
        Call::Login,
        Call::Logout,
        Call::Recovery,
    ] {
        let judged = answer::judge(call, status, &HeaderMap::new(), Ok(body.to_vec()), now);
        if let Err(error) = judged {
            // What an operator reads must not be what a stranger wrote.
            assert!(error.to_string().is_ascii());
        }
    }
    let _ = answer::account(body, Some("u1"), &user::first_label);
    let _ = answer::session(Call::Session, body);
    let _ = answer::recovered(body);
}
