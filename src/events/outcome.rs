//! What became of an event, and the usual answers.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::refusal::{Refusal, RefusalKind};
use crate::telemetry::EventLabel;

/// How long a sender should wait before it repeats an event.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// What became of an event. A [`RevocationSource`](super::RevocationSource) makes the answer from
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventOutcome {
    /// The revocation applies on all nodes, or the event is a duplicate of one for which this
    /// holds.
    Applied,
    /// The revocation applies on this node, which delivers it to the others as soon as Redis is
    /// available. It is lost if the process ends earlier.
    Queued,
    /// The revocation applies on this node only, because the queue is full.
    QueueFull,
    /// The event is authentic and changes no session.
    Ignored,
    /// The event is authentic, but names no user that is known here. To repeat it would not help.
    Unmapped,
    /// The request is not an authentic event.
    Refused(Refusal),
    /// The body is longer than 256 KiB.
    TooLarge,
    /// The body did not arrive within 5 seconds.
    TooSlow,
}

impl EventOutcome {
    /// Returns the answer for a sender that repeats what was not answered with 2xx.
    ///
    /// | outcome | status |
    /// | --- | --- |
    /// | `Applied`, `Ignored`, `Unmapped` | 204 |
    /// | `Queued`, `QueueFull`, refused as `Unavailable` | 503 with `Retry-After: 5` |
    /// | refused as `InvalidRequest` | 400 |
    /// | refused otherwise | 401 |
    /// | `TooLarge`, `TooSlow` | 413, 408 |
    #[must_use]
    pub fn answer(&self) -> Response<Bytes> {
        self.answer_with(StatusCode::NO_CONTENT)
    }

    pub(super) fn answer_with(self, success: StatusCode) -> Response<Bytes> {
        let status = match self {
            Self::Applied | Self::Ignored | Self::Unmapped => success,
            Self::Queued | Self::QueueFull => StatusCode::SERVICE_UNAVAILABLE,
            Self::Refused(refusal) => match refusal.kind() {
                RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                RefusalKind::InvalidRequest => StatusCode::BAD_REQUEST,
                _ => StatusCode::UNAUTHORIZED,
            },
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
        };
        let mut answer = Response::default();
        *answer.status_mut() = status;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer
                .headers_mut()
                .insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        answer
    }

    pub(super) fn label(self) -> EventLabel {
        match self {
            Self::Applied => EventLabel::Applied,
            Self::Queued => EventLabel::Queued,
            Self::QueueFull => EventLabel::QueueFull,
            Self::Ignored => EventLabel::Ignored,
            Self::Unmapped => EventLabel::Unmapped,
            Self::Refused(refusal) if refusal.kind() == RefusalKind::Unavailable => {
                EventLabel::Unavailable
            }
            Self::Refused(_) => EventLabel::Rejected,
            Self::TooLarge => EventLabel::TooLarge,
            Self::TooSlow => EventLabel::TooSlow,
        }
    }
}
