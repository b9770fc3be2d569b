//! Experiments on images.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use haul_jobs::vision::classes::Templates;
use haul_jobs::vision::mc::{PASSES_MAX, TRIALS_MAX};
use haul_jobs::vision::sites::Sites;

use super::{ComputeArgs, DtypeArg, amount, share};

#[derive(Debug, Subcommand)]
pub(crate) enum VisionCommand {
    /// Run an image tower many times with dropout, and say how far its features spread
    Mc(Box<McArgs>),
    /// The study's experiment 0: whether 10 trials of 4, 16 and 64 passes agree
    Exp0(Box<McArgs>),
    /// Experiment 0b: the shape of what 5 trials of 64 passes spread over
    Exp0b(Box<McArgs>),
    /// Experiment 1: whether images keep their ranks from one rate to the next, 3 trials of 64 passes each
    Exp1(Box<McArgs>),
    /// Experiment 3: attention, feed-forward, one layer or all of them disturbed, 5 trials of 64 passes
    Exp3(Box<McArgs>),
    /// Experiment 4: models side by side, 10 trials of 64 passes
    Exp4(Box<McArgs>),
    /// Experiment 5: whether images whose class a model cannot name for sure are those that are uncertain, 64 passes
    Exp5(Box<AmbiguityArgs>),
    /// Experiment 6: how far the mean of 4 to 64 passes is from what the model says without dropout, 3 trials
    Exp6(Box<McArgs>),
    /// Whether images that are blurred or made small become less certain, 64 passes
    Ablation(Box<McArgs>),
    /// Derive every table again from saved passes and trials (.npz), without a model
    Analyze(AnalyzeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct McArgs {
    /// The folder of the images: .jpg, .jpeg, .png, .bmp and .webp in it and below
    #[arg(value_name = "FOLDER")]
    pub(crate) images: PathBuf,
    /// Folders of CLIP or SigLIP checkpoints, or names of those in HAUL_HOME/models; with a comma between several, which
    /// share the decoded images
    #[arg(long, alias = "models", required = true, value_name = "DIR[,DIR]", value_delimiter = ',')]
    pub(crate) model: Vec<PathBuf>,
    /// Where results go; with several models, each has a folder in it
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) images_taken: ImagesArgs,
    #[command(flatten)]
    pub(crate) dropout: DropoutArgs,
    /// Keep the products of all passes with each other in mc.npz, from which `haul vision analyze` derives every quantity
    #[arg(long, help_heading = "Results")]
    pub(crate) gram: bool,
    /// Keep the features of every pass: trial{k}_seed{s}.npz
    #[arg(long, help_heading = "Results")]
    pub(crate) save_passes: bool,
    /// As the original study: its sample of the images, and traces divided by the number of passes and not one less
    #[arg(long, help_heading = "Results")]
    pub(crate) seed_compat: bool,
    /// GELU in place of a checkpoint's quick form of it, as the original study ran CLIP
    #[arg(long, help_heading = "Results")]
    pub(crate) as_they_ran: bool,
    /// Say what the run and other ways to its numbers take, from a rate that is measured, and stop
    #[arg(long, help_heading = "Results", conflicts_with_all = ["receipt", "target_icc", "target_se"])]
    pub(crate) plan: bool,
    /// Write the receipt here too
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(crate) receipt: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Memory that the run and its workers may take together, such as 2G: batches become as small as that takes
    /// [default: three quarters of what is free]
    #[arg(long, env = "HAUL_MEMORY", value_name = "BYTES", hide_env_values = true, value_parser = amount, help_heading = "Compute")]
    pub(crate) memory: Option<u64>,
    /// Passes in one batch; changes no bit of the results [default: as many as --batch-tokens has room for,
    /// or 256 tokens]
    #[arg(long, value_name = "N", help_heading = "Compute")]
    pub(crate) batch_size: Option<NonZeroUsize>,
    #[command(flatten)]
    pub(crate) dtype: DtypeArg,
}

#[derive(Debug, Args)]
pub(crate) struct AmbiguityArgs {
    #[command(flatten)]
    pub(crate) passes: McArgs,
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,
}

/// What images are compared with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prompts")]
pub(crate) struct PromptArgs {
    /// Names of the classes by their folders: {"n01440764": "tench"} as .json, or lines of folder, tab, name [default: the
    /// folders' own names]
    #[arg(long, value_name = "FILE")]
    pub(crate) class_map: Option<PathBuf>,
    /// Sentences with {} for the name, | between them; margins and entropies are of the first
    #[arg(long, value_name = "TEXT|TEXT", default_value = Templates::USUAL)]
    pub(crate) templates: Templates,
    /// The share of images with the lowest margin, and of those with the highest entropy, that uncertainty should find
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    pub(crate) quantile: f64,
}

/// Which images of a folder are taken.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Images")]
pub(crate) struct ImagesArgs {
    /// Take so many of the images [default: 500, of exp1 and exp3 1,000, of exp5 5,000; all where there are fewer]
    #[arg(long, value_name = "N")]
    pub(crate) num_images: Option<NonZeroUsize>,
    /// How they are chosen: classes takes as many of each folder as of the next, numpy those that the original study
    /// takes [default: classes]
    #[arg(long, value_name = "HOW")]
    pub(crate) sampling: Option<SamplingArg>,
    /// Take the images of this list, {"num_images": 2, "paths": ["a.jpg", "b.jpg"]}
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["num_images", "sampling"])]
    pub(crate) manifest: Option<PathBuf>,
}

/// How a sample is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SamplingArg {
    Classes,
    Numpy,
}

/// What is done to a tower in a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PerturbArg {
    /// Outputs fall out
    Dropout,
    /// Noise is added, as wide as a share of what the outputs spread
    Gaussian,
    /// Each output is multiplied with noise around 1
    Scale,
}

/// What falls out, and how often.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Dropout")]
pub(crate) struct DropoutArgs {
    /// Where elements fall out: uniform (every linear layer), mlp, attention, c_proj, late-K (the last K blocks' second
    /// layers), depth (whole blocks), or one site such as blocks.11.mlp.fc2 [default: uniform]
    #[arg(long, value_name = "SET")]
    pub(crate) sites: Option<Sites>,
    /// What is done there
    #[arg(long, value_name = "KIND", value_enum, default_value = "dropout")]
    pub(crate) perturb: PerturbArg,
    /// The share that falls out [default: 0.01]
    #[arg(long, alias = "p", value_name = "P", allow_negative_numbers = true)]
    pub(crate) dropout: Option<f64>,
    /// How strong noise is: its deviation over that of a layer's outputs, or over each of them [default: 0.01]
    #[arg(long, value_name = "M", conflicts_with = "dropout", allow_negative_numbers = true)]
    pub(crate) magnitude: Option<f64>,
    /// The same masks for all images, so that pairs of images differ by themselves alone
    #[arg(long)]
    pub(crate) shared_masks: bool,
    /// Rates of exp1, or magnitudes [default: 0.001,0.005,0.01,0.02,0.05,0.1]
    #[arg(long, value_name = "P,P", value_delimiter = ',', conflicts_with = "dropout")]
    pub(crate) p_values: Option<Vec<f64>>,
    /// Repetitions [default: those of the experiment, 10 of mc]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=TRIALS_MAX as i64))]
    pub(crate) trials: Option<u32>,
    /// Passes of a trial; of several numbers, results are given after each [default: those of the experiment,
    /// 4,16,64 of mc]
    #[arg(long, value_name = "T,T", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(2..=PASSES_MAX as i64))]
    pub(crate) passes: Option<Vec<u32>>,
    /// As many passes over each image as one trial's trace_pre needs for this ICC, by a pilot of 16 passes over 64 images
    #[arg(long, value_name = "ICC", value_parser = share,
          conflicts_with_all = ["passes", "target_se", "independent_t", "gram", "save_passes"])]
    pub(crate) target_icc: Option<f64>,
    /// As many passes over each image as bring the standard error of its trace_pre to this share of it, by such a pilot
    #[arg(long, value_name = "SHARE", value_parser = share,
          conflicts_with_all = ["passes", "independent_t", "gram", "save_passes"])]
    pub(crate) target_se: Option<f64>,
    /// Trials of their own for every number of passes, instead of one trial seen after so many
    #[arg(long)]
    pub(crate) independent_t: bool,
    /// Of all masks, and of the sample of images
    #[arg(long, value_name = "N", default_value_t = 42, allow_negative_numbers = true)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct AnalyzeArgs {
    /// Files, and folders for the .npz files in them: exp0_trials_T*.npz, trial*_seed*.npz, mc.npz and others
    #[arg(required = true, value_name = "DIR|FILE.npz")]
    pub(crate) paths: Vec<PathBuf>,
    /// Divide traces by the number of passes and not one less, as the original study did; and its second off-diagonal
    /// ratio beside the first
    #[arg(long)]
    pub(crate) seed_compat: bool,
    /// Frozen weights for weighted_trace_pre and topk64_trace_pre [default: of the images at hand]
    #[arg(long, value_name = "FILE.npz")]
    pub(crate) weights: Option<PathBuf>,
    /// Freeze the weights of the images at hand, for --weights
    #[arg(long, value_name = "FILE.npz", conflicts_with = "weights")]
    pub(crate) save_weights: Option<PathBuf>,
}
