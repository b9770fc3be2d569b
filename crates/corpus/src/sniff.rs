//! What a file really is, from its first bytes, before a reader for what its name says starts on it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use crate::document::Format;
use crate::parse::unreadable;
use crate::verdict::{ParseFailure, Verdict};

/// Bytes looked at. Binary files that start with this much text are caught by nothing.
const SNIFFED_BYTES: u64 = 8 << 10;

/// Kinds of file that carry their name in their first bytes.
const MAGIC: [(&[u8], &str); 16] = [
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (PDF_MAGIC, "a PDF"),
    (b"\x1f\x8b", "gzip data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"\xd0\xcf\x11\xe0", OLD_OFFICE),
    (b"{\\rtf", "an RTF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\0", "an SQLite database"),
];
const PDF_MAGIC: &[u8] = b"%PDF-";
const PDF_MAGIC_WITHIN_BYTES: usize = 1024;
const OLD_OFFICE: &str = "an old Office document";
const MOBI_MAGIC_AT: usize = 60;
const MOBI_MAGIC: &[u8] = b"BOOKMOBI";
const UTF_16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// Fails where the content of `file` is not what `format` says; leaves the file at its start.
pub(crate) fn check(file: &mut File, format: Format) -> Result<(), ParseFailure> {
    let mut start = Vec::new();
    file.by_ref().take(SNIFFED_BYTES).read_to_end(&mut start).map_err(unreadable)?;
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    check_start(&start, format)
}

fn check_start(start: &[u8], format: Format) -> Result<(), ParseFailure> {
    let name = format.name();
    let unsupported = |is: &str| {
        let why = format!("named as {name}, but its content is {is}");
        Err(ParseFailure::new(Verdict::Unsupported, why))
    };
    let binary = binary_kind(start);
    if format == Format::Pdf {
        return check_pdf(start, binary);
    }
    if format == Format::Msg {
        return check_mail(start, binary);
    }
    if format == Format::Picture {
        // Whoever recognises it knows more kinds of picture than are named here.
        return Ok(());
    }
    if matches!(format, Format::Epub | Format::Docx | Format::Xlsx) {
        return match binary {
            Some(kind) if kind.ends_with("zip archive") => Ok(()),
            // Office puts a document with a password into the shell of an old one.
            Some(kind) if kind == OLD_OFFICE && format != Format::Epub => {
                let is = if format == Format::Docx { "Word document" } else { "Excel workbook" };
                let why = format!("encrypted, or an old {is} under the name of a new one");
                Err(ParseFailure::new(Verdict::Drm, why))
            }
            Some(kind) => unsupported(kind),
            None if looks_like_html(start) => unsupported("HTML"),
            None => {
                let is = match format {
                    Format::Docx => "a Word document",
                    Format::Xlsx => "an Excel workbook",
                    _ => "an EPUB",
                };
                let why = format!("not a zip archive, as {is} is: it starts with {:?}", first_letters(start));
                Err(ParseFailure::new(Verdict::Corrupt, why))
            }
        };
    }
    match binary {
        Some(kind) => unsupported(kind),
        None => Ok(()),
    }
}

/// Readers find the mark of a PDF behind other bytes too; old mail gateways put some there.
fn check_pdf(start: &[u8], binary: Option<&'static str>) -> Result<(), ParseFailure> {
    let head = &start[..start.len().min(PDF_MAGIC_WITHIN_BYTES)];
    if head.windows(PDF_MAGIC.len()).any(|window| window == PDF_MAGIC) {
        return Ok(());
    }
    match binary {
        Some(kind) if !kind.starts_with("binary") => {
            let why = format!("named as pdf, but its content is {kind}");
            Err(ParseFailure::new(Verdict::Unsupported, why))
        }
        _ => {
            let why = format!("not a PDF: it starts with {:?}", first_letters(start));
            Err(ParseFailure::new(Verdict::Corrupt, why))
        }
    }
}

fn check_mail(start: &[u8], binary: Option<&'static str>) -> Result<(), ParseFailure> {
    match binary {
        Some(OLD_OFFICE) => Ok(()),
        Some(kind) => {
            let why = format!("named as msg, but its content is {kind}");
            Err(ParseFailure::new(Verdict::Unsupported, why))
        }
        None => {
            let why = format!("not a mail of Outlook: it starts with {:?}", first_letters(start));
            Err(ParseFailure::new(Verdict::Corrupt, why))
        }
    }
}

fn first_letters(start: &[u8]) -> String {
    String::from_utf8_lossy(&start[..start.len().min(8)]).into_owned()
}

fn binary_kind(start: &[u8]) -> Option<&'static str> {
    if let Some((_, kind)) = MAGIC.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Some(kind);
    }
    if start.get(MOBI_MAGIC_AT..).is_some_and(|rest| rest.starts_with(MOBI_MAGIC)) {
        return Some("a MOBI book");
    }
    let is_utf_16 = UTF_16_MARKS.iter().any(|mark| start.starts_with(mark));
    (!is_utf_16 && start.contains(&0)).then_some("binary data (NUL bytes)")
}

fn looks_like_html(start: &[u8]) -> bool {
    let text = String::from_utf8_lossy(start).to_ascii_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    text.starts_with("<!doctype html") || text.starts_with("<html") || text.contains("<html")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(start: &[u8], format: Format) -> Option<Verdict> {
        check_start(start, format).err().map(|failure| failure.verdict)
    }

    #[test]
    fn content_that_is_not_what_the_name_says_is_named() {
        assert_eq!(verdict(b"PK\x03\x04....", Format::Text), Some(Verdict::Unsupported));
        assert_eq!(verdict(b"PK\x03\x04....", Format::Epub), None);
        assert_eq!(verdict(b"<!DOCTYPE html><p>", Format::Epub), Some(Verdict::Unsupported));
        assert_eq!(verdict(b"%PDF-1.7", Format::Epub), Some(Verdict::Unsupported));
        assert_eq!(verdict(b"just words", Format::Epub), Some(Verdict::Corrupt));
        assert_eq!(verdict(b"just words", Format::Text), None);
        assert_eq!(verdict(b"words\0\0\x01", Format::Text), Some(Verdict::Unsupported));
        assert_eq!(verdict(b"\xff\xfeh\0i\0", Format::Text), None);
    }
}
