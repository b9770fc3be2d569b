//! Memory from `/proc` and the cgroup files.

use crate::memory::{Memory, MemoryError};
use std::path::{Path, PathBuf};

const MEMINFO: &str = "/proc/meminfo";

pub(crate) fn probe() -> Result<Memory, MemoryError> {
    let meminfo = std::fs::read_to_string(MEMINFO)
        .map_err(|source| MemoryError::Read { path: MEMINFO.into(), source })?;
    let field = |field| kib_field(&meminfo, field).ok_or(MemoryError::Field { path: MEMINFO.into(), field });
    let (total_bytes, available_bytes) = (field("MemTotal")?, field("MemAvailable")?);
    Ok(Memory { total_bytes, available_bytes, limit_bytes: limit_bytes(total_bytes) })
}

/// A field of `/proc/self/status`, in bytes.
pub(crate) fn status_bytes(field: &str) -> Option<u64> {
    kib_field(&std::fs::read_to_string("/proc/self/status").ok()?, field)
}

/// Bytes of the line `field:  <number> kB`.
fn kib_field(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit of this process's cgroup and those above it. No cgroup files means no limit; a limit
/// above the installed memory (version 1 writes a huge number for "none") is none either.
fn limit_bytes(total_bytes: u64) -> Option<u64> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_files(&cgroups)
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
        .filter(|&limit: &u64| limit < total_bytes)
        .min()
}

/// Where limits may stand, for the lines `id:controllers:path` of `/proc/self/cgroup`.
fn limit_files(cgroups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, name) = match controllers {
            "" => (Path::new("/sys/fs/cgroup"), "memory.max"),
            _ if controllers.split(',').any(|c| c == "memory") => {
                (Path::new("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let path = Path::new(path.trim_start_matches('/'));
        files.extend(path.ancestors().map(|above| root.join(above).join(name)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_whole_names_with_a_unit() {
        let text = "MemTotalExtra: 5 kB\nMemTotal:       16 kB\nHuge: 3\nBad: x kB\n";
        assert_eq!(kib_field(text, "MemTotal"), Some(16 * 1024));
        assert_eq!(kib_field(text, "Huge"), None);
        assert_eq!(kib_field(text, "Bad"), None);
        assert_eq!(kib_field(text, "Mem"), None);
    }

    #[test]
    fn limits_of_both_cgroup_versions_are_looked_for_up_to_the_root() {
        let strings = |cgroups| -> Vec<String> {
            limit_files(cgroups).iter().map(|file| file.display().to_string()).collect()
        };
        assert_eq!(
            strings("0::/job/step\n"),
            [
                "/sys/fs/cgroup/job/step/memory.max",
                "/sys/fs/cgroup/job/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            strings("5:cpu,memory:/j\n4:cpu:/j\nnonsense\n"),
            ["/sys/fs/cgroup/memory/j/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
    }
}
