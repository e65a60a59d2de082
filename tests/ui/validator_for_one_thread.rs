//~ `Rc<Cell<u32>>` cannot be sent between threads safely
//~ required by a bound in `tower_session_cache::SessionValidator`

use std::{cell::Cell, rc::Rc};

use tower_session_cache::*;

pub struct Counting(Rc<Cell<u32>>);

impl SessionValidator for Counting {
    async fn validate(&self, _: SessionToken) -> Result<ValidatedSession, ValidationError> {
        self.0.set(self.0.get() + 1);
        Err(ValidationError::invalid())
    }
}
