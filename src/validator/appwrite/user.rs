//! The data of a user from which a tier may be chosen.

use serde_json::{Map, Value};

pub(crate) type Tier = dyn Fn(&AppwriteUser) -> String + Send + Sync;

/// The part of an Appwrite user that [`tier`](crate::AppwriteValidatorBuilder::tier) uses to choose
/// a tier.
#[derive(Debug)]
pub struct AppwriteUser {
    pub(super) id: String,
    pub(super) labels: Vec<String>,
    pub(super) prefs: Map<String, Value>,
}

impl AppwriteUser {
    /// Returns the user's `$id`, which is never empty.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the labels, which only the server side of the project can set.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Returns the preferences as Appwrite sent them.
    ///
    /// **Users write their own preferences.** A tier taken from here lets them promote themselves.
    /// Use [`labels`](Self::labels) for anything that grants permissions.
    #[must_use]
    pub fn prefs(&self) -> &Map<String, Value> {
        &self.prefs
    }
}

/// Returns the first label, or `free` without one.
pub(crate) fn first_label(user: &AppwriteUser) -> String {
    user.labels
        .iter()
        .find(|label| !label.is_empty())
        .map_or_else(|| "free".to_owned(), Clone::clone)
}
