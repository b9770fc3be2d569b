//! What a library is made with, once; later runs use it.

use serde::{Deserialize, Serialize};

use crate::ids::Fingerprint;

/// Digits of a hash that tell two models apart.
const HASH_SHOWN: usize = 12;

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
    /// What the other chunkers need beside the tokens, and the rules that choose among them.
    #[serde(default, skip_serializing_if = "Chunkers::is_default")]
    pub chunkers: Chunkers,
    /// A weight for each distinct token is stored beside every vector: the model has a sparse head. Absent where it is
    /// not so, as in every library made before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sparse: bool,
}

/// How documents are cut where that is not by tokens alone. All absent in a library of the default chunker, as in
/// every library made before there were others: then none of it is part of the fingerprint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Chunkers {
    /// Windows of words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<FixedWords>,
    /// Ends where the topic changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub semantic: Option<SemanticWords>,
    /// Sections are embedded beside their chunks.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub parents: bool,
    /// Sections and chunks are those of Alexandria, with what it loses.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub alexandria_compat: bool,
    /// Rules by title and author that choose a chunker, as the job understands them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<serde_json::Value>,
}

impl Chunkers {
    fn is_default(&self) -> bool {
        *self == Chunkers::default()
    }
}

/// Numbers of the chunker by windows of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedWords {
    /// Words of a window.
    pub words: usize,
    /// Words that a window repeats of the one before.
    pub overlap_words: usize,
    /// Words of the last window at least.
    pub words_min: usize,
}

/// Numbers of the chunker by topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SemanticWords {
    /// Cosine of two sentences below which the topic changes, in ten-thousandths: 5500 is 0.55.
    pub threshold_e4: u32,
    /// Words of a chunk before a change of topic ends it.
    pub words_min: usize,
    /// Words of a chunk at most.
    pub words_max: usize,
}

impl LibrarySettings {
    /// blake3 of the settings as JSON, in the order of the fields. The model's name is left out: the same
    /// weights under another name make the same vectors.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        for (name, value) in self.identity().into_iter().filter(|(_, value)| !value.is_null()) {
            hasher.update(name.as_bytes()).update(b"=").update(value.to_string().as_bytes()).update(b"\n");
        }
        Fingerprint(*hasher.finalize().as_bytes())
    }

    /// Each setting, by name, that differs from the stored one (`self`) in `asked`. Equal fingerprints have no
    /// differences. A model is shown by the name that people know it by.
    #[must_use]
    pub fn differences(&self, asked: &LibrarySettings) -> Vec<Difference> {
        self.identity()
            .into_iter()
            .zip(asked.identity())
            .filter(|(stored, asked)| stored.1 != asked.1)
            .map(|((name, theirs), (_, ours))| match name {
                "model_sha256" => Difference { name: "model", stored: self.model(), asked: asked.model() },
                _ => Difference { name, stored: shown(&theirs), asked: shown(&ours) },
            })
            .collect()
    }

    fn model(&self) -> String {
        let hash = self.model_sha256.get(..HASH_SHOWN).unwrap_or(&self.model_sha256);
        format!("{:?} (sha256 {hash})", self.model_name)
    }

    fn identity(&self) -> Vec<(&'static str, serde_json::Value)> {
        let Chunkers { fixed, semantic, parents, alexandria_compat, policy } = &self.chunkers;
        let set = |is_set: bool| is_set.then_some(true).into();
        vec![
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
            ("fixed_words", fixed.map(|fixed| fixed.words).into()),
            ("fixed_overlap_words", fixed.map(|fixed| fixed.overlap_words).into()),
            ("fixed_words_min", fixed.map(|fixed| fixed.words_min).into()),
            ("semantic_threshold_e4", semantic.map(|semantic| semantic.threshold_e4).into()),
            ("semantic_words_min", semantic.map(|semantic| semantic.words_min).into()),
            ("semantic_words_max", semantic.map(|semantic| semantic.words_max).into()),
            ("parents", set(*parents)),
            ("alexandria_compat", set(*alexandria_compat)),
            ("policy", policy.clone().unwrap_or_default()),
            ("sparse", set(self.sparse)),
        ]
    }
}

/// One setting in which a run differs from its library.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Field of [`LibrarySettings`], or `model`.
    pub name: &'static str,
    /// As the library has it.
    pub stored: String,
    /// As the run asked for it.
    pub asked: String,
}

/// Text in quotes, so that its blanks are seen; a setting that is absent is not set.
fn shown(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "not set".to_owned(),
        other => other.to_string(),
    }
}
