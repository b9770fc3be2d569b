//! Tests of the crate from outside.
#![expect(clippy::unwrap_used, reason = "what a test's own helpers cannot do fails it")]

mod gguf;
mod remote;
mod server;
