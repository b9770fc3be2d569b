//! The `haul` binary: command line in, one of the jobs, one answer on stdout, an exit code out.
//!
//! `cli` is what can be typed, `settings` resolves it with the environment and `haul.toml`, `commands` has one
//! file for each command, `output` owns stdout and stderr. Exit codes: 0 all items ok, 1 some items not ok,
//! 2 could not run, 130 interrupted.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod failure;
mod home_unix;
mod live;
mod output;
mod readers;
mod report;
mod settings;
mod signals_unix;
mod summary;
mod traces;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use failure::Failure;
use output::Output;
use settings::Settings;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(&cli.global);
    // A worker is told everything by the process that starts it, and reads nobody's settings.
    if let Command::ParseWorker = cli.command {
        return ExitCode::from(commands::parse_worker::run(&output).code());
    }
    let resolved = signals_unix::survive_file_size_limit().and_then(|()| Settings::resolve(&cli.global));
    let exit = match resolved.and_then(|settings| run(cli.command, &settings, &output)) {
        Ok(exit) => exit,
        Err(failure) => {
            output.failure(&failure);
            failure.exit()
        }
    };
    ExitCode::from(exit.code())
}

fn run(command: Command, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    match command {
        Command::Ingest(args) => commands::ingest::run(&args, settings, output),
        Command::Report(args) => commands::report::run(&args, settings, output),
        Command::Search(args) => commands::search::run(&args, settings, output),
        Command::Eval(args) => commands::eval::run(&args, settings, output),
        Command::Embed(args) => commands::embed::run(&args, settings, output),
        Command::Extract(args) => commands::extract::run(&args, settings, output),
        Command::Correct(args) => commands::correct::run(&args, settings, output),
        Command::Generate(args) => commands::generate::run(&args, settings, output),
        Command::Store(command) => commands::store::run(&command, settings, output),
        Command::Model(command) => commands::model::run(&command, settings, output),
        Command::Bench(command) => commands::bench::run(&command, settings, output),
        Command::Schema(command) => commands::schema::run(&command, settings, output),
        Command::Records(command) => commands::records::run(&command, output),
        Command::Vision(command) => commands::vision::run(&command, settings, output),
        Command::Compare(args) => commands::compare::run(&args, settings, output),
        Command::Tune(args) => commands::tune::run(&args, settings, output),
        Command::Doctor(args) => commands::doctor::run(&args, settings, output),
        Command::ParseWorker => Ok(commands::parse_worker::run(output)),
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All items are ok.
    Ok,
    /// Finished; some items are not ok, and are listed.
    SomeNotOk,
    /// Usage, device, model or store: nothing was done, or no further.
    CouldNotRun,
    /// Stopped by a signal; a rerun goes on.
    Interrupted,
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::SomeNotOk => 1,
            Exit::CouldNotRun => 2,
            Exit::Interrupted => 130,
        }
    }
}
