//! Where the platform keeps a program's data, on Unix.

use std::path::PathBuf;

/// `$XDG_DATA_HOME/haul`, else `~/.local/share/haul` (macOS: `~/Library/Application Support/haul`); `None`
/// without a home folder.
pub(crate) fn default_home() -> Option<PathBuf> {
    if let Some(data) = absolute("XDG_DATA_HOME") {
        return Some(data.join("haul"));
    }
    let folder =
        if cfg!(target_os = "macos") { "Library/Application Support/haul" } else { ".local/share/haul" };
    Some(user_home()?.join(folder))
}

/// `$HOME`.
pub(crate) fn user_home() -> Option<PathBuf> {
    absolute("HOME")
}

#[expect(clippy::disallowed_methods, reason = "settings are resolved here")]
fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
