//! Guides that go beyond the API reference, one page per topic.

#![allow(clippy::doc_markdown, reason = "names of products and papers")]

#[doc = include_str!("docs/cluster.md")]
pub mod cluster {}

#[doc = include_str!("docs/configuration.md")]
pub mod configuration {}

#[doc = include_str!("docs/connections.md")]
#[doc = include_str!("../tests/support/open_socket.rs")]
#[doc = "```"]
#[doc = ""]
#[doc = include_str!("docs/connections_after.md")]
pub mod connections {}

#[doc = include_str!("docs/deployment.md")]
pub mod deployment {}

#[doc = include_str!("docs/events.md")]
pub mod events {}

#[doc = include_str!("docs/failures.md")]
pub mod failures {}

#[doc = include_str!("docs/forward_auth.md")]
#[doc = include_str!("../tests/support/forward_auth.rs")]
#[doc = "```"]
#[doc = include_str!("docs/forward_auth_after.md")]
pub mod forward_auth {}

#[doc = include_str!("docs/migration.md")]
pub mod migration {}

#[doc = include_str!("docs/observability.md")]
pub mod observability {}

#[doc = include_str!("docs/recipes.md")]
pub mod recipes {}

#[doc = include_str!("docs/revocation.md")]
pub mod revocation {}

#[doc = include_str!("docs/testing.md")]
pub mod testing {}

#[doc = include_str!("docs/validators.md")]
pub mod validators {}
