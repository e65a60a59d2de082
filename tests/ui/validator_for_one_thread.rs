//~ `Rc<Cell<u32>>` cannot be sent between threads safely
//~ required by a bound in `tower_session_cache::SessionValidator`

use std::{cell::Cell, rc::Rc};

use tower_session_cache::*;

pub struct Counting(Rc<Cell<u32>>);

impl SessionValidator for Counting {
    fn namespace(&self) -> Namespace {
        Namespace::named("counting")
    }

    fn authority(&self) -> Authority {
        "counting".into()
    }

    async fn validate(&self, _: SessionToken) -> Result<ValidatedSession, ValidationError> {
        self.0.set(self.0.get() + 1);
        Err(ValidationError::invalid())
    }

    fn accepts(&self, _: &UserData) -> bool {
        true
    }
}
