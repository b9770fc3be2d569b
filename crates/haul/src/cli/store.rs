//! Libraries and collections.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use haul_store::qdrant::Address;

use super::StoreArg;
use super::search::FilterArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Counts, settings, sizes and the digest
    Info(StoreArg),
    /// Check that everything in the library is whole
    Verify(StoreArg),
    /// Bring a library into a collection of a Qdrant server; embeds nothing
    Push(PushArgs),
    /// Make the manifest of a collection again, from the server alone
    Sync(StoreArg),
    /// List the collections of a server, and their aliases
    Collections(StoreArg),
    /// Copy a collection of a server to another name
    Copy(CopyArgs),
    /// Let another name stand for a collection, whatever it stood for before
    Alias(AliasArgs),
    /// List the documents that all given filters let through
    List(ListArgs),
    /// Remove the documents that all given filters let through, and show what was removed
    Delete(DeleteArgs),
    /// Bring libraries together that were made with the same settings, such as those of shards
    Merge(MergeArgs),
    /// List documents whose title or authors differ from Calibre's; 1 if there are any
    Mismatched(MismatchedArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// The collection; made if it is not there
    #[arg(long, value_name = "qdrant://HOST:6334/COLLECTION")]
    pub(crate) to: Address,
}

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// Name of the copy, on the same server
    #[arg(long, value_name = "COLLECTION")]
    pub(crate) to: String,
}

#[derive(Debug, Args)]
pub(crate) struct AliasArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// The other name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// Remove them also where they are more than 10
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// The libraries to take in; they stay as they are
    #[arg(required = true, value_name = "FILE.haul")]
    pub(crate) inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArg,
}

#[derive(Debug, Args)]
pub(crate) struct MismatchedArgs {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// The Calibre library: the folder that holds metadata.db
    #[arg(long, value_name = "DIR")]
    pub(crate) calibre: PathBuf,
}
