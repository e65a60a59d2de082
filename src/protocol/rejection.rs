//! Rejections that the nodes share through Redis, so that a token which the identity provider has
//! rejected is not validated once by each node.
//!
//! The text is `rejected1:<fence>:<until>:<wait>:<cause>`, and if records are sealed, `:<proof>` after it: a
//! keyed hash of the text and of the key's name. Then a client that can write to Redis cannot reject
//! a session by it. A rejection is used only if there is no record, so it never hides a later
//! success, and only for as long as `wait`, which is one second for the first rejection of a token.

use super::{sealing::Sealing, timestamp::Timestamp};

const MARKER: &str = "rejected1";

/// Why the provider rejects a token for as long as the token exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastingCause {
    Invalid,
    NoUser,
}

/// A rejection by the identity provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SharedRejection {
    /// Time of the lookup before the validation.
    pub(crate) fence: Timestamp,
    pub(crate) until: Timestamp,
    /// How long it is used, in microseconds. The next one is used twice as long.
    pub(crate) wait: u64,
    pub(crate) cause: LastingCause,
}

impl LastingCause {
    fn word(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NoUser => "no_user",
        }
    }
}

impl SharedRejection {
    /// Writes the text for the key of this name.
    pub(crate) fn encode(&self, key: &str, sealing: Option<&Sealing>) -> String {
        let Self {
            fence,
            until,
            wait,
            cause,
        } = self;
        let text = format!("{MARKER}:{fence}:{until}:{wait}:{}", cause.word());
        match sealing {
            None => text,
            Some(sealing) => {
                let proof = sealing.prove(&message(&text, key));
                format!("{text}:{proof}")
            }
        }
    }

    /// Parses the text under the key of this name. Returns `None` for a text of another version, and
    /// for one without a proof if records are sealed.
    pub(crate) fn parse(bytes: &[u8], key: &str, sealing: Option<&Sealing>) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.splitn(6, ':');
        let mut part = || parts.next();
        if part()? != MARKER {
            return None;
        }
        let rejection = Self {
            fence: Timestamp::parse(part()?.as_bytes())?,
            until: Timestamp::parse(part()?.as_bytes())?,
            wait: part()?.parse().ok()?,
            cause: match part()? {
                "invalid" => LastingCause::Invalid,
                "no_user" => LastingCause::NoUser,
                _ => return None,
            },
        };
        match (sealing, part()) {
            (None, None) => Some(rejection),
            (Some(sealing), Some(proof)) => {
                let unproven = text.strip_suffix(proof)?.strip_suffix(':')?;
                let is_proven = sealing.is_proof(&message(unproven, key), proof);
                is_proven.then_some(rejection)
            }
            (None, Some(_)) | (Some(_), None) => None,
        }
    }

    /// Whether the rejection is in use at this time. `most` is the longest that a rejection of this
    /// cache can be used, in microseconds, so that a wrong clock prolongs none.
    pub(crate) fn is_in_use(&self, now: Timestamp, most: u64) -> bool {
        let left = self.until.0.saturating_sub(now.0);
        u64::try_from(left).is_ok_and(|left| left > 0 && left <= self.wait && self.wait <= most)
    }

    /// Returns when the provider rejected the token.
    pub(crate) fn at(&self) -> Timestamp {
        self.until
            .minus(i64::try_from(self.wait).unwrap_or(i64::MAX))
    }
}

/// Returns what is proven. The text has no line break, so that no part of a key can be mistaken for
/// a part of it.
fn message(text: &str, key: &str) -> Vec<u8> {
    format!("{text}\n{key}").into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::SecretKey;

    const NOW: Timestamp = Timestamp(1_732_444_800_000_000);
    const SECOND: i64 = 1_000_000;

    fn rejection() -> SharedRejection {
        SharedRejection {
            fence: NOW,
            until: NOW.plus(SECOND),
            wait: 1_000_000,
            cause: LastingCause::Invalid,
        }
    }

    fn sealing(secret: u8) -> Sealing {
        let key = SecretKey::from_bytes(vec![secret; 32]).unwrap();
        Sealing::new(&key, None)
    }

    #[test]
    fn rejection_is_read_as_it_was_written() {
        for cause in [LastingCause::Invalid, LastingCause::NoUser] {
            let rejection = SharedRejection {
                cause,
                ..rejection()
            };
            for sealing in [None, Some(sealing(1))] {
                let text = rejection.encode("key", sealing.as_ref());
                assert!(text.len() <= 512, "the script reads no more");
                let parsed = SharedRejection::parse(text.as_bytes(), "key", sealing.as_ref());
                assert_eq!(parsed, Some(rejection));
            }
        }
        let plain = rejection().encode("key", None);
        assert_eq!(
            plain,
            "rejected1:1732444800.000000:1732444801.000000:1000000:invalid"
        );
    }

    #[test]
    fn sealed_rejection_cannot_be_forged_or_moved() {
        let ours = sealing(1);
        let text = rejection().encode("key", Some(&ours));
        let parse = |text: &str, key| SharedRejection::parse(text.as_bytes(), key, Some(&ours));
        assert!(parse(&text, "key").is_some());
        assert_eq!(parse(&text, "other"), None);
        assert_eq!(parse(&text.replace("801", "901"), "key"), None);
        assert_eq!(parse(&rejection().encode("key", None), "key"), None);
        let theirs = rejection().encode("key", Some(&sealing(2)));
        assert_eq!(parse(&theirs, "key"), None);
        // Without a sealing key, a proof is not understood.
        assert_eq!(SharedRejection::parse(text.as_bytes(), "key", None), None);
    }

    #[test]
    fn proof_of_the_previous_key_is_accepted() {
        let keys = [1, 2].map(|secret| SecretKey::from_bytes(vec![secret; 32]).unwrap());
        let text = rejection().encode("key", Some(&Sealing::new(&keys[0], None)));
        let rotated = Sealing::new(&keys[1], Some(&keys[0]));
        let parsed = SharedRejection::parse(text.as_bytes(), "key", Some(&rotated));
        assert_eq!(parsed, Some(rejection()));
    }

    #[test]
    fn rejection_is_used_for_no_longer_than_its_wait() {
        let rejection = rejection();
        let most = 5_000_000;
        assert!(rejection.is_in_use(NOW, most));
        assert!(rejection.is_in_use(NOW.plus(SECOND - 1), most));
        assert!(!rejection.is_in_use(NOW.plus(SECOND), most));
        assert!(!rejection.is_in_use(NOW.minus(1), most), "clock behind");
        assert!(!rejection.is_in_use(NOW, 999_999), "longer than ours");
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in ".{0,80}", start in 0_usize..3) {
            let start = ["", "rejected1:", "rejected1:1.0:1.0:5:invalid:"][start];
            let text = format!("{start}{text}");
            let _ = SharedRejection::parse(text.as_bytes(), "key", None);
            let _ = SharedRejection::parse(text.as_bytes(), "key", Some(&sealing(1)));
        }
    }
}
