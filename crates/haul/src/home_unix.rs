//! Where the platform keeps a program's data, on Unix.

use std::path::PathBuf;

/// `$XDG_DATA_HOME/haul`, else `~/.local/share/haul` (macOS: `~/Library/Application Support/haul`); `None`
/// without a home folder.
#[expect(clippy::disallowed_methods, reason = "settings are resolved here")]
pub(crate) fn default_home() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(data) = absolute("XDG_DATA_HOME") {
        return Some(data.join("haul"));
    }
    let folder =
        if cfg!(target_os = "macos") { "Library/Application Support/haul" } else { ".local/share/haul" };
    Some(absolute("HOME")?.join(folder))
}
