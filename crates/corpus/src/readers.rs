//! What readers of files work with besides the file: libraries and programs of this machine, handed in by paths.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::limits::Limits;

/// The first thing a worker is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// What one file may cost.
    pub limits: Limits,
    /// Libraries and programs.
    pub readers: Readers,
}

impl Setup {
    /// With the readers that are part of this program only.
    pub fn built_in(limits: &Limits) -> Setup {
        Setup { limits: limits.clone(), readers: Readers::default() }
    }
}

/// Libraries and programs of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readers {
    /// Without it, the PDF reader that is part of this program is used.
    pub pdfium: Option<Pdfium>,
    /// What reads pages that are pictures; such pages are listed and left out without it.
    pub ocr: Option<Ocr>,
}

impl Readers {
    /// What reads PDFs, such as `pdfium 6f1c..`: of another reader, the same file may give another text.
    #[must_use]
    pub fn pdf_engine(&self) -> String {
        self.pdfium.as_ref().map_or_else(|| FALLBACK.to_owned(), |pdfium| format!("pdfium {}", pdfium.build))
    }

    /// All that bears on the text of a PDF.
    #[must_use]
    pub fn pdf_identity(&self) -> String {
        let ocr = self.ocr.as_ref();
        let ocr = ocr.map_or_else(String::new, |ocr| {
            format!(", {} {}", ocr.version, ocr.language.as_deref().unwrap_or_default())
        });
        self.pdf_engine() + &ocr
    }
}

/// The PDF reader that is part of this program.
const FALLBACK: &str = "pdf_oxide 0.3.78";

/// The pdfium library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pdfium {
    /// The file that is loaded.
    pub library: PathBuf,
    /// What tells it from other builds, which say nothing of themselves: a hash of the file.
    pub build: String,
}

/// Optical character recognition by the `tesseract` command. Pages are rendered by pdfium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ocr {
    /// The command.
    pub tesseract: PathBuf,
    /// The first line of its `--version`, such as `tesseract 5.3.0`.
    pub version: String,
    /// Its `-l`, such as `eng+deu`; its own default without one.
    pub language: Option<String>,
}
