//! What there is to read, as it was listed.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use haul_corpus::source::{self, ListFailure, Listing};
use haul_corpus::verdict::{ParseFailure, Verdict};
use uuid::Uuid;

use super::IngestError;
use super::calibre::{self, Book, Found, LibraryFound, Selection};
use super::select;

/// The files under the paths that a user names.
#[derive(Default)]
pub struct Inputs {
    pub(super) paths: Vec<PathBuf>,
    pub(super) listing: Listing,
    /// Paths of which every document is listed: only below these can one be gone.
    pub(super) whole: Vec<PathBuf>,
    pub(super) libraries: Vec<LibraryFound>,
    pub(super) books: HashMap<PathBuf, Arc<Book>>,
    pub(super) absent: HashSet<Uuid>,
    pub(super) calibre_files: HashMap<PathBuf, Option<Uuid>>,
}

/// What a user names.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Files and folders; each must be there.
    pub paths: &'a [PathBuf],
    /// Files and folders of a list; one that is not there is an input that failed.
    pub listed: &'a [PathBuf],
    /// What of Calibre libraries is wanted.
    pub selection: &'a Selection,
    /// A local folder in which a copy of a Calibre database may stand for a moment.
    pub scratch: &'a Path,
}

impl Inputs {
    /// Lists what is there now.
    ///
    /// # Errors
    /// A path that is not there, a Calibre library that cannot be read, a selection that selects nothing.
    pub fn list(request: &Request<'_>) -> Result<Inputs, IngestError> {
        let mut paths = select::absolute(request.paths)?;
        let mut lost = Vec::new();
        for path in request.listed {
            match source::absolute(path) {
                Ok(path) => paths.push(path),
                Err(error) => {
                    let failure = ParseFailure::new(Verdict::Failed, format!("listed, but: {error}"));
                    lost.push(ListFailure { path: path.clone(), failure });
                }
            }
        }
        let mut found = calibre::find(paths.clone(), request.selection, request.scratch)?;
        let mut listing = source::list(&found.plain)?;
        listing.failures.extend(lost);
        found.add_to(&mut listing);
        select::leave_out_libraries(&mut listing);
        let Found { whole, libraries, books, absent, known_files: calibre_files, .. } = found;
        Ok(Inputs { paths, listing, whole, libraries, books, absent, calibre_files })
    }

    /// The Calibre libraries among the paths.
    #[must_use]
    pub fn libraries(&self) -> &[LibraryFound] {
        &self.libraries
    }

    /// # Errors
    /// [`IngestError::NoFiles`] where there is no file at all.
    pub fn refuse_empty(&self) -> Result<(), IngestError> {
        if self.listing.files.is_empty() && self.listing.failures.is_empty() {
            let (paths, hidden) = (self.paths.clone(), self.listing.hidden);
            return Err(IngestError::NoFiles { paths, hidden });
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.listing.files.iter().map(|file| file.size_bytes).sum()
    }
}
