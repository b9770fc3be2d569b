//! Documents of a library as a table, and what came or went.

use std::path::Path;

use haul_store::library::{CatalogueEntry, Removed, Taken};

use super::{shortened, thousands};

/// Every document in two lines of 80 columns: a doc_id alone takes 36.
pub(crate) fn documents(documents: &[CatalogueEntry]) -> String {
    if documents.is_empty() {
        return "no documents\n".to_owned();
    }
    let mut text = table(documents);
    let chunks = documents.iter().map(|document| document.chunks).sum();
    line!(text, "\n{}, {}", counted(documents.len() as u64, "document"), counted(chunks, "chunk"));
    text
}

/// What is no more in the library.
pub(crate) fn removed(documents: &[CatalogueEntry], removed: &Removed) -> String {
    let mut text = table(documents);
    line!(
        text,
        "\nremoved {}, {} and {} that nothing else used",
        counted(removed.documents, "document"),
        counted(removed.chunks, "chunk"),
        counted(removed.vectors, "vector")
    );
    text
}

fn table(documents: &[CatalogueEntry]) -> String {
    let mut text = String::new();
    line!(text, "{:<60} {:<10} {:>8}\n  {:<40}  doc_id", "title", "format", "chunks", "authors");
    for document in documents {
        let metadata = &document.metadata;
        let title = shortened(&metadata.title.replace('\n', " "), 60);
        let authors = shortened(&metadata.authors.join(", ").replace('\n', " "), 40);
        line!(text, "{title:<60} {:<10} {:>8}", document.format, thousands(document.chunks));
        line!(text, "  {authors:<40}  {}", document.doc_id);
    }
    text
}

/// What a merge took from each library.
pub(crate) fn merged(taken: &[Taken], store: &Path) -> String {
    let mut text = String::new();
    line!(text, "merged into {}", store.display());
    for Taken { from, documents, chunks, vectors, not_ok, known } in taken {
        line!(text, "  {}", from.display());
        let (documents, chunks, vectors) =
            (counted(*documents, "document"), counted(*chunks, "chunk"), counted(*vectors, "vector"));
        line!(text, "    {documents}, {chunks}, {vectors} taken");
        if *not_ok > 0 {
            line!(text, "    {} not ok, taken over as such", counted(*not_ok, "input"));
        }
        if *known > 0 {
            line!(text, "    {} there already", counted(*known, "input"));
        }
    }
    text
}

/// `1 chunk`, `2 chunks`.
fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(number), if number == 1 { "" } else { "s" })
}
