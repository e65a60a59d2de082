//~ is not a future
//~ required by a bound in `tower_session_cache::validator_fn`

use tower_session_cache::*;

pub fn validator() {
    validator_fn("people", |_| Ok(ValidatedSession::new(UserData::new("ada"))));
}
