//! Uncertainty of vision encoders: what passes with dropout say of images, without the model that made them.
//!
//! [`analyze::analyze`] reads saved passes and trials (`npz`), its own and those of the study it follows, and derives
//! every quantity of [`statistics`] from them. [`mc`] makes them: [`images`] says which images a run takes, [`sites`]
//! where a [`tower`] is disturbed, and an [`experiment`] under which conditions.

pub mod analyze;
pub mod classes;
pub mod experiment;
pub mod images;
pub mod mc;
pub mod npz;
pub mod sample;
pub mod sites;
pub mod statistics;
pub mod tower;
