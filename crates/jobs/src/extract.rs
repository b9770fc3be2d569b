//! `extract`: documents of companies to checked records, one for each entity that a schema names (a credit facility, a
//! contract), with evidence.
//!
//! [`schema`] says what is looked for and how a model is asked.

pub mod schema;
