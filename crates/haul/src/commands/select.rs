//! What of the input is wanted: the flags of a selection, and lists of paths.

use std::io::Read;
use std::path::{Path, PathBuf};

use haul_jobs::ingest::{CalibreFolders, Inputs, JunkMetadata, Prefetch, Request, Selection};

use haul_store::library::LibrarySettings;
use serde_json::{Value, json};

use crate::cli::ingest::{JunkArg, PrefetchArg, SelectArgs};
use crate::failure::Failure;
use crate::output::Output;
use crate::summary::thousands;

/// Bytes of a list of paths: far more than any library has books.
const LIST_BYTES_MAX: u64 = 256 << 20;

/// Lists what is asked for, and says which Calibre libraries were recognised.
pub(crate) fn inputs(paths: &[PathBuf], args: &SelectArgs, output: &Output) -> Result<Inputs, Failure> {
    let listed = match &args.files_from {
        Some(list) => paths_in(list)?,
        None => vec![],
    };
    let scratch = std::env::temp_dir();
    let selection = selection(args);
    let request = Request { paths, listed: &listed, selection: &selection, scratch: &scratch };
    let inputs = Inputs::list(&request)?;
    for library in inputs.libraries() {
        let (folder, books) = (library.folder.display(), thousands(library.books as u64));
        let selected = match library.selected {
            all if all == library.books => String::new(),
            some => format!(", {} selected", thousands(some as u64)),
        };
        output.note(&format!("Calibre library: {folder} ({books} books{selected})"));
    }
    Ok(inputs)
}

fn selection(args: &SelectArgs) -> Selection {
    let default = Selection::default();
    Selection {
        ids: args.calibre_id.clone(),
        author: args.author.clone(),
        title: args.title.clone(),
        tag: args.tag.clone(),
        language: args.language.clone(),
        formats: if args.formats.is_empty() { default.formats } else { args.formats.clone() },
        folders: if args.plain_folders { CalibreFolders::Plain } else { CalibreFolders::Recognise },
    }
}

/// As the receipt shows it: what was given.
pub(crate) fn shown(args: &SelectArgs) -> Value {
    let ids = args.calibre_id.iter().map(|ids| format!("{}-{}", ids.start(), ids.end())).collect::<Vec<_>>();
    json!({
        "files_from": args.files_from.as_ref().map(|list| list.display().to_string()),
        "calibre_id": ids,
        "author": args.author,
        "title": args.title,
        "tag": args.tag,
        "language": args.language,
        "formats": args.formats,
        "plain_folders": args.plain_folders,
        "junk_metadata": args.junk_metadata.map(|junk| format!("{junk:?}").to_lowercase()),
        "prefetch": format!("{:?}", args.prefetch).to_lowercase(),
    })
}

/// What becomes of junk, as asked, else as Alexandria does where all is done as Alexandria does.
pub(crate) fn junk(args: &SelectArgs, library: &LibrarySettings) -> JunkMetadata {
    match args.junk_metadata {
        Some(JunkArg::Replace) => JunkMetadata::Replace,
        Some(JunkArg::Keep) => JunkMetadata::Keep,
        Some(JunkArg::Skip) => JunkMetadata::Skip,
        None if library.chunkers.alexandria_compat => JunkMetadata::Skip,
        None => JunkMetadata::Replace,
    }
}

/// Which files are copied first, as asked.
pub(crate) fn prefetch(args: &SelectArgs) -> Prefetch {
    match args.prefetch {
        PrefetchArg::Auto => Prefetch::Auto,
        PrefetchArg::Always => Prefetch::Always,
        PrefetchArg::Never => Prefetch::Never,
    }
}

/// One path a line; empty lines and lines that begin with `#` are none.
fn paths_in(list: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut bytes = Vec::new();
    let read = if list == Path::new("-") {
        std::io::stdin().lock().take(LIST_BYTES_MAX).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(list).and_then(|file| file.take(LIST_BYTES_MAX).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::io("read the list of paths", list, &error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Failure::new(format!("{}: line {line} is not UTF-8", list.display()))
            .hint("a list of paths is a text file in UTF-8, one path a line")
    })?;
    let paths: Vec<PathBuf> = lines(&text).map(PathBuf::from).collect();
    if paths.is_empty() {
        return Err(Failure::new(format!("there are no paths in {}", list.display()))
            .hint("one path a line; lines that begin with # are left out"));
    }
    Ok(paths)
}

/// Editors of Windows begin a file with a mark and end lines with a carriage return.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.strip_prefix('\u{feff}')
        .unwrap_or(text)
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_comments_marks_and_names_with_blanks() {
        let list = "\u{feff}# books\r\n/a/b c.epub\r\n\r\n  \n /lead.txt\n/#1.txt\n#/no.txt";
        assert_eq!(lines(list).collect::<Vec<_>>(), ["/a/b c.epub", " /lead.txt", "/#1.txt"]);
    }
}
