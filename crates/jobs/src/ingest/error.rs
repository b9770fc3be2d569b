//! Why an ingest could not go on.

use std::path::PathBuf;

use haul_corpus::calibre::CalibreError;
use haul_corpus::source;
use haul_corpus::worker::WorkerError;
use haul_encoder::embedder::LoadError;
use haul_pipeline::journal::JournalError;
use haul_store::library::{OpenError, ReadError, WriteError};
use haul_store::publish::PublishError;

/// An ingest could not go on. Bad input is never an error: it ends in a verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// A path cannot be listed.
    #[error(transparent)]
    List(#[from] source::SourceError),
    /// There is nothing to read.
    #[error("no files under {}{}", shown_paths(paths), shown_hidden(*hidden))]
    NoFiles {
        /// The paths given.
        paths: Vec<PathBuf>,
        /// Entries whose names start with a dot.
        hidden: usize,
    },
    /// A Calibre library cannot be read.
    #[error(transparent)]
    Calibre(#[from] CalibreError),
    /// A selection of books, and something that is no Calibre library.
    #[error("{condition} selects books of a Calibre library, and {} is none", path.display())]
    NotSelectable {
        /// The first condition.
        condition: String,
        /// The path.
        path: PathBuf,
    },
    /// No book is as asked for.
    #[error("{books} books in Calibre, and none is as asked for: {conditions}")]
    NothingSelected {
        /// As typed.
        conditions: String,
        /// Books there are.
        books: usize,
    },
    /// A book id that Calibre does not know.
    #[error("--calibre-id {asked}: Calibre has no such book ({})", shown_books(*books, *known))]
    NoSuchBook {
        /// As typed.
        asked: String,
        /// Books there are.
        books: usize,
        /// Their lowest and highest id.
        known: Option<(i64, i64)>,
    },
    /// The local disk does not take copies of files on a share.
    #[error("{}: a file on a share cannot be copied here: {source}", path.display())]
    Prefetch {
        /// The copy.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// No parse worker can be started.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The weights cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The library cannot be opened a second time for reading.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The library cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The library cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The library could not be brought to the server.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// All stages ended and documents still lack vectors: a defect of this program.
    #[error("{documents} documents are left without all of their vectors")]
    VectorsMissing {
        /// How many.
        documents: usize,
    },
    /// The folder of a forecast cannot be used, or a file of its sample not be read.
    #[error("cannot use {}: {source}", path.display())]
    Scratch {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// All input is in the library; a text of the comparison has no vector in f32.
    #[error("the vectors are in the library, and cannot be compared with f32: {0}")]
    Quality(String),
}

impl IngestError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::List(error) => error.hint().map(str::to_owned),
            Self::Worker(error) => error.hint().map(str::to_owned),
            Self::Load(error) => error.hint().map(str::to_owned),
            Self::Open(error) => error.hint().map(str::to_owned),
            Self::Read(error) => error.hint().map(str::to_owned),
            Self::Write(error) => error.hint().map(Into::into),
            Self::Publish(error) => error.hint().map(str::to_owned),
            Self::Journal(error) => error.hint().map(str::to_owned),
            Self::NoFiles { .. } => Some(
                "give files, or a folder that holds EPUB, PDF, DOCX, HTML, Markdown, text or JSONL files"
                    .to_owned(),
            ),
            Self::Calibre(error) => error.hint().map(str::to_owned),
            Self::NotSelectable { .. } => Some(
                "give the folder that holds metadata.db; for plain files, --files-from takes a list of paths"
                    .to_owned(),
            ),
            Self::NothingSelected { .. } => {
                Some("each is part of a name as Calibre shows it, in any letter case".to_owned())
            }
            Self::NoSuchBook { .. } => {
                Some("`calibredb list` shows the ids; --title selects by name".to_owned())
            }
            Self::Prefetch { .. } => {
                Some("free some space, or read files where they are: --prefetch never".to_owned())
            }
            Self::VectorsMissing { .. } | Self::Scratch { .. } | Self::Quality(_) => None,
        }
    }
}

/// Paths in a message.
fn shown_paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn shown_hidden(hidden: usize) -> String {
    if hidden == 0 { String::new() } else { format!("; {hidden} hidden are left out") }
}

fn shown_books(books: usize, known: Option<(i64, i64)>) -> String {
    match known {
        Some((least, most)) => format!("{books} books, ids {least} to {most}"),
        None => "it has no books".to_owned(),
    }
}
