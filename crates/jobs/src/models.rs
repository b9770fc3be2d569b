//! The models on this machine: a folder of model directories, each with a record of what it was when it was added.
//!
//! The principal type is [`Models`]. `add` copies or links a directory, `get` downloads one, `find` opens one after a
//! quick look at its files, `check` reads every byte again. What is put into the folder appears there whole or not at
//! all: work goes on in hidden folders beside the models (see `workspace`).

mod check;
mod checksum;
mod files;
#[cfg(unix)]
mod files_unix;
#[cfg(windows)]
mod files_windows;
mod hub;
mod names;
mod record;
mod transfer;
mod workspace;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use haul_encoder::identity::identity;
use haul_encoder::model::Head;
use haul_encoder::model_dir::{ModelDir, ModelError};
use haul_encoder::weights::{Weights, WeightsError};

pub use check::{Change, CheckReport, CheckedFile, FileVerdict};
pub use checksum::{Checksum, sha256_of};
pub use files::{PlaceError, Placement};
pub use hub::{Download, HUB_URL, Hub, HubError, IdFault};
pub use names::NameFault;
pub use record::{ModelFile, ModelRecord, RECORD_FILE, RecordError};

#[cfg(unix)]
use files_unix as os;
#[cfg(windows)]
use files_windows as os;

use check::{file_names, quick_check};
use hub::{HubFile, Listing, Repository, WEIGHTS_FILES};
use transfer::Client;
use workspace::Workspace;

/// The folder of all models, `HAUL_HOME/models`.
#[derive(Clone, Debug)]
pub struct Models {
    dir: PathBuf,
}

/// A folder among the models.
#[derive(Debug)]
pub struct Listed {
    /// The folder's name.
    pub name: String,
    /// Its record, or why it has none that can be used.
    pub record: Result<ModelRecord, RecordError>,
}

impl Models {
    /// Touches nothing: the folder is created by what first writes into it.
    pub fn open(dir: &Path) -> Models {
        Models { dir: dir.into() }
    }

    /// All models, sorted by name. One whose record is damaged is listed as such.
    pub fn list(&self) -> Result<Vec<Listed>, ModelsError> {
        let names = self.names().map_err(io_at(&self.dir))?;
        Ok(names
            .into_iter()
            .map(|name| Listed { record: ModelRecord::read(&self.dir.join(&name)), name })
            .collect())
    }

    /// Opens a model by its name here, or by a path (anything with a slash in it, or `.`) to a directory that was
    /// never added, which is read whole to find out its identity. A named model is taken only if its files are as
    /// long and as old as recorded; one of another time, as a copy has it, is read, and its sum decides.
    pub fn find(&self, name_or_path: &str) -> Result<(ModelDir, ModelRecord), ModelsError> {
        if is_path(name_or_path) {
            return open_path(Path::new(name_or_path));
        }
        let record = self.known(name_or_path)?;
        let model = quick_check(&self.dir.join(name_or_path), &record)?;
        Ok((model, record))
    }

    /// Reads every file of a model again and compares it with the record. If nothing but times has changed (a backup
    /// was played back), the record gets the new times, so that `find` takes the model again.
    pub fn check(&self, name: &str) -> Result<CheckReport, ModelsError> {
        let mut record = self.known(name)?;
        let before = record.clone();
        let dir = self.dir.join(name);
        let report = CheckReport { name: name.into(), files: check::full_check(&dir, &mut record)? };
        if report.is_ok() && record != before {
            record.write(&dir)?;
        }
        Ok(report)
    }

    /// Adds the model directory `source` under `name`, or under the folder's own. Nothing is placed before the
    /// directory has been opened and found consistent. A model of this name that is there already is returned if it
    /// is the same, and stays if it is another, which is an error.
    pub fn add(
        &self,
        source: &Path,
        name: Option<&str>,
        placement: Placement,
    ) -> Result<ModelRecord, ModelsError> {
        let model = open_dir(source)?;
        check_weights(&model)?;
        let name = name.unwrap_or(&model.name);
        check_name(name)?;
        if let Some(record) = self.added(name)? {
            return same_model(record, &identity(&model)?.sha256);
        }
        let workspace = Workspace::fresh(&self.dir).map_err(io_at(&self.dir))?;
        let added = place_all(&model, &workspace.staged(), placement)
            .and_then(|()| self.publish(&workspace, name, model.dir().display().to_string()));
        discard(workspace);
        added
    }

    /// Downloads `id` (`organisation/name` or `organisation/name@revision`) and adds it under `name`, or under the
    /// repository's own. Every file is checked against the hub's sums; what was downloaded when it stops, by `stop`,
    /// by an error or by a kill, is where the next call goes on. A model of this name that is there already is read
    /// and returned if it is the same, and no weights are downloaded.
    pub fn get(
        &self,
        hub: &Hub,
        id: &str,
        name: Option<&str>,
        stop: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(Download<'_>),
    ) -> Result<ModelRecord, ModelsError> {
        let repository = Repository::parse(id)?;
        let name = name.unwrap_or(&repository.name);
        check_name(name)?;
        let present = self.added(name)?;
        let client = Client::new(hub, stop);
        let listing = Listing::fetch(&client, &repository)?;
        let source = format!("{}/{}", client.hub(), repository.id());
        let key = &blake3::hash(source.as_bytes()).to_hex()[..16];
        let workspace = Workspace::kept(&self.dir, key)
            .map_err(io_at(&self.dir))?
            .ok_or_else(|| ModelsError::Busy { id: repository.id() })?;
        let got = choose_files(&client, &listing, &repository, &workspace).and_then(|files| match present {
            Some(record) => self.same_files(record, &files, &repository),
            None => {
                download(&client, &repository, &files, &workspace, progress)?;
                self.publish(&workspace, name, source)
            }
        });
        if !matches!(&got, Err(error) if error.is_to_go_on_from()) {
            discard(workspace);
        }
        got
    }

    /// Writes the record of the staged files, and makes them the model `name`.
    fn publish(&self, workspace: &Workspace, name: &str, source: String) -> Result<ModelRecord, ModelsError> {
        let staged = workspace.staged();
        let model = ModelDir::open(&staged)?;
        check_weights(&model)?;
        let record = ModelRecord::new(&staged, name, identity(&model)?, source)?;
        record.write(&staged)?;
        if workspace.publish(name).map_err(io_at(&self.dir))? {
            return Ok(record);
        }
        // Another process was faster.
        same_model(self.known(name)?, &record.sha256)
    }

    /// Names of all folders that are not hidden, sorted.
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(error),
        };
        let mut names = vec![];
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && entry.path().is_dir() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// The record of a model that is there.
    fn known(&self, name: &str) -> Result<ModelRecord, ModelsError> {
        check_name(name)?;
        let dir = self.dir.join(name);
        if !dir.is_dir() {
            let known = self.names().map_err(io_at(&self.dir))?;
            return Err(ModelsError::Unknown { name: name.into(), known });
        }
        Ok(ModelRecord::read(&dir)?)
    }

    /// The record of the sound model `name`, if there is anything of that name.
    fn added(&self, name: &str) -> Result<Option<ModelRecord>, ModelsError> {
        let dir = self.dir.join(name);
        if dir.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(None);
        }
        let record = ModelRecord::read(&dir)?;
        quick_check(&dir, &record)?;
        Ok(Some(record))
    }

    /// The record, if the model's files are those that the hub offers.
    fn same_files(
        &self,
        record: ModelRecord,
        offered: &[HubFile],
        repository: &Repository,
    ) -> Result<ModelRecord, ModelsError> {
        let recorded = record.files.iter().map(|file| file.name.as_str());
        let of_the_hub =
            offered.iter().filter(|file| file.has_part_in_vectors()).map(|file| file.path.as_str());
        for name in recorded.chain(of_the_hub).collect::<BTreeSet<_>>() {
            let path = self.dir.join(&record.name).join(name);
            let offer = offered.iter().find(|file| file.path == name).filter(|_| path.is_file());
            let found =
                offer.map(|file| file.checksum.of_same_kind(&path)).transpose().map_err(io_at(&path))?;
            if found.is_none() || found.as_ref() != offer.map(|file| &file.checksum) {
                let (name, sha256) = (record.name, record.sha256);
                return Err(ModelsError::Taken { name, sha256, other: repository.id() });
            }
        }
        Ok(record)
    }
}

/// Brings `modules.json`, which says what else is needed.
fn choose_files(
    client: &Client<'_>,
    listing: &Listing,
    repository: &Repository,
    workspace: &Workspace,
) -> Result<Vec<HubFile>, ModelsError> {
    let file = listing.modules_file()?;
    let path = workspace.staged().join(&file.path);
    let url = repository.file_url(client.hub(), &file.path);
    client.file(&url, &file, &workspace.incoming(), &path, &mut |_| ())?;
    let modules = fs::read(&path).map_err(io_at(&path))?;
    Ok(listing.model_files(&modules)?)
}

fn download(
    client: &Client<'_>,
    repository: &Repository,
    files: &[HubFile],
    workspace: &Workspace,
    progress: &mut dyn FnMut(Download<'_>),
) -> Result<(), ModelsError> {
    let chosen: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    // An earlier call may have left files that this release has no more.
    files::remove_others(&workspace.staged(), &chosen).map_err(io_at(&workspace.staged()))?;
    let bytes = files.iter().map(|file| file.bytes).sum();
    let mut bytes_before = 0;
    for file in files {
        if is_weights(Path::new(&file.path)) {
            check_without_weights(&workspace.staged())?;
        }
        let url = repository.file_url(client.hub(), &file.path);
        let target = workspace.staged().join(&file.path);
        client.file(&url, file, &workspace.incoming(), &target, &mut |file_bytes_done| {
            progress(Download {
                file: &file.path,
                file_bytes_done,
                file_bytes: file.bytes,
                bytes_done: bytes_before + file_bytes_done,
                bytes,
            });
        })?;
        bytes_before += file.bytes;
    }
    Ok(())
}

/// Refuses a model that would not run whatever its weights are, before they are on their way.
fn check_without_weights(staged: &Path) -> Result<(), ModelError> {
    match ModelDir::open(staged) {
        Err(ModelError::Missing { path, .. }) if is_weights(&path) => Ok(()),
        opened => opened.map(|_| ()),
    }
}

fn is_weights(path: &Path) -> bool {
    path.file_name().is_some_and(|name| WEIGHTS_FILES.iter().any(|weights| name == *weights))
}

/// Reads what the weights files, those of the heads too, say they hold; a cut file is found here, not at the first
/// use.
fn check_weights(model: &ModelDir) -> Result<(), WeightsError> {
    let mut weights = Weights::open(model.weights_file())?;
    for head in Head::ALL {
        if let Some(file) = model.head_file(head) {
            weights.add(file, head.weights_prefix())?;
        }
    }
    Ok(())
}

fn place_all(model: &ModelDir, staged: &Path, placement: Placement) -> Result<(), ModelsError> {
    for name in file_names(model) {
        names::check_file_path(&name).map_err(|fault| ModelsError::FileName {
            dir: model.dir().into(),
            file: name.clone(),
            fault,
        })?;
        files::place(model.dir(), staged, &name, placement)?;
    }
    Ok(())
}

fn open_path(path: &Path) -> Result<(ModelDir, ModelRecord), ModelsError> {
    let model = open_dir(path)?;
    let source = model.dir().display().to_string();
    let record = ModelRecord::new(model.dir(), &model.name, identity(&model)?, source)?;
    Ok((model, record))
}

/// Opens a directory that the user named.
fn open_dir(path: &Path) -> Result<ModelDir, ModelsError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(ModelDir::open(path)?),
        Ok(_) => Err(ModelsError::NoFolder { path: path.into() }),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(ModelsError::NoFolder { path: path.into() })
        }
        Err(error) => Err(io_at(path)(error)),
    }
}

/// What cannot be removed now does no harm, and is not why the model cannot be used.
fn discard(workspace: Workspace) {
    if let Err(error) = workspace.discard() {
        tracing::warn!(%error, "a temporary folder of the models could not be removed");
    }
}

fn same_model(present: ModelRecord, sha256: &str) -> Result<ModelRecord, ModelsError> {
    if present.sha256 == sha256 {
        return Ok(present);
    }
    let other = format!("the one to add (sha256 {sha256})");
    Err(ModelsError::Taken { name: present.name, sha256: present.sha256, other })
}

fn check_name(name: &str) -> Result<(), ModelsError> {
    names::check_model_name(name).map_err(|fault| ModelsError::Name { name: name.into(), fault })
}

fn is_path(name_or_path: &str) -> bool {
    name_or_path.contains(std::path::is_separator) || [".", ".."].contains(&name_or_path)
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> ModelsError {
    move |source| ModelsError::Io { path: path.into(), source }
}

/// Why a model could not be listed, found, added, checked or downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ModelsError {
    /// Not a name for a model.
    #[error("{name:?} is not a name for a model: {fault}")]
    Name { name: String, fault: NameFault },
    /// No model of this name.
    #[error("there is no model named {name}; {}", list_known(known))]
    Unknown { name: String, known: Vec<String> },
    /// Nothing, or no folder, at a path.
    #[error("there is no model folder at {}", path.display())]
    NoFolder { path: PathBuf },
    /// Another model has the name.
    #[error("a model named {name} is there already (sha256 {sha256}), and differs from {other}")]
    Taken { name: String, sha256: String, other: String },
    /// A file is not as it was.
    #[error("model {name}: {file} {how}")]
    Changed { name: String, file: String, how: Change },
    /// A file of the directory to add has a name that not every system takes.
    #[error("{}: file name {file:?} is refused: {fault}", dir.display())]
    FileName { dir: PathBuf, file: String, fault: NameFault },
    /// The model is being downloaded.
    #[error("{id} is being downloaded by another process")]
    Busy { id: String },
    /// The folder of models, or something in it.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The record of a model.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The directory is not a model that runs.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its weights do not open.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file could not be copied or linked.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The download.
    #[error(transparent)]
    Hub(#[from] HubError),
}

impl ModelsError {
    /// Whether the same call may find use for what is downloaded already.
    fn is_to_go_on_from(&self) -> bool {
        match self {
            ModelsError::Hub(error) => error.is_to_go_on_from(),
            ModelsError::Io { .. } | ModelsError::Record(_) => true,
            _ => false,
        }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            ModelsError::Name { .. } => {
                Some("a name has letters, digits, '.', '_' and '-' only, and does not start with '.'".into())
            }
            ModelsError::Unknown { name, .. } => Some(format!(
                "add it with `haul model add FOLDER` or `haul model get ORGANISATION/NAME`; a folder that is not to be \
                 added is written with a slash: ./{name}"
            )),
            ModelsError::NoFolder { .. } => Some(
                "give the path of a folder in Hugging Face layout; `haul model list` shows the models that have a name"
                    .into(),
            ),
            ModelsError::Taken { .. } => {
                Some("give the new one another name, or delete the folder of the old one".into())
            }
            ModelsError::Changed { name, .. } => {
                Some(format!("see what changed with `haul model check {name}`"))
            }
            ModelsError::Record(error) => {
                Some(format!("delete {}, and add the model again", error.dir().display()))
            }
            ModelsError::Model(error) => error.hint().map(Into::into),
            ModelsError::Weights(error) => error.hint().map(Into::into),
            ModelsError::Hub(error) => error.hint().map(Into::into),
            _ => None,
        }
    }
}

fn list_known(known: &[String]) -> String {
    if known.is_empty() { "there are none yet".into() } else { format!("there are {}", known.join(", ")) }
}
