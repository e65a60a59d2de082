//! Security event tokens by poll ([RFC 8936]).
//!
//! [RFC 8936]: https://www.rfc-editor.org/rfc/rfc8936

use std::{fmt, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
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
        http::{ClientFault, Failure, HttpClient, HttpError, HttpSettings, Repeat},
    },
};

/// How long the transmitter may hold a poll until there is an event.
const POLL_TIMEOUT: Duration = Duration::from_secs(60);

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
/// 60 seconds and ends earlier if there is an event. An event is acknowledged with the next poll
/// after it has been applied on all nodes; one that is only queued is delivered again. After a
/// failure the task waits for up to 60 seconds.
///
/// One process of a service is enough: what it applies holds on every node.
///
/// ```no_run
/// use tower_session_cache::{EventIssuer, SessionCache, SharedSignals};
///
/// # async fn poll(cache: SessionCache, token: String) -> Result<(), Box<dyn std::error::Error>> {
/// let realm = EventIssuer::new("https://keycloak.example.com/realms/shop")?;
/// let signals = SharedSignals::new(realm, ["signals/0b1f5c9e-6f0a-4b43-9f0e-2d1a5c7d8e9f"])?;
/// let _polling = signals.poll(cache, "https://keycloak.example.com/poll/0b1f5c9e", token)?;
/// # Ok(()) }
/// ```
#[must_use = "polling ends when this value is dropped"]
pub struct SharedSignalsPoll {
    receiver: RevocationReceiver<SharedSignals>,
    _task: BackgroundTask,
}

impl SharedSignals {
    /// Polls the endpoint of a stream with a bearer token, and revokes in this cache. The endpoint is
    /// the `delivery.endpoint_url` that the transmitter returned. It must satisfy the same rules as
    /// the URL of the issuer, whose CAs and cryptography provider are used.
    ///
    /// # Errors
    ///
    /// Returns an error if the endpoint is invalid, if the token cannot be sent in a header, or if
    /// there is no Tokio runtime.
    pub fn poll(
        self,
        cache: SessionCache,
        endpoint: impl AsRef<str>,
        bearer_token: impl Into<String>,
    ) -> Result<SharedSignalsPoll, ConfigError> {
        let token = Zeroizing::new(bearer_token.into());
        let authorization = Zeroizing::new(format!("Bearer {}", &*token));
        let mut authorization = HeaderValue::from_str(&authorization).map_err(|_| {
            ConfigError::new(
                "the token for polling must be visible ASCII; pass the access token without \
                 \"Bearer\"",
            )
        })?;
        authorization.set_sensitive(true);
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
        let headers = HeaderMap::from_iter([
            (header::ACCEPT, json.clone()),
            (header::CONTENT_TYPE, json),
            (header::AUTHORIZATION, authorization),
        ]);
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
    answers: Answers,
    max_events: usize,
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

    /// Polls once and handles the events, one after the other.
    async fn poll(&mut self) -> Result<Polled, Failure> {
        let request = json!({
            "maxEvents": self.max_events,
            "returnImmediately": false,
            "ack": self.answers.acknowledged,
            "setErrs": self.answers.errors,
        });
        // A repeated poll acknowledges the same events and delivers the same ones.
        let call = self.http.call(
            Repeat::Once,
            Method::POST,
            &self.endpoint,
            HeaderMap::new(),
            Some(request.to_string().into_bytes()),
        );
        let response = match call.await {
            Ok(response) => response,
            // The transmitter has held the poll for longer than this client waits.
            Err(HttpError::Timeout(_)) => {
                return Ok(Polled {
                    events: 0,
                    postponed: 0,
                    has_more: false,
                });
            }
            Err(error) => return Err(unanswered(error, None)),
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
