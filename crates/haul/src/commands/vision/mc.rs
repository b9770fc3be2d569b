//! `haul vision mc`: resolves everything, runs the towers over the images, writes what was found.

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use haul_corpus::image::Rgb;
use haul_corpus::image::preprocess::Preprocess;
use haul_corpus::image::resize::{Filter, Window, resize};
use haul_corpus::limits::Limits;
use haul_corpus::pixels::{Hash, PixelCache};
use haul_encoder::captions::{CaptionEncoder, Likeness};
use haul_encoder::device::cpu::CpuDevice;
use haul_encoder::model::vision::Site;
use haul_jobs::vision::classes::{Ambiguity, Classes};
use haul_jobs::vision::experiment::Experiment;
use haul_jobs::vision::images::Manifest;
use haul_jobs::vision::mc::files::{Table, more, overall, write_json};
use haul_jobs::vision::mc::pixels::{Decoders, Gathered, gather, preprocess_hash};
use haul_jobs::vision::mc::room::decoders;
use haul_jobs::vision::mc::stopping::Enough;
use haul_jobs::vision::mc::studies::{Ambiguous, Found};
use haul_jobs::vision::mc::{self, Image, Load, Outcome, Parts, Pilot, Run, Target};
use haul_jobs::vision::tower::Tower;
use haul_machine::dtype::Dtype;
use haul_machine::roof;
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::receipt::{CacheUse, Failure as NotOk, Note, RunState};
use haul_pipeline::stage::{Stages, Stop};
use serde_json::{Map, Value, json};

use crate::cli::vision::{McArgs, PromptArgs};
use crate::commands::calls::INTERRUPTED;
use crate::commands::ingest::parse_worker;
use crate::commands::receipt::{self as receipts, Job};
use crate::failure::Failure;
use crate::output::Output;
use crate::report::sheet::write_file;
use crate::report::vision::{Page, SHOWN, by_certainty};
use crate::settings::Settings;
use crate::summary::duration;
use crate::{Exit, live, signals_unix, summary};
use asked::{Asked, Case, Model};
use chosen::Chosen;

mod asked;
mod chosen;
mod receipt;

const JOB: &str = "vision";
/// Name and version of the document of `--plan`.
const PLAN_SCHEMA: &str = "haul.vision_plan/1";
/// Pixels of a side of an image in the report.
const THUMBNAIL_SIDE: u32 = 96;
/// How the names of arrays that runs leave begin.
const RESULTS: [&str; 3] = ["mc.", "exp", "ablation_"];

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

impl Ran {
    /// As people read it.
    pub(crate) fn title(&self) -> String {
        self.condition
            .as_ref()
            .map_or_else(|| self.name.clone(), |condition| format!("{}, {condition}", self.name))
    }
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
    receipts::check(args.receipt.as_deref())?;
    // A folder without images is said before weights are read.
    let chosen = Chosen::of(args, experiment, output)?;
    let asked = Asked::resolve(args, experiment, prompts, settings, output)?;
    let roofs = roof::load_or_measure(&settings.profiles(), &asked.machine.cpu)?;
    let stop = signals_unix::stop_on_signals()?;
    let progress = Progress::default();
    let engine =
        Engine { asked: &asked, settings, output, stages: &stages, progress: &progress, stop: &stop };
    if args.plan {
        return engine.plan(&chosen);
    }
    std::fs::create_dir_all(&args.out).map_err(|error| Failure::io("create", &args.out, &error))?;
    let mut journal = Journal::open(&args.out.join("journal.sqlite"))?;
    let (device, receipt_file) = (asked.machine.request, args.receipt.as_deref());
    let job = Job { name: JOB, started, device, out: Some(&args.out), receipt: receipt_file };
    job.begin()?;
    let file = args.out.join("progress.json");
    let watched = live::watch(JOB, &progress, &file, output, &stop, || engine.run(&chosen, &mut journal));
    let mut done = job.ended(watched, output)?.result;
    if !done.interrupted {
        for folder in asked.folders() {
            let left = receipts::left_by_others(folder, started, is_result);
            done.notes.extend(job.ended(left, output)?);
        }
    }
    let receipt = done.receipt(&asked, &chosen, started, &stages, &roofs);
    let compared = summary::vision::compared(experiment, &done.results);
    if receipt.state == RunState::Finished && !done.images.is_empty() {
        let Done { ran, images, thumbnails, .. } = &done;
        let page = Page { receipt: &receipt, ran, images, thumbnails, compared: &compared };
        job.ended(write_file(&args.out.join("report.html"), &page.html()), output)?;
    }
    receipts::write(&receipt, &args.out, receipt_file)?;
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

fn is_result(name: &str) -> bool {
    RESULTS.iter().any(|begin| name.starts_with(begin)) && name.ends_with(".npz")
}

/// The pixels that a tower sees.
fn pixels_of<'g>(gathered: &'g mut HashMap<Hash, Gathered>, tower: &Tower) -> &'g mut PixelCache {
    let gathered = gathered.get_mut(&preprocess_hash(&tower.preprocess));
    &mut gathered.expect("images were gathered for every tower").cache
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
            let pixels = pixels_of(gathered, run.tower);
            let load = |dtype, sites: &[Site]| self.asked.load(&model.tower, dtype, sites);
            let outcome = run.compute(&mut self.parts(journal, pixels, &load))?;
            done.interrupted = outcome.interrupted;
            let tables = if outcome.interrupted { vec![] } else { run.tables(journal, self.asked.bias)? };
            done.keep_thumbnails(&images, &tables, &run.tower.preprocess, pixels)?;
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
        let pixels = pixels_of(gathered, &case.tower);
        let images = done.images.clone();
        let run = self.of_case(model, case, &images);
        let load = |dtype, sites: &[Site]| self.asked.load(&model.tower, dtype, sites);
        let (pilot, outcome) = run.pilot(target, &mut self.parts(journal, pixels, &load))?;
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
    fn plan(&self, chosen: &Chosen) -> Result<Exit, Failure> {
        let mut done = Done::default();
        let mut gathered = self.gather(chosen, &mut done)?;
        done.sort_out(chosen, &gathered);
        let mut plans = vec![];
        for model in &self.asked.models {
            for case in &self.fitting(model, &done.images)? {
                let run = self.of_case(model, case, &done.images);
                run.check_sizes()?;
                let pixels = pixels_of(&mut gathered, &case.tower);
                let load = |dtype, sites: &[Site]| self.asked.load(&model.tower, dtype, sites);
                plans.extend(run.plan(&load, pixels, self.stop)?);
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
        Ok(if done.failures.is_empty() { Exit::Ok } else { Exit::SomeNotOk })
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
}
