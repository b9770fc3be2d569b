//! How every job moves its items: bounded stages that account for their time, one token-budget queue
//! in front of the device, a journal of attempts, a cache of derived bytes, progress and the receipt.
//!
//! The principal type is [`stage::Stages`]: each thread of a run asks it for a [`stage::Meter`], and at the
//! end it says for every stage how long its threads were busy, starved of input, or blocked by the next
//! stage. An idle device therefore names the stage that starved it.
//!
//! ```
//! use haul_pipeline::stage::{Stages, channel};
//!
//! let stages = Stages::start();
//! let (send, receive) = channel::<u32>(4);
//! let sum = std::thread::scope(|scope| {
//!     let mut source = stages.meter("source");
//!     scope.spawn(move || (1..=3).all(|n| source.send(&send, n).is_ok()));
//!     let mut sink = stages.meter("sink");
//!     let sum = scope.spawn(move || std::iter::from_fn(|| sink.receive(&receive)).sum::<u32>());
//!     sum.join().expect("the sink does not panic")
//! });
//! assert_eq!(sum, 6);
//! assert_eq!(stages.accounts().len(), 2);
//! ```
//!
//! This crate never knows what an item means: no book, chunk, image or prompt is named here. It never
//! prints; the binary draws what [`progress`] counts.
#![forbid(unsafe_code)]

pub mod batch;
pub mod cache;
pub mod forecast;
pub mod journal;
pub mod progress;
pub mod receipt;
pub mod stage;
