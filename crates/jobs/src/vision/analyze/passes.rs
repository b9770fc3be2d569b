//! Files with the features of every pass, and files with what is left of them.

use std::path::{Path, PathBuf};

use super::super::npz::{Array, Npz};
use super::super::statistics::Bias;
use super::super::statistics::mean;
use super::super::statistics::passes::{Gram, Passes, Quantities};
use super::super::statistics::weights::Weights;
use super::{
    Analysis, Kind, Options, ReadError, Reading, Unread, check, images, passes_of, values, without_path,
};

/// Trials of one folder, each in a file of its own. A trial that cannot be read is listed, and the others are read.
pub(super) fn read(files: &[PathBuf], options: &Options, found: &mut Analysis) {
    let mut trials: Vec<Trial> = Vec::new();
    for file in files {
        match trial(file, options, trials.first()) {
            Ok(trial) => trials.push(trial),
            Err(why) => found.failures.push(Unread { why: without_path(&why, file), file: file.clone() }),
        }
    }
    if !trials.is_empty() {
        let (reading, weights) = table(&trials, options);
        found.files.push(reading);
        found.weights = weights.or(found.weights.take());
    }
}

/// What is kept of a trial: its passes are many times as large.
struct Trial {
    file: PathBuf,
    /// Passes, images, numbers of a feature.
    shape: [usize; 3],
    /// Of each image.
    images: Vec<Image>,
}

struct Image {
    quantities: Quantities,
    /// Of each number, over passes.
    variances: Vec<f64>,
    means: Vec<f64>,
    /// Before and after scaling; only where the study's own variants are asked for.
    offdiag_abs: Option<[f64; 2]>,
}

fn trial(file: &Path, options: &Options, first: Option<&Trial>) -> Result<Trial, ReadError> {
    let mut npz = Npz::open(file)?;
    let features = npz.read("pass_pre")?;
    let shape = match *features.shape.as_slice() {
        [passes, images, dim] if passes > 1 && images > 0 && dim > 0 => [passes, images, dim],
        _ => {
            let wanted = "(passes, images, dim) with two passes or more".to_owned();
            return Err(ReadError::Shape { array: "pass_pre".to_owned(), shape: features.shape, wanted });
        }
    };
    if let Some(first) = first.filter(|first| first.shape != shape) {
        let other = first.file.clone();
        return Err(ReadError::OtherRun { shape: shape.to_vec(), first: first.shape.to_vec(), other });
    }
    if let Some(weights) = options.weights.as_ref().filter(|weights| weights.values().len() != shape[2]) {
        return Err(ReadError::Weights { dim: shape[2], weights: weights.values().len() });
    }
    let images: Result<Vec<Image>, ReadError> =
        (0..shape[1]).map(|image| of_image(&features, shape, image, options.bias)).collect();
    Ok(Trial { file: file.to_owned(), shape, images: images? })
}

fn of_image(features: &Array, shape: [usize; 3], image: usize, bias: Bias) -> Result<Image, ReadError> {
    let [count, images, dim] = shape;
    let mut rows = Vec::with_capacity(count * dim);
    for pass in 0..count {
        let start = (pass * images + image) * dim;
        features.extend_f64(start..start + dim, &mut rows);
    }
    check("pass_pre", features, &rows)?;
    let passes = Passes { features: &rows, dim };
    let offdiag_abs = (bias == Bias::Seed).then(|| {
        let unit = passes.unit();
        [passes.offdiag_abs(), Passes { features: &unit, dim }.offdiag_abs()]
    });
    Ok(Image {
        quantities: passes.quantities(bias),
        variances: passes.dim_variances(),
        means: passes.dim_means(),
        offdiag_abs,
    })
}

/// The weights are of the means over all trials, unless they were frozen.
fn table(trials: &[Trial], options: &Options) -> (Reading, Option<Weights>) {
    let [passes, images, _] = trials[0].shape;
    let mut reading = Reading::new(&trials[0].file, Kind::Passes, images, Some(passes));
    reading.trials = trials.len();
    let all: Vec<&Image> = trials.iter().flat_map(|trial| &trial.images).collect();
    let quantities: Vec<&Quantities> = all.iter().map(|image| &image.quantities).collect();
    add_quantities(&mut reading, &quantities, options.bias);
    if options.bias == Bias::Seed {
        for (at, name) in ["offdiag_abs_pre", "offdiag_abs_post"].into_iter().enumerate() {
            add_some(&mut reading, options.bias, name, &all, |image| image.offdiag_abs.map(|both| both[at]));
        }
    }
    let weights = options.weights.clone().or_else(|| Weights::of_means(&means(trials)));
    if let Some(weights) = &weights {
        let variances: Vec<&Vec<f64>> = all.iter().map(|image| &image.variances).collect();
        add_weighted(&mut reading, weights, &variances, options.bias);
    }
    (reading, weights)
}

/// Of each image, over all trials.
fn means(trials: &[Trial]) -> Vec<Vec<f64>> {
    let [_, images, dim] = trials[0].shape;
    let over_trials = |image: usize, d: usize| {
        mean(&trials.iter().map(|trial| trial.images[image].means[d]).collect::<Vec<_>>())
    };
    (0..images).map(|image| (0..dim).map(|d| over_trials(image, d)).collect()).collect()
}

fn add_weighted(reading: &mut Reading, weights: &Weights, variances: &[&Vec<f64>], bias: Bias) {
    let trials = reading.trials;
    let weighted: Vec<f64> = variances.iter().map(|of| weights.weighted_trace(of)).collect();
    reading.add_computed("weighted_trace_pre", bias, &weighted, trials, None);
    let top: Vec<f64> = variances.iter().map(|of| weights.top_trace(of)).collect();
    reading.add_computed("topk64_trace_pre", bias, &top, trials, None);
}

/// All that follows from passes or from their products.
fn add_quantities(reading: &mut Reading, all: &[&Quantities], bias: Bias) {
    let trials = reading.trials;
    let estimates = [
        ("trace_pre", all.iter().map(|of| of.pre.trace).collect::<Vec<_>>()),
        ("trace_post", all.iter().map(|of| of.post.trace).collect()),
        ("angular_var", all.iter().map(|of| of.angular_var).collect()),
    ];
    for (name, estimates) in estimates {
        let values: Vec<f64> = estimates.iter().map(|estimate| estimate.value).collect();
        let errors: Option<Vec<f64>> = estimates.iter().map(|estimate| estimate.se).collect();
        reading.add_computed(name, bias, &values, trials, errors.as_deref());
    }
    add_some(reading, bias, "offdiag_pre", all, |of| of.pre.offdiag);
    add_some(reading, bias, "offdiag_post", all, |of| of.post.offdiag);
    add_some(reading, bias, "top_eigenvalue", all, |of| of.pre.eigs_top10.first().copied());
    add_some(reading, bias, "effective_rank", all, |of| of.pre.effective_rank);
    add_some(reading, bias, "spectral_entropy", all, |of| of.pre.spectral_entropy);
    add_some(reading, bias, "top1_ratio", all, |of| of.pre.top1_ratio);
    add_some(reading, bias, "max_dim_var", all, |of| of.pre.max_dim_var);
    add_some(reading, bias, "norm_var", all, |of| Some(of.norm_var));
    add_some(reading, bias, "mean_cosine_dev", all, |of| Some(of.mean_cosine_dev));
}

/// Left out where an image has none.
fn add_some<T>(reading: &mut Reading, bias: Bias, name: &str, all: &[T], get: impl Fn(&T) -> Option<f64>) {
    let values: Option<Vec<f64>> = all.iter().map(get).collect();
    if let Some(values) = values {
        let trials = reading.trials;
        reading.add_computed(name, bias, &values, trials, None);
    }
}

/// `mc.npz`: traces as they were saved, and what follows from the products of passes where they are there.
pub(super) fn of_moments(npz: &mut Npz, options: &Options) -> Result<Reading, ReadError> {
    let images = images(npz)?;
    let moments = npz.read("m2_pre")?;
    let (trials, dim) = match *moments.shape.as_slice() {
        [trials, n, dim] if n == images && trials > 0 && dim > 0 => (trials, dim),
        _ => {
            let wanted = format!("(trials, {images}, dim)");
            return Err(ReadError::Shape { array: "m2_pre".to_owned(), shape: moments.shape, wanted });
        }
    };
    let products = if npz.has("gram") { Some(npz.read("gram")?) } else { None };
    let passes = match &products {
        Some(products) => Some(of_products(products, trials, images)?),
        None => passes_of(npz)?,
    };
    let counts = counts(npz, trials * images, passes)?;
    let mut reading = Reading::new(npz.path(), Kind::Moments, images, passes);
    reading.trials = trials;
    if let (Some(products), Some(passes)) = (&products, passes) {
        let each = passes * passes;
        let mut quantities = Vec::new();
        for at in 0..trials * images {
            let mut gram = Gram { products: Vec::with_capacity(each), passes, dim };
            products.extend_f64(at * each..(at + 1) * each, &mut gram.products);
            check("gram", products, &gram.products)?;
            quantities.push(gram.quantities(options.bias));
        }
        add_quantities(&mut reading, &quantities.iter().collect::<Vec<_>>(), options.bias);
    }
    for name in ["trace_pre", "trace_post", "angular_var"] {
        if npz.has(name) && !reading.quantities.contains_key(name) {
            let (saved, trials) = values(npz, name, images, None)?;
            reading.add(name, &saved, trials, None);
        }
    }
    let weights = weights_of(npz, options, images, dim)?;
    if let (Some(counts), Some(weights)) = (counts, weights) {
        let variances: Vec<Vec<f64>> = rows(&moments, dim)
            .into_iter()
            .zip(counts)
            .map(|(row, count)| row.into_iter().map(|m2| m2 / (count - 1.0)).collect())
            .collect();
        add_weighted(&mut reading, &weights, &variances.iter().collect::<Vec<_>>(), options.bias);
        add_some(&mut reading, options.bias, "max_dim_var", &variances, |row| {
            row.iter().copied().reduce(f64::max)
        });
    }
    Ok(reading)
}

/// Passes of each trial over each image: all have as many, but where trials ended early. None where that is not said.
fn counts(npz: &mut Npz, rows: usize, passes: Option<usize>) -> Result<Option<Vec<f64>>, ReadError> {
    let counts = match passes {
        Some(passes) => vec![passes as f64; rows],
        None if npz.has("passes") => npz.read("passes")?.to_f64(),
        None => vec![],
    };
    Ok((counts.len() == rows && counts.iter().all(|&count| count > 1.0)).then_some(counts))
}

/// Passes by the axes of `gram`.
fn of_products(products: &Array, trials: usize, images: usize) -> Result<usize, ReadError> {
    match *products.shape.as_slice() {
        [k, n, t, u] if k == trials && n == images && t == u && t > 1 => Ok(t),
        _ => {
            let wanted = format!("({trials}, {images}, passes, passes)");
            Err(ReadError::Shape { array: "gram".to_owned(), shape: products.shape.clone(), wanted })
        }
    }
}

/// Frozen ones, else those of the means over all trials.
fn weights_of(
    npz: &mut Npz,
    options: &Options,
    images: usize,
    dim: usize,
) -> Result<Option<Weights>, ReadError> {
    if let Some(weights) = &options.weights {
        return match weights.values().len() {
            length if length == dim => Ok(Some(weights.clone())),
            length => Err(ReadError::Weights { dim, weights: length }),
        };
    }
    let means = npz.read("mean_pre")?;
    let trials = match *means.shape.as_slice() {
        [trials, n, d] if n == images && d == dim && trials > 0 => trials,
        _ => {
            let wanted = format!("(trials, {images}, {dim})");
            return Err(ReadError::Shape { array: "mean_pre".to_owned(), shape: means.shape, wanted });
        }
    };
    let rows = rows(&means, dim);
    let over_trials: Vec<Vec<f64>> = (0..images)
        .map(|image| {
            let column =
                |d: usize| (0..trials).map(|trial| rows[trial * images + image][d]).collect::<Vec<_>>();
            (0..dim).map(|d| mean(&column(d))).collect()
        })
        .collect();
    Ok(Weights::of_means(&over_trials))
}

fn rows(array: &Array, dim: usize) -> Vec<Vec<f64>> {
    array.to_f64().chunks_exact(dim).map(<[f64]>::to_vec).collect()
}
