//! Documents made for tests.

use std::ops::ControlFlow;
use std::path::Path;

use haul_corpus::document::{Block, BlockKind, Chapter, Document, Format};
use haul_corpus::limits::Limits;
use haul_corpus::parse::{self, Event};
use haul_corpus::readers::Setup;
use haul_jobs::extract::documents::Source;

/// A document of paragraphs; one that begins with `# ` is a heading.
pub(crate) fn source(file: &str, paragraphs: &[&str]) -> Source {
    let mut document = Document::default();
    for paragraph in paragraphs {
        if !document.text.is_empty() {
            document.text.push_str("\n\n");
        }
        let (kind, words) = match paragraph.strip_prefix("# ") {
            Some(words) => (BlockKind::Heading(1), words),
            None => (BlockKind::Paragraph, *paragraph),
        };
        let start = document.text.len();
        document.text.push_str(words);
        document.blocks.push(Block { kind, start, end: document.text.len(), chapter: 0 });
    }
    document.chapters.push(Chapter { breadcrumb: vec![], href: None, start: 0, end: document.text.len() });
    document.check().unwrap();
    Source { file: file.to_owned(), document }
}

/// What a file says, read in this process.
pub(super) fn parsed(folder: &Path, file: &str, format: Format) -> Source {
    let mut document = None;
    let setup = Setup::built_in(&Limits::DEFAULT);
    parse::parse(&folder.join(file), format, &setup, &mut |event| {
        if let Event::Document(parsed) = event {
            document = Some(parsed.document.unwrap());
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    Source { file: file.to_owned(), document: document.unwrap() }
}
