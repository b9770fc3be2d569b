//! Ctrl-C, SIGTERM and SIGHUP ask the run to stop; a second Ctrl-C ends the process at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use haul_pipeline::stage::Stop;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

use crate::failure::Failure;

const EXIT_INTERRUPTED: i32 = 130;

/// A write beyond the limit on file sizes fails with an error that is reported, instead of ending the process.
pub(crate) fn survive_file_size_limit() -> Result<(), Failure> {
    match flag::register(SIGXFSZ, Arc::default()) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(format!("cannot install signal handlers: {error}"))),
    }
}

/// Installs the handlers and gives the request they set.
pub(crate) fn stop_on_signals() -> Result<Stop, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let failed = |error| Failure::new(format!("cannot install signal handlers: {error}"));
    // Registered first, so that the first signal finds the flag unset and only the second one exits.
    flag::register_conditional_shutdown(SIGINT, EXIT_INTERRUPTED, Arc::clone(&flag)).map_err(failed)?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register(signal, Arc::clone(&flag)).map_err(failed)?;
    }
    Ok(Stop::from_flag(flag))
}
