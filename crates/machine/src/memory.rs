//! Main memory: what there is, what is free, what this process holds.

use crate::memory_unix;
use serde::Serialize;
use std::path::PathBuf;

/// Main memory of the machine and the limit set on this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Installed.
    pub total_bytes: u64,
    /// What the system could hand out without swapping, whatever the limit says.
    pub available_bytes: u64,
    /// The smallest cgroup limit above this process, if one is set.
    pub limit_bytes: Option<u64>,
}

/// Why memory could not be asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The system's file did not open.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system's file lacks a number.
    #[error("{}: no line `{field}: <number> kB`", path.display())]
    Field {
        /// Which file.
        path: PathBuf,
        /// The line looked for.
        field: &'static str,
    },
}

/// Asks the operating system.
pub fn probe() -> Result<Memory, MemoryError> {
    memory_unix::probe()
}

/// The most memory this process has held at once, in bytes; `None` where the system does not tell.
pub fn peak_rss_bytes() -> Option<u64> {
    memory_unix::status_bytes("VmHWM")
}

/// Memory this process holds now, in bytes; `None` where the system does not tell.
pub fn rss_bytes() -> Option<u64> {
    memory_unix::status_bytes("VmRSS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_hang_together() {
        let memory = probe().unwrap();
        assert!(memory.available_bytes > 0 && memory.available_bytes <= memory.total_bytes);
        assert!(memory.limit_bytes.is_none_or(|limit| limit > 0));
        let (now, peak) = (rss_bytes().unwrap(), peak_rss_bytes().unwrap());
        assert!(now > 100_000 && peak >= now / 2 && peak < memory.total_bytes, "{now} {peak}");
    }

    #[test]
    fn holding_memory_shows() {
        const HELD_BYTES: u64 = 64 << 20;
        let before = rss_bytes().unwrap();
        let held = vec![1_u8; HELD_BYTES as usize];
        let after = rss_bytes().unwrap();
        assert!(after >= before + HELD_BYTES * 9 / 10, "{before} {after}");
        assert!(peak_rss_bytes().unwrap() >= after);
        assert_eq!(std::hint::black_box(held)[1], 1);
    }
}
