//! Credentials that change while the process runs.
//!
//! They are asked for before a connection is made and before they expire. A connection that stands
//! compares their version before each command, and sends them again if they have changed.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bb8_redis::redis::{ErrorKind, RedisError, cmd};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout, timeout_at},
};
use zeroize::Zeroizing;

use super::connect::{Connection, Server};
use crate::{
    sync::{BackgroundTask, Backoff},
    telemetry::REDIS,
};

/// Timeout of a call of the provider.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Interval between two calls if the credentials have no known lifetime, and the longest pause after
/// a call that failed.
const INTERVAL: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// User and password of Redis, as a
/// [`credentials_provider`](crate::RedisConfig::credentials_provider) returns them. `Debug` prints
/// neither.
#[derive(Clone)]
#[must_use = "return it from the credentials provider"]
pub struct RedisCredentials {
    user: Option<String>,
    password: Zeroizing<String>,
    lifetime: Option<Duration>,
}

impl RedisCredentials {
    /// Creates credentials of this user.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            user: Some(user.into()),
            ..Self::password(password)
        }
    }

    /// Creates credentials of the user in the URL, or of the default user if the URL has none.
    pub fn password(password: impl Into<String>) -> Self {
        Self {
            user: None,
            password: Zeroizing::new(password.into()),
            lifetime: None,
        }
    }

    /// Sets how long the credentials are valid from now. The provider is called again after three
    /// quarters of this time. Without it, the provider is called before each connection and every 30
    /// seconds.
    pub fn valid_for(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.user, &self.password) == (&other.user, &other.password)
    }
}

impl fmt::Debug for RedisCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCredentials").finish_non_exhaustive()
    }
}

pub(crate) type ProviderError = Box<dyn StdError + Send + Sync>;
type Call = Pin<Box<dyn Future<Output = Result<RedisCredentials, ProviderError>> + Send>>;

/// What returns the credentials.
#[derive(Clone)]
pub(crate) struct CredentialsProvider(Arc<dyn Fn() -> Call + Send + Sync>);

impl CredentialsProvider {
    pub(crate) fn new<F, R>(provider: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<RedisCredentials, ProviderError>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(provider())))
    }
}

impl fmt::Debug for CredentialsProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsProvider")
            .finish_non_exhaustive()
    }
}

/// Calls the provider until this value is dropped.
pub(crate) struct CredentialsSource {
    shared: Arc<SharedSource>,
    task: BackgroundTask,
}

struct SharedSource {
    provider: CredentialsProvider,
    view: watch::Sender<CredentialsView>,
    /// Changes with the credentials.
    version: AtomicU64,
    asked: Notify,
}

/// The latest result of calling the provider.
#[derive(Default)]
struct CredentialsView {
    newest: Option<TimedCredentials>,
    trouble: Option<String>,
}

#[derive(Clone)]
struct TimedCredentials {
    credentials: RedisCredentials,
    received: Instant,
    /// Whether a server has rejected them.
    is_rejected: bool,
}

impl CredentialsView {
    /// Returns whether the provider need not be called before a connection.
    fn is_fresh(&self) -> bool {
        let newest = self.newest.as_ref().filter(|newest| !newest.is_rejected);
        newest.is_some_and(|it| it.credentials.lifetime.is_some() && !it.has_expired())
    }
}

impl TimedCredentials {
    fn has_expired(&self) -> bool {
        let lifetime = self.credentials.lifetime;
        lifetime.is_some_and(|lifetime| self.received.elapsed() >= lifetime)
    }
}

fn renewed_after(lifetime: Duration) -> Duration {
    lifetime / 4 * 3
}

impl CredentialsSource {
    /// Creates a source that calls the provider on first use.
    pub(crate) fn new(provider: CredentialsProvider) -> Self {
        Self {
            shared: Arc::new(SharedSource {
                provider,
                view: watch::Sender::default(),
                version: AtomicU64::new(0),
                asked: Notify::new(),
            }),
            task: BackgroundTask::default(),
        }
    }

    /// Returns a server with the newest credentials, and the login of a connection to it. The caller
    /// must limit the wait.
    pub(crate) async fn log_in(
        self: &Arc<Self>,
        server: Server,
    ) -> Result<(Server, Login), RedisError> {
        let mut view = self.shared.view.subscribe();
        self.task.start(|| renew(Arc::clone(&self.shared)));
        if !view.borrow().is_fresh() {
            self.shared.asked.notify_one();
            // This value owns the sender, so there is always a next view.
            let _ = view.changed().await;
        }
        // The version must be read first: credentials that are newer than it are sent once more.
        let version = self.shared.version.load(SeqCst);
        let credentials = self.newest()?;
        let mut settings = server.redis_settings().clone();
        if let Some(user) = &credentials.user {
            settings = settings.set_username(user);
        }
        let user = settings.username().map(str::to_owned);
        let settings = settings.set_password(&*credentials.password);
        let login = Login {
            source: Arc::clone(self),
            user,
            version: AtomicU64::new(version),
        };
        Ok((server.map(|info| info.set_redis_settings(settings)), login))
    }

    fn newest(&self) -> Result<RedisCredentials, RedisError> {
        let view = self.shared.view.borrow();
        match &view.newest {
            // While the provider fails, the previous credentials are used until they expire.
            Some(newest) if view.trouble.is_none() || !newest.has_expired() => {
                Ok(newest.credentials.clone())
            }
            _ => Err((
                ErrorKind::Io,
                "the credentials provider of `RedisConfig` failed",
                view.trouble.clone().unwrap_or_default(),
            )
                .into()),
        }
    }
}

/// The credentials that one connection has sent.
pub(crate) struct Login {
    source: Arc<CredentialsSource>,
    /// The user, unless newer credentials name another.
    user: Option<String>,
    version: AtomicU64,
}

impl Login {
    pub(crate) fn is_outdated(&self) -> bool {
        self.version.load(SeqCst) != self.source.shared.version.load(SeqCst)
    }

    /// Sends the newest credentials, unless this connection has done so. A connection for which this
    /// fails must not be used any more.
    pub(crate) async fn renew(&self, connection: &mut Connection) -> Result<(), RedisError> {
        let version = self.source.shared.version.load(SeqCst);
        if self.version.load(SeqCst) == version {
            return Ok(());
        }
        let RedisCredentials { user, password, .. } = self.source.newest()?;
        let mut auth = cmd("AUTH");
        if let Some(user) = user.as_ref().or(self.user.as_ref()) {
            auth.arg(user);
        }
        auth.arg(&*password);
        let sent = auth.query_async::<()>(connection).await;
        sent.map_err(|error| {
            let message = "the server rejected the renewed credentials";
            RedisError::from((ErrorKind::Io, message, error.to_string()))
        })?;
        self.version.store(version, SeqCst);
        Ok(())
    }

    /// Makes the provider be called before the next connection, because the server has rejected
    /// these credentials.
    pub(crate) fn rejected(&self) {
        self.source.shared.view.send_if_modified(|view| {
            if let Some(newest) = &mut view.newest {
                newest.is_rejected = true;
            }
            // No waiter must take this for a new result.
            false
        });
    }
}

async fn renew(shared: Arc<SharedSource>) {
    let mut backoff = Backoff::new(FIRST_PAUSE);
    loop {
        let answer = timeout(TIMEOUT, (shared.provider.0)()).await;
        let pause = match answer {
            Ok(Ok(credentials)) => {
                backoff.reset();
                let pause = credentials.lifetime.map_or(INTERVAL, renewed_after);
                shared.publish(credentials);
                pause
            }
            Ok(Err(error)) => {
                shared.fail(error.to_string());
                backoff.pause(INTERVAL)
            }
            Err(_) => {
                shared.fail("no result within 10 seconds".to_owned());
                backoff.pause(INTERVAL)
            }
        };
        let next = Instant::now() + pause;
        // A connection may have asked before the latest result.
        while timeout_at(next, shared.asked.notified()).await.is_ok()
            && shared.view.borrow().is_fresh()
        {}
    }
}

impl SharedSource {
    fn publish(&self, credentials: RedisCredentials) {
        self.view.send_modify(|view| {
            if view.trouble.take().is_some() {
                tracing::info!(target: REDIS, "Redis credentials available again");
            }
            let known = view.newest.as_ref();
            let is_new = known.is_none_or(|known| !known.credentials.is_same(&credentials));
            view.newest = Some(TimedCredentials {
                credentials,
                received: Instant::now(),
                is_rejected: false,
            });
            if is_new {
                self.version.fetch_add(1, SeqCst);
            }
        });
    }

    fn fail(&self, error: String) {
        self.view.send_modify(|view| {
            if view.trouble.is_none() {
                tracing::warn!(
                    target: REDIS,
                    error,
                    hint = "check what `credentials_provider` or `password_file` of `RedisConfig` \
                            reads; the previous credentials are used until they expire",
                    "Redis credentials not renewed"
                );
            }
            view.trouble = Some(error);
        });
    }
}
