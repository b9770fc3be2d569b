//! `extract`: documents of companies to checked records, one for each entity that a schema names (a credit facility, a
//! contract), with evidence.
//!
//! [`schema`] says what is looked for and how a model is asked, [`normalise`] brings values into one form, and
//! [`crosscheck`] holds the values of a record against each other.

pub mod crosscheck;
pub mod normalise;
pub mod schema;
