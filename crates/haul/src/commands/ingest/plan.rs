//! `haul ingest --plan`: what the run will take, and nothing else.

use std::path::Path;

use haul_corpus::limits::Limits;
use haul_corpus::readers::Readers;
use haul_encoder::embedder::LoadError;
use haul_encoder::weights::Weights;
use haul_jobs::ingest::plan::{self, Plan, Scratch};
use haul_jobs::ingest::{Inputs, Parts};
use haul_machine::roof;
use haul_pipeline::cache::Cache;
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::{Stages, Stop};
use haul_store::library::{Library, free_bytes};

use super::{Target, Wanted, job_settings, memory_bytes, parse_worker, run_folder, wanted};
use crate::cli::ingest::IngestArgs;
use crate::commands::scratch::ScratchFolder;
use crate::commands::{Machine, outputs_of};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Compute, Settings};
use crate::{Exit, summary, traces};

/// What the command line asks for.
pub(crate) struct Asked<'a> {
    pub(crate) args: &'a IngestArgs,
    pub(crate) settings: &'a Settings,
    pub(super) target: &'a Target<'a>,
    pub(crate) compute: Compute,
    pub(crate) inputs: &'a Inputs,
    pub(crate) readers: &'a Readers,
    pub(crate) stop: &'a Stop,
}

/// Tries a sample in a scratch folder, which is gone afterwards, and prints what the run will take.
pub(crate) fn run(
    asked: &Asked<'_>,
    machine: &Machine,
    stages: &Stages,
    output: &Output,
) -> Result<Exit, Failure> {
    let Asked { args, settings, target, .. } = *asked;
    let store = &target.store;
    let library = if store.exists() { Some(Library::open_read_only(store)?) } else { None };
    let stored = library.as_ref().map(Library::settings);
    let wanted = wanted(args, settings, target, machine, output, stored)?;
    Weights::open(wanted.model.weights_file()).map_err(LoadError::from)?;
    // Measured once a machine: a run after this does not have to.
    roof::load_or_measure(&settings.profiles(), &machine.cpu)?;
    let run_folder = run_folder(target.named())?;
    let scratch = ScratchFolder::make(run_folder.join("plan"))?;
    output.note("trying a sample of the files; Ctrl-C ends it");
    let sha256 = &wanted.library.model_sha256;
    let compute = machine.tuned(asked.compute, sha256, wanted.dtype, settings, output);
    let asked = &Asked { compute, ..*asked };
    let (plan, about) = plan_in(&scratch.0, asked, machine, stages, &wanted, library.as_ref())?;
    if asked.stop.requested() {
        return Ok(Exit::Interrupted);
    }
    traces::keep_plan(&run_folder, about, &plan)?;
    if output.json() {
        output.json_document(&plan)?;
    } else {
        let free = free_bytes(store).map_err(|error| Failure::io("look at the disk of", store, &error))?;
        output.data(&summary::plan(&plan, free))?;
    }
    Ok(Exit::Ok)
}

fn plan_in(
    scratch: &Path,
    asked: &Asked<'_>,
    machine: &Machine,
    stages: &Stages,
    wanted: &Wanted,
    library: Option<&Library>,
) -> Result<(Plan, traces::About), Failure> {
    let Asked { args, settings, target, compute, inputs, readers, stop } = *asked;
    let store = &target.store;
    let mut job = job_settings(args, &wanted.library, wanted.dtype, compute, machine)?;
    job.memory_bytes = memory_bytes(settings.memory(args.run.memory)?, &wanted.model, &job)?;
    let (cache, journal) =
        (Cache::open(&scratch.join("cache"), 0)?, Journal::open(&scratch.join("journal.sqlite"))?);
    let worker = parse_worker()?;
    let options = outputs_of(&wanted.library);
    let load = |dtype| machine.load(&wanted.model, &options, dtype, compute.threads);
    let parts = Parts {
        library: &mut Library::create(&scratch.join("sample.haul"), &wanted.library)?,
        publisher: None,
        model: &wanted.model,
        load: &load,
        compute_threads: compute.threads.get(),
        worker: &worker,
        limits: &Limits::DEFAULT,
        readers,
        prefetch_folder: &scratch.join("prefetch"),
        cache: &cache,
        journal,
        stages,
        progress: &Progress::default(),
        stop,
    };
    let manifest = library.map_or_else(|| Ok(vec![]), Library::manifest)?;
    let library = store.canonicalize().unwrap_or_else(|_| store.to_owned());
    let asked_about = Scratch { manifest, library: &library, folder: scratch, cores: machine.cpu.cores };
    let plan = plan::plan(&job, inputs, asked_about, parts)?;
    let fingerprint = wanted.library.fingerprint();
    let about = traces::About::new(&job, &fingerprint, (plan.files.to_read, plan.bytes));
    Ok((plan, about))
}
