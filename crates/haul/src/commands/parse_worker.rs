//! `haul parse-worker`: the process in which hostile files are parsed. Started by `haul ingest`.

use std::io;

use haul_corpus::worker;

use crate::Exit;
use crate::output::Output;

/// Serves requests on stdin until it ends.
pub(crate) fn run(output: &Output) -> Exit {
    match worker::serve(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            output.failure(&error.into());
            Exit::CouldNotRun
        }
    }
}
