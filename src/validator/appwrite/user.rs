//! What a tier may be chosen by.

use serde_json::{Map, Value};

pub(crate) type Tier = dyn Fn(&AppwriteUser) -> String + Send + Sync;

/// The part of an Appwrite user that [`tier`](crate::AppwriteValidatorBuilder::tier) chooses by.
#[derive(Debug)]
pub struct AppwriteUser {
    pub(super) id: String,
    pub(super) labels: Vec<String>,
    pub(super) prefs: Map<String, Value>,
}

impl AppwriteUser {
    /// The user's `$id`, never empty.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The labels, which only the server side of the project can set.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The preferences as Appwrite sent them.
    ///
    /// **Users write their own preferences.** A tier taken from here lets them promote
    /// themselves; use [`labels`](Self::labels) for anything that grants a right.
    #[must_use]
    pub fn prefs(&self) -> &Map<String, Value> {
        &self.prefs
    }
}

/// The first label, `free` without one.
pub(crate) fn first_label(user: &AppwriteUser) -> String {
    user.labels
        .iter()
        .find(|label| !label.is_empty())
        .map_or_else(|| "free".to_owned(), Clone::clone)
}
