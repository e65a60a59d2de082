//! What benches share.

pub mod rounds;
pub mod service;
