//! Helpers that the benches share.

pub mod rounds;
pub mod service;
