//! What the NVIDIA driver for Linux says of itself in `/proc`.

use std::fs;
use std::path::Path;

use crate::nvidia::Card;

pub(crate) fn cards(folder: &Path) -> Vec<Card> {
    let Ok(version) = fs::read_to_string(folder.join("version")) else { return vec![] };
    let driver = driver(&version);
    let Ok(entries) = fs::read_dir(folder.join("gpus")) else { return vec![] };
    let mut files: Vec<_> =
        entries.filter_map(|entry| entry.ok().map(|entry| entry.path().join("information"))).collect();
    files.sort();
    let name =
        |text: &str| text.lines().find_map(|line| Some(line.strip_prefix("Model:")?.trim().to_owned()));
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .filter_map(|text| Some(Card { name: name(&text)?, driver: driver.clone() }))
        .collect()
}

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue ...`
fn driver(version: &str) -> String {
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    version.split_whitespace().find(is_version).map_or_else(|| "of unknown version".to_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_read_as_the_driver_lists_them() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(cards(folder.path()), []);
        let version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  gcc version 12.2.0\n";
        fs::write(folder.path().join("version"), version).unwrap();
        let card = folder.path().join("gpus/0000:01:00.0");
        fs::create_dir_all(&card).unwrap();
        fs::write(card.join("information"), "Model: \t\t NVIDIA RTX A2000\nIRQ:   \t\t 35\n").unwrap();
        let expected = Card { name: "NVIDIA RTX A2000".to_owned(), driver: "550.54.15".to_owned() };
        assert_eq!(cards(folder.path()), [expected]);
    }
}
