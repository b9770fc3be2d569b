//! Texts to features that stand beside those of images: the text tower of a CLIP or SigLIP checkpoint, as
//! [`crate::vision`] has the image tower.

use std::path::Path;

use crate::device::{Batch, Device, DeviceError, LoadedModel, Vectors};
use crate::model::ConfigError;
use crate::model::text::{TextConfig, TextFamily};
use crate::program::Program;
use crate::tokenizer::Tokenizer;
use crate::vision::{VisionError, read_config_of, read_json, weights_file};
use crate::weights::{Weights, WeightsError};

/// Tokens of one batch.
const BATCH_TOKENS: usize = 8192;

/// A text tower on a device. Features are as the tower gives them, not normalised.
pub struct CaptionEncoder {
    config: TextConfig,
    program: Program,
    model: Box<dyn LoadedModel>,
    tokenizer: Tokenizer,
    /// What SigLIP's texts are filled up with.
    padding_id: Option<u32>,
    likeness: Likeness,
}

/// From the cosine of an image and a text to the logit that the model was trained with: `scale * cosine + bias`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likeness {
    /// `exp` of the checkpoint's `logit_scale`.
    pub scale: f32,
    /// The checkpoint's `logit_bias`; 0 of CLIP, which has none.
    pub bias: f32,
}

impl CaptionEncoder {
    /// Reads `config.json` (transformers) or `open_clip_config.json` of a folder, its weights and its `tokenizer.json`; of
    /// SigLIP also `tokenizer_config.json`, which names the padding token.
    ///
    /// # Errors
    /// A configuration that does not run, weights that are not what it says, or no tokenizer.
    pub fn load(folder: &Path, device: &dyn Device) -> Result<CaptionEncoder, VisionError> {
        let config = read_config_of(folder, TextConfig::from_open_clip, TextConfig::from_hugging_face)?;
        let weights = Weights::open(&weights_file(folder)?)?;
        let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"))?;
        let padding_id = match config.family {
            TextFamily::Clip => None,
            TextFamily::Siglip => Some(padding_id(folder, &tokenizer)?),
        };
        let likeness = Likeness::read(&weights, config.family)?;
        let program = config.program(&weights)?;
        let model = device.load(program.clone(), &weights)?;
        Ok(CaptionEncoder { config, program, model, tokenizer, padding_id, likeness })
    }

    /// What the tower is like.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// Columns of the features.
    pub fn dim(&self) -> usize {
        self.program.dim()
    }

    /// How cosines become logits.
    pub fn likeness(&self) -> Likeness {
        self.likeness
    }

    /// The token ids of a text as the model was trained on them: special tokens around it, cut to the context before the
    /// last of those, and filled up where the model has every text of one length.
    ///
    /// # Errors
    /// The tokenizer refuses the text, or has ids that the model does not.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>, VisionError> {
        let TextConfig { context_tokens, vocabulary_size, .. } = self.config;
        let mut ids = self.tokenizer.encode(text)?.ids;
        ids.truncate(context_tokens.saturating_sub(self.tokenizer.special_tokens()));
        let mut ids = self.tokenizer.frame(&ids);
        if let Some(padding) = self.padding_id {
            ids.resize(context_tokens, padding);
        }
        match ids.iter().find(|&&id| id as usize >= vocabulary_size) {
            Some(&id) => Err(VisionError::NoWord { id, vocabulary_size }),
            None => Ok(ids),
        }
    }

    /// Features of texts, in their order.
    ///
    /// # Errors
    /// No text, one that the tokenizer refuses, a batch that is lost, or a feature that is no number.
    pub fn features(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, VisionError> {
        let ids = texts.iter().map(|text| self.ids(text)).collect::<Result<Vec<_>, _>>()?;
        let mut features = Vec::with_capacity(texts.len());
        for batch in ids.chunks((BATCH_TOKENS / self.config.context_tokens).max(1)) {
            let batch = Batch::pack(batch).ok_or(VisionError::Device(DeviceError::Lost))?;
            let rows: Vectors = self.model.collect(self.model.submit(batch)?)?.dense;
            features.extend(rows.iter().map(<[f32]>::to_vec));
        }
        for (text, row) in features.iter().enumerate() {
            if let Some(column) = row.iter().position(|value| !value.is_finite()) {
                return Err(VisionError::NotFinite { image: text, column, value: row[column] });
            }
        }
        Ok(features)
    }
}

impl Likeness {
    fn read(weights: &Weights, family: TextFamily) -> Result<Likeness, WeightsError> {
        let scalar = |name: &str| -> Result<f32, WeightsError> {
            // transformers' SigLIP has a list of one number, CLIP and open_clip a number without a shape.
            let shape: Vec<usize> = weights.shape(name)?.iter().map(|&size| size as usize).take(1).collect();
            Ok(weights.read(name, &shape)?.first().copied().unwrap_or(f32::NAN))
        };
        let bias = if family == TextFamily::Siglip { scalar("logit_bias")? } else { 0.0 };
        Ok(Likeness { scale: scalar("logit_scale")?.exp(), bias })
    }
}

fn padding_id(folder: &Path, tokenizer: &Tokenizer) -> Result<u32, VisionError> {
    let path = folder.join("tokenizer_config.json");
    let json = read_json(&path)?.unwrap_or_default();
    let named = &json["pad_token"];
    let token = named.as_str().or_else(|| named["content"].as_str());
    let id = token.and_then(|token| tokenizer.id_of(token));
    id.ok_or_else(|| VisionError::Config {
        path,
        source: ConfigError::Unsupported {
            key: "pad_token",
            value: token.unwrap_or("not given").into(),
            runs: "a token of tokenizer.json is wanted, which fills up texts",
        },
    })
}
