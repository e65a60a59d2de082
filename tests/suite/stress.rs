//! Races against a real Redis, in which no revoked session is served.

use crate::support::world::{Settings, requests, run};

const NODES: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_revoked_session_is_served_by_any_node() {
    let steady = Settings {
        name: "steady",
        nodes: NODES,
        with_chaos: false,
        is_cluster: false,
        lease: None,
    };
    run(steady, requests()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_revoked_session_is_served_across_redis_restarts() {
    let chaos = Settings {
        name: "chaos",
        nodes: NODES,
        with_chaos: true,
        is_cluster: false,
        lease: None,
    };
    run(chaos, requests()).await;
}
