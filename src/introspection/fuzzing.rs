//! What reads foreign bytes of an authorization server, for the fuzz targets.

use chrono::{DateTime, TimeDelta};
use http::{HeaderMap, StatusCode};

use super::{
    answer,
    session::{Settings, session},
};
use crate::{provider::Answer, token::SessionToken};

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
    let judged = answer::judge(
        Answer {
            status,
            headers: HeaderMap::new(),
            body: Ok(body.to_vec()),
        },
        now,
    );
    if let Err(error) = judged {
        // What an operator reads must not be what a stranger wrote.
        assert!(error.to_string().is_ascii());
    }
    let token = SessionToken::parse("t0ken").expect("a token");
    for (scopes, audience) in [
        (vec![], None),
        (vec!["read".to_owned()], Some("api".to_owned())),
    ] {
        let settings = Settings {
            issuer: None,
            audience,
            scopes,
            are_bound_allowed: false,
            user_id_member: "sub".to_owned(),
            session_id_claim: "ext.sid".to_owned(),
            leeway: TimeDelta::zero(),
            tier: Box::new(|token| token.text("plan").unwrap_or("free").to_owned()),
        };
        let Ok(session) = session(&settings, &token, body, now) else {
            continue;
        };
        // What is good enough to be cached is good enough to be served, unless it was too long.
        assert!(body.len() > 8 * 1024 || settings.accept(&session.user));
    }
}
