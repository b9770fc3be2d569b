//! `extract`: documents of companies to checked records, one for each entity that a schema names (a credit facility, a
//! contract), with evidence.
//!
//! [`schema`] says what is looked for and how a model is asked; [`documents`] makes one list of numbered sentences of all
//! files of a company, [`windows`] cuts it into what a model reads at a time, [`retrieve`] ranks windows for a question,
//! [`normalise`] brings values into one form, and [`crosscheck`] holds the values of a record against each other.

pub mod accuracy;
pub mod crosscheck;
pub mod documents;
pub mod input;
pub mod measure;
pub mod normalise;
pub mod record;
pub mod retrieve;
pub mod schema;
pub mod windows;
