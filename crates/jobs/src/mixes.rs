//! Texts made from a seed: ordinary English words in random order, the same on every machine.

use std::f64::consts::TAU;

use haul_encoder::embedder::Embedder;
use haul_encoder::model_dir::ModelDir;
use haul_encoder::tokenizer::TokenizeError;

use crate::stream::Settings as Streaming;

/// Length of a text of the first mix, special tokens included, where the model reads as much.
const TOKENS: usize = 256;
const EQUAL_TEXTS: usize = 400;

/// Words of a text of the second mix: log-normal with this median and this standard deviation of the logarithm,
/// clipped.
const MEDIAN_WORDS: f64 = 60.0;
const SPREAD: f64 = 0.8;
const WORDS_MIN: f64 = 4.0;
const WORDS_MAX: f64 = 235.0;
const MIXED_TEXTS: usize = 600;

/// A mix ends early where a pass over it would take more operations than this, ten seconds of a small machine.
const PASS_FLOPS_MAX: u64 = 4_000_000_000_000;
/// But it never has fewer texts than this.
const TEXTS_MIN: usize = 24;

const SEED: u64 = 42;

/// Texts of one kind.
#[derive(Clone, Debug)]
pub struct Mix {
    /// What the row is called by.
    pub name: String,
    /// The texts.
    pub texts: Vec<String>,
}

/// Texts of one length, and texts of very different lengths.
///
/// # Errors
/// The model's tokenizer refuses plain words.
pub(crate) fn both(
    model: &ModelDir,
    streaming: &Streaming,
    embedder: &Embedder,
) -> Result<Vec<Mix>, TokenizeError> {
    let maker = Maker { model, streaming, embedder };
    let tokens = TOKENS.min(streaming.max_tokens);
    let equal = maker.texts(EQUAL_TEXTS, |random| maker.text_of_tokens(random, tokens))?;
    let mixed = maker.texts(MIXED_TEXTS, |random| {
        let count = log_normal_words(random);
        Ok(text_of_words(random, count))
    })?;
    Ok(vec![
        Mix { name: format!("{tokens} tokens"), texts: equal },
        Mix { name: "log-normal".to_owned(), texts: mixed },
    ])
}

struct Maker<'a> {
    model: &'a ModelDir,
    streaming: &'a Streaming,
    embedder: &'a Embedder,
}

impl Maker<'_> {
    fn texts(
        &self,
        count: usize,
        mut make: impl FnMut(&mut Random) -> Result<String, TokenizeError>,
    ) -> Result<Vec<String>, TokenizeError> {
        let mut random = Random::new();
        let mut texts = Vec::with_capacity(count);
        let mut flops = 0;
        while texts.len() < count && (flops < PASS_FLOPS_MAX || texts.len() < TEXTS_MIN) {
            let text = make(&mut random)?;
            let tokens = self.tokens(&self.streaming.prompt)? + self.tokens(&text)?;
            let framed_tokens = tokens + self.model.tokenizer.special_tokens();
            flops += self.embedder.flops(&[framed_tokens.min(self.streaming.max_tokens)]);
            texts.push(text);
        }
        Ok(texts)
    }

    /// A text that fills a sequence of `tokens` with the prompt and the special tokens. Where a tokenizer splits a
    /// shortened text otherwise than its beginning in the longer one, it may be a token off.
    fn text_of_tokens(&self, random: &mut Random, tokens: usize) -> Result<String, TokenizeError> {
        let around = self.model.tokenizer.special_tokens() + self.tokens(&self.streaming.prompt)?;
        let room_tokens = tokens.saturating_sub(around).max(1);
        // A word has at least one token.
        let mut text = text_of_words(random, room_tokens);
        let encoding = self.model.tokenizer.encode(&text)?;
        if let Some((_, end)) = encoding.offsets.get(room_tokens - 1) {
            text.truncate(*end as usize);
        }
        Ok(text)
    }

    fn tokens(&self, text: &str) -> Result<usize, TokenizeError> {
        Ok(self.model.tokenizer.encode(text)?.ids.len())
    }
}

fn text_of_words(random: &mut Random, count: usize) -> String {
    Vec::from_iter((0..count).map(|_| random.word())).join(" ")
}

fn log_normal_words(random: &mut Random) -> usize {
    // Box and Muller 1958.
    let normal = (-2.0 * random.unit().ln()).sqrt() * (TAU * random.unit()).cos();
    (MEDIAN_WORDS * (SPREAD * normal).exp()).clamp(WORDS_MIN, WORDS_MAX).round() as usize
}

/// SplitMix64 (Steele, Lea, Flood 2014), and the words it draws.
pub(crate) struct Random {
    state: u64,
    words: Vec<&'static str>,
}

impl Random {
    fn new() -> Random {
        Random::seeded(SEED)
    }

    pub(crate) fn seeded(seed: u64) -> Random {
        Random { state: seed, words: WORDS.split_ascii_whitespace().collect() }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// The first words more often than the last, as in prose.
    pub(crate) fn word(&mut self) -> &'static str {
        let place = self.unit() * self.unit() * self.words.len() as f64;
        self.words[(place as usize).min(self.words.len() - 1)]
    }
}

const WORDS: &str = "
    the of and to in that was his with for had not but from they which said were when there one would
    what about out into could been time then them some now more after only very over any little upon
    where before such much never down good know here well made long himself how own great again day
    through first hand came way might away every face eyes most nothing house still two last thought too
    found place should head back must without once went see always work though many night life under
    another young men left each far course words light just took let look other old saw enough room
    morning between those few against door white side given years seemed water home half miles moment
    letter window table evening garden river winter summer paper mother father brother sister children
    question answer story number money reason matter power village street country captain doctor soldier
    minute hour week month road horse train ship stone glass silver golden yellow green silent quiet
    sudden simple certain possible important different difficult necessary remember understand consider
    believe imagine receive discover produce return carry follow gather wonder listen travel kitchen
    market station harbour bridge mountain forest island weather thunder shadow candle lantern machine
    engine system history science nature language member department government society company business
    interest influence evidence experience knowledge education condition position direction distance
    difference
";
