//! What the operating system knows of this process: its memory, and its standard output.

use std::fs::File;
use std::io;

/// Resident bytes, from `/proc/self/statm`; 0 where the system does not say.
pub(crate) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.map_or(0, |pages| pages * rustix::param::page_size() as u64)
}

/// What stdout is now. From then on whatever writes to stdout writes to stderr.
pub(crate) fn take_stdout() -> io::Result<File> {
    let file = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(file)
}
