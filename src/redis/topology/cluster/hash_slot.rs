//! Hash slots of a Redis Cluster.

pub(crate) const SLOTS: u16 = 16_384;

pub(crate) fn slot(key: &str) -> u16 {
    crc16(tag(key).as_bytes()) % SLOTS
}

/// Returns the hash tag, which is the text between the first opening brace and the next closing
/// one. Without one, or if it is empty, returns the whole key.
fn tag(key: &str) -> &str {
    let tag = key.split_once('{').and_then(|(_, rest)| {
        let (tag, _) = rest.split_once('}')?;
        (!tag.is_empty()).then_some(tag)
    });
    tag.unwrap_or(key)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc: u16, _| {
            (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected slots are those that `CLUSTER KEYSLOT` of a real server returns.
    #[test]
    fn hash_slots_match_those_of_redis() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, other) in [
            ("{user1000}.following", "user1000"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("session_tomb:{session_cache:0123}", "session_cache:0123"),
            (
                "session_space:{session_cache:0123}:a}b",
                "session_cache:0123",
            ),
        ] {
            assert_eq!(slot(key), crc16(other.as_bytes()) % SLOTS, "{key}");
        }
        assert_eq!(slot("foo"), 12_182);
        assert_eq!(slot(""), 0);
        assert_eq!(slot("foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot("foo{bar"), crc16(b"foo{bar") % SLOTS);
    }
}
