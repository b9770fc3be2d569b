//! A folder with an image tower: what it is like, what is done to images before it, and what it is known by.

use std::path::{Path, PathBuf};

use haul_corpus::image::preprocess::{Preprocess, PreprocessError};
use haul_encoder::model::vision::{CHANNELS, VisionConfig, VisionHead};
use haul_encoder::vision::{Levels, VisionError, read_config, weights_file};
use haul_kernels::act::Activation;

/// open_clip's file says both what the tower is like and what is done to images.
const OPEN_CLIP: &str = "open_clip_config.json";
const HUGGING_FACE: &str = "preprocessor_config.json";

/// A tower that has not been loaded.
#[derive(Clone, Debug)]
pub struct Tower {
    /// The folder's name: what the tower is called in files.
    pub name: String,
    /// Where it is.
    pub folder: PathBuf,
    /// Its weights.
    pub weights: PathBuf,
    /// What it is like.
    pub config: VisionConfig,
    /// What is done to images.
    pub preprocess: Preprocess,
}

impl Tower {
    /// Reads what a folder says of its tower. The weights are not looked at.
    ///
    /// # Errors
    /// Files that are missing, that do not run, or that contradict each other.
    pub fn read(folder: &Path) -> Result<Tower, TowerError> {
        let config = read_config(folder)?;
        let weights = weights_file(folder)?;
        let is_open_clip = folder.join(OPEN_CLIP).is_file();
        let path = folder.join(if is_open_clip { OPEN_CLIP } else { HUGGING_FACE });
        let text =
            std::fs::read_to_string(&path).map_err(|error| TowerError::Read { path: path.clone(), error })?;
        let preprocess =
            if is_open_clip { Preprocess::of_open_clip(&text) } else { Preprocess::of_hugging_face(&text) };
        let preprocess = preprocess.map_err(|error| TowerError::Preprocess { path: path.clone(), error })?;
        let (width, height) = preprocess.sides();
        let size = config.image_size as u32;
        if (width, height) != (size, size) {
            return Err(TowerError::Sides { path, width, height, size });
        }
        // A link has the name that somebody gave it; `.` has that of the folder it stands for.
        let given = folder.file_name().map(ToOwned::to_owned);
        let given = given.or_else(|| folder.canonicalize().ok()?.file_name().map(ToOwned::to_owned));
        let name = given.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
        Ok(Tower { name, folder: folder.to_owned(), weights, config, preprocess })
    }

    /// As the study ran it: GELU where the checkpoint was trained with its quick form. False where that is no change.
    pub fn run_as_the_study(&mut self) -> bool {
        let is_quick = self.config.activation == Activation::QuickGelu;
        if is_quick {
            self.config.activation = Activation::GeluErf;
        }
        is_quick
    }

    /// What each level of each colour becomes.
    #[must_use]
    pub fn levels(&self) -> Levels {
        let numbers = &self.preprocess.numbers;
        Levels::new(1.0 / 255.0, numbers.mean.map(|x| x as f32), numbers.std.map(|x| x as f32))
    }

    /// Numbers of a feature.
    #[must_use]
    pub fn dim(&self) -> usize {
        match self.config.head {
            VisionHead::Class { dim } => dim,
            VisionHead::Probe => self.config.hidden_size,
        }
    }

    /// Bytes of an image's pixels.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.config.image_size * self.config.image_size * CHANNELS
    }
}

/// A folder without a tower that runs.
#[derive(Debug, thiserror::Error)]
pub enum TowerError {
    /// The tower's own files.
    #[error(transparent)]
    Vision(#[from] VisionError),
    /// What is done to images is not said.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// What is done to images is not known here.
    #[error("{}: {error}", path.display())]
    Preprocess {
        /// The file.
        path: PathBuf,
        /// What is not known.
        #[source]
        error: PreprocessError,
    },
    /// Images of another size than the tower takes.
    #[error("{}: images become {width} x {height} pixels, and the tower takes {size} x {size}", path.display())]
    Sides {
        /// The file.
        path: PathBuf,
        /// Of the images.
        width: u32,
        /// Of the images.
        height: u32,
        /// Of the tower.
        size: u32,
    },
}

impl TowerError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            TowerError::Vision(error) => error.hint(),
            TowerError::Read { .. } => Some(
                "fetch the checkpoint's preprocessor_config.json too: what is done to images is never guessed",
            ),
            TowerError::Preprocess { .. } => None,
            TowerError::Sides { .. } => Some("the two files are of different checkpoints"),
        }
    }
}
