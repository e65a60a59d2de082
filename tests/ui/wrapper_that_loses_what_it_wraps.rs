//~ not all trait items implemented, missing: `namespace`, `authority`, `accepts`

use tower_session_cache::*;

pub struct Logged<V>(V);

impl<V: SessionValidator> SessionValidator for Logged<V> {
    async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
        self.0.validate(token).await
    }
}
