//! What a model is, by its bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::model_dir::{ModelDir, ModelError};

const READ_BYTES: usize = 1 << 20;

/// SHA-256 over all files that have a part in a model's vectors. Two directories with equal identity give equal
/// vectors, wherever they lie and whatever they are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Lower-case hex: the SHA-256 of the lines that `sha256sum` prints for the files, in the order of `files`.
    pub sha256: String,
    /// Sorted by name.
    pub files: Vec<IdentityFile>,
}

/// One file of an [`Identity`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFile {
    /// Path inside the model directory, with `/`.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// Lower-case hex, as the hub and `sha256sum` print it.
    pub sha256: String,
}

/// Reads every identity file once. Meant to be taken when a model is added, not at each start.
pub fn identity(model: &ModelDir) -> Result<Identity, ModelError> {
    let mut files = model
        .identity_files()
        .iter()
        .map(|path| {
            hash_file(model.dir(), path).map_err(|source| ModelError::Read { path: path.clone(), source })
        })
        .collect::<Result<Vec<_>, _>>()?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let lines: String = files.iter().map(|file| format!("{}  {}\n", file.sha256, file.name)).collect();
    Ok(Identity { sha256: hex(&Sha256::digest(lines)), files })
}

fn hash_file(dir: &Path, path: &Path) -> std::io::Result<IdentityFile> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut hash = Sha256::new();
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok(IdentityFile { name: name_inside(dir, path), bytes, sha256: hex(&hash.finalize()) })
}

fn name_inside(dir: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(dir).unwrap_or(path);
    relative.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
