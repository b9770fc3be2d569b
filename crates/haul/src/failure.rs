//! What ends a command: one line that says what, where and the numbers, and what to do next.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::{fmt, iter};

use haul_pipeline::journal::NO_ROOM_HINT;
use haul_store::publish::PublishError;
use haul_store::qdrant::ServerError;

use crate::Exit;

/// An error on its way to the user.
#[derive(Debug)]
pub(crate) struct Failure {
    error: anyhow::Error,
    hint: Option<String>,
    exit: Exit,
}

impl Failure {
    /// An error of this binary's own.
    pub(crate) fn new(message: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Self {
        Self { error: anyhow::Error::msg(message), hint: None, exit: Exit::CouldNotRun }
    }

    /// A file that could not be read or written.
    pub(crate) fn io(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        let hint = room_hint(error);
        Self { hint, ..Self::new(format!("cannot {doing} {}: {error}", path.display())) }
    }

    /// What to do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code that the command ends with.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    pub(crate) fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.error)
    }
}

/// The next step after a file that may not grow, wherever in an error that is said.
fn room_hint(error: &(dyn Error + 'static)) -> Option<String> {
    let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];
    let is_full = iter::successors(Some(error), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| full.contains(&error.kind()));
    is_full.then(|| NO_ROOM_HINT.to_owned())
}

/// Errors of the libraries keep their own words and bring their own hints.
macro_rules! from_library {
    ($($error:ty => $hint:expr;)*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                let hint: fn(&$error) -> Option<String> = $hint;
                let hint = hint(&error).or_else(|| room_hint(&error));
                Failure { error: error.into(), hint, exit: Exit::CouldNotRun }
            }
        }
    )*};
}

/// A wait that a signal ended is an interruption, wherever in a command it was.
impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        let hint = error.hint().map(str::to_owned);
        let exit =
            if matches!(error, ServerError::Stopped { .. }) { Exit::Interrupted } else { Exit::CouldNotRun };
        Failure { error: error.into(), hint, exit }
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Server(error) => error.into(),
            error => {
                let hint = error.hint().map(str::to_owned);
                Failure { error: error.into(), hint, exit: Exit::CouldNotRun }
            }
        }
    }
}

/// What waits for a worker or a server may be interrupted.
macro_rules! from_library_that_waits {
    ($($error:ty;)*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                let exit = if error.is_stop() { Exit::Interrupted } else { Exit::CouldNotRun };
                Failure { hint: error.hint(), error: error.into(), exit }
            }
        }
    )*};
}

from_library_that_waits! {
    haul_generate::GenerateError;
    haul_jobs::correct::CorrectError;
    haul_jobs::extract::ExtractError;
}

impl From<haul_generate::remote::ServerError> for Failure {
    fn from(error: haul_generate::remote::ServerError) -> Self {
        haul_generate::GenerateError::from(error).into()
    }
}

from_library! {
    haul_machine::verdict::DeviceError => |e| Some(e.hint().to_owned());
    haul_machine::memory::MemoryError => |_| None;
    haul_machine::roof::RoofError => |e| Some(e.hint().to_owned());
    haul_store::library::OpenError => |e| e.hint().map(str::to_owned);
    haul_store::library::ReadError => |e| e.hint().map(str::to_owned);
    haul_store::library::WriteError => |e| e.hint().map(str::to_owned);
    haul_store::library::MergeError => |e| e.hint().map(str::to_owned);
    haul_store::replace::ReplaceError => |e| e.hint().map(str::to_owned);
    haul_store::qdrant::AddressError => |e| Some(e.hint().to_owned());
    haul_generate::gguf::GgufError => |e| e.hint();
    haul_generate::remote::AddressError => |e| Some(e.hint().to_owned());
    haul_corpus::manuscript::ManuscriptError => |e| Some(e.hint().to_owned());
    haul_jobs::correct::profile::ProfileError => |_| None;
    haul_jobs::correct::spelling::SpellError => |e| e.hint();
    haul_jobs::extract::measure::MeasureError => |_| None;
    haul_jobs::batch::BatchError => |e| e.hint();
    haul_jobs::models::ModelsError => |e| e.hint();
    haul_encoder::embedder::LoadError => |e| e.hint().map(str::to_owned);
    haul_jobs::ingest::IngestError => |e| e.hint();
    haul_jobs::embed::EmbedJobError => |e| e.hint().map(str::to_owned);
    haul_jobs::bench::store::StoreBenchError => |e| e.hint().map(str::to_owned);
    haul_jobs::bench::BenchError => |e| e.hint().map(str::to_owned);
    haul_jobs::compare::CompareError => |e| e.hint();
    haul_jobs::tune::TuneError => |e| e.hint();
    haul_jobs::tune::ProfileError => |e| Some(e.hint().to_owned());
    haul_jobs::tune::encoder::EncoderTuneError => |_| None;
    haul_jobs::vision::analyze::AnalyzeError => |e| e.hint().map(str::to_owned);
    haul_jobs::vision::images::ImagesError => |e| e.hint().map(str::to_owned);
    haul_jobs::vision::mc::McError => |e| e.hint().map(str::to_owned);
    haul_encoder::vision::VisionError => |e| e.hint().map(str::to_owned);
    haul_jobs::vision::classes::ClassError => |e| e.hint().map(str::to_owned);
    haul_jobs::vision::mc::pixels::GatherError => |_| None;
    haul_jobs::vision::npz::NpzError => |_| None;
    haul_jobs::vision::tower::TowerError => |e| e.hint().map(str::to_owned);
    haul_jobs::golden::GoldenError => |e| e.hint().map(str::to_owned);
    haul_jobs::search::SearchError => |e| e.hint();
    haul_jobs::search::evaluate::InputError => |_| None;
    haul_pipeline::cache::CacheError => |_| None;
    haul_pipeline::journal::JournalError => |e| e.hint().map(str::to_owned);
    haul_pipeline::receipt::ReceiptError => |_| None;
    haul_corpus::calibre::CalibreError => |e| e.hint().map(str::to_owned);
    haul_corpus::source::SourceError => |e| e.hint().map(str::to_owned);
    haul_corpus::worker::WorkerError => |e| e.hint().map(str::to_owned);
}
