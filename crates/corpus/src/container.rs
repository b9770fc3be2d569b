//! Files that hold files: archives, and mails with what hangs on them. They are opened in the worker process
//! ([`crate::worker::Worker::unpack`]) under the same limits as any file; what they hold is handed out by number, so no
//! name in an archive ever becomes a path.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use sevenz_rust2::{ArchiveReader, Error as SevenZipError, Password};

use crate::archive::Archive;
use crate::limits::Limits;
use crate::mail::Mail;
use crate::parse;
use crate::verdict::{ParseFailure, Verdict};

/// The kinds of file that hold files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Container {
    /// A zip archive.
    Zip,
    /// A 7z archive.
    SevenZip,
    /// A mail of Outlook, which is a document besides.
    Mail,
}

impl Container {
    /// The container that a file name's extension stands for, without the dot, in any case.
    pub fn from_extension(extension: &str) -> Option<Container> {
        match extension.to_ascii_lowercase().as_str() {
            "zip" => Some(Container::Zip),
            "7z" => Some(Container::SevenZip),
            "msg" => Some(Container::Mail),
            _ => None,
        }
    }
}

/// A file of a container: its name as the container has it, and its bytes.
pub(crate) struct Packed {
    pub(crate) name: String,
    pub(crate) content: Result<Vec<u8>, ParseFailure>,
}

/// `emit` gave up: the pipe behind it is broken.
#[derive(Debug)]
pub(crate) struct Broken;

/// Hands out the files of a container one after the other. The inner error says why the container, or the rest of it,
/// was not read.
pub(crate) fn unpack(
    path: &Path,
    container: Container,
    limits: &Limits,
    emit: &mut dyn FnMut(Packed) -> Result<(), Broken>,
) -> Result<Result<(), ParseFailure>, Broken> {
    let file = match parse::open(path) {
        Ok(file) => file,
        Err(failure) => return Ok(Err(failure)),
    };
    match container {
        Container::Zip => unpack_zip(file, limits, emit),
        Container::SevenZip => unpack_7z(file, limits, emit),
        Container::Mail => match Mail::open(file, limits) {
            Ok(mut mail) => {
                let attachments = mail.attachments();
                let left_out = attachments.left_out();
                for attachment in attachments.files {
                    emit(Packed { name: attachment.name, content: attachment.content })?;
                }
                Ok(left_out)
            }
            Err(failure) => Ok(Err(failure)),
        },
    }
}

fn unpack_zip(
    file: File,
    limits: &Limits,
    emit: &mut dyn FnMut(Packed) -> Result<(), Broken>,
) -> Result<Result<(), ParseFailure>, Broken> {
    let mut archive = match Archive::open(file, limits) {
        Ok(archive) => archive,
        Err(failure) => return Ok(Err(failure)),
    };
    let names = archive.names();
    let (of_their_own, files) = (names.len(), archive.files());
    for name in names {
        let missing = || ParseFailure::new(Verdict::Corrupt, "its bytes are not in the archive");
        let content = archive.read(&name).and_then(|bytes| bytes.ok_or_else(missing));
        emit(Packed { name, content })?;
    }
    if of_their_own < files {
        let why = format!("of {files} files in the archive only {of_their_own} have names of their own");
        return Ok(Err(ParseFailure::new(Verdict::Corrupt, why)));
    }
    Ok(Ok(()))
}

/// The files of a 7z archive are one stream, so what is damaged or too large ends the reading of the rest.
fn unpack_7z(
    file: File,
    limits: &Limits,
    emit: &mut dyn FnMut(Packed) -> Result<(), Broken>,
) -> Result<Result<(), ParseFailure>, Broken> {
    const MEMORY_SHARE: u64 = 2;
    const KIB: u64 = 1024;
    let file_bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let memory_kib = usize::try_from(limits.memory_bytes / MEMORY_SHARE / KIB).unwrap_or(usize::MAX);
    let opened = ArchiveReader::new_with_memory_limit(BufReader::new(file), Password::empty(), memory_kib);
    let mut archive = match opened {
        Ok(archive) => archive,
        Err(error) => return Ok(Err(failure_of(&error))),
    };
    archive.set_thread_count(1);
    if let Err(failure) = refuse_large(&archive.archive().files, file_bytes, limits) {
        return Ok(Err(failure));
    }
    let mut left_bytes = limits.archive_bytes;
    let mut ended = Ok(());
    let mut broken = false;
    let read = archive.for_each_entries(|entry, stream| {
        if entry.is_directory {
            return Ok(true);
        }
        let bytes_max = limits.entry_bytes.min(left_bytes);
        let mut bytes = Vec::new();
        stream.take(bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > bytes_max {
            let why = format!("{} inflates to more than {bytes_max} bytes", entry.name);
            ended = Err(ParseFailure::new(Verdict::TooLarge, why));
            return Ok(false);
        }
        left_bytes -= bytes.len() as u64;
        broken = emit(Packed { name: entry.name.clone(), content: Ok(bytes) }).is_err();
        Ok(!broken)
    });
    match (broken, read) {
        (true, _) => Err(Broken),
        (false, Err(error)) => Ok(Err(failure_of(&error))),
        (false, Ok(())) => Ok(ended),
    }
}

/// Declared sizes are believed where they are against the file.
fn refuse_large(
    files: &[sevenz_rust2::ArchiveEntry],
    file_bytes: u64,
    limits: &Limits,
) -> Result<(), ParseFailure> {
    let entries = files.len() as u64;
    let bytes = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size));
    let by_ratio = limits.ratio_from_bytes.max(file_bytes.saturating_mul(limits.entry_ratio));
    let why = if entries > limits.archive_entries {
        format!("an archive of {entries} entries, more than {}", limits.archive_entries)
    } else if bytes > limits.archive_bytes {
        format!("an archive of {bytes} bytes inflated, more than {}", limits.archive_bytes)
    } else if bytes > by_ratio {
        format!(
            "an archive that inflates from {file_bytes} bytes to {bytes}, over {} to 1",
            limits.entry_ratio
        )
    } else {
        return Ok(());
    };
    Err(ParseFailure::new(Verdict::TooLarge, why))
}

fn failure_of(error: &SevenZipError) -> ParseFailure {
    const AES: &str = "AES256";
    match error {
        SevenZipError::PasswordRequired | SevenZipError::MaybeBadPassword(_) => encrypted(),
        SevenZipError::UnsupportedCompressionMethod(method) if method.contains(AES) => encrypted(),
        SevenZipError::UnsupportedCompressionMethod(method) => {
            ParseFailure::new(Verdict::Unsupported, format!("compressed with {method}, which is not read"))
        }
        SevenZipError::Unsupported(what) => ParseFailure::new(Verdict::Unsupported, what.to_string()),
        SevenZipError::MaxMemLimited { max_kb, actaul_kb } => {
            let why = format!("unpacking takes {actaul_kb} KiB of memory, more than {max_kb}");
            ParseFailure::new(Verdict::TooLarge, why)
        }
        // The crate shows all others as its own source writes them.
        SevenZipError::Other(what) => damaged(what),
        SevenZipError::Io(error, _) => damaged(&error.to_string()),
        other => damaged(&other.to_string()),
    }
}

fn damaged(why: &str) -> ParseFailure {
    ParseFailure::new(Verdict::Corrupt, format!("the archive is damaged: {why}"))
}

fn encrypted() -> ParseFailure {
    ParseFailure::new(Verdict::Drm, "the archive is encrypted with a password")
}

/// A name in a container with `/` between its parts.
///
/// # Errors
/// It leads out of the container, as no name of an honest one does.
pub fn inner_name(name: &str) -> Result<String, ParseFailure> {
    let slashed = name.replace('\\', "/");
    let leads_out =
        || ParseFailure::new(Verdict::Corrupt, format!("the name {slashed:?} leads out of the archive"));
    let is_drive = slashed.as_bytes().get(1) == Some(&b':') && slashed.as_bytes()[0].is_ascii_alphabetic();
    if is_drive || slashed.contains('\0') {
        return Err(leads_out());
    }
    let mut parts = Vec::new();
    for part in Path::new(&slashed).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(leads_out()),
        }
    }
    if parts.is_empty() { Err(leads_out()) } else { Ok(parts.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::inner_name;

    #[test]
    fn no_name_leads_out_of_an_archive() {
        for (name, expected) in [
            ("a.txt", Some("a.txt")),
            ("./deeds/a.txt", Some("deeds/a.txt")),
            ("deeds\\a.txt", Some("deeds/a.txt")),
            ("a..b/..c", Some("a..b/..c")),
            ("../a.txt", None),
            ("deeds/../../a.txt", None),
            ("..\\a.txt", None),
            ("/etc/passwd", None),
            ("C:\\a.txt", None),
            ("\\\\share\\a.txt", None),
            ("a\0b", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(inner_name(name).ok().as_deref(), expected, "{name:?}");
        }
    }
}
