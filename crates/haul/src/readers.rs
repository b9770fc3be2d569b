//! Finds the libraries and programs of this machine that read files: pdfium and tesseract.

use std::path::{Path, PathBuf};
use std::process::Command;

use haul_corpus::readers::{Ocr, Pdfium, Readers};
use haul_jobs::ingest::identify_pdfium;

use crate::cli::ingest::ReaderArgs;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;

const PDFIUM: &str = "libpdfium.so";
const TESSERACT: &str = "tesseract";

/// What PDFs are read with, which a line on stderr says.
pub(crate) fn for_pdfs(args: &ReaderArgs, settings: &Settings, output: &Output) -> Result<Readers, Failure> {
    let searched = searched(settings)?;
    let pdfium = match settings.pdfium(args) {
        Some(library) if !library.is_file() => {
            return Err(Failure::new(format!("--pdfium {}: there is no such file", library.display()))
                .hint("name libpdfium.so itself, or leave it out to read PDFs without pdfium"));
        }
        Some(library) => Some(identify(&library)?),
        None => {
            searched.iter().find(|library| library.is_file()).map(|library| identify(library)).transpose()?
        }
    };
    let ocr = if args.ocr { Some(ocr(args)?) } else { None };
    if ocr.is_some() && pdfium.is_none() {
        return Err(Failure::new("--ocr needs pdfium, which draws the pages, and it is not found")
            .hint("name its library with --pdfium; it is in the Python package pypdfium2"));
    }
    let readers = Readers { pdfium, ocr };
    let places = searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    output.note(&match &readers.pdfium {
        Some(found) => format!("pdf: {} ({})", readers.pdf_identity(), found.library.display()),
        None => format!(
            "pdf: {}, part of this program; pdfium reads more, and is not at {places}",
            readers.pdf_engine()
        ),
    });
    Ok(readers)
}

/// Where pdfium is looked for when nobody says where it is: beside this program, and in the home folder.
fn searched(settings: &Settings) -> Result<Vec<PathBuf>, Failure> {
    let beside = beside_program()?;
    Ok(vec![beside.join(PDFIUM), beside.join("backends").join(PDFIUM), settings.backends().join(PDFIUM)])
}

#[expect(clippy::disallowed_methods, reason = "the binary knows where it is; libraries are told")]
fn beside_program() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find this program to look beside it: {error}")))?;
    Ok(program.parent().map(Path::to_path_buf).unwrap_or_default())
}

fn identify(library: &Path) -> Result<Pdfium, Failure> {
    let library = library.canonicalize().map_err(|error| Failure::io("find", library, &error))?;
    identify_pdfium(library.clone()).map_err(|error| Failure::io("read", &library, &error))
}

fn ocr(args: &ReaderArgs) -> Result<Ocr, Failure> {
    let hint = "install it (Debian: apt-get install tesseract-ocr), or leave --ocr out";
    let output = Command::new(TESSERACT)
        .arg("--version")
        .output()
        .map_err(|error| Failure::new(format!("--ocr: cannot run {TESSERACT}: {error}")).hint(hint))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.lines().next().unwrap_or_default().trim().to_owned();
    if !output.status.success() || version.is_empty() {
        return Err(
            Failure::new(format!("--ocr: {TESSERACT} --version ended with {}", output.status)).hint(hint)
        );
    }
    Ok(Ocr { tesseract: PathBuf::from(TESSERACT), version, language: args.ocr_language.clone() })
}
