//! Validators that are exchanged, wrapped and combined.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tower::{BoxError, ServiceBuilder, layer::layer_fn, retry::Policy, service_fn};
use tower_session_cache::{
    Authority, ErasedValidator, ForbiddenReason, Namespace, Origin, SessionCache,
    SessionCacheLayer, SessionToken, SessionValidator, UserData, ValidatedSession, ValidationError,
    ValidationErrorKind, testing, testing::TestValidator, validator_fn,
};

use crate::support::client::{ask, token};

fn user(id: &str) -> ValidatedSession {
    UserData::new(id).into()
}

async fn kind(validator: &impl SessionValidator, text: &str) -> Option<ValidationErrorKind> {
    let answer = validator.validate(token(text)).await;
    answer.err().map(|error| error.kind())
}

#[tokio::test]
async fn or_calls_second_validator_only_for_unknown_tokens() {
    let first = TestValidator::new()
        .with_session("both", user("first"))
        .with_error("down", ValidationError::unavailable("down"))
        .with_error(
            "blocked",
            ValidationError::forbidden(ForbiddenReason::Blocked),
        );
    let second = ["both", "down", "blocked", "second"]
        .into_iter()
        .fold(TestValidator::new(), |all, text| {
            all.with_session(text, user("second"))
        });
    let either = first.or("second", second.clone());
    let id = async |text: &str| {
        either
            .validate(token(text))
            .await
            .unwrap()
            .user
            .id()
            .to_owned()
    };
    assert_eq!(id("both").await, "first");
    assert_eq!(id("second").await, "second");
    assert_eq!(second.calls(), 1);
    assert_eq!(
        kind(&either, "down").await,
        Some(ValidationErrorKind::Unavailable)
    );
    let blocked = ValidationErrorKind::Forbidden(ForbiddenReason::Blocked);
    assert_eq!(kind(&either, "blocked").await, Some(blocked));
    assert_eq!(second.calls(), 1);
    assert_eq!(
        kind(&either, "neither").await,
        Some(ValidationErrorKind::Invalid)
    );
}

#[tokio::test]
async fn or_calls_accepts_of_the_branch_that_validated() {
    /// Accepts only the user with its name.
    struct Only(TestValidator, &'static str);
    impl SessionValidator for Only {
        fn namespace(&self) -> Namespace {
            Namespace::named(self.1)
        }

        fn authority(&self) -> Authority {
            self.1.into()
        }

        async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
            self.0.validate(token).await
        }
        fn accepts(&self, user: &UserData) -> bool {
            user.id() == self.1
        }
    }
    let a = Only(TestValidator::new().with_session("a", user("a")), "a");
    let b = Only(TestValidator::new().with_session("b", user("b")), "b");
    let c = Only(TestValidator::new().with_session("c", user("c")), "c");
    let layer = SessionCacheLayer::new(SessionCache::default(), a.or("b", b).or("c", c));
    for text in ["a", "b", "c"] {
        let first = ask(&layer, text).await.unwrap();
        assert_eq!((first.0.id(), first.1), (text, Origin::Validator));
        assert_eq!(ask(&layer, text).await.unwrap().1, Origin::Local);
    }
}

/// Otherwise a session that the validator now rejects would be served from the cache.
#[tokio::test]
async fn erased_validator_forwards_accepts() {
    struct Strict(TestValidator);
    impl SessionValidator for Strict {
        fn namespace(&self) -> Namespace {
            self.0.namespace()
        }

        fn authority(&self) -> Authority {
            self.0.authority()
        }

        async fn validate(&self, token: SessionToken) -> Result<ValidatedSession, ValidationError> {
            self.0.validate(token).await
        }
        fn accepts(&self, user: &UserData) -> bool {
            user.tier() == "pro"
        }
    }
    let known = TestValidator::new().with_session("a", user("ada"));
    let strict = ErasedValidator::new(Strict(known.clone()));
    assert!(!strict.accepts(&UserData::new("ada")));
    let layer = SessionCacheLayer::new(SessionCache::default(), strict);
    for calls in 1..=2 {
        assert_eq!(ask(&layer, "a").await.unwrap_err(), 403);
        assert_eq!(known.calls(), calls);
    }
}

#[tokio::test]
async fn validator_works_behind_tower_limits_retries_and_timeout() {
    #[derive(Clone)]
    struct Twice(usize);
    impl Policy<SessionToken, ValidatedSession, ValidationError> for Twice {
        type Future = std::future::Ready<()>;
        fn retry(
            &mut self,
            _: &mut SessionToken,
            answer: &mut Result<ValidatedSession, ValidationError>,
        ) -> Option<Self::Future> {
            let again = answer.as_ref().is_err_and(|error| !error.is_rejection()) && self.0 > 0;
            self.0 = self.0.saturating_sub(1);
            again.then(|| std::future::ready(()))
        }
        fn clone_request(&mut self, token: &SessionToken) -> Option<SessionToken> {
            Some(token.clone())
        }
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let provider = validator_fn("provider", move |token: SessionToken| {
        let call = counted.fetch_add(1, SeqCst);
        async move {
            match token.expose_secret() {
                "flaky" if call == 0 => Err(ValidationError::unavailable("once")),
                "invalid" => Err(ValidationError::invalid()),
                "hangs" => std::future::pending().await,
                _ => Ok(user("ada")),
            }
        }
    });
    let validator = provider.layer(
        ServiceBuilder::new()
            .timeout(Duration::from_millis(100))
            .concurrency_limit(1)
            .retry(Twice(1)),
    );
    let erased = ErasedValidator::new(Arc::new(validator));
    assert_eq!(
        erased.validate(token("flaky")).await.unwrap().user.id(),
        "ada"
    );
    assert_eq!(calls.load(SeqCst), 2);
    assert_eq!(
        kind(&erased, "invalid").await,
        Some(ValidationErrorKind::Invalid)
    );
    assert_eq!(calls.load(SeqCst), 3, "a rejection is not retried");
    assert_eq!(
        kind(&erased, "hangs").await,
        Some(ValidationErrorKind::Unavailable)
    );
    assert_eq!(
        erased.validate(token("good")).await.unwrap().user.id(),
        "ada"
    );
}

#[tokio::test]
async fn foreign_error_and_failing_service_mean_unavailable() {
    let good = || validator_fn("good", |_| async { Ok(user("ada")) });
    let foreign = good().layer(layer_fn(|_| {
        service_fn(async |_: SessionToken| {
            Err::<ValidatedSession, BoxError>("the database is gone".into())
        })
    }));
    let error = foreign.validate(token("t")).await.unwrap_err();
    assert_eq!(error.kind(), ValidationErrorKind::Unavailable);
    let hangs = validator_fn("hangs", |_| std::future::pending::<Result<UserData, _>>());
    let shed = ServiceBuilder::new().load_shed().concurrency_limit(1);
    let validator = Arc::new(hangs.layer(shed));
    let first = tokio::spawn({
        let validator = Arc::clone(&validator);
        async move { validator.validate(token("t")).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(
        kind(&validator, "u").await,
        Some(ValidationErrorKind::Unavailable)
    );
    first.abort();
}

#[tokio::test(start_paused = true)]
async fn test_validator_fails_hangs_and_delays_as_configured() {
    let validator = TestValidator::new().with_session("tok", user("ada"));
    let layer = SessionCacheLayer::new(SessionCache::default(), validator.clone());
    validator.fail(ValidationError::unavailable("down"));
    assert_eq!(ask(&layer, "tok").await.unwrap_err(), 503);
    validator.hang();
    assert_eq!(ask(&layer, "tok").await.unwrap_err(), 503);
    validator.delay(Duration::from_secs(1));
    let start = tokio::time::Instant::now();
    assert_eq!(ask(&layer, "tok").await.unwrap().0.id(), "ada");
    assert!(start.elapsed() >= Duration::from_secs(1));
    validator.recover();
    assert_eq!(ask(&layer, "other").await.unwrap_err(), 401);
    let asked: Vec<_> = validator.received_tokens();
    assert_eq!((validator.calls(), asked.len()), (4, 4));
    assert_eq!(asked[3].expose_secret(), "other");
    assert!(!format!("{validator:?}").contains("tok"));

    let layer = testing::session_for("tok", UserData::new("ada"));
    assert_eq!(ask(&layer, "tok").await.unwrap().0.id(), "ada");
    assert_eq!(ask(&layer, "nobody").await.unwrap_err(), 401);
}
