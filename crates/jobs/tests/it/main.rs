//! The jobs from outside.

mod models;
