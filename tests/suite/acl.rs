//! The ACL rules listed in the documentation are sufficient, and each of them is required.

use std::time::Duration;

use bb8_redis::redis::cmd;
use tower_session_cache::{
    LocalCacheConfig, Origin, RedisConfig, RedisHealth, SessionCache, SessionCacheBuilder,
    SessionCacheLayer,
};

use crate::support::{
    client::{ask, token},
    log::record,
    probe::{Probe, authority, session},
    redis::Redis,
    rules::rules,
    soon, until,
};

/// A primary with a replica, and a Redis user with the given ACL rules.
struct Guarded {
    primary: Redis,
    _replica: Redis,
}

impl Guarded {
    fn start() -> Self {
        let primary = Redis::start();
        let port = primary.port().to_string();
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
        Self {
            primary,
            _replica: replica,
        }
    }

    fn node(&self, rules: &[String]) -> SessionCacheBuilder {
        SessionCache::builder().redis(self.config(rules)).unwrap()
    }

    fn config(&self, rules: &[String]) -> RedisConfig {
        let mut set = cmd("ACL");
        set.arg("SETUSER").arg("sessions").arg("reset").arg(rules);
        self.primary.run::<()>(&set);
        self.primary.run::<()>(&cmd("FLUSHALL"));
        self.primary.run::<()>(cmd("ACL").arg("LOG").arg("RESET"));
        let url = self.primary.url().replace("//", "//sessions:PASSWORD@");
        RedisConfig::single(url)
            .timeout(Duration::from_secs(20))
            .connect_timeout(Duration::from_secs(20))
            .wait_for_replicas(1, Duration::from_secs(20))
    }

    /// The entries of `ACL LOG`: the commands and keys that were denied.
    fn denied(&self) -> Vec<String> {
        let log: Vec<Vec<bb8_redis::redis::Value>> = self.primary.run(cmd("ACL").arg("LOG"));
        log.iter().map(|entry| format!("{entry:?}")).collect()
    }
}

/// Does everything that a node does; returns an error that names what does not work.
async fn works(builder: SessionCacheBuilder, with_local: bool) -> Result<(), &'static str> {
    let log = record();
    let local = LocalCacheConfig::new(100).lease(Duration::from_secs(20));
    let builder = if with_local {
        builder.local_cache(local)
    } else {
        builder
    };
    let cache = builder.build().unwrap();
    let provider = Probe::answering(|_| Ok(session("ada").with_session_id("s1")));
    let layer = SessionCacheLayer::new(cache.clone(), provider);
    let of_machines = layer.clone().with_namespace("machines");
    let cached = if with_local {
        Origin::Local
    } else {
        Origin::Redis
    };
    for layer in [&layer, &of_machines] {
        ask(layer, "t").await.unwrap();
        if with_local {
            let waited = soon("a lease, or the log line that there is none", async {
                while cache.stats().lease_age.is_none() {
                    if log.text().contains("local cache disabled") {
                        return Err("no lease");
                    }
                    crate::support::pass().await;
                }
                Ok(())
            });
            waited.await?;
            // A session that was filled before the lease is looked up once more.
            ask(layer, "t").await.unwrap();
            ask(layer, "t").await.unwrap();
        }
        // The `MGET` shortcut is used only after an earlier lookup.
        for _ in 0..3 {
            if ask(layer, "t").await.unwrap().1 != cached {
                return Err("nothing is served from the cache");
            }
        }
    }
    let authority = authority();
    let revocations = [
        cache.invalidate_token(&token("t")).await,
        cache.revoke_token(&token("t")).await,
        cache.invalidate_user("ada").await,
        cache.end_session(&authority, "s1").await,
        cache
            .ban_user(&authority, "ada", Duration::from_secs(60))
            .await,
        cache.lift_ban(&authority, "ada").await,
    ];
    for revocation in revocations {
        match revocation
            .map_err(|_| "a revocation is not delivered")?
            .replicas()
        {
            Some(1) => {}
            _ => return Err("no replica has the revocation"),
        }
    }
    match cache.health_check().await.redis {
        RedisHealth::Up => Ok(()),
        _ => Err("the health check does not report Redis as up"),
    }
}

#[tokio::test]
async fn documented_acl_rules_are_sufficient_and_each_is_required() {
    let guarded = Guarded::start();
    let rules = rules();
    assert!(rules.contains(&">PASSWORD".to_owned()), "{rules:?}");
    for with_local in [false, true] {
        assert_eq!(works(guarded.node(&rules), with_local).await, Ok(()));
        assert_eq!(guarded.denied(), [""; 0]);
    }
    // Without a local cache fewer rules are required.
    let less: Vec<_> = rules
        .iter()
        .filter(|rule| !matches!(&***rule, "+client|tracking" | "~session_listener:*"))
        .cloned()
        .collect();
    assert_eq!(less.len(), rules.len() - 2);
    assert_eq!(works(guarded.node(&less), false).await, Ok(()));
    assert_eq!(guarded.denied(), [""; 0]);

    let grants = rules.iter().filter(|rule| rule.starts_with(['+', '~']));
    assert!(grants.clone().count() > 15, "{rules:?}");
    for grant in grants {
        let without: Vec<_> = rules
            .iter()
            .filter(|rule| *rule != grant)
            .cloned()
            .collect();
        // Start without a local cache: only then does every lookup reach Redis.
        let works = match works(guarded.node(&without), false).await {
            Ok(()) => works(guarded.node(&without), true).await,
            failed => failed,
        };
        // Without these two, each node validates on its own.
        let is_optional = ["~session_reservation:*", "~session_rejection:*"].contains(&&**grant);
        assert_eq!(works.is_err(), !is_optional, "{grant}");
        assert!(!guarded.denied().is_empty(), "{grant} was not used");
    }
}

#[tokio::test]
async fn documented_acl_rules_allow_the_canary() {
    let guarded = Guarded::start();
    let second = Duration::from_secs(1);
    let builder = guarded.node(&rules()).canary(second);
    let local = LocalCacheConfig::new(100).lease(second);
    let cache = builder.local_cache(local).build().unwrap();
    let _ = cache.get(&token("t")).await;
    until("a round", || cache.stats().canary.rounds > 0).await;
    assert_eq!(guarded.denied(), [""; 0]);
}

/// If the Redis user lacks a permission, one log line names the page to read.
#[tokio::test]
async fn missing_acl_rule_logs_one_warning_with_the_docs_page() {
    let guarded = Guarded::start();
    let rules: Vec<_> = rules().into_iter().filter(|it| it != "+evalsha").collect();
    let log = record();
    let builder = SessionCache::builder().redis(guarded.config(&rules));
    let cache = builder.unwrap().build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    soon("the circuit breaker to open", async {
        while !cache.stats().redis_circuit_open {
            ask(&layer, "t").await.unwrap();
        }
    })
    .await;
    let text = log.text();
    let complaints: Vec<_> = text.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    assert!(complaints[0].contains("docs::deployment"), "{complaints:?}");
}
