//! Checksums of files as the hub and `sha256sum` print them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1_smol::Sha1;
use sha2::{Digest, Sha256};

const READ_BYTES: usize = 1 << 20;

/// A checksum, lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256 of the bytes: how the hub names large files.
    Sha256(String),
    /// SHA-1 of `blob LENGTH\0` and the bytes: how git, and so the hub, names the other files.
    GitBlob(String),
}

impl Checksum {
    /// The checksum of the same kind of the file at `path`.
    pub(super) fn of_same_kind(&self, path: &Path) -> io::Result<Checksum> {
        match self {
            Checksum::Sha256(_) => sha256(path).map(|(_, hex)| Checksum::Sha256(hex)),
            Checksum::GitBlob(_) => git_blob(path).map(Checksum::GitBlob),
        }
    }

    pub(super) fn hex(&self) -> &str {
        let (Checksum::Sha256(hex) | Checksum::GitBlob(hex)) = self;
        hex
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Checksum::Sha256(hex) => write!(f, "sha256 {hex}"),
            Checksum::GitBlob(hex) => write!(f, "git blob {hex}"),
        }
    }
}

/// Length in bytes and SHA-256 of a file.
pub(super) fn sha256(path: &Path) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let bytes = read_through(&mut File::open(path)?, |chunk| hash.update(chunk))?;
    Ok((bytes, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// SHA-256 of a file, lower-case hex.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    sha256(path).map(|(_, hex)| hex)
}

fn git_blob(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut hash = Sha1::new();
    hash.update(format!("blob {bytes}\0").as_bytes());
    read_through(&mut file, |chunk| hash.update(chunk))?;
    Ok(hash.digest().to_string())
}

fn read_through(file: &mut File, mut each: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(bytes);
        }
        each(&buffer[..read]);
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sums are those of `printf 'hello\n' | sha256sum` and `printf 'hello\n' | git hash-object --stdin`.
    #[test]
    fn sums_are_those_of_the_tools() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hello");
        std::fs::write(&path, "hello\n").unwrap();
        let (bytes, hex) = sha256(&path).unwrap();
        assert_eq!(
            (bytes, hex.as_str()),
            (6, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03")
        );
        assert_eq!(git_blob(&path).unwrap(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}
