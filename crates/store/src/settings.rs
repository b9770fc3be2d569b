//! What a library is made with, once; later runs use it.

use serde::{Deserialize, Serialize};

use crate::ids::Fingerprint;

/// Fixed when the library is made; later runs use them. Stored in `meta` as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LibrarySettings {
    /// Name the user knows the model by. A label: the hash below is the model's identity.
    pub model_name: String,
    /// Hash of weights, tokenizer and pooling files.
    pub model_sha256: String,
    /// Numbers in a vector.
    pub dim: usize,
    /// Number type of the computation: `f32`, `bf16`, `int16`, `int8`.
    pub dtype: String,
    /// How token vectors become one: `mean`, `cls`, ...
    pub pooling: String,
    /// Whether vectors are scaled to length 1 before they are stored.
    pub normalize: bool,
    /// Longest sequence given to the model, special tokens included.
    pub max_tokens: usize,
    /// `tokens`, `fixed`, `semantic` or `whole`.
    pub chunker: String,
    /// Budget of a chunk, special tokens not included.
    pub chunk_tokens: usize,
    /// Sentences of the previous chunk that a chunk repeats.
    pub overlap_sentences: usize,
    /// Put before a query.
    pub query_prompt: String,
    /// Put before a chunk when it is embedded.
    pub document_prompt: String,
    /// Version of the file readers.
    pub parser_version: u32,
    /// Version of the chunker.
    pub chunker_version: u32,
    /// Version of the arithmetic: raised when a vector would come out with other bits.
    pub numerics_version: u32,
}

impl LibrarySettings {
    /// blake3 of the settings as JSON, in the order of the fields. The model's name is left out: the same
    /// weights under another name make the same vectors.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        for (name, value) in self.identity() {
            hasher.update(name.as_bytes()).update(b"=").update(value.to_string().as_bytes()).update(b"\n");
        }
        Fingerprint(*hasher.finalize().as_bytes())
    }

    /// Each setting, by name, that differs from the stored one (`self`) in `asked`. Equal fingerprints have no
    /// differences.
    #[must_use]
    pub fn differences(&self, asked: &LibrarySettings) -> Vec<Difference> {
        self.identity()
            .into_iter()
            .zip(asked.identity())
            .filter(|(stored, asked)| stored.1 != asked.1)
            .map(|((name, stored), (_, asked))| Difference {
                name,
                stored: plain(&stored),
                asked: plain(&asked),
            })
            .collect()
    }

    fn identity(&self) -> [(&'static str, serde_json::Value); 14] {
        [
            ("model_sha256", self.model_sha256.as_str().into()),
            ("dim", self.dim.into()),
            ("dtype", self.dtype.as_str().into()),
            ("pooling", self.pooling.as_str().into()),
            ("normalize", self.normalize.into()),
            ("max_tokens", self.max_tokens.into()),
            ("chunker", self.chunker.as_str().into()),
            ("chunk_tokens", self.chunk_tokens.into()),
            ("overlap_sentences", self.overlap_sentences.into()),
            ("query_prompt", self.query_prompt.as_str().into()),
            ("document_prompt", self.document_prompt.as_str().into()),
            ("parser_version", self.parser_version.into()),
            ("chunker_version", self.chunker_version.into()),
            ("numerics_version", self.numerics_version.into()),
        ]
    }
}

/// One setting in which a run differs from its library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Field of [`LibrarySettings`].
    pub name: &'static str,
    /// As the library has it.
    pub stored: String,
    /// As the run asked for it.
    pub asked: String,
}

/// Text without the quotes of JSON.
fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
