//! The user as a handler and the `/me` endpoint of the existing service see it.

use chrono::{DateTime, Utc};
use tower_session_cache::{SessionToken, UserData};

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[test]
fn user_serializes_to_the_seven_shared_members() {
    let user = UserData::builder("u1")
        .email("ada@example.com")
        .name("Ada Ł.")
        .email_verified(true)
        .tier("pro")
        .created_at(time("2025-05-03T16:52:48.766+00:00"))
        .updated_at(time("2025-05-03T18:52:48+02:00"))
        .attribute("team", "engines")
        .build();
    let expected = r#"{"id":"u1","email":"ada@example.com","name":"Ada Ł.","email_verified":true,"tier":"pro","created_at":"2025-05-03T16:52:48.766000+00:00","updated_at":"2025-05-03T16:52:48+00:00"}"#;
    assert_eq!(serde_json::to_string(&user).unwrap(), expected);
    let bare = r#"{"id":"u2","email":"","name":"","email_verified":false,"tier":"free","created_at":null,"updated_at":null}"#;
    assert_eq!(serde_json::to_string(&UserData::new("u2")).unwrap(), bare);
    assert_eq!(user.attributes()["team"], "engines");
    assert_eq!(user.to_builder().build(), user);
    assert_ne!(user.to_builder().name("Bob").build(), user);
}

#[test]
fn debug_output_contains_no_private_data() {
    let user = UserData::builder("u1")
        .email("ada@example.com")
        .name("Ada")
        .attribute("phone", "+15555550100");
    let printed = format!(
        "{user:?} {:?} {:?}",
        user.clone().build(),
        SessionToken::parse("s3cr3t").unwrap()
    );
    for secret in ["example.com", "Ada", "555", "s3cr3t"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}
