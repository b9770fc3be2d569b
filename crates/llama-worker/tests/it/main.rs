//! The worker as `haul` sees it: a process that answers frames.
#![expect(clippy::unwrap_used, reason = "what a test's own helpers cannot do fails it")]

mod answers;
mod faults;
mod golden;
mod local;
mod measures;
mod process;
mod random;
mod states;
