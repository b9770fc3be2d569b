//! `text FILE.pdf [libpdfium.so]`: the text of a PDF line by line, as the engine gives it; `bench/pdf/compare.py`
//! compares it with another program's. Only for files that are trusted: nothing here is isolated.
#![expect(clippy::print_stdout, reason = "it is all that this example does")]

use std::path::PathBuf;

use haul_corpus::limits::Limits;
use haul_corpus::pdf::raw_text;
use haul_corpus::readers::{Pdfium, Readers, Setup};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let file = args.next().ok_or("usage: text FILE.pdf [libpdfium.so]")?;
    let pdfium = args.next().map(|library| Pdfium { library, build: String::new() });
    let setup = Setup { limits: Limits::DEFAULT, readers: Readers { pdfium, ocr: None } };
    println!("{}", raw_text(&file, &setup)?);
    Ok(())
}
