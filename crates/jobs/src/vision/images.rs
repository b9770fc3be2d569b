//! Images under a folder, and the manifest that says which of them a run took.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What is an image by its name, in any case.
pub const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "bmp", "webp"];
/// Folders below the one that is named.
const DEPTH_MAX: usize = 64;
/// Images of a folder; ImageNet has 14 million.
const IMAGES_MAX: usize = 20_000_000;
/// Bytes of a manifest of that many.
const MANIFEST_BYTES_MAX: u64 = 4 << 30;

/// Images that a run takes, in its order; the original's form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// How many.
    pub num_images: usize,
    /// Where they are.
    pub paths: Vec<String>,
}

/// What stands under a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Sorted by the parts of their paths, as Python sorts them. Links to files are among them; links to folders are
    /// not followed.
    pub images: Vec<PathBuf>,
    /// Images whose names are not UTF-8, and folders that cannot be listed; why each was left out.
    pub failures: Vec<(PathBuf, String)>,
}

/// Lists the images under a folder by their names. Their content is not looked at.
///
/// # Errors
/// The folder itself cannot be listed, or there are more images than anyone means.
pub fn find(root: &Path) -> Result<Found, ImagesError> {
    let listing = |error| ImagesError::List { path: root.to_owned(), error };
    fs::read_dir(root).map_err(listing)?;
    let mut found = Found::default();
    walk(root, 0, &mut found)?;
    found.images.sort();
    Ok(found)
}

/// Recursion is bounded by `DEPTH_MAX`.
fn walk(folder: &Path, depth: usize, found: &mut Found) -> Result<(), ImagesError> {
    if depth > DEPTH_MAX {
        found.failures.push((folder.to_owned(), format!("more than {DEPTH_MAX} folders deep")));
        return Ok(());
    }
    let listed = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))).collect()
    });
    let entries: Vec<(PathBuf, fs::FileType)> = match listed {
        Ok(entries) => entries,
        Err(error) => {
            found.failures.push((folder.to_owned(), format!("cannot list the folder: {error}")));
            return Ok(());
        }
    };
    for (path, kind) in entries {
        if kind.is_dir() {
            walk(&path, depth + 1, found)?;
        } else if is_image(&path) && !(kind.is_symlink() && path.is_dir()) {
            if path.to_str().is_none() {
                found.failures.push((path, "the name is not UTF-8".to_owned()));
            } else if found.images.len() < IMAGES_MAX {
                found.images.push(path);
            } else {
                return Err(ImagesError::Many { path: folder.to_owned() });
            }
        }
    }
    Ok(())
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

impl Manifest {
    /// Of some of the images that were found.
    #[must_use]
    pub fn of(images: &[PathBuf], chosen: &[usize]) -> Manifest {
        let paths: Vec<String> = chosen.iter().map(|&no| images[no].to_string_lossy().into_owned()).collect();
        Manifest { num_images: paths.len(), paths }
    }

    /// Reads one, whoever wrote it.
    ///
    /// # Errors
    /// The disk's, another form, a number of images that is not that of the paths, a path that comes twice.
    pub fn read(path: &Path) -> Result<Manifest, ImagesError> {
        let failed = |error| ImagesError::Read { path: path.to_owned(), error };
        let bytes = fs::metadata(path).map_err(failed)?.len();
        if bytes > MANIFEST_BYTES_MAX {
            return Err(ImagesError::Large { path: path.to_owned(), bytes });
        }
        let text = fs::read(path).map_err(failed)?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| ImagesError::Manifest { path: path.to_owned(), error })?;
        if manifest.num_images != manifest.paths.len() {
            let (said, paths) = (manifest.num_images, manifest.paths.len());
            return Err(ImagesError::Count { path: path.to_owned(), said, paths });
        }
        let mut sorted: Vec<&String> = manifest.paths.iter().collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(ImagesError::Twice { path: path.to_owned(), image: pair[0].clone() }),
            None => Ok(manifest),
        }
    }

    /// Writes it as the original does; the file is there whole or not at all.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, path: &Path) -> Result<(), ImagesError> {
        let failed = |error| ImagesError::Write { path: path.to_owned(), error };
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        fs::write(&part, text).and_then(|()| fs::rename(&part, path)).map_err(failed)
    }
}

/// Images cannot be listed, or a manifest not be used.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// The folder is not there, or may not be read.
    #[error("cannot list {}: {error}", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// More than anyone means.
    #[error("more than {IMAGES_MAX} images up to {}", path.display())]
    Many {
        /// Where the listing ended.
        path: PathBuf,
    },
    /// A manifest is not there, or may not be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The manifest.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// A manifest cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The manifest.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// Larger than any manifest.
    #[error("{} has {bytes} bytes; a manifest has at most {MANIFEST_BYTES_MAX}", path.display())]
    Large {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Another form.
    #[error("{}: not a manifest: {error}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Where it differs.
        #[source]
        error: serde_json::Error,
    },
    /// A manifest that contradicts itself.
    #[error("{}: num_images is {said}, and there are {paths} paths", path.display())]
    Count {
        /// The manifest.
        path: PathBuf,
        /// By its own number.
        said: usize,
        /// By its list.
        paths: usize,
    },
    /// An image that would count twice.
    #[error("{}: {image} comes twice", path.display())]
    Twice {
        /// The manifest.
        path: PathBuf,
        /// The image.
        image: String,
    },
}

impl ImagesError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ImagesError::List { .. } => Some("check the spelling, and that the disk or share is mounted"),
            ImagesError::Many { .. } => Some("name a folder further down"),
            ImagesError::Manifest { .. } => {
                Some(r#"a manifest is {"num_images": 2, "paths": ["a.jpg", "b.jpg"]}"#)
            }
            _ => None,
        }
    }
}
