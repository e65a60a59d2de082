//! Header access for token sources, with or without marking the headers as sensitive.
//!
//! A header is looked up once both to read and to mark it, because the lookup is a significant part
//! of the cost of a hit.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::request_head::RequestHead;

pub(super) trait Headers {
    fn values(&mut self, name: &HeaderName) -> Values<'_>;

    /// Marks a header that is not read, but may hold a token.
    fn pass(&mut self, name: &HeaderName);

    /// Returns the request's head, unless the source reads headers only.
    fn head(&self) -> Option<&RequestHead<'_>>;
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

impl Headers for RequestHead<'_> {
    fn values(&mut self, name: &HeaderName) -> Values<'_> {
        Values::All(self.headers().get_all(name).iter())
    }

    fn pass(&mut self, _: &HeaderName) {}

    fn head(&self) -> Option<&RequestHead<'_>> {
        Some(self)
    }
}

/// Headers that are marked sensitive when they are read, so that `Debug` does not print them.
pub(super) struct SensitiveHeaders<'a>(pub(super) &'a mut HeaderMap);

impl SensitiveHeaders<'_> {
    /// Used only if a header was repeated, because `entry` first reserves space for another header.
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
        // `len` counts values and `keys_len` counts names. They differ only if a header was
        // repeated.
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

    fn head(&self) -> Option<&RequestHead<'_>> {
        None
    }
}
