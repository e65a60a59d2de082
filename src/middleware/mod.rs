//! Tower middleware: layer, service, future, response body and rejections.

mod body;
mod future;
mod grpc;
mod layer;
mod policy;
mod rejection;
mod response;
mod service;

#[cfg(feature = "axum")]
pub(crate) use self::response::RejectionResponse;
pub use self::{
    body::ResponseBody,
    future::ResponseFuture,
    layer::SessionCacheLayer,
    rejection::{Rejection, RejectionBody, RejectionKind},
    service::SessionCacheService,
};
