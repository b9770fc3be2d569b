//! Which images of a folder a run is over.

use std::path::PathBuf;

use haul_corpus::verdict::Verdict;
use haul_jobs::vision::experiment::Experiment;
use haul_jobs::vision::images::{self, Manifest};
use haul_jobs::vision::sample;
use haul_pipeline::receipt::Failure as NotOk;

use crate::cli::vision::{McArgs, SamplingArg};
use crate::failure::Failure;
use crate::output::Output;

/// The images that were chosen.
pub(super) struct Chosen {
    pub(super) files: Vec<PathBuf>,
    /// Found under the folder.
    pub(super) found: usize,
    pub(super) sampling: &'static str,
    pub(super) failures: Vec<NotOk>,
}

impl Chosen {
    pub(super) fn of(args: &McArgs, experiment: Experiment, output: &Output) -> Result<Chosen, Failure> {
        let taken = &args.images_taken;
        if let Some(path) = &taken.manifest {
            let files: Vec<PathBuf> = Manifest::read(path)?.paths.into_iter().map(PathBuf::from).collect();
            return Ok(Chosen { found: files.len(), files, sampling: "manifest", failures: vec![] });
        }
        let found = images::find(&args.images)?;
        if found.images.is_empty() && found.failures.is_empty() {
            return Err(Failure::new(format!("no image in {}", args.images.display()))
                .hint("images are files named .jpg, .jpeg, .png, .bmp or .webp, also in folders below"));
        }
        let count = taken.num_images.map_or(experiment.num_images(), std::num::NonZeroUsize::get);
        let count = count.min(found.images.len());
        let usual = if args.seed_compat { SamplingArg::Numpy } else { SamplingArg::Classes };
        let sampling = taken.sampling.unwrap_or(usual);
        let chosen = match sampling {
            SamplingArg::Numpy => sample::as_numpy(found.images.len(), count, args.dropout.seed),
            SamplingArg::Classes => sample::by_class(&args.images, &found.images, count, args.dropout.seed),
        };
        let sampling = if sampling == SamplingArg::Numpy { "numpy" } else { "classes" };
        if chosen.len() < found.images.len() {
            output.note(&format!(
                "images: {} of {}, by {sampling}; --num-images takes another number",
                chosen.len(),
                found.images.len()
            ));
        }
        let failures = found.failures.iter().map(|(path, why)| NotOk {
            item: path.display().to_string(),
            verdict: Verdict::Failed.name().to_owned(),
            why: why.clone(),
        });
        Ok(Chosen {
            files: chosen.into_iter().map(|no| found.images[no].clone()).collect(),
            found: found.images.len(),
            sampling,
            failures: failures.collect(),
        })
    }
}
