//! What `extract` is made of.
#![expect(clippy::unwrap_used, reason = "what fixtures cannot do fails the test")]

mod accuracy;
mod crosscheck;
mod documents;
mod fixtures;
mod input;
mod normalise;
mod retrieve;
mod schema;
mod tiny;
mod windows;
