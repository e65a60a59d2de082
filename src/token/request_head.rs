//! View of a request without its body, for what decides by the request: predicates, token sources
//! and rejection hooks.

use std::sync::{Arc, LazyLock};

use http::{Extensions, HeaderMap, Method, Request, Uri, Version, request::Parts};

/// Condition on a request.
pub(crate) type Predicate = dyn Fn(&RequestHead<'_>) -> bool + Send + Sync;

/// A borrowed view of a request without its body. Predicates, token sources and the function for
/// rejections receive it, whatever the type of the body is.
///
/// The accessors have the names of [`http::Request`]'s. The view borrows a [`Request`], its
/// [`Parts`], or headers alone, and copies nothing.
///
/// ```
/// use http::Request;
/// use tower_session_cache::RequestHead;
///
/// fn is_probe(head: &RequestHead<'_>) -> bool {
///     matches!(head.uri().path(), "/livez" | "/readyz")
/// }
///
/// let request = Request::get("/livez").body(())?;
/// assert!(is_probe(&RequestHead::from(&request)));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

impl<'a> RequestHead<'a> {
    /// Returns the method.
    #[must_use]
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// Returns the URI. The layer removes a token that
    /// [`TokenSource::query`](crate::TokenSource::query) reads from it before it calls the function
    /// for rejections, guards and the inner service. Token sources and the predicates of
    /// [`exempt`](crate::SessionCacheLayer::exempt) see it.
    ///
    /// # Security
    ///
    /// The path is as the client sent it, neither decoded nor normalized. An inner router that
    /// decodes or normalizes paths may find another route than a predicate expects.
    #[must_use]
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// Returns the version of HTTP.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the headers, tokens included.
    #[must_use]
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the extensions that outer layers have inserted.
    #[must_use]
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }
}

impl<'a, B> From<&'a Request<B>> for RequestHead<'a> {
    #[inline]
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

impl<'a> From<&'a Parts> for RequestHead<'a> {
    fn from(parts: &'a Parts) -> Self {
        Self {
            method: &parts.method,
            uri: &parts.uri,
            version: parts.version,
            headers: &parts.headers,
            extensions: &parts.extensions,
        }
    }
}

/// The head of a `GET` of `/` with these headers.
impl<'a> From<&'a HeaderMap> for RequestHead<'a> {
    fn from(headers: &'a HeaderMap) -> Self {
        static EMPTY: LazyLock<Request<()>> = LazyLock::new(Request::default);
        Self {
            headers,
            ..Self::from(&*EMPTY)
        }
    }
}

impl<'a> From<&Self> for RequestHead<'a> {
    fn from(head: &Self) -> Self {
        *head
    }
}

/// Returns a predicate that holds if this one holds, and the earlier one if there is one.
pub(crate) fn both(
    earlier: Option<Arc<Predicate>>,
    predicate: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static,
) -> Arc<Predicate> {
    match earlier {
        Some(earlier) => Arc::new(move |head| earlier(head) && predicate(head)),
        None => Arc::new(predicate),
    }
}

/// Returns a predicate that holds if this one or the earlier one holds.
pub(crate) fn either(
    earlier: Option<Arc<Predicate>>,
    predicate: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static,
) -> Arc<Predicate> {
    match earlier {
        Some(earlier) => Arc::new(move |head| earlier(head) || predicate(head)),
        None => Arc::new(predicate),
    }
}
