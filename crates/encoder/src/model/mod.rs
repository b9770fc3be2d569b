//! The architectures: each reads its own part of `config.json` and writes a [`crate::program::Program`].

pub mod bert;
