//! How a path becomes absolute. Windows, where the system answers in verbatim paths (`\\?\`), which people neither
//! type nor read, and which would be another root than the one recorded for the same folder. Long paths need no care:
//! the standard library opens absolute ones in their verbatim form.

#[cfg(windows)]
pub(crate) fn absolute(path: &std::path::Path) -> std::io::Result<std::path::PathBuf> {
    let verbatim = path.canonicalize()?;
    Ok(verbatim.to_str().map_or_else(|| verbatim.clone(), |text| plain(text).into()))
}

/// `\\?\C:\books` as `C:\books`, `\\?\UNC\nas\books` as `\\nas\books`. What only the verbatim form can name stays:
/// volumes without a letter, and names that end with a dot or a blank.
fn plain(path: &str) -> String {
    let Some(rest) = path.strip_prefix(r"\\?\") else { return path.to_owned() };
    if rest.split('\\').any(|name| name.ends_with(['.', ' '])) {
        return path.to_owned();
    }
    if let Some(share) = rest.strip_prefix(r"UNC\") {
        return format!(r"\\{share}");
    }
    let is_drive = matches!(rest.as_bytes(), [letter, b':', b'\\', ..] if letter.is_ascii_alphabetic());
    if is_drive { rest.to_owned() } else { path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbatim_paths_become_what_people_type() {
        for (verbatim, typed) in [
            (r"\\?\C:\books\a.epub", r"C:\books\a.epub"),
            (r"\\?\UNC\Sinovac\calibre\A (1)\a.pdf", r"\\Sinovac\calibre\A (1)\a.pdf"),
            (r"\\Sinovac\calibre", r"\\Sinovac\calibre"),
            (r"C:\books", r"C:\books"),
            (r"\\?\Volume{b75e2c83}\books", r"\\?\Volume{b75e2c83}\books"),
            (r"\\?\C:\books\A. B.\a.epub", r"\\?\C:\books\A. B.\a.epub"),
        ] {
            assert_eq!(plain(verbatim), typed);
        }
    }
}
