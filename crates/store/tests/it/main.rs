//! A library from outside: what a job does to it, what a user sees, and what a kill leaves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damage;
mod fixture;
mod ingest;
mod kill;
mod opening;
mod searching;
mod sections;
