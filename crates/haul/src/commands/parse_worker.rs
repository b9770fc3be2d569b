//! `haul parse-worker`: the process in which hostile files are parsed. Started by `haul ingest`.

use std::io;

use haul_corpus::worker;

use crate::Exit;
use crate::failure::Failure;

/// Serves requests on stdin until it ends.
pub(crate) fn run() -> Result<Exit, Failure> {
    worker::serve(io::stdin().lock(), io::stdout().lock())?;
    Ok(Exit::Ok)
}
