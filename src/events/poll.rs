//! Security event tokens by poll ([RFC 8936]).
//!
//! [RFC 8936]: https://www.rfc-editor.org/rfc/rfc8936

use std::{error::Error as StdError, fmt, future::Future, pin::Pin, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::{
    outcome::EventOutcome,
    receiver::RevocationReceiver,
    shared_signals::{SharedSignals, delivery_error},
};
use crate::{
    cache::SessionCache,
    config_error::ConfigError,
    crypto::strict_object,
    sync::{BackgroundTask, Backoff},
    telemetry::{EVENTS, EventStats},
    validator::{
        ErrorChain,
        http::{ClientFault, Failure, HttpClient, HttpError, HttpResponse, HttpSettings, Repeat},
    },
};

/// How long the transmitter may hold a poll until there is an event.
const POLL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the application may take to return an access token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Most events of one poll. A response may have 256 KiB, and an event has about 2 KiB.
const MAX_EVENTS: usize = 50;

const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause after a poll without events that the transmitter has not held.
const LONGEST_IDLE_PAUSE: Duration = Duration::from_secs(5);

/// Longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A poll that takes this long has been held by the transmitter.
const HELD: Duration = Duration::from_secs(5);

/// Fetches security events from a transmitter and revokes what they concern, for a service that the
/// transmitter cannot reach.
///
/// A background task polls while this value exists, and ends when it is dropped. A poll lasts up to
/// 60 seconds and ends earlier if there is an event. If the transmitter replies immediately although
/// there is no event, as Keycloak does, the task pauses for up to 5 seconds. An event is acknowledged
/// with the next poll after it has been applied on all nodes; one that is only queued is delivered
/// again. After a failure the task waits for up to 60 seconds.
///
/// One process of a service is enough: what it applies holds on every node.
///
/// ```no_run
/// use tower_session_cache::{EventIssuer, SessionCache, SharedSignals};
///
/// # async fn client_credentials() -> Result<String, std::io::Error> { Ok(String::new()) }
/// # async fn poll(cache: SessionCache, endpoint: &str) -> Result<(), Box<dyn std::error::Error>> {
/// let realm = EventIssuer::new("https://keycloak.example.com/realms/shop")?;
/// let signals = SharedSignals::new(realm, ["signals/0b1f5c9e-6f0a-4b43-9f0e-2d1a5c7d8e9f"])?;
/// // The application's function that requests an access token with the scope `ssf.read`.
/// let _polling = signals.poll(cache, endpoint, || async { Ok(client_credentials().await?) })?;
/// # Ok(()) }
/// ```
#[must_use = "polling ends when this value is dropped"]
pub struct SharedSignalsPoll {
    receiver: RevocationReceiver<SharedSignals>,
    _task: BackgroundTask,
}

impl SharedSignals {
    /// Polls the endpoint of a stream and revokes in this cache. The endpoint is the
    /// `delivery.endpoint_url` that the transmitter returned. It must satisfy the same rules as the URL
    /// of the issuer, whose CAs and cryptography provider are used.
    ///
    /// `access_token` returns the bearer token of the stream within 10 seconds. It is called before the
    /// first poll, and again whenever the transmitter rejects the token with 401 or 403, because it may
    /// have expired. If it fails, its error is logged and the poll is repeated later, so the error must
    /// contain no secret.
    ///
    /// # Errors
    ///
    /// Returns an error if the endpoint is invalid, or if there is no Tokio runtime.
    pub fn poll<F, R>(
        self,
        cache: SessionCache,
        endpoint: impl AsRef<str>,
        access_token: F,
    ) -> Result<SharedSignalsPoll, ConfigError>
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, Box<dyn StdError + Send + Sync>>> + Send + 'static,
    {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConfigError::new(
                "polling requires a Tokio runtime; call `poll` from within one",
            ));
        }
        let (endpoint, settings) = self.issuer().endpoint(endpoint.as_ref())?;
        let settings = HttpSettings {
            timeout: POLL_TIMEOUT,
            ..settings
        };
        let json = HeaderValue::from_static("application/json");
        let headers =
            HeaderMap::from_iter([(header::ACCEPT, json.clone()), (header::CONTENT_TYPE, json)]);
        let http = HttpClient::new(&endpoint, headers, &settings).map_err(|fault| match fault {
            ClientFault::Roots | ClientFault::Other(_) => ConfigError::new(
                "the HTTP client for polling could not be created; check `root_certificates` of \
                 the issuer and the proxy settings",
            ),
        })?;
        let receiver = RevocationReceiver::new(cache, self);
        let poller = Poller {
            http,
            endpoint: endpoint.into(),
            receiver: receiver.clone(),
            token: AccessToken {
                request: Box::new(move || Box::pin(access_token())),
                header: None,
            },
            answers: Answers::default(),
            max_events: MAX_EVENTS,
        };
        let task = BackgroundTask::default();
        task.start(|| poller.run());
        Ok(SharedSignalsPoll {
            receiver,
            _task: task,
        })
    }
}

impl SharedSignalsPoll {
    /// Returns what has become of the events so far.
    #[must_use]
    pub fn stats(&self) -> EventStats {
        self.receiver.stats()
    }
}

struct Poller {
    http: HttpClient,
    endpoint: String,
    receiver: RevocationReceiver<SharedSignals>,
    token: AccessToken,
    answers: Answers,
    max_events: usize,
}

type TokenRequest =
    Pin<Box<dyn Future<Output = Result<String, Box<dyn StdError + Send + Sync>>> + Send>>;

struct AccessToken {
    request: Box<dyn Fn() -> TokenRequest + Send + Sync>,
    /// The newest token, as a header, unless the transmitter has rejected it.
    header: Option<HeaderValue>,
}

impl AccessToken {
    async fn header(&mut self) -> Result<HeaderValue, Failure> {
        if let Some(header) = &self.header {
            return Ok(header.clone());
        }
        let token = match timeout(TOKEN_TIMEOUT, (self.request)()).await {
            Ok(Ok(token)) => Zeroizing::new(token),
            Ok(Err(error)) => return Err(failure("`access_token` failed").with_source(error)),
            Err(_) => {
                let late = "`access_token` did not return within 10 seconds; set a shorter timeout \
                            for its request";
                return Err(failure(late));
            }
        };
        let text = Zeroizing::new(format!("Bearer {}", &*token));
        let mut header = HeaderValue::from_str(&text).map_err(|_| {
            failure(
                "`access_token` must return visible ASCII; return the access token without \
                 \"Bearer\"",
            )
        })?;
        header.set_sensitive(true);
        self.header = Some(header.clone());
        Ok(header)
    }
}

/// What the next poll reports about the events of the one before.
#[derive(Default)]
struct Answers {
    acknowledged: Vec<String>,
    errors: Map<String, Value>,
}

/// What one poll has brought.
struct Polled {
    events: usize,
    /// Events that the transmitter has to deliver again.
    postponed: usize,
    has_more: bool,
}

impl Poller {
    async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE);
        let mut is_failing = false;
        loop {
            let started = Instant::now();
            let longest = match self.poll().await {
                Ok(polled) => {
                    if std::mem::take(&mut is_failing) {
                        tracing::info!(target: EVENTS, "polling for events works again");
                    }
                    if started.elapsed() >= HELD {
                        backoff.reset();
                    }
                    // Without a pause, a transmitter that does not hold polls would be called
                    // all the time, as it would for events that cannot be applied.
                    let has_progress = polled.postponed < polled.events;
                    if has_progress || (polled.events == 0 && polled.has_more) {
                        backoff.reset();
                        continue;
                    }
                    LONGEST_IDLE_PAUSE
                }
                Err(failure) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        let error = ErrorChain(&failure);
                        tracing::warn!(target: EVENTS, %error, "polling for events failed");
                    }
                    LONGEST_PAUSE
                }
            };
            tokio::time::sleep(backoff.pause(longest)).await;
        }
    }

    /// Sends a poll. Returns `None` if the transmitter has held it for longer than this client waits,
    /// and forgets the token if it was rejected.
    async fn call(&mut self, request: Vec<u8>) -> Result<Option<HttpResponse>, Failure> {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, self.token.header().await?)]);
        // A repeated poll acknowledges the same events and delivers the same ones.
        let call = self.http.call(
            Repeat::Once,
            Method::POST,
            &self.endpoint,
            headers,
            Some(request),
        );
        match call.await {
            Ok(response) => {
                if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&response.status) {
                    self.token.header = None;
                }
                Ok(Some(response))
            }
            Err(HttpError::Timeout(_)) => Ok(None),
            Err(error) => Err(unanswered(error, None)),
        }
    }

    /// Polls once and handles the events, one after the other.
    async fn poll(&mut self) -> Result<Polled, Failure> {
        let request = json!({
            "maxEvents": self.max_events,
            "returnImmediately": false,
            "ack": self.answers.acknowledged,
            "setErrs": self.answers.errors,
        });
        let request = request.to_string().into_bytes();
        let has_used_token = self.token.header.is_some();
        let mut response = self.call(request.clone()).await?;
        // A token that was accepted before has expired.
        if has_used_token && self.token.header.is_none() {
            response = self.call(request).await?;
        }
        let Some(response) = response else {
            return Ok(Polled {
                events: 0,
                postponed: 0,
                has_more: false,
            });
        };
        let status = response.status;
        if status != StatusCode::OK {
            let advice = "unexpected status; check the endpoint, the token and whether the stream \
                          delivers by poll";
            return Err(failure(advice).with_response(status, None));
        }
        let body = response.body.map_err(|error| {
            if matches!(error, HttpError::TooLong) {
                self.max_events = (self.max_events / 2).max(1);
            }
            unanswered(error, Some(status))
        })?;
        let sets = strict_object(&body);
        let sets = sets.as_ref().and_then(|body| {
            let has_more = body.get("moreAvailable").and_then(Value::as_bool);
            let sets = body.get("sets").and_then(Value::as_object)?;
            Some((sets, has_more.unwrap_or(false)))
        });
        let (sets, has_more) =
            sets.ok_or_else(|| failure("the response has no `sets`; check the endpoint"))?;
        // The response shows that the transmitter has read the answers.
        self.answers = Answers::default();
        let mut postponed = 0;
        for (id, token) in sets {
            let outcome = self
                .receiver
                .token(token.as_str().unwrap_or_default())
                .await;
            if let Some(error) = delivery_error(&outcome) {
                self.answers.errors.insert(id.clone(), error);
            } else if matches!(
                outcome,
                EventOutcome::Applied | EventOutcome::Ignored | EventOutcome::Unmapped
            ) {
                self.answers.acknowledged.push(id.clone());
            } else {
                postponed += 1;
            }
        }
        Ok(Polled {
            events: sets.len(),
            postponed,
            has_more,
        })
    }
}

fn failure(advice: &'static str) -> Failure {
    Failure::new("polling for events", advice)
}

fn unanswered(error: HttpError, status: Option<StatusCode>) -> Failure {
    let advice = match error {
        HttpError::TooLong => "the response is longer than 256 KiB; fewer events are requested",
        _ => {
            "could not connect, or the connection was closed early; check that the transmitter is \
             running, the endpoint, and the proxy settings"
        }
    };
    failure(advice).with_error(error, status)
}

impl fmt::Debug for SharedSignalsPoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSignalsPoll")
            .field("receiver", &self.receiver)
            .finish_non_exhaustive()
    }
}
