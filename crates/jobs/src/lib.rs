//! The jobs, one module each; siblings never import each other.
//!
//! The principal function is [`ingest::run`]: files to a searchable library. A job takes the parts it works
//! with (library, model, caches, clocks) and gives back what it did; it never reads the environment, never
//! prints and never picks a device.
#![forbid(unsafe_code)]

pub mod batch;
pub mod bench;
pub mod calls;
pub mod compare;
pub mod correct;
pub mod embed;
mod encode;
pub mod extract;
pub mod golden;
pub mod ingest;
mod mixes;
pub mod models;
mod parsed;
pub mod proof;
mod quality;
pub mod search;
pub mod speed;
pub mod statistics;
mod stream;
pub mod tune;
