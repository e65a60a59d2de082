//! Test utilities: sessions without an identity provider, and a clock that moves only when a test
//! moves it.
//!
//! A handler's unit test needs one line for its session:
//!
//! ```
//! use axum::{Extension, Router, body::Body, http::Request, routing::get};
//! use tower::ServiceExt;
//! use tower_session_cache::{UserData, testing};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let app = Router::new()
//!     .route("/hello", get(async |Extension(user): Extension<UserData>| user.name().to_owned()))
//!     .layer(testing::session_for("tok", UserData::builder("u1").name("Ada").build()));
//!
//! let request = Request::get("/hello").header("authorization", "Bearer tok").body(Body::empty())?;
//! let response = app.clone().oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//!
//! let stranger = Request::get("/hello").body(Body::empty())?;
//! assert_eq!(app.oneshot(stranger).await?.status(), 401);
//! # Ok(()) }
//! ```
//!
//! For other tests, [`TestValidator`] fails, delays or hangs on command, and records the tokens it
//! receives.

#[cfg(feature = "oidc-events")]
mod issuer;
mod layer;
mod validator;

#[cfg(feature = "oidc-events")]
#[cfg_attr(docsrs, doc(cfg(feature = "oidc-events")))]
pub use self::issuer::TestIssuer;
pub use self::{
    layer::{session_for, session_info},
    validator::TestValidator,
};
pub use crate::time::ManualClock;
