//! Credentials of Redis that change while the process runs.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bb8_redis::redis::cmd;
use tower_session_cache::{
    LocalCacheConfig, Origin, RedisConfig, RedisCredentials, RedisTls, SessionCache,
    SessionCacheLayer,
};

use crate::support::{
    client::ask,
    cluster::{Cluster, Plan},
    log::record,
    pass_time,
    probe::Probe,
    redis::Redis,
    sentinel::{Fake, NAME, Says},
    soon,
    tls::{Authority, TlsRedis, is_spoken, options},
    until,
};

const PATIENT: Duration = Duration::from_secs(20);

fn allow(redis: &Redis, user: &str, password: &str) {
    let mut set = cmd("ACL");
    set.arg("SETUSER").arg(user).arg("reset").arg("on");
    set.arg(format!(">{password}")).arg("~*").arg("+@all");
    redis.run::<()>(&set);
}

/// A connection: its user, its number, and whether it tracks changes.
type Client = (String, u64, bool);

/// The connections of the users whose names begin like this.
fn clients(redis: &Redis, prefix: &str) -> BTreeSet<Client> {
    let clients: String = redis.run(cmd("CLIENT").arg("LIST"));
    let field = |client: &str, name: &str| {
        let mut fields = client.split(' ');
        fields.find_map(|field| Some(field.strip_prefix(name)?.to_owned()))
    };
    let ours = clients.lines().filter_map(|client| {
        let user = field(client, "user=").filter(|user| user.starts_with(prefix))?;
        let id = field(client, "id=")?.parse().ok()?;
        Some((user, id, field(client, "flags=")?.contains('t')))
    });
    ours.collect()
}

/// Renews the credentials and asserts that all standing connections have sent the new ones.
async fn renews(servers: &[&Redis], config: RedisConfig) {
    for server in servers {
        allow(server, "short-1", "first");
    }
    let user = Arc::new(Mutex::new(("short-1", "first")));
    let calls = Arc::new(AtomicUsize::new(0));
    let (now, called) = (Arc::clone(&user), Arc::clone(&calls));
    let config = config
        .timeout(PATIENT)
        .connect_timeout(PATIENT)
        .credentials_provider(move || {
            called.fetch_add(1, SeqCst);
            let (user, password) = *now.lock().unwrap();
            async move {
                let credentials = RedisCredentials::new(user, password);
                Ok(credentials.valid_for(Duration::from_secs(3600)))
            }
        });
    let builder = SessionCache::builder().redis(config).unwrap();
    let local = LocalCacheConfig::new(100).lease(PATIENT);
    let cache = builder.local_cache(local).build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    let all = || {
        let all = servers.iter().map(|server| clients(server, "short-"));
        all.collect::<Vec<_>>()
    };
    let use_all = async || {
        for n in 0..8 {
            ask(&layer, &format!("token-{n}")).await.unwrap();
            let _ = cache.invalidate_user("ada").await.unwrap();
        }
    };
    use_all().await;
    until("a lease", || cache.stats().lease_age.is_some()).await;
    let before = all();
    for server in &before {
        assert!(server.len() >= 3, "{before:?}");
        assert!(server.iter().all(|(user, ..)| user == "short-1"));
    }

    for server in servers {
        allow(server, "short-2", "second");
    }
    *user.lock().unwrap() = ("short-2", "second");
    pass_time(Duration::from_secs(50 * 60)).await;
    // One connection of a pool may never have been used so far: both of its places may hold the
    // other one.
    let have_new_user = || {
        let new = |clients: &BTreeSet<Client>| {
            let new = clients.iter().filter(|(user, ..)| user == "short-2");
            new.count()
        };
        let mut both = before.iter().zip(all());
        both.all(|(before, after)| new(&after) + 1 >= before.len())
    };
    soon("the connections in use to have the new user", async {
        while !have_new_user() {
            use_all().await;
        }
    })
    .await;
    // The listener may have been waiting for a reply when the clock moved.
    let standing = |clients: &BTreeSet<Client>| {
        let standing = clients.iter().filter(|(.., tracks)| !tracks);
        standing.map(|(_, id, _)| *id).collect::<BTreeSet<_>>()
    };
    for (before, after) in before.iter().zip(&all()) {
        let (before, after) = (standing(before), standing(after));
        assert!(before.is_subset(&after), "{before:?} {after:?}");
    }
    for server in servers {
        server.run::<()>(cmd("ACL").arg("DELUSER").arg("short-1"));
    }
    use_all().await;
    until("a lease", || cache.stats().lease_age.is_some()).await;
    assert_eq!(cache.stats().redis_errors, 0);
    assert_eq!(calls.load(SeqCst), 2, "one call for each token");
}

#[tokio::test]
async fn standing_connections_send_renewed_credentials() {
    let redis = Redis::start();
    let config = RedisConfig::single(redis.url());
    renews(
        &[&redis],
        config.wait_for_replicas(1, Duration::from_millis(1)),
    )
    .await;
}

#[tokio::test]
async fn renewed_credentials_apply_to_the_primary_that_sentinels_name() {
    let redis = Redis::start();
    let sentinel = Fake::start(Says::Primary(1, redis.port())).await;
    renews(&[&redis], RedisConfig::sentinel([sentinel.url()], NAME)).await;
}

#[tokio::test]
async fn renewed_credentials_apply_to_all_nodes_of_a_cluster() {
    let cluster = Cluster::planned(Plan {
        has_replicas: false,
        ..Plan::default()
    });
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    renews(
        &nodes,
        RedisConfig::cluster(cluster.nodes.iter().map(Redis::url)),
    )
    .await;
}

/// The host that the certificates are for. Sentinels and cluster nodes announce `127.0.0.1`, so a
/// connection is made only if the address is mapped and the certificate is checked for the result.
const CERTIFIED: &str = "localhost";

fn over_tls(config: RedisConfig, authority: &Authority) -> RedisConfig {
    config.tls(RedisTls::new().root_certificates(authority.pem()))
}

fn to_certified(_: &str, port: u16) -> Option<(String, u16)> {
    Some((CERTIFIED.to_owned(), port))
}

#[tokio::test]
async fn standing_tls_connections_send_renewed_credentials() {
    if !is_spoken() {
        return;
    }
    let authority = Authority::new();
    let redis = TlsRedis::start(&authority, &authority.issue(CERTIFIED), false, &[]);
    let config = RedisConfig::single(format!("rediss://{CERTIFIED}:{}/2", redis.port));
    let config = config.wait_for_replicas(1, Duration::from_millis(1));
    renews(&[&redis.plain], over_tls(config, &authority)).await;
}

#[tokio::test]
async fn renewed_credentials_apply_to_a_tls_primary_at_a_mapped_address() {
    if !is_spoken() {
        return;
    }
    let authority = Authority::new();
    let redis = TlsRedis::start(&authority, &authority.issue(CERTIFIED), false, &[]);
    let sentinel = Fake::start(Says::Primary(1, redis.port)).await;
    let config = RedisConfig::sentinel([sentinel.url()], NAME)
        .credentials_from("rediss://_/2")
        .address_map(to_certified);
    renews(&[&redis.plain], over_tls(config, &authority)).await;
}

#[tokio::test]
async fn renewed_credentials_apply_to_all_tls_nodes_of_a_cluster_at_mapped_addresses() {
    if !is_spoken() {
        return;
    }
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let options = options(
        folder.path(),
        &authority,
        &authority.issue(CERTIFIED),
        false,
    );
    let cluster = Cluster::planned(Plan {
        has_replicas: false,
        tls: Some(&options),
        ..Plan::default()
    });
    let nodes: Vec<_> = cluster.nodes.iter().collect();
    let urls = nodes.iter().map(|node| {
        let port = node.run::<Vec<String>>(cmd("CONFIG").arg("GET").arg("tls-port"));
        format!("rediss://{CERTIFIED}:{}", port[1])
    });
    let config = RedisConfig::cluster(urls).address_map(to_certified);
    renews(&nodes, over_tls(config, &authority)).await;
}

#[tokio::test]
async fn password_file_is_read_again() {
    let redis = Redis::start();
    allow(&redis, "sessions", "first");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "first\n").unwrap();
    let url = redis.url().replace("//", "//sessions@");
    let config = RedisConfig::single(url).password_file(file.path());
    let cache = SessionCache::builder().redis(config).unwrap();
    let cache = cache.build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    let until_served = || {
        soon("the cache to be used", async {
            while ask(&layer, "t").await.unwrap().1 != Origin::Redis {
                crate::support::pass().await;
            }
        })
    };
    until_served().await;
    let log = record();
    redis.run::<()>(cmd("ACL").arg("DELUSER").arg("sessions"));
    allow(&redis, "sessions", "second");
    soon("the circuit breaker to open", async {
        while !cache.stats().redis_circuit_open {
            ask(&layer, "t").await.unwrap();
        }
    })
    .await;
    fs::write(file.path(), "second").unwrap();
    until_served().await;
    let text = log.text();
    assert!(text.contains("check user and password"), "{text}");
    assert!(
        !text.contains("first") && !text.contains("second"),
        "{text}"
    );
}

#[tokio::test]
async fn failing_credentials_provider_is_logged_once_and_called_again() {
    let redis = Redis::start();
    allow(&redis, "sessions", "s3cr3t");
    let fails = Arc::new(AtomicBool::new(true));
    let is_failing = Arc::clone(&fails);
    let config = RedisConfig::single(redis.url()).credentials_provider(move || {
        let fails = is_failing.load(SeqCst);
        async move {
            if fails {
                return Err("the token service is down".into());
            }
            Ok(RedisCredentials::new("sessions", "s3cr3t"))
        }
    });
    let cache = SessionCache::builder().redis(config).unwrap();
    let cache = cache.build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    let log = record();
    soon("the circuit breaker to open", async {
        while !cache.stats().redis_circuit_open {
            ask(&layer, "t").await.unwrap();
        }
    })
    .await;
    fails.store(false, SeqCst);
    soon("the cache to be used", async {
        while ask(&layer, "t").await.unwrap().1 != Origin::Redis {
            crate::support::pass().await;
        }
    })
    .await;
    let text = log.text();
    let count = |line| text.matches(line).count();
    assert_eq!(count("Redis credentials not renewed"), 1, "{text}");
    assert_eq!(count("Redis credentials available again"), 1, "{text}");
    assert!(text.contains("the token service is down"), "{text}");
    assert!(!text.contains("s3cr3t"), "{text}");
}
