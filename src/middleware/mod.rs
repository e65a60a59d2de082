//! Tower middleware: layer, service, future, response body, rejections and guards.

mod body;
mod challenge;
mod form;
mod future;
mod grpc;
mod guard;
mod layer;
mod policy;
mod rejection;
mod service;

#[cfg(feature = "axum")]
pub(crate) use self::form::respond;
pub use self::{
    body::ResponseBody,
    challenge::Challenge,
    future::ResponseFuture,
    guard::{Guard, GuardFuture, GuardService},
    layer::SessionCacheLayer,
    rejection::{Rejection, RejectionKind},
    service::SessionCacheService,
};
