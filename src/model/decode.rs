//! A user as a type of the application.

use std::{any::type_name, error::Error as StdError, fmt};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub(super) fn decode<T: DeserializeOwned>(user: Map<String, Value>) -> Result<T, DecodeUserError> {
    T::deserialize(Value::Object(user)).map_err(|error| DecodeUserError::new::<T>(Some(&error)))
}

/// Why a user could not be decoded as a type of the application. It contains nothing of the user.
///
/// Returned by [`UserData::decode`](crate::UserData::decode).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeUserError {
    type_name: &'static str,
    /// A field of the type.
    missing: Option<Box<str>>,
}

impl DecodeUserError {
    pub(super) fn new<T>(error: Option<&serde_json::Error>) -> Self {
        // Any other message may contain a value.
        let missing = error.map(ToString::to_string).and_then(|text| {
            let (field, _) = text.strip_prefix("missing field `")?.split_once('`')?;
            Some(field.into())
        });
        Self {
            type_name: type_name::<T>(),
            missing,
        }
    }
}

impl fmt::Display for DecodeUserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the user cannot be decoded as `{}`: ", self.type_name)?;
        match &self.missing {
            Some(field) => write!(
                f,
                "`{field}` is missing; let the validator set an attribute of this name, or mark the \
                 field with `#[serde(default)]`"
            ),
            None => f.write_str(
                "a member has another type or value than its field; compare what the validator \
                 sets with the fields",
            ),
        }
    }
}

impl StdError for DecodeUserError {}
