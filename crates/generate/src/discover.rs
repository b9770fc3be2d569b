//! GGUF files that can be named without their path: those in the models folder, and in the places where SATCN looks
//! for its model.
//!
//! Each place is walked to a bounded depth and a bounded number of entries. What cannot be read there (a broken link, a
//! folder of somebody else) is listed beside what was found, and ends nothing. No file is opened but SATCN's settings.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Folders below a place: `models/organisation/model/file.gguf`.
const DEPTH_MAX: u32 = 3;
/// Entries of folders that are looked at in one place; models are few.
const ENTRIES_MAX: usize = 4096;
/// SATCN's settings have some hundred bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The folder that SATCN has its model in.
const SATCN_FOLDER: &str = ".GRMR-V3-Q4B-GGUF";
const EXTENSION: &str = "gguf";

/// What of this machine the places depend on; each is left out where it is not known.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The folder of models.
    pub models: PathBuf,
    /// The home of the user.
    pub user_home: Option<PathBuf>,
    /// The folder that the command was given in.
    pub working_folder: Option<PathBuf>,
    /// The Python environment that is active.
    pub virtual_environment: Option<PathBuf>,
    /// `SATCN_GRMR_MODEL_PATH`: a file or a folder.
    pub satcn_model: Option<PathBuf>,
}

/// Where a file was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The models folder.
    Models,
    /// What `SATCN_GRMR_MODEL_PATH` names.
    SatcnVariable,
    /// What SATCN's settings name.
    SatcnConfig,
    /// SATCN's folder in the Python environment.
    VirtualEnvironment,
    /// SATCN's folder in the working folder.
    WorkingFolder,
    /// SATCN's folder of models.
    SatcnModels,
    /// SATCN's folder beside its package.
    SatcnPackage,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Models => "the models folder",
            Self::SatcnVariable => "SATCN_GRMR_MODEL_PATH",
            Self::SatcnConfig => "SATCN's settings",
            Self::VirtualEnvironment => "the Python environment",
            Self::WorkingFolder => "the working folder",
            Self::SatcnModels => "SATCN's models",
            Self::SatcnPackage => "SATCN's package",
        })
    }
}

/// A file by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Its file name without `.gguf`.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Where it was found first.
    pub place: Place,
}

/// What could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotRead {
    /// File, link or folder.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// All files of all places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// By place and path; a file that is in two places stands once.
    pub found: Vec<Found>,
    /// What could not be looked at.
    pub not_read: Vec<NotRead>,
}

/// No one file has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// None has.
    #[error("{name}: no such GGUF file")]
    None {
        /// As asked for.
        name: String,
        /// Names that there are.
        known: Vec<String>,
    },
    /// Several have.
    #[error("{name}: {} GGUF files: {}", paths.len(), shown(paths))]
    Several {
        /// As asked for.
        name: String,
        /// Each of them.
        paths: Vec<PathBuf>,
    },
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Looks into all places.
#[must_use]
pub fn discover(around: &Surroundings) -> Discovery {
    let mut walk = Walk::default();
    for (place, path) in places(around, &mut walk.not_read) {
        walk.entries_left = ENTRIES_MAX;
        walk.place(place, &path);
    }
    Discovery { found: walk.found, not_read: walk.not_read }
}

impl Discovery {
    /// The one file that is called `name`: by its file name with or without `.gguf`, or by the folder that it is alone
    /// in, whatever its case.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn named(&self, name: &str) -> Result<&Found, NameError> {
        let is_suffix = |suffix: &&str| suffix.eq_ignore_ascii_case(EXTENSION);
        let stem =
            name.rsplit_once('.').filter(|(_, suffix)| is_suffix(suffix)).map_or(name, |(stem, _)| stem);
        let of_file: Vec<&Found> =
            self.found.iter().filter(|found| found.name.eq_ignore_ascii_case(stem)).collect();
        let matching = if of_file.is_empty() { self.in_folder(name) } else { of_file };
        match &matching[..] {
            [only] => Ok(only),
            [] => {
                let known: BTreeSet<&str> = self.found.iter().map(|found| found.name.as_str()).collect();
                Err(NameError::None {
                    name: name.to_owned(),
                    known: known.into_iter().map(str::to_owned).collect(),
                })
            }
            several => Err(NameError::Several {
                name: name.to_owned(),
                paths: several.iter().map(|found| found.path.clone()).collect(),
            }),
        }
    }

    fn in_folder(&self, name: &str) -> Vec<&Found> {
        let folder = |found: &Found| {
            found
                .path
                .parent()
                .and_then(Path::file_name)
                .is_some_and(|folder| folder.eq_ignore_ascii_case(name))
        };
        self.found.iter().filter(|found| folder(found)).collect()
    }
}

/// The places that are there, in the order in which they are looked into.
fn places(around: &Surroundings, not_read: &mut Vec<NotRead>) -> Vec<(Place, PathBuf)> {
    let satcn = around.user_home.as_ref().map(|home| home.join(".satcn"));
    let mut places = vec![(Place::Models, around.models.clone())];
    places.extend(around.satcn_model.clone().map(|path| (Place::SatcnVariable, path)));
    if let Some(config) = satcn.as_ref().map(|satcn| satcn.join("llm_gui_config.json")) {
        match model_of_config(&config) {
            Ok(path) => places.extend(path.map(|path| (Place::SatcnConfig, path))),
            Err(why) => not_read.push(NotRead { path: config, why }),
        }
    }
    let environment = around.virtual_environment.as_ref();
    places.extend(environment.map(|path| (Place::VirtualEnvironment, path.join(SATCN_FOLDER))));
    places.extend(around.working_folder.as_ref().map(|path| (Place::WorkingFolder, path.join(SATCN_FOLDER))));
    places.extend(satcn.map(|satcn| (Place::SatcnModels, satcn.join("models"))));
    places.extend(environment.into_iter().flat_map(|path| packages(path)).map(|path| {
        let folder = path.join(SATCN_FOLDER);
        (Place::SatcnPackage, folder)
    }));
    places
}

/// `model_path` of SATCN's settings, where there are any.
fn model_of_config(path: &Path) -> Result<Option<PathBuf>, String> {
    #[derive(Deserialize)]
    struct Config {
        model_path: Option<PathBuf>,
    }
    let bytes = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if bytes > CONFIG_BYTES_MAX {
        return Err(format!("{bytes} bytes, of at most {CONFIG_BYTES_MAX}"));
    }
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let config: Config = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    Ok(config.model_path.filter(|path| !path.as_os_str().is_empty()))
}

/// Folders of packages in a Python environment: `lib/python3.12/site-packages`, `Lib/site-packages` on Windows.
fn packages(environment: &Path) -> Vec<PathBuf> {
    const PACKAGES: &str = "site-packages";
    let mut found = vec![environment.join("Lib").join(PACKAGES)];
    // An environment without the folder has no packages.
    if let Ok(entries) = fs::read_dir(environment.join("lib")) {
        let names = entries.take(ENTRIES_MAX).filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let is_python = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python"))
        };
        found.extend(names.filter(is_python).map(|path| path.join(PACKAGES)));
    }
    found.retain(|path| path.is_dir());
    found.sort();
    found
}

/// What was found so far.
#[derive(Default)]
struct Walk {
    found: Vec<Found>,
    not_read: Vec<NotRead>,
    /// Files by their real paths.
    seen: BTreeSet<PathBuf>,
    entries_left: usize,
}

impl Walk {
    /// A place is a file, or a folder, or not there.
    fn place(&mut self, place: Place, path: &Path) {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => self.folder(place, path, DEPTH_MAX),
            Ok(metadata) => self.file(place, path, &metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
                // What a user set and is not there is worth a line; what SATCN might have is not.
                if matches!(place, Place::SatcnVariable | Place::SatcnConfig) {
                    self.cannot_read(path, &error);
                }
            }
            Err(error) => self.cannot_read(path, &error),
        }
    }

    fn folder(&mut self, place: Place, folder: &Path, depth: u32) {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return self.cannot_read(folder, &error),
        };
        let mut paths = Vec::new();
        for entry in entries {
            if self.entries_left == 0 {
                let why = format!("more than {ENTRIES_MAX} entries; the rest was not looked at");
                self.not_read.push(NotRead { path: folder.to_owned(), why });
                break;
            }
            self.entries_left -= 1;
            match entry {
                Ok(entry) => paths.push(entry.path()),
                Err(error) => self.cannot_read(folder, &error),
            }
        }
        paths.sort();
        for path in paths {
            self.entry(place, &path, depth);
        }
    }

    fn entry(&mut self, place: Place, path: &Path, depth: u32) {
        let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(EXTENSION));
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() && depth > 0 => self.folder(place, path, depth - 1),
            Ok(metadata) if is_gguf => self.file(place, path, &metadata),
            Ok(_) => {}
            // A link to nowhere that is no model is none of our business.
            Err(_) if !is_gguf => {}
            Err(error) => self.cannot_read(path, &error),
        }
    }

    fn file(&mut self, place: Place, path: &Path, metadata: &fs::Metadata) {
        if !metadata.is_file() {
            let why = "no regular file".to_owned();
            return self.not_read.push(NotRead { path: path.to_owned(), why });
        }
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) => return self.cannot_read(path, &error),
        };
        if !self.seen.insert(real) {
            return;
        }
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        self.found.push(Found { name, path: path.to_owned(), bytes: metadata.len(), place });
    }

    fn cannot_read(&mut self, path: &Path, error: &io::Error) {
        self.not_read.push(NotRead { path: path.to_owned(), why: error.to_string() });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A home with a file in each of the seven places.
    fn made(root: &Path) -> Surroundings {
        let around = Surroundings {
            models: root.join("haul/models"),
            user_home: Some(root.join("me")),
            working_folder: Some(root.join("work")),
            virtual_environment: Some(root.join("venv")),
            satcn_model: Some(root.join("elsewhere/variable.gguf")),
        };
        for path in [
            "haul/models/ours.gguf",
            "elsewhere/variable.gguf",
            "elsewhere/configured.gguf",
            "venv/.GRMR-V3-Q4B-GGUF/environment.gguf",
            "work/.GRMR-V3-Q4B-GGUF/working.GGUF",
            "me/.satcn/models/deep/er/satcn.gguf",
            "venv/lib/python3.12/site-packages/.GRMR-V3-Q4B-GGUF/package.gguf",
            "me/.satcn/models/readme.md",
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "GGUF").unwrap();
        }
        let config = serde_json::json!({"model_path": root.join("elsewhere/configured.gguf")});
        fs::write(root.join("me/.satcn/llm_gui_config.json"), config.to_string()).unwrap();
        around
    }

    #[test]
    fn every_place_is_looked_into() {
        let root = tempfile::tempdir().unwrap();
        let discovery = discover(&made(root.path()));
        let found: Vec<_> = discovery.found.iter().map(|found| (found.name.as_str(), found.place)).collect();
        assert_eq!(
            found,
            [
                ("ours", Place::Models),
                ("variable", Place::SatcnVariable),
                ("configured", Place::SatcnConfig),
                ("environment", Place::VirtualEnvironment),
                ("working", Place::WorkingFolder),
                ("satcn", Place::SatcnModels),
                ("package", Place::SatcnPackage),
            ]
        );
        assert_eq!(discovery.not_read, []);
        assert_eq!(discover(&Surroundings::default()), Discovery::default());
    }

    #[test]
    fn a_name_is_one_file_or_an_error_that_lists_them() {
        let root = tempfile::tempdir().unwrap();
        let around = made(root.path());
        let models = around.models.clone();
        fs::create_dir_all(models.join("alone")).unwrap();
        fs::write(models.join("alone/some-file.gguf"), "GGUF").unwrap();
        fs::write(root.path().join("me/.satcn/models/Ours.gguf"), "GGUF").unwrap();
        // The same file by another way is no second candidate.
        symlink(models.join("alone/some-file.gguf"), root.path().join("me/.satcn/models/some-file.gguf"))
            .unwrap();
        let discovery = discover(&around);
        let path = |name| discovery.named(name).map(|found| found.path.clone());
        assert_eq!(path("working"), Ok(root.path().join("work/.GRMR-V3-Q4B-GGUF/working.GGUF")));
        assert_eq!(path("VARIABLE.gguf"), Ok(root.path().join("elsewhere/variable.gguf")));
        assert_eq!(path("VARIABLE.GGUF"), path("variable"));
        assert_eq!(path("alone"), path("some-file"));
        let paths = vec![models.join("ours.gguf"), root.path().join("me/.satcn/models/Ours.gguf")];
        assert_eq!(path("ours"), Err(NameError::Several { name: "ours".to_owned(), paths }));
        assert!(
            matches!(path("nothing"), Err(NameError::None { known, .. }) if known.contains(&"satcn".to_owned()))
        );
    }

    #[test]
    fn what_cannot_be_read_is_listed_and_ends_nothing() {
        let root = tempfile::tempdir().unwrap();
        let around = made(root.path());
        let satcn = root.path().join("me/.satcn");
        symlink(root.path().join("nowhere"), around.models.join("broken.gguf")).unwrap();
        symlink("loop.gguf", around.models.join("loop.gguf")).unwrap();
        symlink(&around.models, around.models.join("round")).unwrap();
        symlink(root.path().join("nowhere"), around.models.join("notes.txt")).unwrap();
        fs::write(satcn.join("llm_gui_config.json"), "{").unwrap();
        let around = Surroundings { satcn_model: Some(root.path().join("gone")), ..around };
        let discovery = discover(&around);
        let not_read: Vec<_> = discovery.not_read.iter().map(|not_read| not_read.path.clone()).collect();
        for path in [
            satcn.join("llm_gui_config.json"),
            around.models.join("broken.gguf"),
            around.models.join("loop.gguf"),
            root.path().join("gone"),
        ] {
            assert!(not_read.contains(&path), "{} of {not_read:?}", path.display());
        }
        assert!(!not_read.contains(&around.models.join("notes.txt")));
        assert_eq!(discovery.found.iter().filter(|found| found.name == "ours").count(), 1);
        assert_eq!(discovery.found.len(), 5);
    }

    #[test]
    fn a_folder_of_everything_is_left_at_its_bound() {
        let root = tempfile::tempdir().unwrap();
        let around = Surroundings { models: root.path().to_owned(), ..Surroundings::default() };
        for number in 0..ENTRIES_MAX + 10 {
            fs::write(root.path().join(format!("{number}.txt")), "").unwrap();
        }
        let discovery = discover(&around);
        assert!(discovery.not_read[0].why.starts_with("more than 4096 entries"), "{discovery:?}");
    }
}
