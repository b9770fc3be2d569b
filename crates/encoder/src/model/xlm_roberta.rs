//! XLM-RoBERTa (Conneau et al. 2019), RoBERTa and CamemBERT as `transformers` runs them: bge-m3, multilingual-e5 and
//! their kin. BERT's layers, with positions that begin after the padding id and a token type that is always 0.

use serde::Deserialize;

use crate::model::{ConfigError, ModelConfig, bert};
use crate::program::Numbering;

/// Reads an XLM-RoBERTa's `config.json`.
pub(super) fn config(json: serde_json::Value) -> Result<ModelConfig, ConfigError> {
    let Padding { pad_token_id } = Padding::deserialize(&json)?;
    let file: bert::ConfigFile = serde_json::from_value(json)?;
    file.config(Numbering::AfterPadding { id: pad_token_id }, "roberta.")
}

#[derive(Deserialize)]
struct Padding {
    #[serde(default = "default_pad_token_id")]
    pad_token_id: u32,
}

fn default_pad_token_id() -> u32 {
    1
}
