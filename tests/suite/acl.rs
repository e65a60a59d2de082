//! The ACL rules that the documentation lists are enough, and none of them is too many.

use std::time::Duration;

use bb8_redis::redis::cmd;
use tower_session_cache::{
    LocalCacheConfig, Origin, RedisConfig, RedisHealth, SessionCache, SessionCacheBuilder,
    SessionCacheLayer,
};

use crate::support::{
    client::{ask, token},
    log::record,
    probe::Probe,
    redis::Redis,
    rules::rules,
    soon,
};

/// A primary with a replica, and a user of these rules.
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
        let redis = self.config(rules).checkout_timeout(Duration::from_secs(2));
        SessionCache::builder().redis(redis).unwrap()
    }

    /// So long as its checkout timeout a lookup waits where there is never a connection.
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

    /// What was denied.
    fn denied(&self) -> Vec<String> {
        let log: Vec<Vec<bb8_redis::redis::Value>> = self.primary.run(cmd("ACL").arg("LOG"));
        log.iter().map(|entry| format!("{entry:?}")).collect()
    }
}

/// All that a node does; or what of it does not work.
async fn works(builder: SessionCacheBuilder, with_local: bool) -> Result<(), &'static str> {
    let log = record();
    let local = LocalCacheConfig::new(100).lease(Duration::from_secs(20));
    let builder = if with_local {
        builder.local_cache(local)
    } else {
        builder
    };
    let cache = builder.build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    let of_machines = layer.clone().with_namespace("machines");
    let cached = if with_local {
        Origin::Local
    } else {
        Origin::Redis
    };
    for layer in [&layer, &of_machines] {
        ask(layer, "t").await.unwrap();
        if with_local {
            let waited = soon("a lease, or a word about it", async {
                while cache.stats().lease_age.is_none() {
                    if log.text().contains("the local cache is off") {
                        return Err("no lease");
                    }
                    crate::support::pass().await;
                }
                Ok(())
            });
            waited.await?;
            // What was filled before is looked up once more.
            ask(layer, "t").await.unwrap();
            ask(layer, "t").await.unwrap();
        }
        // The shortcut takes a lookup before.
        for _ in 0..3 {
            if ask(layer, "t").await.unwrap().1 != cached {
                return Err("nothing is served from the cache");
            }
        }
    }
    let revocations = [
        cache.invalidate_token(&token("t")).await,
        cache.revoke_token(&token("t")).await,
        cache.invalidate_user("ada").await,
    ];
    for revocation in revocations {
        match revocation
            .map_err(|_| "a revocation is not delivered")?
            .replicas()
        {
            Some(1) => {}
            _ => return Err("no replica has it"),
        }
    }
    match cache.health_check().await.redis {
        RedisHealth::Up => Ok(()),
        _ => Err("it is not healthy"),
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
    // Without a local cache it takes less.
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
        // Only without a local cache every lookup reaches Redis.
        let works = match works(guarded.node(&without), false).await {
            Ok(()) => works(guarded.node(&without), true).await,
            failed => failed,
        };
        assert!(works.is_err(), "{grant} is not needed");
        assert!(!guarded.denied().is_empty(), "{grant} was not used");
    }
}

/// A user that lacks something is told of in one line that says where to look.
#[tokio::test]
async fn missing_acl_rule_logs_one_warning_with_the_docs_page() {
    let guarded = Guarded::start();
    let rules: Vec<_> = rules().into_iter().filter(|it| it != "+evalsha").collect();
    let log = record();
    let builder = SessionCache::builder().redis(guarded.config(&rules));
    let cache = builder.unwrap().build().unwrap();
    let layer = SessionCacheLayer::new(cache.clone(), Probe::new());
    soon("Redis to be left alone", async {
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
