//! The commands that the Python service sends to Redis, one by one.

use bb8_redis::redis::cmd;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::redis::Redis;

pub fn session_key(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("session_cache:{}", &hex[..32])
}

pub fn tomb_key(token: &str) -> String {
    format!("session_tomb:{{{}}}", session_key(token))
}

pub fn mark_key(user_id: &str) -> String {
    format!("user_invalidated:{user_id}")
}

/// Returns the record that the service stores for a user at a given time.
pub fn record(user_id: &str, cached_at: f64) -> Value {
    json!({
        "user_id": user_id,
        "email": format!("{user_id}@example.com"),
        "name": "Ada",
        "email_verified": true,
        "tier": "peer",
        "created_at": "2025-04-28T09:31:48.342000+00:00",
        "updated_at": "2025-05-03T16:44:35",
        "session_expire": "2999-05-03T16:52:48.759000+00:00",
        "cached_at": cached_at,
    })
}

pub struct Peer<'a>(pub &'a Redis);

impl Peer<'_> {
    pub fn store(&self, token: &str, user_id: &str) {
        let record = record(user_id, self.0.time()).to_string();
        let mut setex = cmd("SETEX");
        self.0
            .run::<()>(setex.arg(session_key(token)).arg(300).arg(record));
    }

    /// Returns the user whose session the service serves from its cache.
    pub fn lookup(&self, token: &str) -> Option<String> {
        let record: Value = serde_json::from_str(&self.0.get(&session_key(token))?).unwrap();
        let expires = record["session_expire"].as_str()?;
        let expires: chrono::DateTime<chrono::Utc> = expires.parse().unwrap();
        if expires <= chrono::Utc::now() {
            self.0.run::<()>(cmd("DEL").arg(session_key(token)));
            return None;
        }
        let user_id = record["user_id"].as_str().unwrap();
        for member in ["email", "name", "tier", "created_at", "updated_at"] {
            record[member].as_str()?;
        }
        record["email_verified"].as_bool()?;
        let cached_at = record["cached_at"].as_f64().unwrap();
        let mark = self.0.get(&mark_key(user_id));
        if mark.is_some_and(|mark| mark.parse::<f64>().unwrap() > cached_at) {
            return None;
        }
        Some(user_id.to_owned())
    }

    pub fn logout(&self, token: &str) {
        self.0.run::<()>(cmd("DEL").arg(session_key(token)));
    }

    pub fn invalidate_user(&self, user_id: &str) {
        let now = self.0.time().to_string();
        let mut set = cmd("SET");
        self.0
            .run::<()>(set.arg(mark_key(user_id)).arg(now).arg("EX").arg(2_592_000));
    }
}
