//! What `extract` is made of.
#![expect(clippy::unwrap_used, reason = "what fixtures cannot do fails the test")]

mod accuracy;
mod crosscheck;
mod documents;
mod fixtures;
mod input;
mod mentions;
mod normalise;
mod retrieve;
mod run;
mod schema;
mod tiny;
mod windows;
