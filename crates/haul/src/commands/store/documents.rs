//! `haul store list` and `haul store delete`.

use haul_store::library::{CatalogueEntry, Library};
use haul_store::publish::Publisher;
use haul_store::qdrant::{self, Address};
use haul_store::search::Filters;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Exit;
use crate::cli::StoreArg;
use crate::cli::search::FilterArgs;
use crate::cli::store::{DeleteArgs, ListArgs};
use crate::commands::{search, server};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Place, Settings};
use crate::summary::{catalogue, thousands};

/// More documents than these go only with `--yes`.
const UNASKED_MAX: usize = 10;

/// `list`.
pub(super) fn list(args: &ListArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let filters = search::filters(&args.filters);
    if let Place::Server { address, manifest } = settings.place(&args.store)?
        && !manifest.exists()
        && filters == Filters::default()
    {
        return list_of_server(&address, &args.store, output);
    }
    let library = Library::open_read_only(&settings.store(&args.store)?)?;
    let documents = library.documents(&filters)?;
    if output.json() {
        output.json_document(&json!({"documents": documents.iter().map(shown).collect::<Vec<_>>()}))?;
    } else {
        output.data(&catalogue::documents(&documents))?;
    }
    Ok(Exit::Ok)
}

/// Without a manifest, the points themselves say which documents there are.
fn list_of_server(address: &Address, store: &StoreArg, output: &Output) -> Result<Exit, Failure> {
    let (collection, _) = server::existing(address, store)?;
    let documents = qdrant::catalogue::documents(&collection)?;
    if output.json() {
        output.json_document(&json!({"documents": documents}))?;
    } else {
        output.data(&catalogue::documents_of_server(&documents))?;
    }
    Ok(Exit::Ok)
}

/// `delete`: by filters that must name something.
pub(super) fn delete(args: &DeleteArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let filters = search::filters(&args.filters);
    if filters == Filters::default() {
        return Err(Failure::new("nothing says which documents to remove")
            .hint("give --title, --author or --doc; `haul store list` takes the same and only shows them"));
    }
    refuse_blanks(&args.filters)?;
    let mut library = Library::open(&settings.store(&args.store)?)?;
    let documents = library.documents(&filters)?;
    refuse_absent(&filters.doc_ids, &documents, &library)?;
    if documents.is_empty() {
        return Err(Failure::new(format!("{}: no document is as asked for", library.path().display()))
            .hint("`haul store list` shows what is there"));
    }
    if documents.len() > UNASKED_MAX && !args.yes {
        let many = thousands(documents.len() as u64);
        return Err(Failure::new(format!("{many} documents are as asked for, and none was removed"))
            .hint("`haul store list` with the same filters shows them; --yes removes them"));
    }
    let ids: Vec<Uuid> = documents.iter().map(|document| document.doc_id).collect();
    let server = match settings.place(&args.store)? {
        Place::Library(_) => None,
        // Said before anything is removed.
        Place::Server { address, .. } => Some(server::connect(&address, &args.store, server::never())?),
    };
    let removed = library.delete_documents(&ids)?;
    if let Some(collection) = server {
        Publisher::new(&library, collection)?.publish(&ids)?;
    }
    if output.json() {
        let documents: Vec<Value> = documents.iter().map(shown).collect();
        output.json_document(&json!({"removed": removed, "documents": documents}))?;
    } else {
        output.data(&catalogue::removed(&documents, &removed))?;
    }
    Ok(Exit::Ok)
}

/// A part that is in every name selects everything, and an unset variable looks like one.
fn refuse_blanks(filters: &FilterArgs) -> Result<(), Failure> {
    let FilterArgs { tag, series, author, title, language, format, .. } = filters;
    let given = [tag, series, author, title, language, format].into_iter().flatten();
    if given.into_iter().any(|value| value.trim().is_empty()) {
        return Err(
            Failure::new("a filter is empty; nothing was removed").hint("leave it out, or name something")
        );
    }
    Ok(())
}

/// An id that was typed and is no document is a mistake.
fn refuse_absent(asked: &[Uuid], found: &[CatalogueEntry], library: &Library) -> Result<(), Failure> {
    let Some(absent) = asked.iter().find(|id| !found.iter().any(|document| document.doc_id == **id)) else {
        return Ok(());
    };
    let path = library.path().display();
    Err(Failure::new(format!("{path}: no document {absent} is as asked for; none was removed"))
        .hint("`haul store list` shows the ids"))
}

fn shown(document: &CatalogueEntry) -> Value {
    json!({
        "title": document.metadata.title,
        "authors": document.metadata.authors,
        "format": document.format,
        "chunks": document.chunks,
        "doc_id": document.doc_id,
        "root": document.root,
        "relative_path": document.relative_path,
    })
}
