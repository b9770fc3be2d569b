//! Answers that must be of a form: grammars as masks over the vocabulary.

use std::collections::HashMap;
use std::sync::Arc;

use haul_frames::Constraint;
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie, TokenizerEnv};

use crate::draft::PLACE_TOKENS_MAX;
use crate::llama::{Marks, Model, Token};

/// Compiled grammars that are kept; extraction has one for each group of fields.
const GRAMMARS_MAX: usize = 256;

/// Tokens of answers that are kept to look places up in.
const EARLIER_TOKENS_MAX: usize = 1024;

/// Compiles grammars for one model.
pub(crate) struct Grammars {
    factory: ParserFactory,
    /// By constraint.
    compiled: HashMap<Arc<str>, Compiled>,
    /// The last answers, each behind the last tokens of its prompt.
    earlier: Vec<Token>,
}

struct Compiled {
    /// A copy begins where the grammar does.
    matcher: Matcher,
    /// The last answer of this form. The next one has its marks and names, and other values.
    last: Vec<Token>,
}

impl Grammars {
    /// Reads the model's whole vocabulary: hundreds of milliseconds for a large one.
    pub(crate) fn new(model: Model) -> Result<Self, String> {
        let vocabulary: Arc<dyn TokenizerEnv + Sync> = Arc::new(ApproximateTokEnv::new(trie(model)));
        let mut factory =
            ParserFactory::new_simple(&vocabulary).map_err(|error| one_line(&error.to_string()))?;
        factory.quiet();
        Ok(Self { factory, compiled: HashMap::new(), earlier: vec![] })
    }

    /// A constraint at its beginning.
    pub(crate) fn of(&mut self, constraint: &Constraint) -> Result<Form, String> {
        let key = serde_json::to_string(constraint).map_err(|error| error.to_string())?;
        if let Some((key, compiled)) = self.compiled.get_key_value(key.as_str()) {
            return Ok(Form { matcher: compiled.matcher.deep_clone(), key: Arc::clone(key) });
        }
        let grammar = match constraint {
            Constraint::JsonSchema(schema) => TopLevelGrammar::from_json_schema(compact(schema)),
            Constraint::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        };
        let parser = self.factory.create_parser(grammar).map_err(|error| one_line(&error.to_string()))?;
        let matcher = Matcher::new(Ok(parser));
        if let Some(error) = matcher.get_error() {
            return Err(one_line(&error));
        }
        if self.compiled.len() == GRAMMARS_MAX {
            self.compiled.clear();
        }
        let key: Arc<str> = key.into();
        let form = Form { matcher: matcher.deep_clone(), key: Arc::clone(&key) };
        self.compiled.insert(key, Compiled { matcher, last: vec![] });
        Ok(form)
    }

    /// The last answer of a form; none where there was none.
    pub(crate) fn last(&self, form: &Form) -> &[Token] {
        self.compiled.get(&form.key).map_or(&[], |compiled| &compiled.last)
    }

    /// The last answers of any form, each behind the last tokens of its prompt.
    pub(crate) fn earlier(&self) -> &[Token] {
        &self.earlier
    }

    /// Keeps an answer of a form: the tokens behind the prompt's.
    pub(crate) fn keep(&mut self, form: &Form, said: &[Token], prompt_tokens: usize) {
        if let Some(compiled) = self.compiled.get_mut(&form.key) {
            compiled.last = said[prompt_tokens..].to_vec();
        }
        self.earlier.extend_from_slice(&said[prompt_tokens.saturating_sub(PLACE_TOKENS_MAX)..]);
        let over = self.earlier.len().saturating_sub(EARLIER_TOKENS_MAX);
        self.earlier.drain(..over);
    }
}

/// A schema whose documents have no blanks between their parts: where they may, small models write line breaks for ever.
fn compact(schema: &Value) -> Value {
    const OPTIONS: &str = "x-guidance";
    let mut schema = schema.clone();
    if let Some(keys) = schema.as_object_mut().filter(|keys| !keys.contains_key(OPTIONS)) {
        keys.insert(OPTIONS.to_owned(), json!({"whitespace_flexible": false}));
    }
    schema
}

/// The vocabulary as bytes: marks are told apart from text by a byte that no text has, and every token that ends an
/// answer may end a document.
fn trie(model: Model) -> TokTrie {
    const MARK: u8 = 0xff;
    let size = model.vocabulary() as u32;
    let eos = model.eos().0.unsigned_abs();
    let mut ends = vec![eos];
    let words: Vec<Vec<u8>> = (0..size)
        .map(|id| {
            let token = Token(id.cast_signed());
            if model.ends(token) && id != eos {
                ends.push(id);
            }
            let text = model.piece(token, Marks::Hidden);
            let marked = || [&[MARK], model.piece(token, Marks::Shown).as_slice()].concat();
            if text.is_empty() { marked() } else { text }
        })
        .collect();
    TokTrie::from(&TokRxInfo::new(size, eos), &words).with_eos_tokens(&ends)
}

fn one_line(text: &str) -> String {
    format!("the grammar: {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Where in its grammar an answer is.
pub(crate) struct Form {
    matcher: Matcher,
    /// Its constraint.
    key: Arc<str>,
}

impl Form {
    /// Whether the grammar allows one token next; cheaper than [`Form::forbid`] where the likeliest token fits.
    pub(crate) fn allows(&mut self, token: Token) -> Result<bool, String> {
        self.matcher
            .validate_tokens(&[token.0.unsigned_abs()])
            .map(|valid| valid == 1)
            .map_err(|error| one_line(&error.to_string()))
    }

    /// Takes every token that the grammar forbids next out of the logits.
    pub(crate) fn forbid(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| one_line(&error.to_string()))?;
        for (token, logit) in (0_u32..).zip(logits) {
            if !mask.is_allowed(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Goes on by a token.
    pub(crate) fn accept(&mut self, token: Token) -> Result<(), String> {
        self.matcher.consume_token(token.0.unsigned_abs()).map_err(|error| one_line(&error.to_string()))
    }

    /// Whether nothing can follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }
}
