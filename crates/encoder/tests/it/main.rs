//! The encoder from outside: against golden vectors, against itself in other batches, and against hostile files.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it skips"
)]

mod batches;
mod captions;
mod common;
mod families;
mod golden;
mod heads;
mod model_dir;
mod tokenizer;
mod torch;
mod vision;
mod weights;
