//! Whether a model's files are what they were when it was added: by a look at them, or by every byte.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use haul_encoder::model_dir::{ModelDir, ModelError};
use serde::Serialize;

use super::checksum::sha256;
use super::record::{ModelFile, ModelRecord, metadata_modified_ns, modified_ns};
use super::{ModelsError, io_at};

/// Opens the model if its files are the recorded ones, as long and as old as recorded. A file of another time is
/// read: copying a model changes times and not a byte.
pub(super) fn quick_check(dir: &Path, record: &ModelRecord) -> Result<ModelDir, ModelsError> {
    let changed =
        |file: &str, how| ModelsError::Changed { name: record.name.clone(), file: file.into(), how };
    for file in &record.files {
        let path = dir.join(&file.name);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(changed(&file.name, Change::Gone));
            }
            Err(error) => return Err(io_at(&path)(error)),
        };
        if metadata.len() != file.bytes {
            return Err(changed(&file.name, Change::Length { recorded: file.bytes, found: metadata.len() }));
        }
        if metadata_modified_ns(&metadata).map_err(io_at(&path))? != file.modified_ns {
            tracing::info!(
                model = record.name,
                file = file.name,
                "its time is not the recorded one: reading it"
            );
            if sha256(&path).map_err(io_at(&path))?.1 != file.sha256 {
                return Err(changed(&file.name, Change::Content));
            }
        }
    }
    let model = ModelDir::open(dir)?;
    match new_files(&model, record).pop() {
        Some(file) => Err(changed(&file, Change::New)),
        None => Ok(model),
    }
}

/// Reads every byte again. `record` gets the times of the files that are what they were.
pub(super) fn full_check(dir: &Path, record: &mut ModelRecord) -> Result<Vec<CheckedFile>, ModelError> {
    let mut checked: Vec<CheckedFile> = record
        .files
        .iter_mut()
        .map(|file| CheckedFile { verdict: read_again(dir, file), name: file.name.clone() })
        .collect();
    // A model with missing or damaged files may not open, and what is wrong with it is known already.
    if checked.iter().all(|file| file.verdict == FileVerdict::Ok) {
        let new = new_files(&ModelDir::open(dir)?, record);
        checked.extend(new.into_iter().map(|name| CheckedFile { name, verdict: FileVerdict::New }));
    }
    Ok(checked)
}

fn read_again(dir: &Path, file: &mut ModelFile) -> FileVerdict {
    let path = dir.join(&file.name);
    // The time first: a change while the bytes are read must not pass for the state that was read.
    match modified_ns(&path).and_then(|modified_ns| Ok((modified_ns, sha256(&path)?))) {
        Ok((modified_ns, (bytes, sha256))) if (bytes, &sha256) == (file.bytes, &file.sha256) => {
            file.modified_ns = modified_ns;
            FileVerdict::Ok
        }
        Ok((_, (bytes, sha256))) => FileVerdict::Changed { bytes, sha256 },
        Err(error) if error.kind() == ErrorKind::NotFound => FileVerdict::Missing,
        Err(error) => FileVerdict::Unreadable { why: error.to_string() },
    }
}

/// What became of a model's files since it was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The model.
    pub name: String,
    /// Every file of the record, in its order, then those that came after it.
    pub files: Vec<CheckedFile>,
}

/// One file of a [`CheckReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedFile {
    /// Path inside the model directory, with `/`.
    pub name: String,
    /// What became of it.
    #[serde(flatten)]
    pub verdict: FileVerdict,
}

/// What became of a file since its model was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum FileVerdict {
    /// Not a byte has changed.
    Ok,
    /// It is gone.
    Missing,
    /// It is another file now.
    Changed {
        /// Its length now.
        bytes: u64,
        /// Its sum now, lower-case hex.
        sha256: String,
    },
    /// The disk does not give it back.
    Unreadable {
        /// What the system says.
        why: String,
    },
    /// It has a part in the vectors, and was not there when the model was added.
    New,
}

impl CheckReport {
    /// Whether the model is what it was.
    pub fn is_ok(&self) -> bool {
        self.files.iter().all(|file| file.verdict == FileVerdict::Ok)
    }
}

/// What is not as recorded about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Change {
    /// It is gone.
    #[error("is gone")]
    Gone,
    /// Another length, in bytes.
    #[error("has {found} bytes, {recorded} when the model was added")]
    Length {
        /// When the model was added.
        recorded: u64,
        /// Now.
        found: u64,
    },
    /// The same length, another sum.
    #[error("was changed after the model was added")]
    Content,
    /// It was not there.
    #[error("came after the model was added, and has a part in its vectors")]
    New,
}

fn new_files(model: &ModelDir, record: &ModelRecord) -> Vec<String> {
    let recorded: BTreeSet<&str> = record.files.iter().map(|file| file.name.as_str()).collect();
    file_names(model).into_iter().filter(|name| !recorded.contains(name.as_str())).collect()
}

/// The model's files, relative to its directory, with `/`.
pub(super) fn file_names(model: &ModelDir) -> Vec<String> {
    let relative = |path: PathBuf| {
        let inside = path.strip_prefix(model.dir()).unwrap_or(&path);
        inside.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    };
    model.identity_files().into_iter().map(relative).collect()
}
