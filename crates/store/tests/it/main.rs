//! A library from outside: what a job does to it, what a user sees, and what a kill leaves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damage;
mod fixture;
mod flips;
mod ingest;
mod kill;
mod merging;
mod opening;
mod qdrant;
mod searching;
mod sections;
mod sparse;
#[path = "../standin/mod.rs"]
mod standin;
