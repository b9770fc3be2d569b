//! One company while it is read.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::SystemTime;

use haul_corpus::container::Container;
use haul_corpus::document::{Document, Format};
use haul_corpus::source::SourceFile;
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_corpus::worker::Unpacked;
use serde_json::Value;

use super::{
    Desk, Kind, NESTED_MAX, Read, UNPACKED_BYTES_MAX, UNPACKED_FILES_MAX, Unread, name_of, unique,
    unsupported,
};
use crate::extract::documents::Source;
use crate::parsed;

/// What came of a company so far, and what its archives may still inflate to.
pub(super) struct Reading<'a> {
    desk: &'a mut Desk,
    pub(super) read: Read,
    taken: HashSet<String>,
    left_bytes: u64,
    left_files: usize,
}

impl<'a> Reading<'a> {
    pub(super) fn new(desk: &'a mut Desk) -> Reading<'a> {
        Reading {
            desk,
            read: Read::default(),
            taken: HashSet::new(),
            left_bytes: UNPACKED_BYTES_MAX,
            left_files: UNPACKED_FILES_MAX,
        }
    }

    pub(super) fn files(&mut self, files: &[SourceFile]) {
        for file in files {
            self.file(&name_of(file), &file.path, 0);
        }
    }

    /// Reads a file that is called `name` and lies at `path`, in as many archives as `depth` says.
    fn file(&mut self, name: &str, path: &Path, depth: usize) {
        let kind = Kind::of(name);
        let name = unique(&mut self.taken, name);
        match kind.format {
            Some(Format::JsonLines) => self.lines(&name, path),
            Some(format) => self.document(&name, path, format),
            None => {}
        }
        match kind.container {
            // What hangs on a mail is read although its own words are not.
            Some(container) => self.unpack(&name, path, container, depth),
            None if kind.format.is_none() => self.unread(&name, unsupported(&name)),
            None => {}
        }
    }

    /// A file of many documents gives each of them a name of its own.
    fn lines(&mut self, name: &str, path: &Path) {
        let read = &mut self.read;
        let result = self.desk.worker.parse(path, Format::JsonLines, &mut |parsed| {
            let file = parsed.part.map_or_else(|| name.to_owned(), |part| format!("{name}#{part}"));
            match parsed.document {
                Ok(document) => read.sources.push(Source { file, document }),
                Err(failure) => read.unread.push(Unread { file, failure }),
            }
            ControlFlow::Continue(())
        });
        if let Err(failure) = result {
            self.unread(name, failure);
        }
    }

    fn document(&mut self, name: &str, path: &Path, format: Format) {
        match self.parsed(name, path, format) {
            Ok(document) => {
                let metadata = Value::Object(document.metadata.clone());
                let lacks = parsed::page_notes(&metadata).into_iter().map(|lack| (name.to_owned(), lack));
                self.read.lacks.extend(lacks);
                let missing = document.furniture.missing_documents;
                let lack = || (name.to_owned(), format!("{missing} parts that it names are not in the file"));
                self.read.lacks.extend((missing > 0).then(lack));
                if document.furniture.shown_pictures > 0 {
                    let pictures = document.furniture.shown_pictures;
                    let notice = format!("pictures that its text shows, which are not read: {pictures}");
                    self.read.notices.push((name.to_owned(), notice));
                }
                self.read.sources.push(Source { file: name.to_owned(), document });
            }
            Err(failure) => self.unread(name, failure),
        }
    }

    /// From the cache if these bytes were read before.
    fn parsed(&mut self, name: &str, path: &Path, format: Format) -> Result<Document, ParseFailure> {
        let unreadable = |error| ParseFailure::new(Verdict::Failed, format!("cannot read the file: {error}"));
        let before = state_of(path).map_err(unreadable)?;
        let hash =
            parsed::content_hash(format, hash_file(path).map_err(unreadable)?, self.desk.worker.readers());
        let key = parsed::key(format, &hash);
        if let Some(document) = parsed::get(&self.desk.cache, &key) {
            return Ok(document);
        }
        let document = self.parse(path, format)?;
        // What was read must be what was hashed, or other bytes would be kept under this hash for good.
        if state_of(path).map_err(unreadable)? != before {
            let why = "changed while it was read; the next run reads it again";
            return Err(ParseFailure::new(Verdict::Failed, why));
        }
        parsed::put(&self.desk.cache, &key, name, &document);
        Ok(document)
    }

    fn parse(&mut self, path: &Path, format: Format) -> Result<Document, ParseFailure> {
        let mut document = Err(ParseFailure::new(Verdict::Empty, "no document in the file"));
        self.desk.worker.parse(path, format, &mut |parsed| {
            document = parsed.document;
            ControlFlow::Continue(())
        })?;
        document
    }

    /// Unpacks a container into a folder of its own and reads what comes out.
    fn unpack(&mut self, name: &str, path: &Path, container: Container, depth: usize) {
        if depth == NESTED_MAX {
            let why = format!("archives within archives, more than {NESTED_MAX} deep");
            return self.unread(name, ParseFailure::new(Verdict::TooLarge, why));
        }
        let scratch = match tempfile::tempdir_in(&self.desk.scratch) {
            Ok(scratch) => scratch,
            Err(error) => {
                let why = format!("no folder in {} to unpack it in: {error}", self.desk.scratch.display());
                return self.unread(name, ParseFailure::new(Verdict::Failed, why));
            }
        };
        let mut unpacked = Vec::new();
        let (worker, into) = (&mut self.desk.worker, scratch.path());
        let result = worker.unpack(path, container, into, self.left_bytes, &mut |file| unpacked.push(file));
        let is_empty = unpacked.is_empty();
        for Unpacked { name: inner, content } in unpacked {
            self.inner(&format!("{name}/{inner}"), content.as_deref(), depth);
        }
        match result {
            // What is no mail at all was said when its words were read.
            Err(failure) if !self.is_said(name, failure.verdict) => self.unread(name, failure),
            Ok(()) if is_empty && container != Container::Mail => {
                self.unread(name, ParseFailure::new(Verdict::Empty, "an archive without files"));
            }
            Err(_) | Ok(()) => {}
        }
    }

    fn inner(&mut self, name: &str, content: Result<&Path, &ParseFailure>, depth: usize) {
        // What systems put beside files of the user's; a name that leads out is no such file.
        let is_hidden = |part: &str| part.starts_with('.') && !part.trim_matches('.').is_empty();
        if name.split('/').any(|part| is_hidden(part) || part == "__MACOSX") {
            self.read.hidden += 1;
            return;
        }
        let path = match content {
            Ok(path) => path,
            Err(failure) => return self.unread(name, failure.clone()),
        };
        if self.left_files == 0 {
            let why = format!("the archives of the company hold more than {UNPACKED_FILES_MAX} files");
            return self.unread(name, ParseFailure::new(Verdict::TooLarge, why));
        }
        self.left_files -= 1;
        let bytes = fs::metadata(path).map_or(0, |facts| facts.len());
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
        self.file(name, path, depth + 1);
    }

    fn is_said(&self, file: &str, verdict: Verdict) -> bool {
        self.read.unread.iter().any(|unread| unread.file == file && unread.failure.verdict == verdict)
    }

    fn unread(&mut self, file: &str, failure: ParseFailure) {
        self.read.unread.push(Unread { file: file.to_owned(), failure });
    }
}

fn state_of(path: &Path) -> io::Result<(u64, Option<SystemTime>)> {
    let facts = fs::metadata(path)?;
    Ok((facts.len(), facts.modified().ok()))
}

fn hash_file(path: &Path) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(*hasher.finalize().as_bytes())
}
