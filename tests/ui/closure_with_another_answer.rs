//~ the trait `From<String>` is not implemented for `ValidatedSession`

use tower_session_cache::*;

pub fn validator() {
    validator_fn("people", |_| async { Ok("ada".to_owned()) });
}
