//! Images to features: the image tower of a CLIP or SigLIP checkpoint, as [`crate::embedder`] is for texts.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use haul_kernels::perturb::Perturbation;

use crate::device::{Batch, Device, DeviceError, LoadedModel, Memory, Pass, State, Ticket, Vectors};
use crate::model::ConfigError;
use crate::model::vision::{CHANNELS, Site, VisionConfig};
use crate::program::Program;
use crate::tokenizer::{TokenizeError, TokenizerError};
use crate::weights::{Weights, WeightsError};

/// Bytes of a configuration.
const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// Levels of a colour.
const LEVELS: usize = 256;

/// An image tower on a device, ready for batches. Features are as the tower gives them, not normalised.
///
/// A row depends on its own image alone, to the bit on one instruction set, however images are packed.
pub struct ImageEncoder {
    config: VisionConfig,
    program: Program,
    model: Box<dyn LoadedModel>,
}

impl ImageEncoder {
    /// Reads `config.json` (transformers) or `open_clip_config.json` of a folder, and its weights.
    ///
    /// # Errors
    /// A configuration that does not run, or weights that are not what it says.
    pub fn load(folder: &Path, device: &dyn Device) -> Result<ImageEncoder, VisionError> {
        ImageEncoder::load_with(folder, device, &[])
    }

    /// [`ImageEncoder::load`], for passes in which `sites` of the model are perturbed.
    ///
    /// # Errors
    /// Also a site that the model does not have: nothing would ever happen there.
    pub fn load_with(
        folder: &Path,
        device: &dyn Device,
        sites: &[Site],
    ) -> Result<ImageEncoder, VisionError> {
        ImageEncoder::load_as(folder, read_config(folder)?, device, sites)
    }

    /// [`ImageEncoder::load_with`] of a tower that runs otherwise than its folder says, with its weights.
    ///
    /// # Errors
    /// Also weights that are not what the configuration says.
    pub fn load_as(
        folder: &Path,
        config: VisionConfig,
        device: &dyn Device,
        sites: &[Site],
    ) -> Result<ImageEncoder, VisionError> {
        if let Some(site) = sites.iter().find(|site| !config.has(**site)) {
            return Err(VisionError::NoSite { site: site.to_string() });
        }
        let weights = Weights::open(&weights_file(folder)?)?;
        let program = config.program(&weights, sites)?;
        let model = device.load(program.clone(), &weights)?;
        Ok(ImageEncoder { config, program, model })
    }

    /// What the tower is like.
    pub fn config(&self) -> &VisionConfig {
        &self.config
    }

    /// Columns of the features.
    pub fn dim(&self) -> usize {
        self.program.dim()
    }

    /// Floating-point operations of so many images, of linear layers and attention.
    pub fn flops(&self, images: usize) -> u64 {
        self.program.flops(&vec![self.config.tokens(); images])
    }

    /// Those of one image before the first site; all of them without sites.
    pub fn flops_of_prefix(&self) -> u64 {
        self.program.flops_of(0..self.prefix_ops(), &[self.config.tokens()])
    }

    /// Those of one pass, which begins there.
    pub fn flops_of_pass(&self) -> u64 {
        self.program.flops_of(self.prefix_ops()..self.program.ops.len(), &[self.config.tokens()])
    }

    fn prefix_ops(&self) -> usize {
        self.program.split().map_or(self.program.ops.len(), |split| split.prefix_ops)
    }

    /// How many batches keep the device busy.
    pub fn batches_in_flight(&self) -> usize {
        self.model.batches_in_flight()
    }

    /// Bytes that the model holds.
    pub fn memory(&self) -> Memory {
        self.model.memory()
    }

    /// Enqueues images of `image_size` pixels in each direction, each row by row, red, green and blue of a pixel side by
    /// side. Nothing is perturbed.
    ///
    /// # Errors
    /// No image, or bytes that are no whole images.
    pub fn submit(&self, pixels: &[u8], levels: &Levels) -> Result<Ticket, VisionError> {
        Ok(self.model.submit(self.batch(pixels, levels)?)?)
    }

    /// What does not depend on masks, computed once for all passes: [`ImageEncoder::pass`] begins from there.
    ///
    /// # Errors
    /// As [`ImageEncoder::submit`]; or the model was loaded without sites, or the batch is lost.
    pub fn prefix(&self, pixels: &[u8], levels: &Levels) -> Result<State, VisionError> {
        let ticket = self.submit_prefix(pixels, levels)?;
        self.collect_prefix(ticket)
    }

    /// Enqueues what [`ImageEncoder::prefix`] waits for.
    ///
    /// # Errors
    /// As there.
    pub fn submit_prefix(&self, pixels: &[u8], levels: &Levels) -> Result<PrefixTicket, VisionError> {
        if self.program.split().is_none() {
            return Err(VisionError::WithoutSites);
        }
        Ok(PrefixTicket(self.model.submit(self.batch(pixels, levels)?.prefix())?))
    }

    /// Waits for it.
    ///
    /// # Errors
    /// The batch is lost.
    pub fn collect_prefix(&self, PrefixTicket(ticket): PrefixTicket) -> Result<State, VisionError> {
        self.model.collect(ticket)?.state.ok_or(VisionError::Device(DeviceError::Lost))
    }

    /// Enqueues passes over the images of a state; its features stand in the order of `passes`.
    ///
    /// # Errors
    /// No pass, or one over an image that the state does not have.
    pub fn pass(
        &self,
        state: &Arc<State>,
        passes: Vec<Pass>,
        perturbation: Perturbation,
    ) -> Result<Ticket, VisionError> {
        Ok(self.model.submit(of_passes(state, passes, perturbation)?)?)
    }

    fn batch(&self, pixels: &[u8], levels: &Levels) -> Result<Batch, VisionError> {
        let size = self.config.image_size;
        let image_bytes = size * size * CHANNELS;
        let images = pixels.len() / image_bytes;
        if images * image_bytes != pixels.len() || images == 0 {
            return Err(VisionError::Pixels { bytes: pixels.len(), image_bytes });
        }
        let mut patches = Vec::with_capacity(images * self.config.patches() * self.config.patch_width());
        for image in pixels.chunks_exact(image_bytes) {
            cut_patches(image, size, self.config.patch_size, levels, &mut patches);
        }
        let batch = Batch::of_images(patches, images, self.config.tokens());
        batch.ok_or(VisionError::Pixels { bytes: pixels.len(), image_bytes })
    }

    /// Waits for a batch; its features stand in the order of its images.
    ///
    /// # Errors
    /// The batch is lost, or a feature is no number.
    pub fn collect(&self, ticket: Ticket) -> Result<Vectors, VisionError> {
        let features = self.model.collect(ticket)?.dense;
        for (image, row) in features.iter().enumerate() {
            if let Some(column) = row.iter().position(|value| !value.is_finite()) {
                return Err(VisionError::NotFinite { image, column, value: row[column] });
            }
        }
        Ok(features)
    }
}

fn of_passes(
    state: &Arc<State>,
    passes: Vec<Pass>,
    perturbation: Perturbation,
) -> Result<Batch, VisionError> {
    let (count, images) = (passes.len(), state.images());
    Batch::of_passes(state, passes, perturbation).ok_or(VisionError::Passes { passes: count, images })
}

/// A claim to the state of a prefix.
#[derive(Debug)]
#[must_use = "the state of a prefix is lost without its ticket"]
pub struct PrefixTicket(Ticket);

/// What each level of each colour is for the model: `(level * scale - mean) / std`, computed as `transformers` does, the
/// product in f64 and the rest in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Levels([[f32; LEVELS]; CHANNELS]);

impl Levels {
    /// `scale` is 1 / 255 for all known models.
    pub fn new(scale: f64, mean: [f32; CHANNELS], std: [f32; CHANNELS]) -> Levels {
        Levels(std::array::from_fn(|channel| {
            std::array::from_fn(|level| ((level as f64 * scale) as f32 - mean[channel]) / std[channel])
        }))
    }
}

/// The numbers of each patch, patches row by row: all of one colour, then the next, each row by row.
fn cut_patches(image: &[u8], size: usize, side: usize, levels: &Levels, out: &mut Vec<f32>) {
    let across = size / side;
    for (top, left) in (0..across * across).map(|patch| (patch / across * side, patch % across * side)) {
        for (channel, levels) in levels.0.iter().enumerate() {
            for y in top..top + side {
                let row = &image[(y * size + left) * CHANNELS..][..side * CHANNELS];
                out.extend(row[channel..].iter().step_by(CHANNELS).map(|&level| levels[usize::from(level)]));
            }
        }
    }
}

/// What a tower takes of memory, from its files alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes of the file of weights, which is mapped while it is read.
    pub file_bytes: u64,
    /// Numbers that are kept of it.
    pub weights: u64,
    /// Activations of one pass.
    pub pass_bytes: u64,
    /// What passes over one image begin from.
    pub state_bytes: u64,
}

/// What [`ImageEncoder::load_as`] and its passes will take.
///
/// # Errors
/// Weights that are not what the configuration says.
pub fn footprint(folder: &Path, config: &VisionConfig, sites: &[Site]) -> Result<Footprint, VisionError> {
    let path = weights_file(folder)?;
    let weights = Weights::open(&path)?;
    let program = config.program(&weights, sites)?;
    let linears = program.linears.iter().map(|linear| linear.out_features * (linear.in_features + 1));
    let tensors = program.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>());
    let file_bytes = std::fs::metadata(&path).map_err(|source| VisionError::Read { path, source })?.len();
    Ok(Footprint {
        file_bytes,
        weights: linears.chain(tensors).sum::<usize>() as u64,
        pass_bytes: program.buffer_bytes(1, config.tokens()) as u64,
        state_bytes: program.state_bytes(config.tokens()) as u64,
    })
}

/// What the tower of a folder is like, without its weights.
///
/// # Errors
/// A configuration that is not there or does not run.
pub fn read_config(folder: &Path) -> Result<VisionConfig, VisionError> {
    read_config_of(folder, VisionConfig::from_open_clip, VisionConfig::from_hugging_face)
}

/// Reads what a configuration is to a program.
type Decode<T> = fn(serde_json::Value) -> Result<T, ConfigError>;

/// The configuration of a checkpoint's folder, open_clip's or transformers'.
pub(crate) fn read_config_of<T>(
    folder: &Path,
    open_clip: Decode<T>,
    hugging_face: Decode<T>,
) -> Result<T, VisionError> {
    let kinds = [("open_clip_config.json", open_clip), ("config.json", hugging_face)];
    for (name, read) in kinds {
        let path = folder.join(name);
        if let Some(json) = read_json(&path)? {
            return read(json).map_err(|source| VisionError::Config { path, source });
        }
    }
    Err(VisionError::NoConfig { folder: folder.into() })
}

/// None where there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Option<serde_json::Value>, VisionError> {
    let failed = |source| VisionError::Read { path: path.into(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = vec![];
    file.take(CONFIG_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    let json = serde_json::from_slice(&bytes).map_err(ConfigError::from);
    json.map(Some).map_err(|source| VisionError::Config { path: path.into(), source })
}

/// Where the weights of a folder are.
///
/// # Errors
/// There are none.
pub fn weights_file(folder: &Path) -> Result<PathBuf, VisionError> {
    let names = ["open_clip_model.safetensors", "model.safetensors"];
    let found = names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| VisionError::NoWeights { folder: folder.into() })
}

/// Why images have no features.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum VisionError {
    /// The folder is no model's.
    #[error("{}: there is neither config.json nor open_clip_config.json", folder.display())]
    NoConfig { folder: PathBuf },
    /// The folder has no weights.
    #[error("{}: there is neither model.safetensors nor open_clip_model.safetensors", folder.display())]
    NoWeights { folder: PathBuf },
    /// The disk's own.
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A model that does not run.
    #[error("{}: {source}", path.display())]
    Config { path: PathBuf, source: ConfigError },
    /// Bytes that are no images of the model's size.
    #[error("{bytes} bytes of pixels are no whole images of {image_bytes} bytes")]
    Pixels { bytes: usize, image_bytes: usize },
    /// A site that the model does not have.
    #[error("the model has no {site}")]
    NoSite { site: String },
    /// Passes of a model in which nothing is perturbed.
    #[error("the model was loaded without sites, so all passes over an image would be the same")]
    WithoutSites,
    /// Passes over images that are not there.
    #[error("{passes} passes over {images} images: none, or one of an image that is not there")]
    Passes { passes: usize, images: usize },
    /// The model gave a number that is none.
    #[error("image {image} of the batch has {value} in column {column} of its features")]
    NotFinite { image: usize, column: usize, value: f32 },
    /// A token of the tokenizer that the model does not have.
    #[error("the tokenizer gives token {id}, and the model has {vocabulary_size} words")]
    NoWord { id: u32, vocabulary_size: usize },
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A text that it refuses.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl VisionError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            VisionError::NoConfig { .. } => Some("give the folder of a CLIP or SigLIP checkpoint"),
            VisionError::NoWeights { .. } => Some("fetch the checkpoint's safetensors"),
            VisionError::NotFinite { .. } => {
                Some("the weights may be damaged: compare their checksum with the model's")
            }
            VisionError::Weights(error) => error.hint(),
            VisionError::Device(error) => error.hint(),
            VisionError::NoWord { .. } | VisionError::Tokenizer(_) => {
                Some("take tokenizer.json of the checkpoint itself")
            }
            VisionError::NoSite { .. } => Some("take sites of the model's own blocks"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_cut_by_colour() {
        // 3 x 3 pixels with patches of 1 x 1, then 2 x 2 of 4 x 4; a level is its own number here.
        let levels = Levels::new(1.0, [0.0; 3], [1.0; 3]);
        let image: Vec<u8> = (0..4 * 4 * 3).collect();
        let mut out = vec![];
        cut_patches(&image, 4, 2, &levels, &mut out);
        let first = [0, 3, 12, 15, 1, 4, 13, 16, 2, 5, 14, 17];
        assert_eq!(out[..12], first.map(f64::from).map(|x| x as f32));
        assert_eq!(out[12], 6.0);
        assert_eq!(out[24], 24.0);
        let mut rest = vec![];
        cut_patches(&image[..27], 3, 2, &levels, &mut rest);
        assert_eq!(rest.len(), 12, "what is left over at the edges is not looked at");
    }
}
