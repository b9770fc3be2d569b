//! How a worker is started on Unix.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Gives a process a group of its own, so that signals of the terminal do not reach it.
pub(crate) fn away_from_signals(command: &mut Command) {
    command.process_group(0);
}
