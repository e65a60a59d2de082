//~ this function takes 2 arguments but 1 argument was supplied

use tower_session_cache::*;

pub fn validator() {
    validator_fn(|_| async { Ok(ValidatedSession::new(UserData::new("ada"))) });
}
