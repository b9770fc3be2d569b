//! The jobs from outside.

mod extract;
mod models;
