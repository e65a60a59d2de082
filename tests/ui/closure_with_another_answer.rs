//~ expected `Result<ValidatedSession, ...>`, found `Result<UserData, _>`

use tower_session_cache::*;

pub fn validator() {
    validator_fn("people", |_| async { Ok(UserData::new("ada")) });
}
