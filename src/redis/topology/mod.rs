//! Topology of Redis, a single server or a cluster: dispatches a command to the server that holds
//! its key.

mod batch;
mod cluster;
mod dispatch;
mod replicas;
mod reply;
mod run_ids;

pub(crate) use self::{
    cluster::NodeAccess,
    dispatch::{Operation, Topology},
    reply::LookupReply,
    run_ids::RunIds,
};
