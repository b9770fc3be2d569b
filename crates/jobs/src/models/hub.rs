//! A model hub with the addresses of Hugging Face: which files of a repository make a model directory.

use std::path::PathBuf;

use haul_encoder::model::Head;
use serde::Deserialize;

use super::checksum::Checksum;
use super::names::{NameFault, check_file_path, check_model_name};
use super::transfer::Client;

/// The hub of Hugging Face.
pub const HUB_URL: &str = "https://huggingface.co";
/// One page of a listing; the hub sends 1,000 files a page, some 300 KB.
const LISTING_PAGE_BYTES_MAX: u64 = 8 << 20;
/// Far beyond any repository of one model.
const LISTING_PAGES_MAX: usize = 50;
/// `modules.json` of a real model has some hundred bytes.
const MODULES_BYTES_MAX: u64 = 1 << 20;

/// 1 TiB. No model has a file of it, and lengths below it can be added without care.
const FILE_BYTES_MAX: u64 = 1 << 40;

const REVISION_DEFAULT: &str = "main";
const MODULES_FILE: &str = "modules.json";
/// Where a model's weights are: the first of these that there is, as `ModelDir::open` looks for them.
pub(super) const WEIGHTS_FILES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// `tokenizer.json` says all that these say, but other libraries that may open the same folder ask for them.
const FOR_OTHER_TOOLS: [&str; 2] = ["special_tokens_map.json", "vocab.txt"];

/// Where to download from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hub {
    /// [`HUB_URL`], or the address of a mirror.
    pub url: String,
}

/// How far a download is. The numbers fall back when a server cannot go on where it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Download<'a> {
    /// The file at work, as the hub names it.
    pub file: &'a str,
    /// Of this file, on disk.
    pub file_bytes_done: u64,
    /// Its length.
    pub file_bytes: u64,
    /// Of all files, on disk.
    pub bytes_done: u64,
    /// The length of all files.
    pub bytes: u64,
}

/// `organisation/name` at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    organisation: String,
    pub(super) name: String,
    revision: String,
}

/// A file that the hub offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubFile {
    /// Relative, checked.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) checksum: Checksum,
}

impl HubFile {
    pub(super) fn has_part_in_vectors(&self) -> bool {
        !FOR_OTHER_TOOLS.iter().any(|name| self.path.ends_with(name))
    }
}

impl Repository {
    /// `organisation/name[@revision]`.
    pub(super) fn parse(id: &str) -> Result<Repository, HubError> {
        let refused = |why| HubError::Id { id: id.into(), why };
        let (path, revision) = id.split_once('@').unwrap_or((id, REVISION_DEFAULT));
        let (organisation, name) = path.split_once('/').ok_or_else(|| refused(IdFault::NoOrganisation))?;
        for part in [organisation, name] {
            check_model_name(part).map_err(|fault| refused(IdFault::Name(fault)))?;
        }
        check_file_path(revision).map_err(|fault| refused(IdFault::Revision(fault)))?;
        Ok(Repository { organisation: organisation.into(), name: name.into(), revision: revision.into() })
    }

    /// `organisation/name@revision`.
    pub(super) fn id(&self) -> String {
        format!("{}/{}@{}", self.organisation, self.name, self.revision)
    }

    pub(super) fn file_url(&self, hub: &str, path: &str) -> String {
        let (revision, path) = (percent_encode(&self.revision, ""), percent_encode(path, "/"));
        format!("{hub}/{}/{}/resolve/{revision}/{path}", self.organisation, self.name)
    }

    fn listing_url(&self, hub: &str) -> String {
        let revision = percent_encode(&self.revision, "");
        format!("{hub}/api/models/{}/{}/tree/{revision}", self.organisation, self.name)
    }
}

/// Encodes all but the unreserved characters of RFC 3986 and those in `kept`.
fn percent_encode(text: &str, kept: &str) -> String {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || kept.as_bytes().contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Everything that a repository holds.
pub(super) struct Listing {
    id: String,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    r#type: String,
    path: String,
    size: Option<u64>,
    oid: Option<String>,
    lfs: Option<LargeFile>,
}

/// What the hub says of a file that git only points to.
#[derive(Deserialize)]
struct LargeFile {
    oid: String,
    size: u64,
}

#[derive(Deserialize)]
struct Module {
    path: String,
}

impl Listing {
    /// Asks the hub, page by page.
    pub(super) fn fetch(client: &Client<'_>, repository: &Repository) -> Result<Listing, HubError> {
        let url = repository.listing_url(client.hub());
        let mut query = Some("recursive=true".to_owned());
        let mut entries = vec![];
        for _ in 0..LISTING_PAGES_MAX {
            let Some(page_query) = query else {
                return Ok(Listing { id: repository.id(), entries });
            };
            let page_url = format!("{url}?{page_query}");
            let page = client.text(&page_url, LISTING_PAGE_BYTES_MAX)?;
            let page_entries: Vec<Entry> = serde_json::from_slice(&page.body)
                .map_err(|source| HubError::Json { what: page_url.clone(), source })?;
            entries.extend(page_entries);
            query = page.link.as_deref().and_then(next_query);
        }
        Err(HubError::TooManyPages { url })
    }

    /// The file that says which folders a model has.
    pub(super) fn modules_file(&self) -> Result<HubFile, HubError> {
        let file = self.required(MODULES_FILE)?;
        if file.bytes > MODULES_BYTES_MAX {
            return Err(HubError::TooLarge { url: file.path, bytes_max: MODULES_BYTES_MAX });
        }
        Ok(file)
    }

    /// The files that a model directory needs, weights last, so that what is wrong with the others is known before
    /// the large ones are on their way. `modules` is the content of [`Listing::modules_file`].
    pub(super) fn model_files(&self, modules: &[u8]) -> Result<Vec<HubFile>, HubError> {
        let modules: Vec<Module> = serde_json::from_slice(modules)
            .map_err(|source| HubError::Json { what: format!("{}: {MODULES_FILE}", self.id), source })?;
        let mut folders: Vec<&str> = modules.iter().map(|module| module.path.trim_end_matches('/')).collect();
        for folder in folders.iter().filter(|folder| !folder.is_empty()) {
            check_file_path(folder).map_err(|fault| self.refused_name(folder, fault))?;
        }
        let transformer = folders.first().copied().unwrap_or("");
        let weights = self.weights_file(transformer)?;
        let heads = Head::ALL.map(|head| join(transformer, head.file_name()));
        folders.push("");
        let mut files = vec![];
        for entry in self.entries.iter().filter(|entry| entry.r#type == "file") {
            let file = entry.path.rsplit(['/', '\\']).next().unwrap_or(&entry.path);
            if !is_model_file(file) {
                continue;
            }
            let chosen = self.file(entry)?;
            let wanted = if is_weights(file) {
                entry.path == weights || heads.contains(&entry.path)
            } else {
                folders.iter().any(|folder| join(folder, file) == entry.path)
            };
            if wanted {
                files.push(chosen);
            }
        }
        let order = |file: &HubFile| (file.path == weights, file.bytes, file.path.clone());
        files.sort_by_key(order);
        files.dedup_by(|a, b| a.path == b.path);
        Ok(files)
    }

    fn required(&self, path: &str) -> Result<HubFile, HubError> {
        match self.entries.iter().find(|entry| entry.path == path) {
            Some(entry) => self.file(entry),
            None => Err(HubError::Missing { id: self.id.clone(), file: path.to_owned() }),
        }
    }

    /// The path of the weights, which are one file.
    fn weights_file(&self, folder: &str) -> Result<String, HubError> {
        let has = |path: &String| self.entries.iter().any(|entry| entry.path == *path);
        let paths = WEIGHTS_FILES.map(|name| join(folder, name));
        let indices = paths.each_ref().map(|path| format!("{path}.index.json"));
        if let Some(path) = paths.iter().find(|path| has(path)) {
            return Ok(path.clone());
        }
        let id = self.id.clone();
        Err(match indices.into_iter().find(has) {
            Some(file) => HubError::Sharded { id, file },
            None => HubError::Missing { id, file: paths.join(" and no ") },
        })
    }

    fn file(&self, entry: &Entry) -> Result<HubFile, HubError> {
        check_file_path(&entry.path).map_err(|fault| self.refused_name(&entry.path, fault))?;
        let refused = |why| HubError::Entry { id: self.id.clone(), file: entry.path.clone(), why };
        let (bytes, checksum) = match (&entry.lfs, &entry.oid, entry.size) {
            (Some(large), ..) => (large.size, Checksum::Sha256(large.oid.clone())),
            (None, Some(oid), Some(size)) => (size, Checksum::GitBlob(oid.clone())),
            _ => return Err(refused("it has no length or no checksum")),
        };
        if bytes > FILE_BYTES_MAX {
            return Err(refused("it is longer than any model"));
        }
        let digits = if matches!(checksum, Checksum::Sha256(_)) { 64 } else { 40 };
        let is_hex = |hex: &str| hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if checksum.hex().len() != digits || !is_hex(checksum.hex()) {
            return Err(refused("its checksum is none"));
        }
        Ok(HubFile { path: entry.path.clone(), bytes, checksum })
    }

    fn refused_name(&self, file: &str, fault: NameFault) -> HubError {
        HubError::FileName { id: self.id.clone(), file: file.into(), fault }
    }
}

fn join(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.into() } else { format!("{folder}/{file}") }
}

/// Whether a model directory has files of this name. Any path in a listing that ends in one must be sound, wherever
/// it lies; the others are never looked at.
fn is_model_file(name: &str) -> bool {
    [
        MODULES_FILE,
        "config.json",
        "config_sentence_transformers.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    .contains(&name)
        || is_weights(name)
        || FOR_OTHER_TOOLS.contains(&name)
        || (name.starts_with("sentence_") && name.ends_with("_config.json"))
}

fn is_weights(name: &str) -> bool {
    WEIGHTS_FILES.contains(&name) || Head::ALL.iter().any(|head| head.file_name() == name)
}

/// The query of the `rel="next"` address in a `Link` header (RFC 8288). Only the query is taken: a listing never
/// leads to another host.
fn next_query(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let address = next.split_once('<')?.1.split_once('>')?.0;
    Some(address.split_once('?')?.1.to_owned())
}

/// What is wrong with the id of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdFault {
    /// No slash.
    #[error("it names no organisation")]
    NoOrganisation,
    /// Organisation or name.
    #[error("the name: {0}")]
    Name(NameFault),
    /// What stands after the `@`.
    #[error("the revision: {0}")]
    Revision(NameFault),
}

/// Why a model could not be downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum HubError {
    /// The user's id is none.
    #[error("{id:?} is not the id of a model: {why}")]
    Id { id: String, why: IdFault },
    /// The hub answered, but not with what was asked for.
    #[error("{url}: the hub answered {status}")]
    Status { url: String, status: u16 },
    /// No answer, or none that could be read.
    #[error("{url}: {source}")]
    Request { url: String, source: Box<ureq::Error> },
    /// The stream ended early, again and again.
    #[error("{url}: cut after {bytes_done} of {bytes} bytes: {why}")]
    Cut { url: String, bytes_done: u64, bytes: u64, why: String },
    /// The answer to a range is another range.
    #[error("{url}: asked for bytes from {asked} on, got {got:?}")]
    Range { url: String, asked: u64, got: String },
    /// The answer is not as long as the listing says.
    #[error("{url}: {found} bytes, but the listing says {expected}")]
    Length { url: String, expected: u64, found: u64 },
    /// The answer is not what the listing says.
    #[error("{url}: damaged: {found} instead of {expected}")]
    Damaged { url: String, expected: Checksum, found: Checksum },
    /// An answer without end.
    #[error("{url}: longer than {bytes_max} bytes")]
    TooLarge { url: String, bytes_max: u64 },
    /// A listing without end.
    #[error("{url}: more than {LISTING_PAGES_MAX} pages of files")]
    TooManyPages { url: String },
    /// Not the JSON that it should be.
    #[error("{what}: {source}")]
    Json { what: String, source: serde_json::Error },
    /// The repository has no such file.
    #[error("{id}: the hub has no {file}")]
    Missing { id: String, file: String },
    /// Weights in several files.
    #[error("{id}: the weights are in several files ({file}), which is not read yet")]
    Sharded { id: String, file: String },
    /// A file that cannot be checked.
    #[error("{id}: the hub's listing of {file:?} is refused: {why}")]
    Entry { id: String, file: String, why: &'static str },
    /// A name that may lead out of the folder.
    #[error("{id}: file name {file:?} is refused: {fault}")]
    FileName { id: String, file: String, fault: NameFault },
    /// The partial file could not be written.
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    /// Asked to stop.
    #[error("stopped; what was downloaded is kept")]
    Stopped,
}

impl HubError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            HubError::Id { .. } => Some("a model is named organisation/name or organisation/name@revision"),
            HubError::Status { status: 401 | 403 | 404, .. } => Some(
                "check the id and the revision; a model behind a login has to be downloaded with the hub's own tool \
                 and then added as a folder",
            ),
            HubError::Missing { file, .. } if file == MODULES_FILE => Some(
                "pooling is never guessed: take the sentence-transformers release of this model, or download it \
                 yourself, add modules.json and 1_Pooling/config.json as its authors pool, and add the folder",
            ),
            HubError::Missing { .. } | HubError::Sharded { .. } => {
                Some("save the model with safe_serialization in one file, and add the folder")
            }
            HubError::Damaged { .. } => {
                Some("the damaged file was deleted; try again, and if it stays damaged, from another network")
            }
            error if error.is_to_go_on_from() => {
                Some("what was downloaded is kept; the same command goes on from there")
            }
            _ => None,
        }
    }

    /// Whether another attempt may find use for what is downloaded already.
    pub(super) fn is_to_go_on_from(&self) -> bool {
        matches!(
            self,
            HubError::Status { .. }
                | HubError::Request { .. }
                | HubError::Cut { .. }
                | HubError::Range { .. }
                | HubError::Length { .. }
                | HubError::Damaged { .. }
                | HubError::Write { .. }
                | HubError::Stopped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(paths: &[&str]) -> Listing {
        let entry = |path: &&str| Entry {
            r#type: "file".into(),
            path: path.to_string(),
            size: Some(path.len() as u64),
            oid: Some("0".repeat(40)),
            lfs: None,
        };
        Listing { id: "org/name@main".into(), entries: paths.iter().map(entry).collect() }
    }

    fn chosen(paths: &[&str], modules: &str) -> Result<Vec<String>, String> {
        let mut files = listing(paths).model_files(modules.as_bytes()).map_err(|error| error.to_string())?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    const MODULES: &str = r#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Normalize"}]"#;

    #[test]
    fn ids_are_checked() {
        let whole = Repository::parse("sentence-transformers/all-MiniLM-L6-v2").unwrap();
        assert_eq!(whole.id(), "sentence-transformers/all-MiniLM-L6-v2@main");
        let pull = Repository::parse("a/b@refs/pr/1").unwrap();
        assert_eq!(pull.file_url("http://h", "c d/é"), "http://h/a/b/resolve/refs%2Fpr%2F1/c%20d/%C3%A9");
        assert_eq!(pull.listing_url("http://h"), "http://h/api/models/a/b/tree/refs%2Fpr%2F1");
        for id in ["", "gpt2", "a/b/c", "../b", "a/..", "a/b@", "a/b@../c", "a/b?x", "a/b@c\n", "a /b"] {
            assert!(matches!(Repository::parse(id), Err(HubError::Id { .. })), "{id:?}");
        }
    }

    #[test]
    fn only_what_a_model_directory_needs_is_chosen() {
        let paths = [
            "1_Pooling/config.json",
            "README.md",
            "config.json",
            "config_sentence_transformers.json",
            "model.safetensors",
            "modules.json",
            "onnx/config.json",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "sentence_bert_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        ];
        let needed: Vec<_> = paths
            .iter()
            .filter(|p| {
                !["README.md", "onnx/config.json", "onnx/model.onnx", "pytorch_model.bin"].contains(*p)
            })
            .collect();
        assert_eq!(chosen(&paths, MODULES).unwrap().iter().collect::<Vec<_>>(), needed);
    }

    /// A file of torch is weights only where there are none of safetensors, and a head only beside the weights.
    #[test]
    fn weights_and_heads_are_chosen_where_the_model_reads_them() {
        let whole = ["colbert_linear.pt", "modules.json", "pytorch_model.bin", "sparse_linear.pt"];
        let others = ["1_Pooling/pytorch_model.bin", "1_Pooling/sparse_linear.pt", "onnx/colbert_linear.pt"];
        assert_eq!(chosen(&[&whole[..], &others].concat(), MODULES).unwrap(), whole);
        let both = ["model.safetensors", "modules.json", "pytorch_model.bin", "sparse_linear.pt"];
        assert_eq!(chosen(&both, MODULES).unwrap(), [both[0], both[1], both[3]]);
        let in_folder = ["0_M/pytorch_model.bin", "0_M/sparse_linear.pt", "modules.json"];
        let at_top = ["model.safetensors", "colbert_linear.pt"];
        let modules = r#"[{"path": "0_M"}, {"path": "1_Pooling"}]"#;
        assert_eq!(chosen(&[&in_folder[..], &at_top].concat(), modules).unwrap(), in_folder);
    }

    #[test]
    fn an_older_layout_has_its_weights_in_a_module_folder() {
        let modules = r#"[{"path": "0_BERT/"}, {"path": "1_Pooling"}]"#;
        let paths =
            ["0_BERT/config.json", "0_BERT/model.safetensors", "1_Pooling/config.json", "modules.json"];
        assert_eq!(chosen(&paths, modules).unwrap(), paths);
    }

    #[test]
    fn hostile_names_are_passed_over_or_refused_and_never_chosen() {
        let good = ["model.safetensors", "modules.json"];
        for passed_over in ["../passwd", "/etc/passwd", "a:b.png", "..%2fconfig.json", "onnx/config.json"] {
            assert_eq!(
                chosen(&[&good[..], &[passed_over]].concat(), MODULES).unwrap(),
                good,
                "{passed_over}"
            );
        }
        for refused in [
            "../config.json",
            "/config.json",
            "C:/config.json",
            "..\\config.json",
            "1_Pooling/../../config.json",
            "1_Pooling\\..\\..\\config.json",
            "1_Pooling/%2e%2e/config.json",
        ] {
            let error = chosen(&[&good[..], &[refused]].concat(), MODULES).unwrap_err();
            assert!(error.contains("is refused"), "{error}");
        }
        for folder in ["..", "/etc", "a/../..", "..\\\\x", "C:", "%2e%2e"] {
            let modules = format!(r#"[{{"path": ""}}, {{"path": "{folder}"}}]"#);
            let error = chosen(&good, &modules).unwrap_err();
            assert!(error.contains("is refused"), "{error}");
        }
    }

    #[test]
    fn weights_that_are_not_read_are_named() {
        let sharded = ["modules.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"];
        let error = chosen(&sharded, MODULES).unwrap_err();
        assert!(error.contains("several files (model.safetensors.index.json)"), "{error}");
        let sharded = ["modules.json", "pytorch_model.bin.index.json"];
        let error = chosen(&sharded, MODULES).unwrap_err();
        assert!(error.contains("several files (pytorch_model.bin.index.json)"), "{error}");
        let error = chosen(&["modules.json", "onnx/pytorch_model.bin"], MODULES).unwrap_err();
        assert_eq!(error, "org/name@main: the hub has no model.safetensors and no pytorch_model.bin");
        assert!(matches!(listing(&["config.json"]).modules_file(), Err(HubError::Missing { .. })));
    }

    #[test]
    fn a_length_and_a_checksum_must_be_such() {
        let mut listing = listing(&["modules.json"]);
        for size in [None, Some(FILE_BYTES_MAX + 1), Some(u64::MAX)] {
            listing.entries[0].size = size;
            assert!(matches!(listing.modules_file(), Err(HubError::Entry { .. })));
        }
        listing.entries[0].size = Some(MODULES_BYTES_MAX + 1);
        assert!(matches!(listing.modules_file(), Err(HubError::TooLarge { .. })));
        listing.entries[0].size = Some(MODULES_BYTES_MAX);
        assert!(listing.modules_file().is_ok());
        for oid in [
            None,
            Some("0".repeat(39)),
            Some("G".repeat(40)),
            Some("../../../../../../../../../../../../../x".into()),
        ] {
            listing.entries[0].oid = oid;
            assert!(matches!(listing.modules_file(), Err(HubError::Entry { .. })));
        }
    }

    #[test]
    fn the_next_page_is_asked_from_the_same_hub() {
        let link = r#"<https://elsewhere/api?limit=1>; rel="first", <https://elsewhere/x?cursor=abc&recursive=true>; rel="next""#;
        assert_eq!(next_query(link).unwrap(), "cursor=abc&recursive=true");
        assert_eq!(next_query(r#"<https://x/y?z>; rel="prev""#), None);
    }
}
