//! What a run was asked for, resolved: models, dtype, memory, and the settings of each condition.

use std::path::{Path, PathBuf};

use haul_encoder::device::cpu::CpuDevice;
use haul_encoder::model::vision::Site;
use haul_encoder::vision::{ImageEncoder, VisionError};
use haul_jobs::vision::experiment::{Condition, Experiment, RATES};
use haul_jobs::vision::mc::unit::Keep;
use haul_jobs::vision::mc::{self, Image, Kind, Run, Target};
use haul_jobs::vision::sites::Sites;
use haul_jobs::vision::statistics::Bias;
use haul_jobs::vision::tower::Tower;
use haul_machine::dtype::{Dtype, DtypeRequest};
use haul_machine::memory;

use crate::cli::vision::{DropoutArgs, McArgs, PerturbArg, PromptArgs};
use crate::commands::Machine;
use crate::commands::generator::identity;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{BatchBy, Settings};

/// The share that falls out, or the magnitude of noise, where nobody says another.
const STRENGTH: f64 = 0.01;
/// Rows of a batch where nobody says another number: few enough that what stands between the two layers of a block, which
/// dropout keeps apart, stays in the second-level cache.
const BATCH_TOKENS: usize = 256;

/// Everything as it was resolved.
pub(super) struct Asked<'a> {
    pub(super) args: &'a McArgs,
    pub(super) machine: Machine,
    pub(super) dtype: Dtype,
    pub(super) threads: std::num::NonZeroUsize,
    pub(super) batch_tokens: usize,
    /// What the run and its workers may take, and whether somebody said so.
    pub(super) memory_bytes: u64,
    pub(super) is_memory_asked: bool,
    pub(super) models: Vec<Model>,
    pub(super) experiment: Experiment,
    pub(super) prompts: Option<&'a PromptArgs>,
    pub(super) bias: Bias,
}

/// A tower and what it is known by.
pub(super) struct Model {
    pub(super) tower: Tower,
    pub(super) sha256: String,
    pub(super) folder: PathBuf,
}

/// A tower under one condition of an experiment.
pub(super) struct Case {
    pub(super) condition: Condition,
    pub(super) tower: Tower,
    pub(super) settings: mc::Settings,
}

impl<'a> Asked<'a> {
    pub(super) fn resolve(
        args: &'a McArgs,
        experiment: Experiment,
        prompts: Option<&'a PromptArgs>,
        settings: &Settings,
        output: &Output,
    ) -> Result<Asked<'a>, Failure> {
        if experiment == Experiment::Exp3 && args.dropout.sites.is_some() {
            return Err(Failure::new("--sites: exp3 compares sets of its own")
                .hint("haul vision mc takes one set of sites"));
        }
        if experiment != Experiment::Exp1 && args.dropout.p_values.is_some() {
            return Err(Failure::new("--p-values: only exp1 compares rates").hint("--dropout takes one rate"));
        }
        if experiment == Experiment::Exp1 && args.dropout.dropout.or(args.dropout.magnitude).is_some() {
            return Err(Failure::new("--dropout: exp1 compares rates").hint("--p-values takes several"));
        }
        if experiment == Experiment::Exp6 && args.dropout.target_icc.or(args.dropout.target_se).is_some() {
            return Err(Failure::new("--target-icc, --target-se: exp6 compares numbers of passes")
                .hint("--passes takes several"));
        }
        let machine = Machine::resolve(settings.device(&args.compute.device)?, settings, output)?;
        let compute = settings.compute(&args.compute, &machine.cpu)?;
        let models = models(args, settings)?;
        let dtype = settings.dtype(&args.dtype)?.unwrap_or(DtypeRequest::Auto);
        let dtype = machine.dtype(dtype, settings, output)?;
        let bias = if args.seed_compat { Bias::Seed } else { Bias::Unbiased };
        let batch_tokens =
            if compute.batch_by == BatchBy::User { compute.batch_tokens } else { BATCH_TOKENS };
        let memory = settings.memory(args.memory)?;
        let asked = Asked {
            args,
            machine,
            dtype,
            threads: compute.threads,
            batch_tokens,
            memory_bytes: memory.map_or_else(free_bytes, Ok)?,
            is_memory_asked: memory.is_some(),
            models,
            experiment,
            prompts,
            bias,
        };
        for model in &asked.models {
            for mut case in asked.cases(model)? {
                let Case { settings, tower, .. } = &case;
                settings.sites.under(settings.perturbation, &tower.config).map_err(mc::McError::from)?;
                // Before anything is decoded; what images add is known later.
                asked.fit(&mut case, model, &[])?;
            }
        }
        Ok(asked)
    }

    /// What the experiment compares of a model.
    pub(super) fn cases(&self, model: &Model) -> Result<Vec<Case>, Failure> {
        let sites = self.args.dropout.sites.clone().unwrap_or(Sites::Uniform);
        let mut rates = self.args.dropout.p_values.clone().unwrap_or_else(|| RATES.to_vec());
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        let conditions = self.experiment.conditions(&model.tower.config, &sites, &rates);
        let of = |condition: Condition| {
            let mut tower = model.tower.clone();
            tower.preprocess.treatment = condition.treatment;
            let settings = self.settings(&tower, &condition)?;
            Ok(Case { condition, tower, settings })
        };
        conditions.into_iter().map(of).collect()
    }

    /// All folders that results stand in.
    pub(super) fn folders(&self) -> Vec<&Path> {
        let of_models = self.models.iter().map(|model| model.folder.as_path());
        let mut folders: Vec<&Path> = of_models.chain([self.args.out.as_path()]).collect();
        folders.dedup();
        folders
    }

    pub(super) fn target(&self) -> Option<Target> {
        let dropout = &self.args.dropout;
        dropout.target_icc.map(Target::Icc).or(dropout.target_se.map(Target::Se))
    }

    fn settings(&self, tower: &Tower, condition: &Condition) -> Result<mc::Settings, Failure> {
        let dropout = &self.args.dropout;
        let (kind, strength) = strength(dropout, condition)?;
        let perturbation = kind.of(strength).ok_or_else(|| impossible(kind, strength))?;
        let passes = dropout.passes.as_deref().unwrap_or(self.experiment.passes());
        let mut passes: Vec<usize> = passes.iter().map(|&passes| passes as usize).collect();
        passes.sort_unstable();
        passes.dedup();
        let fitting = (self.batch_tokens / tower.config.tokens()).max(1);
        Ok(mc::Settings {
            sites: condition.sites.clone(),
            kind,
            strength,
            perturbation,
            shared_masks: dropout.shared_masks,
            trials: dropout.trials.map_or(self.experiment.trials(), |trials| trials as usize),
            passes,
            enough: None,
            nested: !dropout.independent_t,
            seed: dropout.seed,
            keep: Keep {
                gram: self.args.gram,
                geometry: self.experiment.has_geometry(),
                passes: self.args.save_passes,
            },
            batch: self.args.batch_size.map_or(fitting, std::num::NonZeroUsize::get),
        })
    }

    /// With a batch that fits. Of what is free somebody else may take a part: only what was asked for is a limit.
    pub(super) fn fit(&self, case: &mut Case, model: &Model, images: &[Image]) -> Result<(), Failure> {
        let Case { tower, settings, .. } = case;
        let run = Run { tower, weights_sha256: &model.sha256, dtype: self.dtype, settings, images };
        settings.batch = match run.batch_within(self.memory_bytes, self.threads.get()) {
            Err(mc::McError::Memory { .. }) if !self.is_memory_asked => 1,
            fitting => fitting?,
        };
        Ok(())
    }

    pub(super) fn load(
        &self,
        tower: &Tower,
        dtype: Dtype,
        sites: &[Site],
    ) -> Result<ImageEncoder, VisionError> {
        let device = CpuDevice::new(self.machine.cpu.isa, dtype, self.threads);
        ImageEncoder::load_as(&tower.folder, tower.config.clone(), &device, sites)
    }
}

/// What is done at sites, and how much of it.
fn strength(args: &DropoutArgs, condition: &Condition) -> Result<(Kind, f64), Failure> {
    let kind = match args.perturb {
        PerturbArg::Dropout => Kind::Dropout,
        PerturbArg::Gaussian => Kind::Gaussian,
        PerturbArg::Scale => Kind::Scale,
    };
    let asked = match (kind, args.dropout, args.magnitude) {
        (Kind::Dropout, _, Some(_)) => {
            return Err(Failure::new("--magnitude: --perturb dropout has a rate")
                .hint("--dropout takes it, and --perturb gaussian or scale a magnitude"));
        }
        (Kind::Gaussian | Kind::Scale, Some(_), _) => {
            return Err(Failure::new("--dropout: --perturb gaussian and scale have a magnitude")
                .hint("--magnitude takes it"));
        }
        (_, dropout, magnitude) => dropout.or(magnitude),
    };
    Ok((kind, condition.strength.or(asked).unwrap_or(STRENGTH)))
}

fn impossible(kind: Kind, strength: f64) -> Failure {
    match kind {
        Kind::Dropout => {
            Failure::new(format!("a dropout of {strength}: nothing would fall out, or everything"))
                .hint("from 0.00001 to 0.9999; masks have steps of 1/65,536")
        }
        Kind::Gaussian | Kind::Scale => {
            Failure::new(format!("a magnitude of {strength}: no noise, or nothing but noise"))
                .hint("above 0 and at most 100; 0.01 and 0.05 are the study's")
        }
    }
}

/// What a run may take where nobody says so.
fn free_bytes() -> Result<u64, Failure> {
    let memory = memory::probe()?;
    let held = memory::rss_bytes().unwrap_or(0);
    let below_limit = memory.limit_bytes.map_or(u64::MAX, |limit| limit.saturating_sub(held));
    Ok(memory.available_bytes.min(below_limit) / 4 * 3)
}

fn models(args: &McArgs, settings: &Settings) -> Result<Vec<Model>, Failure> {
    let mut models: Vec<Model> = vec![];
    for named in &args.model {
        let kept = settings.models().join(named);
        let folder = if !named.is_dir() && kept.is_dir() { kept } else { named.clone() };
        let mut tower = Tower::read(&folder)?;
        if args.as_they_ran && !tower.run_as_the_study() {
            return Err(Failure::new(format!("--as-they-ran: {} has no quick GELU", tower.name))
                .hint("the study ran CLIP alone with another activation than it was trained with"));
        }
        let sha256 = identity(&tower.weights, settings)?;
        // One model's results stand in the folder itself, as those of other jobs do.
        let folder = if args.model.len() == 1 { args.out.clone() } else { args.out.join(&tower.name) };
        if models.iter().any(|model| model.tower.name == tower.name) {
            return Err(Failure::new(format!("two models are called {}", tower.name))
                .hint("results have the names of the models' folders; rename one"));
        }
        models.push(Model { tower, sha256, folder });
    }
    Ok(models)
}
