//! Events that identity providers push: which are accepted, what they change on each node, and how
//! their senders are answered.

use std::time::Duration;

use http::{Request, Response};
use serde_json::json;
use tower::ServiceExt;
use tower_session_cache::{
    AppwriteWebhook, EventResponseBody, LocalCacheConfig, Origin, RedisConfig, RevocationReceiver,
    RevocationSource, SessionCache, SessionCacheLayer, ValidationError,
};

use crate::support::{
    client::ask,
    probe::{Probe, session},
    redis::Redis,
    soon,
};

const URL: &str = "https://api.example.com/hooks/appwrite";
const SECRET: &str = "5ea9c1d4b7f2";

fn appwrite() -> AppwriteWebhook {
    AppwriteWebhook::new(URL, SECRET).unwrap()
}

async fn send<S: RevocationSource>(
    receiver: &RevocationReceiver<S>,
    request: Request<String>,
) -> Response<EventResponseBody> {
    let answer = receiver.clone().oneshot(request);
    soon("an answer", answer).await.unwrap()
}

async fn status<S: RevocationSource>(
    receiver: &RevocationReceiver<S>,
    request: Request<String>,
) -> u16 {
    send(receiver, request).await.status().as_u16()
}

/// A node with a local cache, whose sessions belong to the user before the first `-` of the token.
struct Node {
    cache: SessionCache,
    layer: SessionCacheLayer<Probe>,
}

impl Node {
    fn new(redis: &Redis, probe: &Probe) -> Self {
        let patient = RedisConfig::single(redis.url()).timeout(Duration::from_secs(20));
        Self::with(patient, probe)
    }

    fn with(redis: RedisConfig, probe: &Probe) -> Self {
        let cache = SessionCache::builder()
            .redis(redis)
            .unwrap()
            .local_cache(LocalCacheConfig::new(100))
            .build()
            .unwrap();
        let layer = SessionCacheLayer::new(cache.clone(), probe.clone());
        Self { cache, layer }
    }

    async fn until_served_from_memory(&self, token: &str) {
        soon("a local hit", async {
            while ask(&self.layer, token).await.unwrap().1 != Origin::Local {
                crate::support::pass().await;
            }
        })
        .await;
    }
}

fn probe() -> Probe {
    Probe::answering(|token| Ok(session(token.split('-').next().unwrap())))
}

/// `printf '%s' "$URL$BODY" | openssl dgst -sha1 -hmac "$SECRET" -binary | base64`
#[tokio::test]
async fn appwrite_signature_of_openssl_is_accepted() {
    let cache = SessionCache::default();
    let receiver = RevocationReceiver::new(cache.clone(), appwrite());
    let signed = |signature: &str| {
        Request::post("/hooks/appwrite")
            .header("x-appwrite-webhook-signature", signature)
            .body(r#"{"$id":"s1","userId":"ada"}"#.to_owned())
            .unwrap()
    };
    let right = "cIG9y49RDlfb/zEp+6vhPtQYBDg=";
    assert_eq!(status(&receiver, signed(right)).await, 200);
    assert_eq!(cache.stats().user_invalidations.applied, 1);
    for wrong in [
        "",
        "cIG9",
        "cIG9y49RDlfb/zEp+6vhPtQYBDh=",
        "!",
        &right.to_lowercase(),
    ] {
        assert_eq!(status(&receiver, signed(wrong)).await, 401, "{wrong}");
    }
    let mut unsigned = signed(right);
    unsigned.headers_mut().clear();
    assert_eq!(status(&receiver, unsigned).await, 401);
    assert_eq!(cache.stats().revocations, 1);
}

#[tokio::test]
async fn session_ended_at_appwrite_is_rejected_on_another_node() {
    let redis = Redis::start();
    let probe = probe();
    let [first, second] = [Node::new(&redis, &probe), Node::new(&redis, &probe)];
    let receiver = RevocationReceiver::new(first.cache.clone(), appwrite());
    for node in [&first, &second] {
        node.until_served_from_memory("ada-1").await;
        node.until_served_from_memory("bea-1").await;
    }
    probe.answer(|_| Err(ValidationError::invalid()));
    let event = appwrite().signed_request(&json!({ "$id": "s1", "userId": "ada" }));
    assert_eq!(status(&receiver, event).await, 200);
    assert_eq!(ask(&first.layer, "ada-1").await.unwrap_err(), 401);
    soon("the other node to reject", async {
        while ask(&second.layer, "ada-1").await.is_ok() {
            crate::support::pass().await;
        }
    })
    .await;
    for node in [&first, &second] {
        assert_eq!(ask(&node.layer, "bea-1").await.unwrap().1, Origin::Local);
    }
}
