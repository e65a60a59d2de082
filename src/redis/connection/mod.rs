//! How one server is talked to: shared connections, a circuit breaker, and the server's run ID.

mod breaker;
mod info;
mod link;
mod manager;
mod options;
mod pool;
mod server_registry;

pub(crate) use self::{
    breaker::Effect,
    info::{field, identity},
    link::Link,
    manager::Manager,
    options::{Answer, CommandError, Deadlines, Terms, Unanswered},
    pool::Links,
    server_registry::Met,
};
