//! Primaries of a Redis Cluster, and which of them holds a key.
//!
//! Each primary has its own connections, made like those of a single server. So the run ID of the
//! server is known for every reply. A record is never accepted from another run than the one that
//! stored it, not even in the first moment after a failover. (redis-rs's own cluster client
//! reconnects and redirects without notice, so with it the run IDs could only be guessed.)
//!
//! Each primary also has its own circuit breaker, so that a primary that is down does not affect
//! the others.

mod cluster_info;
mod discovery;
mod hash_slot;
mod router;
mod slot_map;
mod state;

pub(crate) use self::state::{Cluster, NodeAccess};
