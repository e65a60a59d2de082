//! One property over pairs of layers that share a cache: if a layer accepts a session, its own
//! validator would have accepted it, as the same user, when the record was made.
//!
//! The layers differ in validator, endpoint, client, project and rules. They are two nodes on one
//! Redis, side by side on one cache, or one inside the other. The expected result comes from the
//! same validator alone, with a cache that nothing else uses.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join;
use http::{Request, Response, StatusCode, header};
use http_body_util::Empty;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tower::{Layer, ServiceExt, service_fn};
use tower_session_cache::{
    AppwriteValidator, ErasedValidator, IntrospectionAuth, IntrospectionValidator,
    LocalCacheConfig, Origin, RedisConfig, Rejection, SecretKey, SessionCache, SessionCacheLayer,
    SessionInfo, UserData, testing::ManualClock,
};

use self::api::SessionValidator;
use crate::support::{redis::Redis, soon, tenants::Tenants};

/// What differs between versions of this crate's interface.
mod api {
    use std::time::Duration;

    use tower::timeout::TimeoutLayer;
    pub use tower_session_cache::SessionValidator;
    use tower_session_cache::{ErasedValidator, validator_fn};

    pub fn closure(name: &str, inner: ErasedValidator) -> ErasedValidator {
        ErasedValidator::new(validator_fn(name, move |token| {
            let inner = inner.clone();
            async move { inner.validate(token).await }
        }))
    }

    pub fn wrapped(inner: ErasedValidator) -> ErasedValidator {
        let timeout = TimeoutLayer::new(Duration::from_secs(20));
        ErasedValidator::new(inner.layer(timeout))
    }

    pub fn filtered(inner: ErasedValidator, id: &'static str) -> ErasedValidator {
        ErasedValidator::new(inner.filter(move |user| user.id() == id))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Appwrite {
        server: usize,
        project: char,
    },
    Introspection {
        server: usize,
        client: char,
        audience: Option<char>,
        is_admin: bool,
        by_email: bool,
        allows_clients: bool,
        kinds: Kinds,
    },
    Closure(Box<Self>),
    Wrapped(Box<Self>),
    Filtered(Box<Self>, &'static str),
    Or(Box<Self>, Box<Self>),
}

/// Rules about the kind of token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kinds {
    Default,
    AllowRefresh,
    RequireType,
}

const KINDS: [Kinds; 3] = [Kinds::Default, Kinds::AllowRefresh, Kinds::RequireType];

const USERS: [&str; 2] = ["ada", "bob"];

impl Kind {
    fn random(random: &mut StdRng, depth: usize) -> Self {
        match random.random_range(0..if depth == 0 { 6 } else { 12 }) {
            0 | 1 => Self::Appwrite {
                server: random.random_range(1..=2),
                project: *['p', 'q'].choose(random).unwrap(),
            },
            2..=5 => Self::Introspection {
                server: random.random_range(1..=2),
                client: *['A', 'B'].choose(random).unwrap(),
                audience: *[None, Some('A'), Some('B')].choose(random).unwrap(),
                is_admin: random.random(),
                by_email: random.random_range(0..5) == 0,
                allows_clients: random.random_range(0..3) == 0,
                kinds: *KINDS.choose(random).unwrap(),
            },
            6 => Self::Closure(Self::boxed(random, depth)),
            7 => Self::Wrapped(Self::boxed(random, depth)),
            8 => Self::Filtered(Self::boxed(random, depth), USERS.choose(random).unwrap()),
            _ => Self::Or(Self::boxed(random, depth), Self::boxed(random, depth)),
        }
    }

    fn boxed(random: &mut StdRng, depth: usize) -> Box<Self> {
        Box::new(Self::random(random, depth - 1))
    }

    /// Returns a kind that differs in a single setting.
    fn changed(&self, random: &mut StdRng) -> Self {
        let mut changed = self.clone();
        match &mut changed {
            Self::Appwrite { server, project } => {
                if random.random() {
                    *server = 3 - *server;
                } else {
                    *project = if *project == 'p' { 'q' } else { 'p' };
                }
            }
            Self::Introspection {
                server,
                client,
                audience,
                is_admin,
                by_email,
                allows_clients,
                kinds,
            } => match random.random_range(0..9) {
                0 => *server = 3 - *server,
                1 | 2 => *client = if *client == 'A' { 'B' } else { 'A' },
                3 => *audience = *[None, Some('A'), Some('B')].choose(random).unwrap(),
                4 => *is_admin = !*is_admin,
                5 => *allows_clients = !*allows_clients,
                6 | 7 => *kinds = *KINDS.choose(random).unwrap(),
                _ => *by_email = !*by_email,
            },
            Self::Closure(inner) | Self::Wrapped(inner) | Self::Filtered(inner, _) => {
                **inner = inner.changed(random);
            }
            Self::Or(first, second) => {
                let branch = if random.random() { first } else { second };
                **branch = branch.changed(random);
            }
        }
        changed
    }

    /// Returns a token that one of its providers may know.
    fn token(&self, random: &mut StdRng) -> String {
        let user = USERS.choose(random).unwrap();
        match self {
            Self::Appwrite { server, project } => format!("w{server}~{user}~{project}"),
            Self::Introspection { server, .. } => {
                let audiences = ["A", "B", "AB", "AB"].choose(random).unwrap();
                let scopes = [
                    "read",
                    "admin",
                    "typed",
                    "planted",
                    "unverified",
                    "refresh",
                    "client",
                    "nameless",
                ];
                let scope = scopes.choose(random).unwrap();
                format!("o{server}~{user}~{audiences}~{scope}")
            }
            Self::Closure(inner) | Self::Wrapped(inner) | Self::Filtered(inner, _) => {
                inner.token(random)
            }
            Self::Or(first, second) => {
                let branch = if random.random() { first } else { second };
                branch.token(random)
            }
        }
    }

    fn build(&self, tenants: &Tenants) -> ErasedValidator {
        match self {
            Self::Appwrite { server, project } => {
                let endpoint = tenants.appwrite(*server);
                ErasedValidator::new(AppwriteValidator::new(endpoint, *project).unwrap())
            }
            Self::Introspection {
                server,
                client,
                audience,
                is_admin,
                by_email,
                allows_clients,
                kinds,
            } => {
                let auth = IntrospectionAuth::basic(*client, "secret");
                let endpoint = tenants.introspection(*server);
                let mut builder = IntrospectionValidator::builder(endpoint, auth);
                if let Some(audience) = audience {
                    builder = builder.audience(*audience);
                }
                if *is_admin {
                    builder = builder.require_scope("admin");
                }
                if *by_email {
                    builder = builder.user_id_claim("email");
                }
                if *allows_clients {
                    builder = builder.or_user_id_claim("client_id");
                }
                builder = match kinds {
                    Kinds::Default => builder,
                    Kinds::AllowRefresh => builder.allow_token_use("refresh_token"),
                    Kinds::RequireType => builder.require_token_type(),
                };
                ErasedValidator::new(builder.build().unwrap())
            }
            // A name that is unique to this closure, as the documentation requires.
            Self::Closure(inner) => api::closure(&format!("{inner:?}"), inner.build(tenants)),
            Self::Wrapped(inner) => api::wrapped(inner.build(tenants)),
            Self::Filtered(inner, id) => api::filtered(inner.build(tenants), id),
            Self::Or(first, second) => {
                let is_routed = matches!(**first, Self::Appwrite { project: 'q', .. });
                let (first, second) = (first.build(tenants), second.build(tenants));
                let both = if is_routed {
                    first.or_if("second", second, |token| {
                        token.expose_secret().starts_with('o')
                    })
                } else {
                    first.or("second", second)
                };
                ErasedValidator::new(both)
            }
        }
    }
}

/// The user a request was served as: ID, e-mail address (which names the provider in this test),
/// and authority.
type Identity = (String, String, Option<String>);

#[derive(Debug)]
struct Served {
    identity: Identity,
    origin: &'static str,
}

fn served(user: &UserData, session: Option<&SessionInfo>) -> Served {
    let origin = match session {
        None => "outer",
        Some(session) if session.is_stale() => "stale",
        Some(session) => match session.origin() {
            Origin::Local => "local",
            Origin::Redis => "redis",
            _ => "validator",
        },
    };
    Served {
        identity: (
            user.id().to_owned(),
            user.email().to_owned(),
            user.authority().map(ToString::to_string),
        ),
        origin,
    }
}

/// Sends a request through the first layer, which is around the others.
async fn ask(
    layers: &[&SessionCacheLayer<ErasedValidator>],
    text: &str,
) -> Result<Served, StatusCode> {
    let inner = service_fn(async |request: Request<()>| {
        let mut response = Response::new(Empty::<bytes::Bytes>::new());
        *response.extensions_mut() = request.extensions().clone();
        Ok::<_, Infallible>(response)
    });
    let request = Request::builder()
        .header(header::AUTHORIZATION, format!("Bearer {text}"))
        .body(())
        .unwrap();
    let answer = match layers {
        [one] => {
            let answer = one.layer(inner).oneshot(request);
            let answer = soon("a response", answer).await.unwrap();
            answer.map(|_| ())
        }
        [outer, inner_layer] => {
            let answer = outer.layer(inner_layer.layer(inner)).oneshot(request);
            let answer = soon("a response", answer).await.unwrap();
            answer.map(|_| ())
        }
        _ => panic!("one or two layers"),
    };
    let extensions = answer.extensions();
    match (extensions.get::<UserData>(), extensions.get::<Rejection>()) {
        (Some(user), _) => Ok(served(user, user.session())),
        (None, Some(rejection)) => Err(rejection.status()),
        (None, None) => panic!("neither a user nor a rejection"),
    }
}

struct Case {
    seed: u64,
    tenants: Arc<Tenants>,
    kinds: [Kind; 2],
    layers: [SessionCacheLayer<ErasedValidator>; 2],
    is_nested: bool,
    clock: ManualClock,
    /// The result of each layer's validator alone, by layer and token.
    alone: HashMap<(usize, String), Option<Identity>>,
    /// Number of accepted requests by origin.
    origins: BTreeMap<&'static str, usize>,
}

impl Case {
    fn new(seed: u64, tenants: &Arc<Tenants>, redis: &Redis) -> (Self, StdRng) {
        let mut random = StdRng::seed_from_u64(seed);
        let first = Kind::random(&mut random, 2);
        let second = match random.random_range(0..4) {
            0 => Kind::random(&mut random, 2),
            _ => first.changed(&mut random),
        };
        let kinds = [first, second];
        let clock = ManualClock::new();
        let is_sealed = random.random_range(0..4) == 0;
        let (has_redis, has_local) = (random.random_range(0..3) > 0, random.random());
        let cache = || {
            let mut builder = SessionCache::builder()
                .clock(clock.clone())
                .negative_ttl(Duration::from_millis(1));
            if is_sealed {
                builder = builder.sealing_key(SecretKey::from_bytes([7; 32]).unwrap());
            }
            if has_redis {
                builder = builder
                    .redis(
                        RedisConfig::single(redis.url())
                            .timeout(Duration::from_secs(20))
                            .key_prefix(format!("{seed}:")),
                    )
                    .unwrap();
            }
            if has_redis && has_local {
                builder =
                    builder.local_cache(LocalCacheConfig::new(100).lease(Duration::from_secs(60)));
            }
            if !has_redis || has_local {
                builder = builder.stale_if_error(Duration::from_secs(600));
            }
            builder.build().unwrap()
        };
        let one = cache();
        let other = match random.random_range(0..3) {
            0 if has_redis => cache(),
            _ => one.clone(),
        };
        let is_nested = random.random_range(0..3) == 0;
        let layer = |cache, kind: &Kind| SessionCacheLayer::new(cache, kind.build(tenants));
        let outer = layer(one, &kinds[0]);
        let outer = if is_nested { outer.optional() } else { outer };
        let inner = layer(other, &kinds[1]);
        let inner = if random.random() {
            inner
        } else {
            inner.optional()
        };
        let case = Self {
            seed,
            tenants: Arc::clone(tenants),
            layers: [outer, inner],
            kinds,
            is_nested,
            clock,
            alone: HashMap::new(),
            origins: BTreeMap::new(),
        };
        (case, random)
    }

    /// Validates with each layer's own validator alone, and stores the results.
    async fn ask_alone(&mut self, texts: &[String]) {
        for (layer, kind) in self.kinds.iter().enumerate() {
            let validator = kind.build(&self.tenants);
            let alone = SessionCacheLayer::new(SessionCache::default(), validator);
            for text in texts {
                let known = match ask(&[&alone], text).await {
                    Ok(served) => Some(served.identity),
                    Err(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => None,
                    Err(status) => panic!("{status} from a healthy provider"),
                };
                self.alone.insert((layer, text.to_owned()), known);
            }
        }
    }

    /// Returns what is wrong with a result, if anything is.
    fn judge(
        &mut self,
        layer: usize,
        text: &str,
        answer: Result<Served, StatusCode>,
    ) -> Option<String> {
        let served = answer.ok()?;
        *self.origins.entry(served.origin).or_default() += 1;
        let own = &self.alone[&(layer, text.to_owned())];
        (own.as_ref() != Some(&served.identity)).then(|| {
            let Self { seed, kinds, .. } = self;
            let place = if self.is_nested { "nested" } else { "side by side" };
            format!("seed {seed}: {text} is {served:?} at layer {layer} ({place}), which alone says {own:?}: {kinds:?}")
        })
    }

    async fn run(&mut self, random: &mut StdRng) -> Option<String> {
        let kinds = self.kinds.clone();
        let texts: Vec<_> = (0..3).map(|n| kinds[n % 2].token(random)).collect();
        self.ask_alone(&texts).await;
        for _ in 0..24 {
            let text = texts.choose(random).unwrap();
            let [first, second] = self.layers.clone();
            let wrong = match random.random_range(0..10) {
                0 => {
                    let seconds = *[1, 30, 250, 301].choose(random).unwrap();
                    self.clock.advance(Duration::from_secs(seconds));
                    self.tenants.set_down(seconds == 301 && random.random());
                    None
                }
                1 => {
                    self.tenants.set_down(random.random());
                    None
                }
                2..=4 if self.is_nested => {
                    let answer = ask(&[&first, &second], text).await;
                    self.judge(1, text, answer)
                }
                2..=4 => {
                    let (one, other) = join(ask(&[&first], text), ask(&[&second], text)).await;
                    let wrong = self.judge(0, text, one);
                    wrong.or(self.judge(1, text, other))
                }
                n => {
                    let layer = n % 2;
                    let answer = ask(&[[&first, &second][layer]], text).await;
                    self.judge(layer, text, answer)
                }
            };
            if wrong.is_some() {
                return wrong;
            }
        }
        None
    }
}

#[tokio::test]
async fn layer_serves_only_sessions_its_own_validator_accepts() {
    let cases = match std::env::var_os("SESSION_CACHE_FULL") {
        Some(_) => 2_000,
        None => 150,
    };
    let start = std::env::var("SESSION_CACHE_SEED");
    let start = start.map_or(0, |seed| seed.parse().unwrap());
    let (redis, tenants) = (Redis::start(), Arc::new(Tenants::start().await));
    let mut origins = BTreeMap::<_, usize>::new();
    let mut wrong = Vec::new();
    for seed in start..start + cases {
        let (mut case, mut random) = Case::new(seed, &tenants, &redis);
        wrong.extend(case.run(&mut random).await);
        tenants.set_down(false);
        for (origin, count) in case.origins {
            *origins.entry(origin).or_default() += count;
        }
    }
    println!("{cases} pairs of layers from seed {start}, accepted by origin: {origins:?}");
    let shown: Vec<_> = wrong.iter().take(40).map(String::as_str).collect();
    assert!(
        wrong.is_empty(),
        "{} of {cases}:\n{}",
        wrong.len(),
        shown.join("\n")
    );
    // If an origin never occurred, the property would not have been tested for it.
    for origin in ["local", "redis", "validator", "stale"] {
        assert!(
            origins.get(origin).is_some_and(|count| *count >= 5),
            "{origin}: {origins:?}"
        );
    }
}
