//! What one file may cost. Every bound of the readers and of the worker process stands here.

use serde::{Deserialize, Serialize};

use crate::document::Format;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Limits of one file; over one of them the file ends as `too_large` or `timeout`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Entries of an archive.
    pub archive_entries: u64,
    /// Bytes that the entries of one archive inflate to, all together.
    pub archive_bytes: u64,
    /// Bytes that one entry inflates to.
    pub entry_bytes: u64,
    /// Inflated bytes per compressed byte of one entry, counted above `ratio_from_bytes` only: blank pages of
    /// real books compress 463 to 1.
    pub entry_ratio: u64,
    /// Size below which no ratio is counted.
    pub ratio_from_bytes: u64,
    /// Bytes of a text file, of a JSONL line, and of the text of one document.
    pub text_bytes: u64,
    /// Bytes of one reply frame of the worker.
    pub reply_bytes: u64,
    /// Address space of the worker process; of a PDF, see [`Limits::of_file`].
    pub memory_bytes: u64,
    /// Address space of the worker process for a PDF, to which twice the size of the file is added.
    pub pdf_memory_bytes: u64,
    /// Pages of a PDF.
    pub pdf_pages: u32,
    /// CPU time of one document.
    pub cpu_seconds: u64,
    /// Wall-clock time from asking to one document's reply; time the caller spends on a reply is not counted.
    pub wall_seconds: u64,
}

impl Limits {
    /// The limits the product ships with.
    pub const DEFAULT: Limits = Limits {
        archive_entries: 20_000,
        archive_bytes: GIB,
        entry_bytes: 256 * MIB,
        entry_ratio: 200,
        ratio_from_bytes: MIB,
        text_bytes: 64 * MIB,
        reply_bytes: 256 * MIB,
        memory_bytes: 2 * GIB,
        pdf_memory_bytes: 512 * MIB,
        pdf_pages: 20_000,
        cpu_seconds: 30,
        wall_seconds: 60,
    };

    /// Whether a file of this format can be small enough to be read: a text is as large as its file.
    #[must_use]
    pub fn admit(&self, format: Format, size_bytes: u64) -> bool {
        !matches!(format, Format::Text | Format::Markdown | Format::Html) || size_bytes <= self.text_bytes
    }

    /// What a file of this format and size may cost. The work in a PDF grows with its size: it gets twice its bytes
    /// of memory, and 2 s of CPU time and 4 s of wall-clock time for each MiB, on top of what every file gets.
    #[must_use]
    pub fn of_file(&self, format: Format, size_bytes: u64) -> Limits {
        if format != Format::Pdf {
            return self.clone();
        }
        let size_mib = size_bytes / MIB;
        Limits {
            memory_bytes: self.pdf_memory_bytes + 2 * size_bytes,
            cpu_seconds: self.cpu_seconds + PDF_CPU_SECONDS_PER_MIB * size_mib,
            wall_seconds: self.wall_seconds + PDF_WALL_SECONDS_PER_MIB * size_mib,
            ..self.clone()
        }
    }
}

const PDF_CPU_SECONDS_PER_MIB: u64 = 2;
/// Twice the CPU time, for machines that are busy with other files.
const PDF_WALL_SECONDS_PER_MIB: u64 = 4;

/// Nesting of a table of contents; what is deeper stands under the title of this level, and is left out of a PDF's
/// outline. Every entry repeats the titles above it.
pub(crate) const DEPTH_MAX: usize = 64;
/// Entries of a table of contents, and elements of a package file's metadata, manifest and spine.
pub(crate) const PACKAGE_ITEMS_MAX: usize = 100_000;
/// Bytes of a title, an author or another single value of metadata.
pub(crate) const METADATA_VALUE_BYTES_MAX: usize = 64 * KIB as usize;
/// Bytes of one title in a breadcrumb. Every chapter below repeats it.
pub(crate) const TITLE_BYTES_MAX: usize = KIB as usize;
/// Sheets of a workbook.
pub(crate) const SHEETS_MAX: usize = 10_000;
/// Columns of a sheet, as many as Excel has.
pub(crate) const TABLE_COLUMNS_MAX: usize = 16_384;
/// Mails that hang on mails that hang on a mail.
pub(crate) const MAIL_DEPTH_MAX: usize = 8;
/// Files that hang on a mail.
pub(crate) const MAIL_ATTACHMENTS_MAX: usize = 1_000;
/// Directory levels below a listed root.
pub(crate) const FOLDER_DEPTH_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pdf_may_cost_more_the_larger_it_is() {
        let large = Limits::DEFAULT.of_file(Format::Pdf, 331 * MIB);
        assert_eq!(large.memory_bytes, (512 + 662) * MIB);
        assert_eq!((large.cpu_seconds, large.wall_seconds), (30 + 662, 60 + 1324));
        assert_eq!(Limits::DEFAULT.of_file(Format::Epub, 331 * MIB), Limits::DEFAULT);
    }

    #[test]
    fn a_text_is_as_large_as_its_file() {
        assert!(
            Limits::DEFAULT.admit(Format::Text, 64 * MIB)
                && !Limits::DEFAULT.admit(Format::Text, 64 * MIB + 1)
        );
        assert!(Limits::DEFAULT.admit(Format::JsonLines, GIB) && Limits::DEFAULT.admit(Format::Pdf, GIB));
    }
}
