//! The primaries of a Redis Cluster, and which of them holds a key.
//!
//! Each primary has links of its own, made as those of a single server are. So it is known of every
//! answer in which run its server is, and a record is never taken from another run than the one
//! that stored it, not even in the first moment after a failover. (redis-rs's own cluster client
//! reconnects and redirects without a word, so with it the runs could only be guessed at.)
//! And each has a breaker of its own, so that one that is dead does not take the others along.

mod cluster_info;
mod discovery;
mod hash_slot;
mod router;
mod slot_map;
mod state;

pub(crate) use self::state::Cluster;
