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
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    let slices = |number: usize| slices(&folder.join(format!("capabilities/gpu{number}/mig")));
    (0..)
        .zip(texts)
        .filter_map(|(number, text)| {
            Some(Card { name: name(&text)?, driver: driver.clone(), slices: slices(number) })
        })
        .collect()
}

/// A slice of a card is a folder `gi7`.
fn slices(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let names = entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name()));
    names.filter(|name| name.as_encoded_bytes().starts_with(b"gi")).count()
}

/// Display controllers of NVIDIA's on the bus.
pub(crate) fn in_the_machine(devices: &Path) -> Vec<String> {
    const NVIDIA: &str = "0x10de";
    const DISPLAY: &str = "0x03";
    let Ok(entries) = fs::read_dir(devices) else { return vec![] };
    let says = |device: &Path, file: &str, begins: &str| {
        fs::read_to_string(device.join(file)).is_ok_and(|text| text.starts_with(begins))
    };
    let mut found: Vec<String> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|device| says(device, "vendor", NVIDIA) && says(device, "class", DISPLAY))
        .filter_map(|device| Some(device.file_name()?.to_string_lossy().into_owned()))
        .collect();
    found.sort();
    found
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
        let mut expected =
            Card { name: "NVIDIA RTX A2000".to_owned(), driver: "550.54.15".to_owned(), slices: 0 };
        assert_eq!(cards(folder.path()), [expected.clone()]);
        for slice in ["gi7", "gi9"] {
            fs::create_dir_all(folder.path().join("capabilities/gpu0/mig").join(slice)).unwrap();
        }
        expected.slices = 2;
        assert_eq!(cards(folder.path()), [expected]);
    }

    #[test]
    fn cards_without_a_driver_are_on_the_bus() {
        let folder = tempfile::tempdir().unwrap();
        for (address, vendor, class) in [
            ("0000:01:00.0", "0x10de\n", "0x030000\n"),
            ("0000:01:00.1", "0x10de\n", "0x040300\n"),
            ("0000:02:00.0", "0x8086\n", "0x030000\n"),
        ] {
            let device = folder.path().join(address);
            fs::create_dir(&device).unwrap();
            fs::write(device.join("vendor"), vendor).unwrap();
            fs::write(device.join("class"), class).unwrap();
        }
        assert_eq!(in_the_machine(folder.path()), ["0000:01:00.0"]);
        assert_eq!(in_the_machine(&folder.path().join("none")), [""; 0]);
    }
}
