//! Text to token ids, by the model's own `tokenizer.json`.
//!
//! The file's padding and truncation are switched off: all-MiniLM-L6-v2's file cuts at 128 tokens and pads to 128,
//! while the model reads 256.

use std::path::{Path, PathBuf};

/// A model's tokenizer. One value serves any number of threads; encoding one text starts no threads of its own.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    before: Vec<u32>,
    after: Vec<u32>,
}

/// A text's token ids without special tokens, and where each stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// One id a token.
    pub ids: Vec<u32>,
    /// Byte range of each token in the text that was encoded; the ranges lie on character boundaries.
    pub offsets: Vec<(u32, u32)>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn open(path: &Path) -> Result<Tokenizer, TokenizerError> {
        let bytes =
            std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.into(), source })?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|source| TokenizerError::Parse { path: path.into(), source })?;
        inner
            .with_padding(None)
            .with_truncation(None)
            .map_err(|source| TokenizerError::Parse { path: path.into(), source })?;
        let (before, after) = special_tokens_around(&inner, path)?;
        Ok(Tokenizer { inner, before, after })
    }

    /// Ids without special tokens, and the byte range of each in `text`.
    pub fn encode(&self, text: &str) -> Result<Encoding, TokenizeError> {
        let text_bytes = text.len();
        if u32::try_from(text_bytes).is_err() {
            return Err(TokenizeError::TooLong { text_bytes });
        }
        let encoding =
            self.inner.encode(text, false).map_err(|source| TokenizeError::Failed { text_bytes, source })?;
        Ok(Encoding {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().iter().map(|&(begin, end)| (begin as u32, end as u32)).collect(),
        })
    }

    /// How many special tokens [`Tokenizer::frame`] adds to a sequence.
    pub fn special_tokens(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// The special tokens around `ids`, as the tokenizer's post-processor sets them.
    pub fn frame(&self, ids: &[u32]) -> Vec<u32> {
        [&self.before, ids, &self.after].concat()
    }

    /// Whether a text cut beside a space or a line feed has the ids of its parts: so it is where words are parted at
    /// white space before anything else, and what is done to a text before is done to each character.
    pub fn is_local_at_spaces(&self) -> bool {
        use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};
        let parts_words =
            matches!(self.inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_)));
        let by_character =
            matches!(self.inner.get_normalizer(), None | Some(NormalizerWrapper::BertNormalizer(_)));
        parts_words && by_character
    }

    /// One more than the largest id that this tokenizer can give.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// The id of a token by its text, if there is one.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether a BERT normalizer lowercases; None where the file has no such normalizer.
    pub(crate) fn bert_lowercases(&self) -> Option<bool> {
        match self.inner.get_normalizer() {
            Some(tokenizers::NormalizerWrapper::BertNormalizer(normalizer)) => Some(normalizer.lowercase),
            _ => None,
        }
    }
}

/// What the post-processor sets before and after a sequence. A post-processor that does anything else is refused,
/// because chunks are cut from ids and framed without asking it again.
fn special_tokens_around(
    inner: &tokenizers::Tokenizer,
    path: &Path,
) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let frame = |ids: &[u32]| -> Result<Vec<u32>, TokenizerError> {
        let tokens = ids.iter().map(|&id| tokenizers::Token::new(id, String::new(), (0, 0))).collect();
        inner
            .post_process(tokenizers::Encoding::from_tokens(tokens, 0), None, true)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|source| TokenizerError::Parse { path: path.into(), source })
    };
    // No vocabulary reaches these ids.
    let (one, other) = (u32::MAX, u32::MAX - 1);
    let framed = frame(&[one, other, one])?;
    let strange = || TokenizerError::PostProcessor { path: path.into() };
    let at = framed.iter().position(|&id| id == one).ok_or_else(strange)?;
    let before = framed[..at].to_vec();
    let after = framed.get(at + 3..).ok_or_else(strange)?.to_vec();
    for probe in [&[one, other, one][..], &[], &[other]] {
        if frame(probe)? != [&before, probe, &after].concat() {
            return Err(strange());
        }
    }
    Ok((before, after))
}

type LibraryError = Box<dyn std::error::Error + Send + Sync>;

/// Why a `tokenizer.json` was refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// The file is not a tokenizer that the library knows.
    #[error("{}: not a tokenizer: {source}", path.display())]
    Parse { path: PathBuf, source: LibraryError },
    /// The post-processor does more than set special tokens before and after.
    #[error("{}: the post-processor does more than set special tokens around a sequence", path.display())]
    PostProcessor { path: PathBuf },
}

/// Why a text has no token ids.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum TokenizeError {
    /// Offsets are 32 bits wide.
    #[error("a text of {text_bytes} bytes is too long to tokenize at once; at most {} bytes", u32::MAX)]
    TooLong { text_bytes: usize },
    /// The library refused the text.
    #[error("a text of {text_bytes} bytes cannot be tokenized: {source}")]
    Failed { text_bytes: usize, source: LibraryError },
}
