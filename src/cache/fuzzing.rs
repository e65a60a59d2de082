//! What reads foreign bytes of Redis, for the fuzz targets.

use super::{
    accept::{Mark, Tomb},
    key::Naming,
    record::{self, Parsed, Record},
    seal::{Opened, Sealing},
    stamp::Stamp,
};
use crate::{
    crypto::SecretKey,
    model::{Authority, Namespace},
};

/// A record of anybody; one that is read can be written, and read again as the same.
pub fn record(bytes: &[u8]) {
    // The namespace that reads both kinds of records.
    let space = Naming::new(None, None).space(Namespace::appwrite(Authority::new("a")));
    let Parsed::Record(record) = Record::parse(bytes, &space) else {
        return;
    };
    let fence = Stamp(5_000_000);
    let written = record::up_to_mark(&record.user, record.expires_at, fence, Stamp(0), None)
        + &record::rest("", "r");
    let Parsed::Record(again) = Record::parse(written.as_bytes(), &space) else {
        panic!("what we wrote is read");
    };
    assert_eq!(again.user, record.user);
    assert_eq!(again.expires_at, record.expires_at);
}

/// A mark or a tombstone of anybody.
pub fn mark_and_tombstone(bytes: &[u8]) {
    let _ = Mark::parse(bytes).is_readable();
    let tomb = Tomb::parse(bytes);
    let _ = (tomb.is_readable(), tomb.refuses());
    if let Some(stamp) = Stamp::parse(bytes) {
        assert_eq!(Stamp::parse(stamp.to_string().as_bytes()), Some(stamp));
    }
}

/// A sealed record of anybody who does not have the key.
pub fn sealed(bytes: &[u8]) {
    let secret = SecretKey::from_bytes([7; 32]).expect("long enough");
    let sealing = Sealing::new(&secret, None);
    for value in [bytes.to_vec(), [b"sealed1:", bytes].concat()] {
        assert!(!matches!(sealing.open("k", &value), Opened::Record { .. }));
    }
}
