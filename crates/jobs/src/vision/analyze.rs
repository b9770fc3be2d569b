//! Tables from saved arrays, without the model that made them.
//!
//! A file is known by the arrays in it, not by its name: trials of the study this follows, its passes, its summaries of
//! geometry and ambiguity, and `mc.npz`. A file that cannot be read is listed, and the others are read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::npz::{Array, Npz, NpzError};
use super::statistics::Bias;
use super::statistics::law::Law;
use super::statistics::ranks::{auroc, spearman};
use super::statistics::reliability::{Reliability, Trials};
use super::statistics::weights::Weights;
use super::statistics::{Formula, ambiguity, formula_of, mean, variance};

mod passes;

/// Folders below the one that is named.
const DEPTH_MAX: usize = 16;
/// Files of one analysis.
const FILES_MAX: usize = 10_000;
/// Margins this low and entropies this high are what a measure of uncertainty should find, without another share.
const AMBIGUOUS_SHARE: f64 = 0.10;
/// Values of trials; 1 GiB as numbers.
const VALUES_MAX: usize = 1 << 27;

/// How files are read.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of traces that are computed from passes. Traces in files are as they were saved.
    pub bias: Bias,
    /// Weights that another run froze; else the files' own.
    pub weights: Option<Weights>,
}

/// Everything that was read.
#[derive(Clone, Debug, Serialize)]
pub struct Analysis {
    /// In the order of their paths.
    pub files: Vec<Reading>,
    /// What could not be read.
    pub failures: Vec<Unread>,
    /// Weights of the last passes that were read, to be frozen.
    #[serde(skip)]
    pub weights: Option<Weights>,
}

/// A file that was left out.
#[derive(Clone, Debug, Serialize)]
pub struct Unread {
    /// Which.
    pub file: PathBuf,
    /// Why.
    pub why: String,
}

/// What one file says, or the files of one run that stand in one folder.
#[derive(Clone, Debug, Serialize)]
pub struct Reading {
    /// The file; of passes, that of the first trial.
    pub file: PathBuf,
    /// What its arrays are.
    pub kind: Kind,
    /// Images.
    pub images: usize,
    /// Repetitions.
    pub trials: usize,
    /// Passes of each, where the file or its name says.
    pub passes: Option<usize>,
    /// By the name of their array.
    pub quantities: BTreeMap<String, Quantity>,
    /// Correlations between them, of ranks.
    pub spearman: BTreeMap<String, f64>,
    /// How well uncertainty finds what is ambiguous.
    pub auroc: BTreeMap<String, f64>,
}

/// Kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A value for each trial and image.
    Trials,
    /// A value for each image.
    Images,
    /// A value for each trial and image, under several conditions.
    Conditions,
    /// Values and what a classifier was unsure of.
    Ambiguity,
    /// The features of every pass.
    Passes,
    /// `mc.npz`.
    Moments,
}

/// One quantity over all images.
#[derive(Clone, Debug, Serialize)]
pub struct Quantity {
    /// Which formula; none of arrays that are not known.
    pub formula: Option<&'static str>,
    /// Degrees of freedom taken off, where the quantity was computed here.
    pub ddof: Option<u8>,
    /// Over images and trials.
    pub mean: f64,
    /// Over images, of the mean over trials.
    pub sd: Option<f64>,
    /// The root of the mean squared error that the number of passes leaves in an image's value (R9).
    pub se: Option<f64>,
    /// Whether trials agree.
    pub reliability: Option<Reliability>,
    /// How many passes are needed.
    pub law: Option<Law>,
}

/// Begins the names of arrays of `trace_pre` for each trial and image at one of several rates.
const OF_RATE: &str = "trials_p_";
/// `trace_pre` of images as they are. In its file, all other arrays but the paths are of images made worse.
const CLEAN: &str = "clean";

/// Arrays of a value for each trial and image, and what they are in reports.
const OF_TRIALS: [(&str, &str); 8] = [
    ("trial_pre", "trace_pre"),
    ("trial_post", "trace_post"),
    ("trial_angular", "angular_var"),
    ("trace_pre", "trace_pre"),
    ("trace_post", "trace_post"),
    ("angular_var", "angular_var"),
    ("anisotropy", "anisotropy"),
    ("rel_dist", "rel_dist"),
];

/// Reads files, and folders for the `.npz` files in them.
///
/// # Errors
/// A path that is not there, a folder that cannot be listed, no file at all.
pub fn analyze(paths: &[PathBuf], options: &Options) -> Result<Analysis, AnalyzeError> {
    let mut files = Vec::new();
    for path in paths {
        list(path, 0, &mut files)?;
    }
    if files.is_empty() {
        return Err(AnalyzeError::NoFiles { paths: paths.to_vec() });
    }
    let mut found = Analysis { files: vec![], failures: vec![], weights: None };
    let mut of_passes: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        match reading(&file, options) {
            Ok(Some(reading)) => found.files.push(reading),
            Ok(None) => {
                let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
                of_passes.entry(folder).or_default().push(file);
            }
            Err(why) => found.failures.push(Unread { why: without_path(&why, &file), file }),
        }
    }
    for trials in of_passes.into_values() {
        passes::read(&trials, options, &mut found);
    }
    found.files.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(found)
}

/// The path stands before the reason already.
fn without_path(why: &ReadError, file: &Path) -> String {
    let why = why.to_string();
    why.strip_prefix(&format!("{}: ", file.display())).map(str::to_owned).unwrap_or(why)
}

/// Recursion is bounded by `DEPTH_MAX`.
fn list(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), AnalyzeError> {
    let failed = |error| AnalyzeError::List { path: path.to_owned(), error };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Links are not followed: a folder that has itself in it has no end.
        let kind = entry.file_type().map_err(failed)?;
        let is_array = entry.path().extension().is_some_and(|extension| extension == "npz");
        if kind.is_dir() && depth < DEPTH_MAX || kind.is_file() && is_array {
            entries.push(entry.path());
        }
    }
    entries.sort();
    for entry in entries {
        if files.len() >= FILES_MAX {
            return Err(AnalyzeError::ManyFiles { path: path.to_owned() });
        }
        list(&entry, depth + 1, files)?;
    }
    Ok(())
}

/// None of a file of passes, which is read with those beside it.
fn reading(file: &Path, options: &Options) -> Result<Option<Reading>, ReadError> {
    let mut npz = Npz::open(file)?;
    if npz.has("pass_pre") {
        return Ok(None);
    }
    if npz.has("m2_pre") {
        return passes::of_moments(&mut npz, options).map(Some);
    }
    if npz.has("uncertainty") {
        return of_ambiguity(&mut npz).map(Some);
    }
    if npz.has(CLEAN) || npz.names().iter().any(|name| name.starts_with(OF_RATE)) {
        return of_conditions(&mut npz).map(Some);
    }
    let known = OF_TRIALS.iter().any(|(array, _)| npz.has(array));
    if !known {
        return Err(ReadError::Unknown { names: npz.names().join(", ") });
    }
    of_trials(&mut npz).map(Some)
}

fn of_trials(npz: &mut Npz) -> Result<Reading, ReadError> {
    let images = images(npz)?;
    let passes = passes_of(npz)?;
    let finished = match npz.has("completed_trials") {
        true => number(npz, "completed_trials")?,
        false => None,
    };
    let mut reading = Reading::new(npz.path(), Kind::Images, images, passes);
    let mut one_trial = BTreeMap::new();
    for (array, name) in OF_TRIALS.into_iter().filter(|(array, _)| npz.has(array)).collect::<Vec<_>>() {
        let (values, trials) = values(npz, array, images, finished)?;
        if array.starts_with("trial_") || trials > 1 {
            reading.kind = Kind::Trials;
        }
        reading.trials = reading.trials.max(trials);
        reading.add(name, &values, trials, None);
        if trials == 1 {
            one_trial.insert(name, values);
        }
    }
    for (a, b) in [("trace_pre", "angular_var"), ("trace_post", "angular_var"), ("trace_pre", "trace_post")] {
        if let (Some(x), Some(y)) = (one_trial.get(a), one_trial.get(b)) {
            reading.correlate(&format!("{a} ~ {b}"), x, y);
        }
    }
    Ok(reading)
}

/// `trace_pre` under several conditions, by their names.
fn of_conditions(npz: &mut Npz) -> Result<Reading, ReadError> {
    let (images, passes) = (images(npz)?, passes_of(npz)?);
    let mut reading = Reading::new(npz.path(), Kind::Conditions, images, passes);
    let is_ablation = npz.has(CLEAN);
    let names: Vec<String> = npz.names().iter().map(ToString::to_string).collect();
    for array in names {
        let condition = match array.strip_prefix(OF_RATE) {
            Some(rate) => format!("p {}", rate.replace('_', ".")),
            None if is_ablation && array != "paths" => array.clone(),
            None => continue,
        };
        let (values, trials) = values(npz, &array, images, None)?;
        reading.trials = reading.trials.max(trials);
        reading.add_as(&condition, "trace_pre", &values, trials, None);
    }
    Ok(reading)
}

fn of_ambiguity(npz: &mut Npz) -> Result<Reading, ReadError> {
    let images = images(npz)?;
    let passes = passes_of(npz)?;
    let mut reading = Reading::new(npz.path(), Kind::Ambiguity, images, passes);
    let (uncertainty, _) = values(npz, "uncertainty", images, None)?;
    if npz.has("uncertainty_trials") {
        let (of_trials, trials) = values(npz, "uncertainty_trials", images, None)?;
        reading.add("uncertainty", &of_trials, trials, None);
        reading.trials = trials;
    } else {
        reading.add("uncertainty", &uncertainty, 1, None);
    }
    let mut column = |name: &str| match npz.has(name) {
        true => values(npz, name, images, None).map(|(values, _)| Some(values)),
        false => Ok(None),
    };
    let (margin, entropy) = (column("margin")?, column("entropy")?);
    let sensitivity = column("prompt_sensitivity")?;
    if let Some(margin) = &margin {
        reading.add("margin", margin, 1, None);
        let against: Vec<f64> = margin.iter().map(|margin| -margin).collect();
        reading.correlate("uncertainty ~ -margin", &uncertainty, &against);
        let low = ambiguity::lowest(margin, AMBIGUOUS_SHARE);
        reading.auroc.extend(auroc(&uncertainty, &low).map(|area| ("low_margin".to_owned(), area)));
    }
    if let Some(entropy) = &entropy {
        reading.add("entropy", entropy, 1, None);
        reading.correlate("uncertainty ~ entropy", &uncertainty, entropy);
        let high = ambiguity::highest(entropy, AMBIGUOUS_SHARE);
        reading.auroc.extend(auroc(&uncertainty, &high).map(|area| ("high_entropy".to_owned(), area)));
    }
    if let Some(sensitivity) = &sensitivity {
        reading.add("prompt_sensitivity", sensitivity, 1, None);
        reading.correlate("uncertainty ~ prompt_sensitivity", &uncertainty, sensitivity);
    }
    Ok(reading)
}

impl Reading {
    fn new(file: &Path, kind: Kind, images: usize, passes: Option<usize>) -> Reading {
        Reading {
            file: file.to_owned(),
            kind,
            images,
            trials: 1,
            passes,
            quantities: BTreeMap::new(),
            spearman: BTreeMap::new(),
            auroc: BTreeMap::new(),
        }
    }

    fn correlate(&mut self, name: &str, a: &[f64], b: &[f64]) {
        self.spearman.extend(spearman(a, b).map(|rho| (name.to_owned(), rho)));
    }

    /// `errors`: standard errors of the values, in their order.
    fn add(&mut self, name: &str, values: &[f64], trials: usize, errors: Option<&[f64]>) {
        self.add_as(name, name, values, trials, errors);
    }

    /// Under a name that is not that of the quantity, `of`.
    fn add_as(&mut self, name: &str, of: &str, values: &[f64], trials: usize, errors: Option<&[f64]>) {
        let all = Trials { values, trials };
        let means = all.means(0..trials);
        let squares: Option<Vec<f64>> = errors.map(|errors| errors.iter().map(|se| se * se).collect());
        let law = self.passes.filter(|_| is_trace(of)).and_then(|passes| match &squares {
            Some(squares) if trials == 1 => Law::of_errors(values, squares, passes),
            _ => Law::of_trials(&all, passes),
        });
        let quantity = Quantity {
            formula: formula_of(of).map(|formula: &Formula| formula.id),
            ddof: None,
            mean: mean(values),
            sd: Some(variance(&means, 1).sqrt()).filter(|sd| sd.is_finite()),
            se: squares.map(|squares| mean(&squares).sqrt()),
            reliability: (trials > 1).then(|| all.reliability()),
            law,
        };
        self.quantities.insert(name.to_owned(), quantity);
    }

    /// A quantity that was computed here, with the degrees of freedom it was computed with.
    fn add_computed(
        &mut self,
        name: &str,
        bias: Bias,
        values: &[f64],
        trials: usize,
        errors: Option<&[f64]>,
    ) {
        self.add(name, values, trials, errors);
        let ddof = formula_of(name).and_then(|formula| match bias {
            Bias::Unbiased => formula.ddof,
            Bias::Seed => formula.ddof_seed,
        });
        if let Some(quantity) = self.quantities.get_mut(name) {
            quantity.ddof = ddof;
        }
    }
}

/// The law is about variances over passes.
fn is_trace(name: &str) -> bool {
    name.contains("trace") || name == "angular_var"
}

/// Images by the paths that stand in the file.
fn images(npz: &mut Npz) -> Result<usize, ReadError> {
    let paths = npz.read("paths")?;
    match (&paths.data, paths.shape.as_slice()) {
        (super::npz::Data::Text(_), [images]) if *images > 0 => Ok(*images),
        _ => Err(ReadError::Shape {
            array: "paths".to_owned(),
            shape: paths.shape,
            wanted: "(images)".to_owned(),
        }),
    }
}

/// Passes by an array of that name, else by the name of the file, such as `exp0_trials_T64.npz`.
fn passes_of(npz: &mut Npz) -> Result<Option<usize>, ReadError> {
    if npz.has("passes") {
        return number(npz, "passes");
    }
    let stem = npz.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let passes = |part: &str| part.strip_prefix('T').and_then(|digits| digits.parse().ok());
    Ok(stem.split('_').rev().find_map(passes).filter(|passes| *passes > 0))
}

fn number(npz: &mut Npz, name: &str) -> Result<Option<usize>, ReadError> {
    let array = npz.read(name)?;
    let numbers = array.to_f64();
    Ok(numbers.first().filter(|number| numbers.len() == 1 && **number >= 1.0).map(|number| *number as usize))
}

/// Values of trials over images, and how many trials; of a run that was stopped, those that it finished.
fn values(
    npz: &mut Npz,
    name: &str,
    images: usize,
    finished: Option<usize>,
) -> Result<(Vec<f64>, usize), ReadError> {
    let array = npz.read(name)?;
    let trials = match array.shape.as_slice() {
        [n] if *n == images => 1,
        [trials, n] if *n == images && *trials > 0 => *trials,
        _ => {
            let wanted = format!("(trials, {images})");
            return Err(ReadError::Shape { array: name.to_owned(), shape: array.shape, wanted });
        }
    };
    let trials = finished.map_or(trials, |finished| trials.min(finished));
    if trials.saturating_mul(images) > VALUES_MAX {
        return Err(ReadError::Many { array: name.to_owned(), values: trials.saturating_mul(images) });
    }
    let mut numbers = Vec::new();
    array.extend_f64(0..trials * images, &mut numbers);
    check(name, &array, &numbers)?;
    Ok((numbers, trials))
}

fn check(name: &str, array: &Array, numbers: &[f64]) -> Result<(), ReadError> {
    if matches!(array.data, super::npz::Data::Text(_)) {
        return Err(ReadError::Words { array: name.to_owned() });
    }
    match numbers.iter().position(|number| !number.is_finite()) {
        Some(at) => Err(ReadError::NotFinite { array: name.to_owned(), at }),
        None => Ok(()),
    }
}

/// Why a file was left out.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Its arrays cannot be read.
    #[error(transparent)]
    Npz(#[from] NpzError),
    /// Arrays that nothing here knows.
    #[error("no array that is known here, only: {names}")]
    Unknown {
        /// Theirs.
        names: String,
    },
    /// Axes that do not fit the other arrays.
    #[error("array `{array}` is of {shape:?}, not {wanted}")]
    Shape {
        /// The array.
        array: String,
        /// Its axes.
        shape: Vec<usize>,
        /// Those it should have.
        wanted: String,
    },
    /// Words where numbers should be.
    #[error("array `{array}` has words, not numbers")]
    Words {
        /// The array.
        array: String,
    },
    /// A value that is no number, or infinite.
    #[error("array `{array}` is no number at {at}")]
    NotFinite {
        /// The array.
        array: String,
        /// Which value, in the order of the file.
        at: usize,
    },
    /// More values than are held.
    #[error("array `{array}` has {values} values, more than {VALUES_MAX}")]
    Many {
        /// The array.
        array: String,
        /// How many.
        values: usize,
    },
    /// Trials of one folder over other images, or of other lengths.
    #[error("its passes are of {shape:?}, those of {} of {first:?}", other.display())]
    OtherRun {
        /// Of this one.
        shape: Vec<usize>,
        /// Of the first one of the folder.
        first: Vec<usize>,
        /// The first one.
        other: PathBuf,
    },
    /// Frozen weights of another length.
    #[error("its features have {dim} numbers, the weights {weights}")]
    Weights {
        /// Of a feature.
        dim: usize,
        /// Of the weights.
        weights: usize,
    },
}

/// Nothing could be read at all.
#[derive(Debug, thiserror::Error)]
pub enum AnalyzeError {
    /// A path is not there, or cannot be listed.
    #[error("cannot list {}: {error}", path.display())]
    List {
        /// The path.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// Folders without arrays.
    #[error("no .npz file in {}", paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoFiles {
        /// What was named.
        paths: Vec<PathBuf>,
    },
    /// More than anyone means.
    #[error("more than {FILES_MAX} .npz files up to {}", path.display())]
    ManyFiles {
        /// Where the listing ended.
        path: PathBuf,
    },
}

impl AnalyzeError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            AnalyzeError::List { .. } => None,
            AnalyzeError::NoFiles { .. } => Some("name the folder that a run wrote, or its files"),
            AnalyzeError::ManyFiles { .. } => Some("name a folder further down"),
        }
    }
}
