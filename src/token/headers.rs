//! How a source reads headers: as they are, or marking them on the way.
//!
//! A request's headers are looked up once for both, since for a hit that is no small part.

use http::{HeaderMap, HeaderName, HeaderValue, header};

pub(super) trait Headers {
    fn values(&mut self, name: &HeaderName) -> Values<'_>;

    /// A header that is not read, but may hold somebody's token.
    fn pass(&mut self, name: &HeaderName);

    /// For who reads them in a way of its own.
    fn as_map(&self) -> &HeaderMap;
}

pub(super) enum Values<'a> {
    One(Option<&'a HeaderValue>),
    All(header::ValueIter<'a, HeaderValue>),
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a HeaderValue;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::One(value) => value.take(),
            Self::All(values) => values.next(),
        }
    }
}

impl Headers for &HeaderMap {
    fn values(&mut self, name: &HeaderName) -> Values<'_> {
        Values::All(self.get_all(name).iter())
    }

    fn pass(&mut self, _: &HeaderName) {}

    fn as_map(&self) -> &HeaderMap {
        self
    }
}

/// Keeps what was read out of `Debug` output.
pub(super) struct SensitiveHeaders<'a>(pub(super) &'a mut HeaderMap);

impl SensitiveHeaders<'_> {
    /// Not asked every time, since `entry` makes room for another header first.
    #[cold]
    fn all(&mut self, name: &HeaderName) -> Values<'_> {
        if let header::Entry::Occupied(mut values) = self.0.entry(name) {
            values
                .iter_mut()
                .for_each(|value| value.set_sensitive(true));
        }
        Values::All(self.0.get_all(name).iter())
    }
}

impl Headers for SensitiveHeaders<'_> {
    #[inline]
    fn values(&mut self, name: &HeaderName) -> Values<'_> {
        // Told by counting, whether any header at all was sent more than once.
        if self.0.len() != self.0.keys_len() {
            return self.all(name);
        }
        let value = self.0.get_mut(name);
        Values::One(value.map(|value| {
            value.set_sensitive(true);
            &*value
        }))
    }

    fn pass(&mut self, name: &HeaderName) {
        self.values(name);
    }

    fn as_map(&self) -> &HeaderMap {
        self.0
    }
}
