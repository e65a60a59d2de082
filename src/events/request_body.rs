//! Reads the body of a request into memory, up to a limit.

use std::{future::poll_fn, pin::pin};

use bytes::Buf;
use http_body::Body;

/// Maximum length of a body, in bytes. Events are shorter than 20 kB.
pub(super) const MAX_BODY: usize = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    TooLarge,
    /// The connection failed.
    Failed,
}

pub(super) async fn read_body<B: Body>(body: B) -> Result<Vec<u8>, BodyError> {
    // A body that announces its length is refused before any of it is read.
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(BodyError::TooLarge);
    }
    let mut body = pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        // Everything but data is trailers, which no sender uses.
        let Ok(mut data) = frame.map_err(|_| BodyError::Failed)?.into_data() else {
            continue;
        };
        if data.remaining() > MAX_BODY - bytes.len() {
            return Err(BodyError::TooLarge);
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            let length = chunk.len();
            bytes.extend_from_slice(chunk);
            data.advance(length);
        }
    }
    Ok(bytes)
}
