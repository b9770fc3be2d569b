//! `haul vision`: what passes with dropout say of images.

use std::path::Path;

use haul_jobs::vision::analyze::{Analysis, Options, analyze};
use haul_jobs::vision::experiment::Experiment;
use haul_jobs::vision::npz::{self, Array, Npz};
use haul_jobs::vision::statistics::weights::Weights;
use haul_jobs::vision::statistics::{Bias, FORMULAS};
use serde_json::json;

use crate::cli::vision::{AnalyzeArgs, VisionCommand};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::{Exit, summary};

pub(crate) mod mc;

/// Name and version of the document.
const SCHEMA: &str = "haul.vision_analysis/1";
/// The array of a file of weights.
const WEIGHTS: &str = "weights";

/// Runs the command.
pub(crate) fn run(command: &VisionCommand, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    match command {
        VisionCommand::Exp5(args) => {
            mc::run(&args.passes, Experiment::Exp5, Some(&args.prompts), settings, output)
        }
        VisionCommand::Mc(args) => mc::run(args, Experiment::Mc, None, settings, output),
        VisionCommand::Exp0(args) => mc::run(args, Experiment::Exp0, None, settings, output),
        VisionCommand::Exp0b(args) => mc::run(args, Experiment::Exp0b, None, settings, output),
        VisionCommand::Exp1(args) => mc::run(args, Experiment::Exp1, None, settings, output),
        VisionCommand::Exp3(args) => mc::run(args, Experiment::Exp3, None, settings, output),
        VisionCommand::Exp4(args) => mc::run(args, Experiment::Exp4, None, settings, output),
        VisionCommand::Exp6(args) => mc::run(args, Experiment::Exp6, None, settings, output),
        VisionCommand::Ablation(args) => mc::run(args, Experiment::Ablation, None, settings, output),
        VisionCommand::Analyze(args) => analyzed(args, output),
    }
}

fn analyzed(args: &AnalyzeArgs, output: &Output) -> Result<Exit, Failure> {
    let options = Options {
        bias: if args.seed_compat { Bias::Seed } else { Bias::Unbiased },
        weights: args.weights.as_deref().map(weights).transpose()?,
    };
    let found = analyze(&args.paths, &options)?;
    if let Some(file) = &args.save_weights {
        save(file, &found)?;
    }
    if output.json() {
        output.json_document(&json!({
            "schema": SCHEMA, "seed_compat": args.seed_compat, "formulas": FORMULAS,
            "files": found.files, "failures": found.failures,
        }))?;
    } else {
        output.data(&summary::vision::analysis(&found))?;
    }
    Ok(if found.failures.is_empty() { Exit::Ok } else { Exit::SomeNotOk })
}

fn weights(file: &Path) -> Result<Weights, Failure> {
    let array = Npz::open(file)?.read(WEIGHTS)?;
    let is_row = array.shape.len() == 1;
    Weights::of(array.to_f64()).filter(|_| is_row).ok_or_else(|| {
        Failure::new(format!("{}: `{WEIGHTS}` is no row of numbers from 0 on", file.display()))
            .hint("--save-weights writes such a file")
    })
}

fn save(file: &Path, found: &Analysis) -> Result<(), Failure> {
    let weights = found.weights.as_ref().ok_or_else(|| {
        Failure::new(format!("no weights for {}: no passes of two images or more were read", file.display()))
            .hint("weights come from trial*_seed*.npz and from mc.npz")
    })?;
    let values = weights.values();
    Ok(npz::write(file, &[(WEIGHTS, &Array::f64(&[values.len()], values.to_vec()))])?)
}
