//! Documents of a library as a table, and what came or went.

use std::path::Path;

use haul_store::library::{CatalogueEntry, Removed, Taken};
use haul_store::qdrant::catalogue::Entry;
use uuid::Uuid;

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

/// As [`documents`], of a collection.
pub(crate) fn documents_of_server(documents: &[Entry]) -> String {
    if documents.is_empty() {
        return "no documents of haul\n".to_owned();
    }
    let mut text = heading("points");
    for Entry { doc_id, title, authors, format, points, .. } in documents {
        row(&mut text, title, authors, (format, *points), doc_id);
    }
    let points = documents.iter().map(|document| document.points).sum();
    line!(text, "\n{}, {}", counted(documents.len() as u64, "document"), counted(points, "point"));
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
    let mut text = heading("chunks");
    for CatalogueEntry { doc_id, metadata, format, chunks, .. } in documents {
        row(&mut text, &metadata.title, &metadata.authors, (format, *chunks), doc_id);
    }
    text
}

fn heading(counted: &str) -> String {
    format!("{:<60} {:<10} {counted:>8}\n  {:<40}  doc_id\n", "title", "format", "authors")
}

fn row(text: &mut String, title: &str, authors: &[String], (format, pieces): (&str, u64), doc_id: &Uuid) {
    let title = shortened(&title.replace('\n', " "), 60);
    let authors = shortened(&authors.join(", ").replace('\n', " "), 40);
    line!(text, "{title:<60} {format:<10} {:>8}", thousands(pieces));
    line!(text, "  {authors:<40}  {doc_id}");
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
