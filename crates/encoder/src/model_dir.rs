//! A model directory in Hugging Face layout, as sentence-transformers writes it.
//!
//! `modules.json` says what runs: Transformer, Pooling, and Normalize where the rows are to have length one. Nothing
//! is guessed: a missing file, a module that does not run, and files that contradict each other are named.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::model::{ConfigError, Head, ModelConfig};
use crate::pooling::{PoolMode, Pooling};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// No JSON file of a model but its tokenizer is nearly as large.
pub const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// A model directory that has been read and found consistent. The weights are not loaded yet:
/// [`crate::embedder::Embedder::load`] does that.
pub struct ModelDir {
    /// The folder's name; of a link, the link's.
    pub name: String,
    /// Sizes and numbers of the architecture.
    pub config: ModelConfig,
    /// How a sequence becomes one row.
    pub pooling: Pooling,
    /// Whether `modules.json` lists Normalize.
    pub normalize: bool,
    /// The longest sequence the model reads, special tokens counted.
    pub max_tokens: usize,
    /// Texts to set before a query or a document.
    pub prompts: Prompts,
    /// The model's own tokenizer.
    pub tokenizer: Tokenizer,
    /// Ids of the tokens that begin, end and fill a sequence or stand for an unknown one; they get no sparse weight.
    pub special_ids: Vec<u32>,
    lowercase: bool,
    dir: PathBuf,
    weights: PathBuf,
    heads: Vec<(Head, PathBuf)>,
    files: Vec<PathBuf>,
}

/// The prompts of `config_sentence_transformers.json`. A prompt is set before the text as it is, without a space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompts {
    /// By name.
    pub by_name: BTreeMap<String, String>,
    /// The name of the prompt for a text that is neither query nor document.
    pub default_name: Option<String>,
}

impl Prompts {
    /// What stands before a query; empty if the model names none. As in sentence-transformers' `encode_query`, the
    /// default prompt does not step in.
    pub fn query(&self) -> &str {
        self.first_of(&["query"])
    }

    /// What stands before a document: the prompt named `document`, `passage` or `corpus`; empty if there is none.
    pub fn document(&self) -> &str {
        self.first_of(&["document", "passage", "corpus"])
    }

    /// What stands before a text that is neither: the default prompt, or nothing.
    pub fn default_prompt(&self) -> &str {
        self.default_name.as_deref().map_or("", |name| self.first_of(&[name]))
    }

    fn first_of(&self, names: &[&str]) -> &str {
        names.iter().find_map(|&name| self.by_name.get(name)).map_or("", String::as_str)
    }
}

impl ModelDir {
    /// Reads every file but the weights, and checks them against each other.
    pub fn open(dir: &Path) -> Result<ModelDir, ModelError> {
        // A directory that was linked into place keeps the name of the link.
        let name = dir.file_name().map(ToOwned::to_owned);
        let dir = dir.canonicalize().map_err(|source| ModelError::Read { path: dir.into(), source })?;
        let mut reader = Reader { dir: dir.clone(), files: vec![] };
        let modules = read_modules(&mut reader)?;
        let transformer = read_transformer(&mut reader, &modules.transformer)?;
        let prompts = read_prompts(&mut reader)?;
        let pooling = read_pooling(&mut reader, &modules.pooling, transformer.config.hidden_size, &prompts)?;
        let weights = find_weights(&mut reader, &modules.transformer)?;
        let heads = find_heads(&mut reader, &modules.transformer);
        Ok(ModelDir {
            name: name.as_deref().or(dir.file_name()).unwrap_or_default().to_string_lossy().into_owned(),
            config: transformer.config,
            pooling,
            normalize: modules.normalize,
            max_tokens: transformer.max_tokens,
            prompts,
            tokenizer: transformer.tokenizer,
            special_ids: transformer.special_ids,
            lowercase: transformer.lowercase,
            dir,
            weights,
            heads,
            files: reader.files,
        })
    }

    /// Columns of a vector.
    pub fn dim(&self) -> usize {
        self.config.hidden_size * self.pooling.modes.len()
    }

    /// What sentence-transformers does to a text (prompt included) before it tokenizes it: Python's `str.strip()`, and
    /// lower case where the model asks for it.
    pub fn prepare<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let stripped = text.trim_matches(is_python_space);
        if self.lowercase { stripped.to_lowercase().into() } else { stripped.into() }
    }

    /// The directory, absolute.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The weights file.
    pub fn weights_file(&self) -> &Path {
        &self.weights
    }

    /// The file of a head's weights, if the model has it.
    pub fn head_file(&self, wanted: Head) -> Option<&Path> {
        self.heads.iter().find(|(head, _)| *head == wanted).map(|(_, path)| path.as_path())
    }

    /// Every file that has a part in the vectors, absolute, in the order they were read.
    pub fn identity_files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }
}

/// `str.isspace` of Python: Unicode white space and the four separators of ASCII.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Reads files of one directory and remembers which.
struct Reader {
    dir: PathBuf,
    files: Vec<PathBuf>,
}

impl Reader {
    /// `why` says what the file is for, to the user who lacks it.
    fn json<T: DeserializeOwned>(&mut self, relative: &Path, why: &'static str) -> Result<T, ModelError> {
        self.optional_json(relative)?
            .ok_or_else(|| ModelError::Missing { path: self.dir.join(relative), why })
    }

    fn optional_json<T: DeserializeOwned>(&mut self, relative: &Path) -> Result<Option<T>, ModelError> {
        let path = self.dir.join(relative);
        let Some(bytes) = read_bounded(&path)? else { return Ok(None) };
        let value = serde_json::from_slice(&bytes)
            .map_err(|source| ModelError::Json { path: path.clone(), source })?;
        self.files.push(path);
        Ok(Some(value))
    }

    fn exists(&self, relative: &Path) -> bool {
        self.dir.join(relative).is_file()
    }
}

/// None where there is no such file.
fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, ModelError> {
    let failed = |source| ModelError::Read { path: path.into(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = vec![];
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(ModelError::TooLarge { path: path.into() });
    }
    Ok(Some(bytes))
}

struct Modules {
    transformer: PathBuf,
    pooling: PathBuf,
    normalize: bool,
}

#[derive(Deserialize)]
struct ModuleEntry {
    path: String,
    r#type: String,
}

fn read_modules(reader: &mut Reader) -> Result<Modules, ModelError> {
    let path = reader.dir.join("modules.json");
    let entries: Vec<ModuleEntry> =
        reader.json(Path::new("modules.json"), "it says how token vectors become one vector")?;
    // Class paths have moved between releases of sentence-transformers; the class names have not.
    let kinds: Vec<&str> = entries.iter().map(|e| e.r#type.rsplit('.').next().unwrap_or(&e.r#type)).collect();
    if let Some(kind) = kinds.iter().find(|kind| !["Transformer", "Pooling", "Normalize"].contains(kind)) {
        return Err(ModelError::Module { path, module: kind.to_string() });
    }
    let normalize = match kinds[..] {
        ["Transformer", "Pooling"] => false,
        ["Transformer", "Pooling", "Normalize"] => true,
        _ => return Err(ModelError::ModuleOrder { path, found: kinds.join(", ") }),
    };
    Ok(Modules {
        transformer: inside(&path, &entries[0].path)?,
        pooling: inside(&path, &entries[1].path)?,
        normalize,
    })
}

/// A module's folder, which must lie inside the model's.
fn inside(modules_json: &Path, folder: &str) -> Result<PathBuf, ModelError> {
    let relative = PathBuf::from(folder);
    if relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        Ok(relative)
    } else {
        Err(ModelError::ModulePath { path: modules_json.into(), folder: folder.into() })
    }
}

struct Transformer {
    config: ModelConfig,
    tokenizer: Tokenizer,
    special_ids: Vec<u32>,
    max_tokens: usize,
    lowercase: bool,
}

fn read_transformer(reader: &mut Reader, folder: &Path) -> Result<Transformer, ModelError> {
    let config = read_config(reader, folder)?;
    let tokenizer_path = reader.dir.join(folder.join("tokenizer.json"));
    if !tokenizer_path.is_file() {
        return Err(ModelError::Missing { path: tokenizer_path, why: "it turns text into token ids" });
    }
    let tokenizer = Tokenizer::open(&tokenizer_path)?;
    if tokenizer.vocabulary_size() > config.vocabulary_size {
        return Err(ModelError::Vocabulary {
            path: tokenizer_path,
            tokenizer: tokenizer.vocabulary_size(),
            config: config.vocabulary_size,
        });
    }
    reader.files.push(tokenizer_path);
    let tokenizer_config: TokenizerConfig =
        reader.optional_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    check_case(&reader.dir.join(folder), &tokenizer, &tokenizer_config)?;
    let sentence = read_sentence_config(reader, folder)?;
    let max_tokens = max_tokens(&reader.dir.join(folder), &config, &tokenizer, &tokenizer_config, &sentence)?;
    let special_ids = special_ids(&tokenizer, &tokenizer_config);
    Ok(Transformer { config, tokenizer, special_ids, max_tokens, lowercase: sentence.do_lower_case })
}

fn read_config(reader: &mut Reader, folder: &Path) -> Result<ModelConfig, ModelError> {
    let relative = folder.join("config.json");
    let json: serde_json::Value = reader.json(&relative, "it says what the architecture is")?;
    let path = reader.dir.join(&relative);
    ModelConfig::from_json(json).map_err(|source| ModelError::Config { path, source })
}

#[derive(Deserialize, Default)]
struct TokenizerConfig {
    /// "No limit" is written as 1e30.
    model_max_length: Option<f64>,
    do_lower_case: Option<bool>,
    cls_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
    pad_token: Option<SpecialToken>,
    unk_token: Option<SpecialToken>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Added { content: String },
}

impl SpecialToken {
    fn text(&self) -> &str {
        match self {
            SpecialToken::Text(text) | SpecialToken::Added { content: text } => text,
        }
    }
}

/// What FlagEmbedding leaves out of sparse vectors: the tokens that `tokenizer_config.json` names, by the names that
/// XLM-RoBERTa's tokenizer gives those which it does not, and whatever stands around every sequence.
fn special_ids(tokenizer: &Tokenizer, config: &TokenizerConfig) -> Vec<u32> {
    let named = [
        (&config.cls_token, "<s>"),
        (&config.pad_token, "<pad>"),
        (&config.eos_token, "</s>"),
        (&config.unk_token, "<unk>"),
    ];
    let text = |(token, otherwise)| {
        let token: &Option<SpecialToken> = token;
        token.as_ref().map_or(otherwise, SpecialToken::text)
    };
    let mut ids = tokenizer.frame(&[]);
    ids.extend(named.into_iter().filter_map(|token| tokenizer.id_of(text(token))));
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// `transformers` obeys `tokenizer_config.json` over the normalizer in `tokenizer.json`; so a contradiction between
/// them means that one of our and its tokens would be wrong.
fn check_case(folder: &Path, tokenizer: &Tokenizer, config: &TokenizerConfig) -> Result<(), ModelError> {
    match (tokenizer.bert_lowercases(), config.do_lower_case) {
        (Some(file), Some(config)) if file != config => {
            Err(ModelError::Case { path: folder.join("tokenizer_config.json"), file, config })
        }
        _ => Ok(()),
    }
}

#[derive(Deserialize, Default)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

/// The names under which sentence-transformers looks, in its order.
const SENTENCE_CONFIGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

fn read_sentence_config(reader: &mut Reader, folder: &Path) -> Result<SentenceConfig, ModelError> {
    for name in SENTENCE_CONFIGS {
        if let Some(config) = reader.optional_json(&folder.join(name))? {
            return Ok(config);
        }
    }
    Ok(SentenceConfig::default())
}

/// `max_seq_length` of the sentence configuration; else the smaller of positions and `model_max_length`.
fn max_tokens(
    folder: &Path,
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    tokenizer_config: &TokenizerConfig,
    sentence: &SentenceConfig,
) -> Result<usize, ModelError> {
    let max_tokens = sentence.max_seq_length.unwrap_or_else(|| {
        // A float saturates on its way to usize.
        let limit = tokenizer_config.model_max_length.map_or(usize::MAX, |limit| limit as usize);
        limit.min(config.max_tokens)
    });
    if max_tokens > config.max_tokens {
        let positions = config.max_tokens;
        return Err(ModelError::Positions { path: folder.into(), max_tokens, positions });
    }
    if max_tokens <= tokenizer.special_tokens() {
        return Err(ModelError::NoRoom {
            path: folder.into(),
            max_tokens,
            special: tokenizer.special_tokens(),
        });
    }
    Ok(max_tokens)
}

#[derive(Deserialize)]
struct PromptsFile {
    #[serde(default)]
    prompts: BTreeMap<String, Option<String>>,
    default_prompt_name: Option<String>,
}

fn read_prompts(reader: &mut Reader) -> Result<Prompts, ModelError> {
    let relative = Path::new("config_sentence_transformers.json");
    let Some(file) = reader.optional_json::<PromptsFile>(relative)? else { return Ok(Prompts::default()) };
    let by_name: BTreeMap<_, _> =
        file.prompts.into_iter().map(|(name, prompt)| (name, prompt.unwrap_or_default())).collect();
    match file.default_prompt_name {
        Some(name) if !by_name.contains_key(&name) => {
            Err(ModelError::DefaultPrompt { path: reader.dir.join(relative), name })
        }
        default_name => Ok(Prompts { by_name, default_name }),
    }
}

#[derive(Deserialize)]
struct PoolingFile {
    #[serde(alias = "embedding_dimension")]
    word_embedding_dimension: usize,
    /// How releases from 5.4 on write it; it then stands alone.
    pooling_mode: Option<OneOrMore>,
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
    include_prompt: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

fn read_pooling(
    reader: &mut Reader,
    folder: &Path,
    hidden_size: usize,
    prompts: &Prompts,
) -> Result<Pooling, ModelError> {
    let relative = folder.join("config.json");
    let file: PoolingFile = reader.json(&relative, "it says how token vectors become one vector")?;
    let path = reader.dir.join(relative);
    if file.word_embedding_dimension != hidden_size {
        return Err(ModelError::PoolingWidth { path, pooling: file.word_embedding_dimension, hidden_size });
    }
    if file.include_prompt == Some(false) && prompts.by_name.values().any(|prompt| !prompt.is_empty()) {
        return Err(ModelError::ExcludedPrompt { path });
    }
    let modes = pool_mode_names(file)
        .into_iter()
        .map(|name| {
            PoolMode::from_name(&name).ok_or_else(|| ModelError::PoolMode { path: path.clone(), mode: name })
        })
        .collect::<Result<Vec<_>, _>>()?;
    if modes.is_empty() {
        return Err(ModelError::NoPoolMode { path });
    }
    Ok(Pooling { modes })
}

/// The names in the order in which sentence-transformers sets their vectors side by side.
fn pool_mode_names(file: PoolingFile) -> Vec<String> {
    match file.pooling_mode {
        Some(OneOrMore::One(name)) => vec![name],
        Some(OneOrMore::More(names)) => names,
        None => [
            (file.pooling_mode_cls_token, "cls"),
            (file.pooling_mode_max_tokens, "max"),
            (file.pooling_mode_mean_tokens, "mean"),
            (file.pooling_mode_mean_sqrt_len_tokens, "mean_sqrt_len_tokens"),
            (file.pooling_mode_weightedmean_tokens, "weightedmean"),
            (file.pooling_mode_lasttoken, "lasttoken"),
        ]
        .into_iter()
        .filter(|&(on, _)| on)
        .map(|(_, name)| name.into())
        .collect(),
    }
}

/// `model.safetensors`, or else the file that torch writes.
fn find_weights(reader: &mut Reader, folder: &Path) -> Result<PathBuf, ModelError> {
    for name in ["model.safetensors", "pytorch_model.bin"] {
        let relative = folder.join(name);
        if reader.exists(&relative) {
            let path = reader.dir.join(relative);
            reader.files.push(path.clone());
            return Ok(path);
        }
    }
    let path = reader.dir.join(folder.join("model.safetensors"));
    for other in ["model.safetensors.index.json", "pytorch_model.bin.index.json"] {
        if reader.exists(&folder.join(other)) {
            return Err(ModelError::WeightsFormat { path, found: other });
        }
    }
    Err(ModelError::Missing { path, why: "it holds the weights" })
}

fn find_heads(reader: &mut Reader, folder: &Path) -> Vec<(Head, PathBuf)> {
    let present = |head: &Head| reader.exists(&folder.join(head.file_name()));
    let heads: Vec<_> = Head::ALL
        .into_iter()
        .filter(present)
        .map(|head| (head, reader.dir.join(folder.join(head.file_name()))))
        .collect();
    reader.files.extend(heads.iter().map(|(_, path)| path.clone()));
    heads
}

/// Why a model directory was refused. Each names the file.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ModelError {
    /// The directory or a file in it cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A file that must be there is not.
    #[error("{} is missing; {why}", path.display())]
    Missing { path: PathBuf, why: &'static str },
    /// A configuration file of absurd length.
    #[error("{}: longer than {CONFIG_BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
    /// A file is not the JSON that it should be.
    #[error("{}: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    /// A value in `config.json`.
    #[error("{}: {source}", path.display())]
    Config { path: PathBuf, source: ConfigError },
    /// `tokenizer.json`.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The tokenizer can give ids that have no row in the word table.
    #[error("{}: the tokenizer has {tokenizer} ids, config.json says vocab_size {config}", path.display())]
    Vocabulary { path: PathBuf, tokenizer: usize, config: usize },
    /// Two files say different things about upper case.
    #[error("{}: do_lower_case is {config}, the normalizer of tokenizer.json has lowercase {file}", path.display())]
    Case { path: PathBuf, file: bool, config: bool },
    /// The model claims to read more tokens than it has positions.
    #[error("{}: max_seq_length {max_tokens} is more than the {positions} tokens that have a position", path.display())]
    Positions { path: PathBuf, max_tokens: usize, positions: usize },
    /// Special tokens alone fill a sequence.
    #[error("{}: a sequence of {max_tokens} tokens has no room beside {special} special tokens", path.display())]
    NoRoom { path: PathBuf, max_tokens: usize, special: usize },
    /// A sentence-transformers module that does not run.
    #[error("{}: module {module} does not run; Transformer, Pooling and Normalize do", path.display())]
    Module { path: PathBuf, module: String },
    /// The right modules in an order that does not run.
    #[error("{}: the modules are {found}; Transformer, Pooling and then perhaps Normalize run", path.display())]
    ModuleOrder { path: PathBuf, found: String },
    /// A module's folder lies outside the model's.
    #[error("{}: module folder {folder:?} does not lie inside the model", path.display())]
    ModulePath { path: PathBuf, folder: String },
    /// A pooling mode that does not run.
    #[error("{}: pooling mode {mode:?} does not run; cls, max, mean, mean_sqrt_len_tokens and lasttoken do", path.display())]
    PoolMode { path: PathBuf, mode: String },
    /// No pooling mode is on.
    #[error("{}: no pooling mode is on", path.display())]
    NoPoolMode { path: PathBuf },
    /// Pooling and architecture disagree.
    #[error("{}: pools vectors of {pooling}, config.json says hidden_size {hidden_size}", path.display())]
    PoolingWidth { path: PathBuf, pooling: usize, hidden_size: usize },
    /// The prompt's tokens are to be left out of pooling, which does not run.
    #[error("{}: include_prompt false does not run with prompts", path.display())]
    ExcludedPrompt { path: PathBuf },
    /// The default prompt is none of the prompts.
    #[error("{}: default_prompt_name {name:?} is not among the prompts", path.display())]
    DefaultPrompt { path: PathBuf, name: String },
    /// The weights are there, but in a form that is not read.
    #[error("{} is missing; {found} is there, which is not read", path.display())]
    WeightsFormat { path: PathBuf, found: &'static str },
}

impl ModelError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            ModelError::Missing { path, .. } if path.ends_with("modules.json") => Some(
                "pooling is never guessed: take the sentence-transformers release of this model, or add modules.json \
                 and 1_Pooling/config.json as its authors pool",
            ),
            ModelError::Missing { .. } => Some("fetch the whole model directory again"),
            ModelError::WeightsFormat { .. } => Some("save the model with safe_serialization in one file"),
            ModelError::Vocabulary { .. } | ModelError::Case { .. } | ModelError::PoolingWidth { .. } => {
                Some("the files must come from the same model and release")
            }
            _ => None,
        }
    }
}
