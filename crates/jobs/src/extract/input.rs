//! Files of a company to its documents, through a worker process.

use std::ops::ControlFlow;

use haul_corpus::source::SourceFile;
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_corpus::worker::Worker;

use super::documents::Source;

/// A file that gave no document.
#[derive(Clone, Debug, PartialEq)]
pub struct Unread {
    /// The file below the company's folder.
    pub file: String,
    /// Its verdict, and why.
    pub failure: ParseFailure,
}

/// Reads files, one after the other. What one file comes to is its own; the others are read.
pub fn read(worker: &mut Worker, files: &[SourceFile]) -> (Vec<Source>, Vec<Unread>) {
    let (mut sources, mut unread) = (Vec::new(), Vec::new());
    for file in files {
        let name = file
            .relative
            .components()
            .map(|part| part.as_os_str().to_string_lossy())
            .collect::<Vec<_>>()
            .join("/");
        let Some(format) = file.format else {
            let failure = ParseFailure::new(Verdict::Unsupported, "a kind of file that is not read");
            unread.push(Unread { file: name, failure });
            continue;
        };
        let result = worker.parse(&file.path, format, &mut |parsed| {
            // A file of many documents gives each of them a name of its own.
            let file = parsed.part.map_or_else(|| name.clone(), |part| format!("{name}#{part}"));
            match parsed.document {
                Ok(document) => sources.push(Source { file, document }),
                Err(failure) => unread.push(Unread { file, failure }),
            }
            ControlFlow::Continue(())
        });
        if let Err(failure) = result {
            unread.push(Unread { file: name, failure });
        }
    }
    (sources, unread)
}
