//! `haul vision mc`: resolves everything, runs the towers over the images, writes what was found.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use haul_corpus::image::Rgb;
use haul_corpus::image::preprocess::Preprocess;
use haul_corpus::image::resize::{Filter, Window, resize};
use haul_corpus::limits::Limits;
use haul_corpus::pixels::{Hash, PixelCache};
use haul_corpus::verdict::Verdict;
use haul_encoder::captions::{CaptionEncoder, Likeness};
use haul_encoder::device::cpu::CpuDevice;
use haul_encoder::model::vision::Site;
use haul_encoder::vision::{ImageEncoder, VisionError};
use haul_jobs::vision::classes::{Ambiguity, Classes};
use haul_jobs::vision::experiment::{Condition, Experiment, RATES};
use haul_jobs::vision::images::{self, Manifest};
use haul_jobs::vision::mc::files::{Table, more, overall, write_json};
use haul_jobs::vision::mc::pixels::{Decoders, Gathered, gather, preprocess_hash};
use haul_jobs::vision::mc::room::decoders;
use haul_jobs::vision::mc::stopping::Enough;
use haul_jobs::vision::mc::studies::{Ambiguous, Found};
use haul_jobs::vision::mc::unit::Keep;
use haul_jobs::vision::mc::{self, Image, Kind, Load, Outcome, Parts, Pilot, Run, Target};
use haul_jobs::vision::sample;
use haul_jobs::vision::sites::Sites;
use haul_jobs::vision::statistics::Bias;
use haul_jobs::vision::tower::Tower;
use haul_machine::dtype::{Dtype, DtypeRequest};
use haul_machine::{clock, memory, roof};
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::receipt::{
    CacheUse, Failure as NotOk, Items, MemoryUse, ModelUse, Note, Quality, Rate as Speed, Receipt, RunState,
    SCHEMA, Truncated, Work,
};
use haul_pipeline::stage::{Stages, Stop};
use serde_json::{Map, Value, json};

use crate::cli::{DropoutArgs, McArgs, PerturbArg, PromptArgs, SamplingArg};
use crate::commands::Machine;
use crate::commands::calls::INTERRUPTED;
use crate::commands::generator::identity;
use crate::commands::gguf::write_receipt;
use crate::commands::ingest::parse_worker;
use crate::failure::Failure;
use crate::output::Output;
use crate::report::sheet::write_file;
use crate::report::vision::{Page, SHOWN, by_certainty};
use crate::settings::{BatchBy, Settings};
use crate::summary::duration;
use crate::{Exit, live, signals_unix, summary};

const JOB: &str = "vision";
/// Name and version of the document of `--plan`.
const PLAN_SCHEMA: &str = "haul.vision_plan/1";
/// The share that falls out, or the magnitude of noise, where nobody says another.
const STRENGTH: f64 = 0.01;
/// Rows of a batch where nobody says another number: few enough that what stands between the two layers of a block, which
/// dropout keeps apart, stays in the second-level cache.
const BATCH_TOKENS: usize = 256;
/// Pixels of a side of an image in the report.
const THUMBNAIL_SIDE: u32 = 96;
/// Everything as it was resolved.
struct Asked<'a> {
    args: &'a McArgs,
    machine: Machine,
    dtype: Dtype,
    threads: std::num::NonZeroUsize,
    batch_tokens: usize,
    /// What the run and its workers may take, and whether somebody said so.
    memory_bytes: u64,
    is_memory_asked: bool,
    models: Vec<Model>,
    experiment: Experiment,
    prompts: Option<&'a PromptArgs>,
    bias: Bias,
}

/// A tower and what it is known by.
struct Model {
    tower: Tower,
    sha256: String,
    folder: PathBuf,
}

/// A tower under one condition of an experiment.
struct Case {
    condition: Condition,
    tower: Tower,
    settings: mc::Settings,
}

impl Ran {
    /// As people read it.
    pub(crate) fn title(&self) -> String {
        self.condition
            .as_ref()
            .map_or_else(|| self.name.clone(), |condition| format!("{}, {condition}", self.name))
    }
}

/// Classes of the images, and by model what they are to it.
struct Asking {
    classes: Classes,
    texts: Vec<Texts>,
}

/// Features of classes, by template.
struct Texts {
    features: Vec<Vec<Vec<f32>>>,
    likeness: Likeness,
}

/// The images that were chosen.
struct Chosen {
    files: Vec<PathBuf>,
    /// Found under the folder.
    found: usize,
    sampling: &'static str,
    failures: Vec<NotOk>,
}

/// What became of a model under one condition.
pub(crate) struct Ran {
    pub(crate) name: String,
    /// Of an experiment that has several.
    condition: Option<String>,
    /// Rows of an image.
    tokens: u64,
    pub(crate) outcome: Outcome,
    /// When a trial over an image ended.
    pub(crate) enough: Option<Enough>,
    pub(crate) tables: Vec<Table>,
}

/// Runs the command.
pub(crate) fn run(
    args: &McArgs,
    experiment: Experiment,
    prompts: Option<&PromptArgs>,
    settings: &Settings,
    output: &Output,
) -> Result<Exit, Failure> {
    let (started, stages) = (SystemTime::now(), Stages::start());
    let asked = Asked::resolve(args, experiment, prompts, settings, output)?;
    let chosen = Chosen::of(args, experiment, output)?;
    let roofs = roof::load_or_measure(&settings.profiles(), &asked.machine.cpu)?;
    std::fs::create_dir_all(&args.out).map_err(|error| Failure::io("create", &args.out, &error))?;
    let mut journal = Journal::open(&args.out.join("journal.sqlite"))?;
    let stop = signals_unix::stop_on_signals()?;
    let progress = Progress::default();
    let engine =
        Engine { asked: &asked, settings, output, stages: &stages, progress: &progress, stop: &stop };
    let file = args.out.join("progress.json");
    if args.plan {
        return engine.plan(&chosen, &mut journal);
    }
    let done =
        live::watch(JOB, &progress, &file, output, &stop, || engine.run(&chosen, &mut journal))?.result;
    let receipt = done.receipt(&asked, &chosen, started, &stages, &roofs);
    write_receipt(&receipt, &args.out, args.receipt.as_deref())?;
    let compared = summary::vision::compared(experiment, &done.results);
    if receipt.state == RunState::Finished && !done.images.is_empty() {
        let Done { ran, images, thumbnails, .. } = &done;
        let page = Page { receipt: &receipt, ran, images, thumbnails, compared: &compared };
        write_file(&args.out.join("report.html"), &page.html())?;
    }
    if receipt.state == RunState::Interrupted {
        output.note(INTERRUPTED);
    }
    if output.json() {
        output.json_document(&receipt)?;
    } else {
        output.data(&summary::vision::passes(&receipt, &done.ran, &compared, &args.out))?;
    }
    Ok(match receipt.state {
        RunState::Interrupted => Exit::Interrupted,
        _ if receipt.items.ok < receipt.items.total => Exit::SomeNotOk,
        _ => Exit::Ok,
    })
}

impl<'a> Asked<'a> {
    fn resolve(
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
    fn cases(&self, model: &Model) -> Result<Vec<Case>, Failure> {
        let sites = self.args.dropout.sites.clone().unwrap_or(Sites::Uniform);
        let rates = self.args.dropout.p_values.as_deref().unwrap_or(&RATES);
        let conditions = self.experiment.conditions(&model.tower.config, &sites, rates);
        let of = |condition: Condition| {
            let mut tower = model.tower.clone();
            tower.preprocess.treatment = condition.treatment;
            let settings = self.settings(&tower, &condition)?;
            Ok(Case { condition, tower, settings })
        };
        conditions.into_iter().map(of).collect()
    }

    fn target(&self) -> Option<Target> {
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
    fn fit(&self, case: &mut Case, model: &Model, images: &[Image]) -> Result<(), Failure> {
        let Case { tower, settings, .. } = case;
        let run = Run { tower, weights_sha256: &model.sha256, dtype: self.dtype, settings, images };
        settings.batch = match run.batch_within(self.memory_bytes, self.threads.get()) {
            Err(mc::McError::Memory { .. }) if !self.is_memory_asked => 1,
            fitting => fitting?,
        };
        Ok(())
    }

    fn load(&self, tower: &Tower, dtype: Dtype, sites: &[Site]) -> Result<ImageEncoder, VisionError> {
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
            return Err(Failure::new("--magnitude: elements fall out at a rate").hint("--dropout takes it"));
        }
        (Kind::Gaussian | Kind::Scale, Some(_), _) => {
            return Err(
                Failure::new("--dropout: noise falls out nowhere").hint("--magnitude says how strong it is")
            );
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

impl Chosen {
    fn of(args: &McArgs, experiment: Experiment, output: &Output) -> Result<Chosen, Failure> {
        let taken = &args.images_taken;
        if let Some(path) = &taken.manifest {
            let files: Vec<PathBuf> = Manifest::read(path)?.paths.into_iter().map(PathBuf::from).collect();
            return Ok(Chosen { found: files.len(), files, sampling: "manifest", failures: vec![] });
        }
        let found = images::find(&args.images)?;
        if found.images.is_empty() && found.failures.is_empty() {
            return Err(Failure::new(format!("no image in {}", args.images.display()))
                .hint("images are files named .jpg, .jpeg, .png, .bmp or .webp, also in folders below"));
        }
        let count = taken.num_images.map_or(experiment.num_images(), std::num::NonZeroUsize::get);
        let count = count.min(found.images.len());
        let usual = if args.seed_compat { SamplingArg::Numpy } else { SamplingArg::Classes };
        let sampling = taken.sampling.unwrap_or(usual);
        let chosen = match sampling {
            SamplingArg::Numpy => sample::as_numpy(found.images.len(), count, args.dropout.seed),
            SamplingArg::Classes => sample::by_class(&args.images, &found.images, count, args.dropout.seed),
        };
        let sampling = if sampling == SamplingArg::Numpy { "numpy" } else { "classes" };
        if chosen.len() < found.images.len() {
            output.note(&format!(
                "images: {} of {}, by {sampling}; --num-images takes another number",
                chosen.len(),
                found.images.len()
            ));
        }
        let failures = found.failures.iter().map(|(path, why)| NotOk {
            item: path.display().to_string(),
            verdict: Verdict::Failed.name().to_owned(),
            why: why.clone(),
        });
        Ok(Chosen {
            files: chosen.into_iter().map(|no| found.images[no].clone()).collect(),
            found: found.images.len(),
            sampling,
            failures: failures.collect(),
        })
    }
}

/// What a run works with.
struct Engine<'a> {
    asked: &'a Asked<'a>,
    settings: &'a Settings,
    output: &'a Output,
    stages: &'a Stages,
    progress: &'a Progress,
    stop: &'a Stop,
}

/// What came of a run.
#[derive(Default)]
struct Done {
    ran: Vec<Ran>,
    images: Vec<Image>,
    failures: Vec<NotOk>,
    notes: Vec<Note>,
    cache: CacheUse,
    bytes_read: u64,
    interrupted: bool,
    /// Of the last model's first condition.
    settings: Option<mc::Settings>,
    pilots: Vec<Pilot>,
    /// What the summary of all models says, by their names.
    results: Map<String, Value>,
    /// Pixels of the images that the report shows.
    thumbnails: HashMap<Hash, Rgb>,
}

impl Engine<'_> {
    fn run(&self, chosen: &Chosen, journal: &mut Journal) -> Result<Done, Failure> {
        let all: Vec<usize> = (0..chosen.files.len()).collect();
        let manifest = self.asked.args.out.join(self.asked.experiment.manifest());
        Manifest::of(&chosen.files, &all).write(&manifest)?;
        let mut done = Done { failures: chosen.failures.clone(), ..Done::default() };
        let mut gathered = self.gather(chosen, &mut done)?;
        done.sort_out(chosen, &gathered);
        done.interrupted = self.stop.requested();
        let mut results = Map::new();
        let asking = self.asking(chosen, &mut done)?;
        for (no, model) in self.asked.models.iter().enumerate() {
            if done.interrupted || done.images.is_empty() {
                break;
            }
            let asking = asking.as_ref().map(|asking| (asking, &asking.texts[no]));
            let found = self.model(model, asking, &mut done, &mut gathered, journal)?;
            results.insert(model.tower.name.clone(), found);
        }
        if !done.interrupted && !done.images.is_empty() {
            self.write_overall(&done, &results, asking.as_ref())?;
            done.results = results;
        }
        Ok(done)
    }

    /// Pixels of all images, for each preprocessing that is needed.
    fn gather(&self, chosen: &Chosen, done: &mut Done) -> Result<HashMap<Hash, Gathered>, Failure> {
        let worker = parse_worker()?;
        let folder = self.settings.pixel_cache();
        let (threads, memory_bytes) =
            decoders(self.asked.memory_bytes, self.asked.threads.get(), Limits::DEFAULT.memory_bytes);
        let decoders = Decoders {
            worker: (&worker.program, &worker.args),
            threads,
            memory_bytes,
            folder: &folder,
            cap_bytes: self.settings.cache_bytes(),
            stages: self.stages,
            stop: self.stop,
        };
        let mut gathered: HashMap<Hash, Gathered> = HashMap::new();
        for model in &self.asked.models {
            for Case { tower, .. } in self.asked.cases(model)? {
                let key = preprocess_hash(&tower.preprocess);
                if gathered.contains_key(&key) {
                    continue;
                }
                let one = gather(&chosen.files, &tower.preprocess, decoders)?;
                done.cache.hits += one.hits;
                done.cache.misses += one.misses;
                done.bytes_read += one.bytes_read;
                gathered.insert(key, one);
            }
        }
        Ok(gathered)
    }

    /// All conditions of a model, and what its summary says under `results`.
    fn model(
        &self,
        model: &Model,
        asking: Option<(&Asking, &Texts)>,
        done: &mut Done,
        gathered: &mut HashMap<Hash, Gathered>,
        journal: &mut Journal,
    ) -> Result<Value, Failure> {
        let images = done.images.clone();
        let mut cases = self.fitting(model, &images)?;
        if let Some(target) = self.asked.target() {
            let Some(pilot) = self.pilot(target, model, &cases, done, gathered, journal)? else {
                return Ok(Value::Null);
            };
            for Case { settings, .. } in &mut cases {
                settings.passes = vec![pilot.most()];
                settings.enough = Some(pilot.enough);
            }
            // Trials that end early hold their passes until then.
            cases.iter_mut().try_for_each(|case| self.asked.fit(case, model, &images))?;
        }
        done.settings = cases.first().map(|case| case.settings.clone());
        let runs: Vec<Run<'_>> = cases.iter().map(|case| self.of_case(model, case, &images)).collect();
        runs.iter().try_for_each(Run::check_sizes)?;
        let first = done.ran.len();
        for (case, run) in cases.iter().zip(&runs) {
            let Some(pixels) = gathered.get_mut(&preprocess_hash(&run.tower.preprocess)) else { continue };
            let load = |dtype, sites: &[Site]| self.asked.load(&model.tower, dtype, sites);
            let outcome = run.compute(&mut self.parts(journal, &mut pixels.cache, &load))?;
            done.interrupted = outcome.interrupted;
            let tables = if outcome.interrupted { vec![] } else { run.tables(journal, self.asked.bias)? };
            done.keep_thumbnails(&images, &tables, &run.tower.preprocess, &mut pixels.cache)?;
            let (name, tokens) = (model.tower.name.clone(), model.tower.config.tokens() as u64);
            let condition = (runs.len() > 1).then(|| case.condition.label.clone());
            let enough = case.settings.enough;
            done.ran.push(Ran { name, condition, tokens, outcome, enough, tables });
            if done.interrupted {
                return Ok(Value::Null);
            }
        }
        let folder = &model.folder;
        std::fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
        if let (Some(run), Some(ran), Some((asking, texts))) = (runs.first(), done.ran.get(first), asking) {
            return self.write_ambiguity(run, ran, (asking, texts), journal);
        }
        self.write(&cases, &runs, &done.ran[first..], journal, folder)
    }

    /// What images are compared with, and what each model makes of it; none where an experiment compares them with nothing.
    fn asking(&self, chosen: &Chosen, done: &mut Done) -> Result<Option<Asking>, Failure> {
        let Some(prompts) = self.asked.prompts else { return Ok(None) };
        let images = &self.asked.args.images;
        let classes = Classes::of(images, &chosen.files, prompts.class_map.as_deref())?;
        if let (Some(map), [first, ..]) = (&prompts.class_map, &classes.unused[..]) {
            let says = format!(
                "{} of its names are for folders that are not here, such as {first:?}",
                classes.unused.len()
            );
            done.notes.push(Note { item: map.display().to_string(), says });
        }
        let sentences = prompts.templates.prompts(&classes.names);
        let texts = self.asked.models.iter().map(|model| {
            let device = CpuDevice::new(self.asked.machine.cpu.isa, Dtype::F32, self.asked.threads);
            let captions = CaptionEncoder::load(&model.tower.folder, &device)?;
            if captions.dim() != model.tower.dim() {
                return Err(Failure::new(format!(
                    "{}: texts have {} numbers and images {}",
                    model.tower.name,
                    captions.dim(),
                    model.tower.dim()
                ))
                .hint("take a checkpoint whose towers were trained together"));
            }
            let features = sentences.iter().map(|sentences| captions.features(sentences));
            Ok(Texts { features: features.collect::<Result<_, _>>()?, likeness: captions.likeness() })
        });
        let texts = texts.collect::<Result<_, Failure>>()?;
        Ok(Some(Asking { classes, texts }))
    }

    /// `exp5_subset_{model}.npz` and its summary.
    fn write_ambiguity(
        &self,
        run: &Run<'_>,
        ran: &Ran,
        (asking, texts): (&Asking, &Texts),
        journal: &Journal,
    ) -> Result<Value, Failure> {
        let (Some(prompts), Some(table)) = (self.asked.prompts, ran.tables.last()) else {
            return Ok(Value::Null);
        };
        let mut features = Vec::with_capacity(run.images.len());
        for image in run.images {
            let missing = || mc::McError::Missing { path: image.path.clone(), trial: 0 };
            features.push(run.still(journal, &image.hash)?.ok_or_else(missing)?);
        }
        let found = Ambiguity::of(&features, &texts.features, texts.likeness);
        let of_folders = run.images.iter().map(|image| asking.classes.of_image(Path::new(&image.path)));
        let mut more = more(run, self.asked.bias, &ran.outcome.audit, ran.outcome.rounding.as_ref());
        more["templates"] = json!(prompts.templates.sentences());
        more["num_classes"] = json!(asking.classes.names.len());
        let study =
            Ambiguous { table, found: &found, truth: of_folders.collect(), quantile: prompts.quantile };
        Ok(run.write_ambiguity(&study, &self.asked.args.out, &more)?)
    }

    fn parts<'p>(
        &'p self,
        journal: &'p mut Journal,
        cache: &'p mut PixelCache,
        load: &'p Load<'p>,
    ) -> Parts<'p> {
        let (stages, progress, stop) = (self.stages, self.progress, self.stop);
        Parts { journal, cache, load, stages, progress, stop }
    }

    /// The number of passes that reaches a target; none where the pilot was stopped.
    fn pilot(
        &self,
        target: Target,
        model: &Model,
        cases: &[Case],
        done: &mut Done,
        gathered: &mut HashMap<Hash, Gathered>,
        journal: &mut Journal,
    ) -> Result<Option<Pilot>, Failure> {
        let Some(case) = cases.first() else { return Ok(None) };
        let Some(pixels) = gathered.get_mut(&preprocess_hash(&case.tower.preprocess)) else {
            return Ok(None);
        };
        let images = done.images.clone();
        let run = self.of_case(model, case, &images);
        let load = |dtype, sites: &[Site]| self.asked.load(&model.tower, dtype, sites);
        let (pilot, outcome) = run.pilot(target, &mut self.parts(journal, &mut pixels.cache, &load))?;
        let Some(pilot) = pilot else {
            done.interrupted = true;
            return Ok(None);
        };
        let passes = (pilot.passes * case.settings.trials * cases.len()) as f64 * images.len() as f64;
        let time = match outcome.passes {
            0 => String::new(),
            computed => format!(", about {}", duration(passes / (computed as f64 / outcome.compute_s))),
        };
        self.output.note(&format!(
            "pilot of {} images: {target} takes {} passes in {}{time}; each image stops when it has it",
            pilot.images, pilot.passes, model.tower.name
        ));
        done.pilots.push(pilot.clone());
        Ok(Some(pilot))
    }

    /// Says what the run would take.
    fn plan(&self, chosen: &Chosen, journal: &mut Journal) -> Result<Exit, Failure> {
        let mut done = Done::default();
        let mut gathered = self.gather(chosen, &mut done)?;
        done.sort_out(chosen, &gathered);
        let mut plans = vec![];
        for model in &self.asked.models {
            for case in &self.fitting(model, &done.images)? {
                let run = self.of_case(model, case, &done.images);
                run.check_sizes()?;
                let Some(pixels) = gathered.get_mut(&preprocess_hash(&case.tower.preprocess)) else {
                    continue;
                };
                let load = |dtype, sites: &[Site]| self.asked.load(&model.tower, dtype, sites);
                plans.extend(run.plan(&mut self.parts(journal, &mut pixels.cache, &load))?);
            }
        }
        if self.stop.requested() {
            return Ok(Exit::Interrupted);
        }
        if self.output.json() {
            let (ok, not_ok) = (done.images.len(), done.failures.len());
            self.output.json_document(
                &json!({"schema": PLAN_SCHEMA, "images": ok, "not_ok": not_ok, "plans": plans}),
            )?;
        } else {
            self.output.data(&summary::vision::plans(&plans, done.failures.len()))?;
        }
        Ok(Exit::Ok)
    }

    /// What the experiment compares of a model, with batches that fit.
    fn fitting(&self, model: &Model, images: &[Image]) -> Result<Vec<Case>, Failure> {
        let mut cases = self.asked.cases(model)?;
        cases.iter_mut().try_for_each(|case| self.asked.fit(case, model, images))?;
        Ok(cases)
    }

    fn of_case<'r>(&self, model: &'r Model, case: &'r Case, images: &'r [Image]) -> Run<'r> {
        Run {
            tower: &case.tower,
            weights_sha256: &model.sha256,
            dtype: self.asked.dtype,
            settings: &case.settings,
            images,
        }
    }

    /// The files of a model.
    fn write(
        &self,
        cases: &[Case],
        runs: &[Run<'_>],
        ran: &[Ran],
        journal: &Journal,
        folder: &Path,
    ) -> Result<Value, Failure> {
        let (Some(run), Some(Ran { outcome, tables, .. })) = (runs.first(), ran.first()) else {
            return Ok(Value::Null);
        };
        let more = more(run, self.asked.bias, &outcome.audit, outcome.rounding.as_ref());
        if let ([_], Some(longest)) = (runs, tables.last()) {
            run.write_moments(journal, longest, folder)?;
            if run.settings.keep.passes {
                run.write_passes(journal, longest, &folder.join("features"))?;
            }
        }
        let geometry = runs.iter().map(|run| run.geometry(journal)).collect::<Result<Vec<_>, _>>()?;
        let found: Vec<Found<'_>> = cases
            .iter()
            .zip(ran)
            .zip(&geometry)
            .filter_map(|((case, ran), geometry)| {
                Some(Found {
                    condition: &case.condition,
                    table: ran.tables.last()?,
                    sites: ran.outcome.audit.iter().map(|audited| audited.site.as_str()).collect(),
                    geometry: geometry.as_deref(),
                })
            })
            .collect();
        Ok(match (self.asked.experiment, found.first()) {
            (Experiment::Exp0b, Some(found)) => run.write_geometry(found, folder, &more)?,
            (Experiment::Exp4, Some(found)) => run.write_recipe(found, &self.asked.args.out)?,
            (Experiment::Exp6, _) => run.write_convergence(tables, folder, &more)?,
            (Experiment::Exp1, _) => run.write_rates(&found, folder, &more)?,
            (Experiment::Exp3, _) => run.write_types(&found, folder, &more)?,
            (Experiment::Ablation, _) => run.write_ablation(&found, folder, &more)?,
            _ => run.write_trials(tables, folder, &more)?,
        })
    }

    /// All models side by side.
    fn write_overall(
        &self,
        done: &Done,
        results: &Map<String, Value>,
        asking: Option<&Asking>,
    ) -> Result<(), Failure> {
        let Some(settings) = &done.settings else { return Ok(()) };
        let mut document = overall(self.asked.experiment, settings, done.images.len(), results.clone());
        if let (Some(asking), Some(prompts)) = (asking, self.asked.prompts) {
            document["templates"] = json!(prompts.templates.sentences());
            document["num_classes"] = json!(asking.classes.names.len());
        }
        let name = match self.asked.experiment {
            Experiment::Mc | Experiment::Exp0 => "exp0_overall_summary.json",
            Experiment::Exp1 => "exp1_overall_summary.json",
            Experiment::Exp4 => "exp4_subset_summary.json",
            Experiment::Exp3 => "exp3_overall_summary.json",
            Experiment::Exp5 => "exp5_subset_overall_summary.json",
            Experiment::Exp6 => "exp6_overall_summary.json",
            Experiment::Ablation => "ablation_overall_summary.json",
            // It has one model, whose summary says all.
            Experiment::Exp0b => return Ok(()),
        };
        Ok(write_json(&self.asked.args.out.join(name), &document)?)
    }
}

impl Done {
    /// Keeps the pixels of the most and the least certain images, made small.
    fn keep_thumbnails(
        &mut self,
        images: &[Image],
        tables: &[Table],
        preprocess: &Preprocess,
        cache: &mut PixelCache,
    ) -> Result<(), Failure> {
        let Some(table) = tables.last() else { return Ok(()) };
        let order = by_certainty(table);
        let shown = SHOWN.min(order.len());
        for &no in order[..shown].iter().chain(&order[order.len() - shown..]) {
            let hash = images[no].hash;
            let (mut pixels, (width, height)) = (vec![], preprocess.sides());
            if self.thumbnails.contains_key(&hash)
                || !cache.read(&hash, &mut pixels).map_err(mc::McError::from)?
            {
                continue;
            }
            let image = Rgb { width, height, pixels };
            let small = resize(&image, Filter::Bilinear, Window::whole(THUMBNAIL_SIDE, THUMBNAIL_SIDE));
            self.thumbnails.extend(small.map(|small| (hash, small)));
        }
        Ok(())
    }

    /// Which images are ok for every model, why others are not, and which are the same.
    fn sort_out(&mut self, chosen: &Chosen, gathered: &HashMap<Hash, Gathered>) {
        let mut first_of: HashMap<Hash, &Path> = HashMap::new();
        for (no, file) in chosen.files.iter().enumerate() {
            let path = file.display().to_string();
            // A stop leaves the rest without a verdict.
            let Some(found) = gathered.values().map(|one| one.images.get(no)).collect::<Option<Vec<_>>>()
            else {
                break;
            };
            if let Some(failure) = found.iter().find_map(|one| one.as_ref().err()) {
                let (verdict, why) = (failure.verdict.name().to_owned(), failure.why.clone());
                self.failures.push(NotOk { item: path, verdict, why });
                continue;
            }
            let Some(Ok(hash)) = found.first().map(|one| one.as_ref()) else { continue };
            if let Some(first) = first_of.get(hash) {
                let says = format!("the same bytes as {}: computed once", first.display());
                self.notes.push(Note { item: path.clone(), says });
            } else {
                first_of.insert(*hash, file);
            }
            self.images.push(Image { path, hash: *hash });
        }
    }

    fn receipt(
        &self,
        asked: &Asked<'_>,
        chosen: &Chosen,
        started: SystemTime,
        stages: &Stages,
        roofs: &roof::Roofs,
    ) -> Receipt {
        let seconds = stages.elapsed().as_secs_f64();
        let sum = |of: fn(&Outcome) -> u64| self.ran.iter().map(|ran| of(&ran.outcome)).sum::<u64>();
        let (passes, flops) = (sum(|outcome| outcome.passes), sum(|outcome| outcome.flops));
        let rate = self.rate(asked, passes, flops, roofs);
        let device = match flops {
            0 => asked.machine.verdict.clone(),
            _ => asked.machine.verdict.clone().with_measured_rate(rate.gflops, asked.dtype, roofs),
        };
        let tokens = self.ran.iter().map(|ran| (ran.outcome.passes + ran.outcome.prefixes) * ran.tokens);
        Receipt {
            schema: SCHEMA.to_owned(),
            job: JOB.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: clock::hostname(),
            state: if self.interrupted { RunState::Interrupted } else { RunState::Finished },
            started: clock::rfc3339_utc(started),
            finished: clock::rfc3339_utc(SystemTime::now()),
            seconds,
            settings: self.settings_shown(asked, chosen),
            device,
            model: asked.models.first().map(|model| model_use(asked, model, self.ran.first())),
            items: self.items(chosen),
            work: Work { tokens: tokens.sum(), flops, bytes_read: self.bytes_read },
            calls: None,
            sent: None,
            passes: vec![],
            rate,
            stages: stages.accounts(),
            quality: self.quality(),
            truncated: Truncated::default(),
            cache: self.cache,
            memory: MemoryUse { peak_rss: memory::peak_rss_bytes(), device_peak: None },
            forecast: None,
            failures: self.failures.clone(),
            notes: self.notes.clone(),
        }
    }

    fn items(&self, chosen: &Chosen) -> Items {
        let mut by_verdict: BTreeMap<String, u64> = BTreeMap::new();
        for failure in &self.failures {
            *by_verdict.entry(failure.verdict.clone()).or_default() += 1;
        }
        let ok = self.images.len() as u64;
        if ok > 0 {
            by_verdict.insert(Verdict::Ok.name().to_owned(), ok);
        }
        // Images whose every result was there, for every model.
        let reused = self.ran.iter().map(|ran| ran.outcome.reused_images).min().unwrap_or(0);
        let total = (chosen.files.len() + chosen.failures.len()) as u64;
        Items { total, ok, by_verdict, reused, ..Items::default() }
    }

    #[expect(clippy::cast_precision_loss, reason = "rates are for people; exact to 2^53")]
    fn rate(&self, asked: &Asked<'_>, passes: u64, flops: u64, roofs: &roof::Roofs) -> Speed {
        let compute_s: f64 = self.ran.iter().map(|ran| ran.outcome.compute_s).sum();
        let per_s = |count: u64| if compute_s > 0.0 { count as f64 / compute_s } else { 0.0 };
        let gflops = per_s(flops) / 1e9;
        let tokens: u64 = self.ran.iter().map(|ran| ran.outcome.passes * ran.tokens).sum();
        Speed {
            items_per_s: per_s(passes),
            unit: "image pass".to_owned(),
            tokens_per_s: per_s(tokens),
            gflops,
            roof_gflops: roofs.gflops.clone(),
            percent_of_roof: 100.0 * gflops / roofs.of(asked.dtype),
        }
    }

    /// Of the model whose dtype costs most.
    fn quality(&self) -> Option<Quality> {
        let all = self.ran.iter().filter_map(|ran| Some((ran.outcome.rounding.as_ref()?, ran.tokens)));
        let (rounding, tokens) = all.min_by(|a, b| a.0.cosine.total_cmp(&b.0.cosine))?;
        Some(Quality {
            against: Dtype::F32.name().to_owned(),
            metric: "cosine".to_owned(),
            delta: 1.0 - rounding.cosine,
            cosine_min: rounding.cosine_min,
            top10_overlap: None,
            texts: (rounding.images * rounding.passes) as u64,
            text_tokens_max: tokens,
            seconds: rounding.seconds,
        })
    }

    fn settings_shown(&self, asked: &Asked<'_>, chosen: &Chosen) -> Value {
        let Asked { args, models, .. } = asked;
        let shown = self.settings.as_ref().map(|settings| {
            json!({
                "sites": settings.sites.to_string(), "dropout": settings.dropout(), "trials": settings.trials,
                "perturbation": settings.perturbation.to_string(), "shared_masks": settings.shared_masks,
                "passes": settings.passes, "nested": settings.nested, "seed": settings.seed,
                "batch": settings.batch,
            })
        });
        let models: Vec<Value> = models
            .iter()
            .map(|model| {
                json!({"name": model.tower.name, "sha256": model.sha256, "image_size": model.tower.config.image_size,
                       "dim": model.tower.dim(), "preprocess": model.tower.preprocess})
            })
            .collect();
        let conditions = self.ran.iter().filter_map(|ran| ran.condition.as_ref()).collect::<Vec<_>>();
        let rounding = self.ran.iter().map(|ran| &ran.outcome.rounding).collect::<Vec<_>>();
        json!({
            "experiment": asked.experiment.name(), "images": args.images, "found": chosen.found, "sampling": chosen.sampling,
            "manifest": args.images_taken.manifest, "models": models, "passes": shown, "dtype": asked.dtype.name(),
            "threads": asked.threads, "ddof": asked.bias.ddof(), "gram": args.gram, "save_passes": args.save_passes,
            "as_they_ran": args.as_they_ran, "conditions": conditions, "pilots": self.pilots, "rounding": rounding, "reused_passes": self.ran.iter().map(|ran| ran.outcome.reused_passes).sum::<u64>(),
            "prefixes": self.ran.iter().map(|ran| ran.outcome.prefixes).sum::<u64>(),
        })
    }
}

fn model_use(asked: &Asked<'_>, model: &Model, ran: Option<&Ran>) -> ModelUse {
    ModelUse {
        id: model.tower.name.clone(),
        sha256: model.sha256.clone(),
        dtype: asked.dtype.name().to_owned(),
        pooling: match model.tower.config.head {
            haul_encoder::model::vision::VisionHead::Class { .. } => "class",
            haul_encoder::model::vision::VisionHead::Probe => "probe",
        }
        .to_owned(),
        dim: model.tower.dim(),
        max_tokens: model.tower.config.tokens(),
        loads: ran.map_or(0, |ran| ran.outcome.loads),
    }
}
