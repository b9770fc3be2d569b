//! Names that come from outside: of models, from the user; of files, from a hub or a record.

/// The longest file or folder name that every file system takes, and more than any model needs for a whole path.
const NAME_BYTES_MAX: usize = 255;

/// Devices of Windows, which no file may be called, with whatever extension.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];
const NUMBERED_DEVICES: [&str; 2] = ["com", "lpt"];

/// `[A-Za-z0-9._-]+`, not starting with a dot, and a name that Windows takes too.
pub(super) fn check_model_name(name: &str) -> Result<(), NameFault> {
    if name.starts_with('.') {
        return Err(NameFault::LeadingDot);
    }
    if let Some(character) = name.chars().find(|&c| !(c.is_ascii_alphanumeric() || "._-".contains(c))) {
        return Err(NameFault::Character(character));
    }
    check_file_path(name)
}

/// A relative path with `/` that stays inside its folder under the rules of POSIX and of Windows, however often it
/// is percent-decoded.
pub(super) fn check_file_path(path: &str) -> Result<(), NameFault> {
    if path.len() > NAME_BYTES_MAX {
        return Err(NameFault::Long(path.len()));
    }
    if let Some(character) = path.chars().find(|&c| c.is_control() || "\\:*?\"<>|".contains(c)) {
        return Err(NameFault::Character(character));
    }
    if has_percent_encoding(path) {
        return Err(NameFault::PercentEncoding);
    }
    path.split('/').try_for_each(check_component)
}

fn check_component(component: &str) -> Result<(), NameFault> {
    match component {
        "" => Err(NameFault::Empty),
        "." | ".." => Err(NameFault::Dots),
        // Windows drops them, so that `..` could hide behind a space.
        _ if component.ends_with(['.', ' ']) => Err(NameFault::Trailing),
        _ if is_device(component) => Err(NameFault::Device),
        _ => Ok(()),
    }
}

fn has_percent_encoding(path: &str) -> bool {
    path.as_bytes().windows(3).any(|w| w[0] == b'%' && w[1].is_ascii_hexdigit() && w[2].is_ascii_hexdigit())
}

fn is_device(component: &str) -> bool {
    let stem = component.split('.').next().unwrap_or(component).trim_end().to_ascii_lowercase();
    let numbered =
        |device: &str| stem.strip_prefix(device).is_some_and(|rest| matches!(rest.as_bytes(), [b'0'..=b'9']));
    DEVICES.contains(&stem.as_str()) || NUMBERED_DEVICES.into_iter().any(numbered)
}

/// Why a name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameFault {
    /// Nothing, or nothing between two slashes, or an absolute path.
    #[error("a part of it is empty")]
    Empty,
    /// Leads out of the folder, or nowhere.
    #[error("a part of it is . or ..")]
    Dots,
    /// Hidden names are for work in progress.
    #[error("it starts with a dot")]
    LeadingDot,
    /// Windows would drop the end.
    #[error("a part of it ends with a dot or a space")]
    Trailing,
    /// A character that is not allowed here, or is no part of a name on some system.
    #[error("it holds {0:?}")]
    Character(char),
    /// `%2e` and the like, which one decoding too many would turn into something else.
    #[error("it holds a percent-encoded character")]
    PercentEncoding,
    /// A device of Windows.
    #[error("a part of it is a device name of Windows")]
    Device,
    /// Longer than any file system takes a name.
    #[error("it has {0} bytes, and {NAME_BYTES_MAX} is the most")]
    Long(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_names_pass() {
        for path in [
            "config.json",
            "1_Pooling/config.json",
            "100% cotton.txt",
            "a/b/c.d",
            "console.txt",
            "com10",
            "ü",
        ] {
            assert_eq!(check_file_path(path), Ok(()), "{path}");
        }
        for name in ["all-MiniLM-L6-v2", "bge_m3", "a", "v1.5"] {
            assert_eq!(check_model_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn hostile_paths_are_refused_under_the_rules_of_both_systems() {
        use NameFault::*;
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for (path, fault) in [
            ("", Empty),
            ("/etc/passwd", Empty),
            ("a//b", Empty),
            ("a/", Empty),
            ("..", Dots),
            ("../config.json", Dots),
            ("1_Pooling/../../config.json", Dots),
            ("./config.json", Dots),
            ("a\\b", Character('\\')),
            ("..\\..\\x", Character('\\')),
            ("\\\\host\\share\\x", Character('\\')),
            ("C:config.json", Character(':')),
            ("C:/config.json", Character(':')),
            ("config.json:stream", Character(':')),
            ("a\0b", Character('\0')),
            ("a\nb", Character('\n')),
            ("a*", Character('*')),
            ("%2e%2e/config.json", PercentEncoding),
            ("1_%2E%2e/config.json", PercentEncoding),
            ("a%00", PercentEncoding),
            (".. /x", Trailing),
            ("x./y", Trailing),
            ("...", Trailing),
            ("nul", Device),
            ("a/CON.json", Device),
            ("com1.txt", Device),
            ("LPT9", Device),
            ("aux .txt", Device),
            (&long, Long(NAME_BYTES_MAX + 1)),
        ] {
            assert_eq!(check_file_path(path), Err(fault), "{path:?}");
        }
    }

    #[test]
    fn model_names_are_plainer_than_paths() {
        use NameFault::*;
        for (name, fault) in [
            ("", Empty),
            (".hidden", LeadingDot),
            ("..", LeadingDot),
            ("a/b", Character('/')),
            ("a b", Character(' ')),
            ("é", Character('é')),
            ("nul", Device),
            ("a.", Trailing),
        ] {
            assert_eq!(check_model_name(name), Err(fault), "{name:?}");
        }
    }
}
