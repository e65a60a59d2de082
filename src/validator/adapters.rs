//! Types that the provided methods of [`SessionValidator`](crate::SessionValidator) return.
//!
//! The trait names these types, and they implement the trait. They are declared here and
//! implemented in `or`, `map`, `filter`, `decodes`, `keys` and `layered`, so that `traits` imports only this file.

use std::sync::{Arc, Mutex};

use super::{adaptive_limit::AdaptiveLimit, provider_state::ProviderState};
use crate::{
    model::{DecodeUserError, Namespace, UserData},
    token::SessionToken,
};

/// A validator that combines two validators. Created by [`SessionValidator::or`] and
/// [`SessionValidator::or_if`].
///
/// [`SessionValidator::or`]: crate::SessionValidator::or
/// [`SessionValidator::or_if`]: crate::SessionValidator::or_if
#[derive(Clone)]
pub struct Or<A, B> {
    pub(super) namespace: Namespace,
    pub(super) first: Branch<A>,
    pub(super) second: Branch<B>,
    /// Selects the tokens of the second branch. Without it, the second branch gets the tokens that
    /// the first one rejects as invalid.
    pub(super) routes_to_second: Option<Arc<Route>>,
}

#[derive(Clone)]
pub(super) struct Branch<V> {
    pub(super) name: String,
    pub(super) validator: V,
    pub(super) limit: Arc<AdaptiveLimit>,
    pub(super) state: Arc<ProviderState>,
}

pub(super) type Route = dyn Fn(&SessionToken) -> bool + Send + Sync;

/// A validator whose sessions a closure changes. Created by [`SessionValidator::map`].
///
/// [`SessionValidator::map`]: crate::SessionValidator::map
#[derive(Clone, Debug)]
pub struct Map<V, F> {
    pub(super) namespace: Namespace,
    pub(super) validator: V,
    pub(super) change: F,
}

/// A validator whose sessions a closure changes or rejects. Created by
/// [`SessionValidator::and_then`].
///
/// [`SessionValidator::and_then`]: crate::SessionValidator::and_then
#[derive(Clone, Debug)]
pub struct AndThen<V, F> {
    pub(super) namespace: Namespace,
    pub(super) validator: V,
    pub(super) next: F,
}

/// A validator with an additional rule. Created by [`SessionValidator::filter`].
///
/// [`SessionValidator::filter`]: crate::SessionValidator::filter
#[derive(Clone, Debug)]
pub struct Filter<V, F> {
    pub(super) validator: V,
    pub(super) accepts: F,
}

/// A validator whose users can be decoded as a type of the application. Created by
/// [`SessionValidator::decodes`].
///
/// [`SessionValidator::decodes`]: crate::SessionValidator::decodes
#[derive(Clone, Debug)]
pub struct Decodes<V> {
    pub(super) validator: V,
    pub(super) check: fn(&UserData) -> Result<(), DecodeUserError>,
}

/// A validator whose tokens are keys and not sessions. Created by [`SessionValidator::keys`].
///
/// [`SessionValidator::keys`]: crate::SessionValidator::keys
#[derive(Clone, Debug)]
pub struct Keys<V> {
    pub(super) validator: V,
}

/// A validator with a tower layer around its calls. Created by [`SessionValidator::layer`].
///
/// Each validation calls a clone of the layer's service when that clone is ready.
///
/// [`SessionValidator::layer`]: crate::SessionValidator::layer
pub struct LayeredValidator<V, S> {
    pub(super) validator: Arc<V>,
    // The mutex makes the validator `Sync` even if the service is not. It is locked only to clone
    // the service.
    pub(super) service: Mutex<S>,
}

/// The calls of a validator as a [`Service`](tower_service::Service), which
/// [`SessionValidator::layer`] wraps.
///
/// [`SessionValidator::layer`]: crate::SessionValidator::layer
pub struct ValidatorCall<V>(pub(super) Arc<V>);
