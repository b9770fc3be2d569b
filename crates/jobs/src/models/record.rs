//! `haul-model.json`: what a model was when it was added.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use haul_encoder::identity::Identity;
use haul_machine::clock::rfc3339_utc;
use serde::{Deserialize, Serialize};

use super::names::{NameFault, check_file_path};

/// The record's file, beside the model's own.
pub const RECORD_FILE: &str = "haul-model.json";
/// A record names about ten files.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// A model as it was when it was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecord {
    /// The folder's name, by which commands take the model.
    pub name: String,
    /// The model's identity (see [`Identity`]), lower-case hex.
    pub sha256: String,
    /// Every file that has a part in the vectors, sorted by name.
    pub files: Vec<ModelFile>,
    /// The folder or the address at the hub that it came from.
    pub source: String,
    /// RFC 3339, UTC.
    pub added: String,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Path inside the model directory, with `/`.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
    /// Time of the last change, in nanoseconds since 1970 (UTC).
    pub modified_ns: i64,
}

impl ModelRecord {
    /// The record of the files in `dir` as they are now.
    pub(super) fn new(
        dir: &Path,
        name: &str,
        identity: Identity,
        source: String,
    ) -> Result<ModelRecord, RecordError> {
        let files = identity
            .files
            .into_iter()
            .map(|file| {
                let path = dir.join(&file.name);
                let modified_ns =
                    modified_ns(&path).map_err(|source| RecordError::Read { path: path.clone(), source })?;
                Ok(ModelFile { name: file.name, bytes: file.bytes, sha256: file.sha256, modified_ns })
            })
            .collect::<Result<Vec<_>, RecordError>>()?;
        let added = rfc3339_utc(SystemTime::now());
        Ok(ModelRecord { name: name.into(), sha256: identity.sha256, files, source, added })
    }

    /// Reads the record in the folder `dir`, which must be called as the record says.
    pub(super) fn read(dir: &Path) -> Result<ModelRecord, RecordError> {
        let path = dir.join(RECORD_FILE);
        let bytes = read_bounded(&path)?;
        let record: ModelRecord = serde_json::from_slice(&bytes)
            .map_err(|source| RecordError::Json { path: path.clone(), source })?;
        if dir.file_name() != Some(record.name.as_ref()) {
            return Err(RecordError::OtherName { path, name: record.name });
        }
        for file in &record.files {
            check_file_path(&file.name).map_err(|fault| RecordError::FileName {
                path: path.clone(),
                file: file.name.clone(),
                fault,
            })?;
        }
        Ok(record)
    }

    /// Writes the record into `dir` whole or not at all.
    pub(super) fn write(&self, dir: &Path) -> Result<(), RecordError> {
        let path = dir.join(RECORD_FILE);
        let temporary = dir.join(format!(".{RECORD_FILE}.new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|source| RecordError::Write { path: path.clone(), source })
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, RecordError> {
    let mut bytes = vec![];
    File::open(path)
        .and_then(|file| file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|source| RecordError::Read { path: path.into(), source })?;
    if bytes.len() as u64 > RECORD_BYTES_MAX {
        return Err(RecordError::TooLarge { path: path.into() });
    }
    Ok(bytes)
}

/// Of the file that a link leads to.
pub(super) fn modified_ns(path: &Path) -> io::Result<i64> {
    metadata_modified_ns(&fs::metadata(path)?)
}

pub(super) fn metadata_modified_ns(metadata: &Metadata) -> io::Result<i64> {
    let modified = metadata.modified()?;
    let (distance, sign) = match modified.duration_since(UNIX_EPOCH) {
        Ok(after) => (after, 1),
        Err(before) => (before.duration(), -1),
    };
    // 292 years to either side.
    i64::try_from(distance.as_nanos()).map(|ns| ns * sign).map_err(io::Error::other)
}

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum RecordError {
    /// Missing or unreadable.
    #[error("{}: cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// No space, no permission.
    #[error("{}: cannot be written: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// Not a record of ours.
    #[error("{}: longer than {RECORD_BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
    /// Damaged, or of another version.
    #[error("{}: damaged, not a model record: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    /// The folder was renamed or copied.
    #[error("{}: is the record of a model named {name:?}", path.display())]
    OtherName { path: PathBuf, name: String },
    /// A file outside the folder.
    #[error("{}: file name {file:?} is refused: {fault}", path.display())]
    FileName { path: PathBuf, file: String, fault: NameFault },
}

impl RecordError {
    /// The folder of the model.
    pub(super) fn dir(&self) -> &Path {
        let (RecordError::Read { path, .. }
        | RecordError::Write { path, .. }
        | RecordError::TooLarge { path }
        | RecordError::Json { path, .. }
        | RecordError::OtherName { path, .. }
        | RecordError::FileName { path, .. }) = self;
        path.parent().unwrap_or(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_written_and_only_under_its_name() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("tiny");
        fs::create_dir(&dir).unwrap();
        let mut record = ModelRecord {
            name: "tiny".into(),
            sha256: "00".into(),
            files: vec![ModelFile {
                name: "a/b".into(),
                bytes: u64::MAX,
                sha256: "11".into(),
                modified_ns: -5,
            }],
            source: "somewhere".into(),
            added: "1970-01-01T00:00:00Z".into(),
        };
        record.write(&dir).unwrap();
        assert_eq!(ModelRecord::read(&dir).unwrap(), record);

        record.files[0].name = "../b".into();
        record.write(&dir).unwrap();
        assert!(matches!(ModelRecord::read(&dir), Err(RecordError::FileName { fault: NameFault::Dots, .. })));

        record.name = "other".into();
        record.write(&dir).unwrap();
        assert!(matches!(ModelRecord::read(&dir), Err(RecordError::OtherName { .. })));
    }
}
