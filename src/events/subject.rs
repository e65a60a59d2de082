//! Subjects of security events ([RFC 9493], and the forms of earlier drafts).
//!
//! [RFC 9493]: https://www.rfc-editor.org/rfc/rfc9493#section-3

use serde_json::Value;

/// Maximum number of identifiers of one user in a subject.
const MAX_ALIASES: usize = 16;

/// Users and sessions that a subject names, as far as they are known here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) users: Vec<String>,
    pub(crate) session: Option<String>,
}

/// Maps a subject that names no user of the issuer, such as one with an e-mail address.
pub(crate) type UserMap = dyn Fn(&Value) -> Option<String> + Send + Sync;

impl Subject {
    pub(crate) fn parse(subject: &Value, issuer: &str, map: Option<&UserMap>) -> Self {
        match format(subject).as_deref() {
            Some("complex") => Self {
                users: subject
                    .get("user")
                    .map_or_else(Vec::new, |user| Self::parse_simple(user, issuer, map)),
                session: subject.get("session").and_then(session_id),
            },
            _ => Self {
                users: Self::parse_simple(subject, issuer, map),
                session: None,
            },
        }
    }

    fn parse_simple(subject: &Value, issuer: &str, map: Option<&UserMap>) -> Vec<String> {
        if format(subject).as_deref() == Some("aliases") {
            let aliases = subject.get("identifiers").and_then(Value::as_array);
            let aliases = aliases.into_iter().flatten().take(MAX_ALIASES);
            return aliases
                .filter_map(|alias| user(alias, issuer, map))
                .collect();
        }
        user(subject, issuer, map).into_iter().collect()
    }
}

/// Returns the user that an identifier names: the `sub` of the issuer, or what the closure returns.
fn user(identifier: &Value, issuer: &str, map: Option<&UserMap>) -> Option<String> {
    let text = |name| identifier.get(name).and_then(Value::as_str);
    let is_of_issuer = matches!(
        format(identifier).as_deref(),
        Some("iss_sub" | "id_token_claims")
    ) && text("iss") == Some(issuer);
    let own = text("sub").filter(|sub| is_of_issuer && !sub.is_empty());
    own.map(str::to_owned)
        .or_else(|| map.and_then(|map| map(identifier)))
}

/// Returns the format, as RFC 9493 spells it. Earlier drafts call it `subject_type` and write
/// hyphens, and their complex subjects have none.
fn format(subject: &Value) -> Option<String> {
    let format = subject
        .get("format")
        .or_else(|| subject.get("subject_type"));
    match format.and_then(Value::as_str) {
        Some(format) => Some(format.replace('-', "_")),
        None if subject.get("user").is_some() || subject.get("session").is_some() => {
            Some("complex".to_owned())
        }
        None => None,
    }
}

fn session_id(session: &Value) -> Option<String> {
    let is_opaque = format(session).as_deref() == Some("opaque");
    let id = session.get("id").and_then(Value::as_str);
    id.filter(|id| is_opaque && !id.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "https://op.example.com";

    fn by_email(subject: &Value) -> Option<String> {
        let email = subject["email"].as_str()?;
        Some(format!("user of {email}"))
    }

    fn parse(subject: &Value) -> (Vec<String>, Option<String>) {
        let Subject { users, session } = Subject::parse(subject, ISSUER, Some(&by_email));
        (users, session)
    }

    #[test]
    fn subjects_of_all_formats_are_read() {
        let ada = json!({ "format": "iss_sub", "iss": ISSUER, "sub": "ada" });
        let session = json!({ "format": "opaque", "id": "s1" });
        let email = json!({ "format": "email", "email": "a@example.com" });
        let users = |users: &[&str]| users.iter().map(|&user| user.to_owned()).collect();
        let s1 = || Some("s1".to_owned());
        for (subject, expected) in [
            (ada.clone(), (users(&["ada"]), None)),
            (email.clone(), (users(&["user of a@example.com"]), None)),
            (session.clone(), (users(&[]), None)),
            (
                json!({ "format": "complex", "user": ada, "session": session }),
                (users(&["ada"]), s1()),
            ),
            (json!({ "session": session }), (users(&[]), s1())),
            (
                json!({ "user": email }),
                (users(&["user of a@example.com"]), None),
            ),
            (
                json!({ "format": "complex", "tenant": session, "device": session }),
                (users(&[]), None),
            ),
            (
                json!({ "format": "aliases", "identifiers": [ada, email, session] }),
                (users(&["ada", "user of a@example.com"]), None),
            ),
            (
                json!({ "subject_type": "iss-sub", "iss": ISSUER, "sub": "ada" }),
                (users(&["ada"]), None),
            ),
            (
                json!({ "subject_type": "id_token_claims", "iss": ISSUER, "sub": "ada" }),
                (users(&["ada"]), None),
            ),
            (
                json!({ "format": "iss_sub", "iss": "https://op.example.com/", "sub": "ada" }),
                (users(&[]), None),
            ),
            (
                json!({ "format": "iss_sub", "iss": ISSUER, "sub": "" }),
                (users(&[]), None),
            ),
            (json!({ "iss": ISSUER, "sub": "ada" }), (users(&[]), None)),
            (json!({ "format": 1 }), (users(&[]), None)),
            (json!("ada"), (users(&[]), None)),
            (json!(null), (users(&[]), None)),
        ] {
            assert_eq!(parse(&subject), expected, "{subject}");
        }
        let unmapped = Subject::parse(&email, ISSUER, None);
        assert_eq!(unmapped, Subject::default());
    }
}
