//! How a worker is started on Unix, and how it ended.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// Gives a process a group of its own, so that signals of the terminal do not reach it.
pub(crate) fn away_from_signals(command: &mut Command) {
    command.process_group(0);
}

/// Whether somebody else ended a process: a user, or the system where memory is short.
pub(crate) fn is_killed(status: ExitStatus) -> bool {
    matches!(status.signal(), Some(SIGKILL | SIGTERM))
}
