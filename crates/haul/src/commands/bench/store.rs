//! `haul bench store`: a library of many vectors, made, opened, searched and removed.

use std::num::NonZeroUsize;

use haul_jobs::bench::store::{self as bench, Report, Settings as Job};
use serde::Serialize;

use crate::cli::bench::BenchStoreArgs;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::summary::store_bench;
use crate::{Exit, signals_unix};

/// Name and version of the JSON document.
const SCHEMA: &str = "haul.bench.store/1";

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    machine: Machine<'a>,
    #[serde(flatten)]
    report: &'a Report,
}

#[derive(Serialize)]
struct Machine<'a> {
    cpu: &'a str,
    cores: usize,
    isa: &'static str,
}

/// Runs the command.
pub(crate) fn run(args: &BenchStoreArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let cpu = settings.cpu();
    let job = Job {
        rows: args.rows,
        dim: args.dim as usize,
        queries: args.queries as usize,
        threads: args.threads.map_or(cpu.cores, NonZeroUsize::get),
        folder: args.scratch.clone().unwrap_or_else(std::env::temp_dir),
    };
    let stop = signals_unix::stop_on_signals()?;
    output.note(&format!("making a library in {}; Ctrl-C ends it and removes it", job.folder.display()));
    let Some(report) = bench::run(&job, &cpu, &stop)? else { return Ok(Exit::Interrupted) };
    if output.json() {
        let machine = Machine { cpu: &cpu.name, cores: cpu.cores, isa: cpu.isa.name() };
        output.json_document(&Document { schema: SCHEMA, machine, report: &report })?;
    } else {
        output.data(&store_bench::report(&report, &cpu))?;
    }
    Ok(Exit::Ok)
}
