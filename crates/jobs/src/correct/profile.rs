//! How a model is asked for a correction, and how it is sampled: data, by model.

use haul_generate::call::{Call, Prompt, Sampling, in_range};
use serde::Deserialize;

const BUILT_IN: &str = include_str!("profiles.toml");
/// An answer may have so many tokens for each of the text, and so many more.
const ANSWER_RATIO: f32 = 1.5;
const ANSWER_TOKENS_MORE: u32 = 16;

/// A way to ask.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// As `--profile` names it.
    pub name: String,
    /// Parts of the names of models that it is for, in small letters.
    #[serde(default)]
    pub matches: Vec<String>,
    /// The turn before the text; with it the model's chat template is used.
    pub system: Option<String>,
    /// What stands before the text where there is no system turn.
    #[serde(default)]
    pub before: String,
    /// What stands behind it.
    #[serde(default)]
    pub after: String,
    /// Texts that end an answer.
    #[serde(default)]
    pub stop: Vec<String>,
    /// 0 takes the likeliest token.
    #[serde(default)]
    pub temperature: f32,
    /// The k likeliest; 0 is all.
    #[serde(default)]
    pub top_k: u32,
    /// The fewest that sum to this.
    #[serde(default = "one")]
    pub top_p: f32,
    /// At least this share of the likeliest.
    #[serde(default)]
    pub min_p: f32,
    /// Divides logits of what was said; 1 leaves them.
    #[serde(default = "one")]
    pub repeat_penalty: f32,
    /// How far back the penalty looks.
    #[serde(default)]
    pub repeat_last: u32,
}

fn one() -> f32 {
    1.0
}

/// Profiles that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The text is no list of profiles.
    #[error("no profiles: {0}")]
    Toml(#[from] toml::de::Error),
    /// Its sampling is none.
    #[error("profile {name}: {why}")]
    OutOfRange {
        /// The profile.
        name: String,
        /// Which value, and what it may be.
        why: String,
    },
    /// There is none of that name.
    #[error("no profile {name}: there are {}", known.join(", "))]
    Unknown {
        /// As asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    profile: Vec<Profile>,
}

impl Profile {
    /// The profile called `name`, or the first that is for `model`; of `file` before the built-in ones.
    ///
    /// # Errors
    /// The file is none, or has no such profile.
    pub fn choose(name: Option<&str>, file: Option<&str>, model: &str) -> Result<Profile, ProfileError> {
        let mut all = match file {
            Some(text) => toml::from_str::<File>(text)?.profile,
            None => vec![],
        };
        all.extend(toml::from_str::<File>(BUILT_IN)?.profile);
        let model = model.to_lowercase();
        let is_it = |profile: &&Profile| match name {
            Some(name) => profile.name == name,
            None => profile.matches.iter().any(|part| model.contains(part.as_str())),
        };
        match all.iter().find(is_it) {
            Some(profile) => match in_range(&profile.sampling()) {
                Ok(()) => Ok(profile.clone()),
                Err(why) => Err(ProfileError::OutOfRange { name: profile.name.clone(), why }),
            },
            None => Err(ProfileError::Unknown {
                name: name.unwrap_or("for this model").to_owned(),
                known: all.into_iter().map(|profile| profile.name).collect(),
            }),
        }
    }

    /// The call that asks for a text of so many tokens.
    #[must_use]
    pub fn call(&self, text: &str, tokens: u32) -> Call {
        let prompt = match &self.system {
            Some(system) => Prompt::chat(Some(system), "", text),
            None => Prompt::Text {
                prefix: self.before.clone(),
                suffix: format!("{text}{}", self.after),
                content: 0..text.len(),
            },
        };
        Call {
            stop: self.stop.clone(),
            sampling: self.sampling(),
            draft: Some(text.to_owned()),
            ..Call::greedy(prompt, Self::answer_tokens(tokens))
        }
    }

    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last: self.repeat_last,
            seed: 0,
        }
    }

    /// Most tokens of the answer to a text of so many.
    #[must_use]
    pub fn answer_tokens(tokens: u32) -> u32 {
        (tokens as f32 * ANSWER_RATIO) as u32 + ANSWER_TOKENS_MORE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_taken_by_the_models_name_or_its_own() {
        let name = |name, model| Profile::choose(name, None, model).unwrap().name;
        assert_eq!(name(None, "tiny-q4_k_m"), "tiny");
        assert_eq!(name(None, "GRMR-V3-Q4B-Q8_0"), "grmr-v3");
        assert_eq!(name(None, "qwen3-8b"), "general");
        assert_eq!(name(Some("grmr-v3-satcn"), "tiny-q4_k_m"), "grmr-v3-satcn");
        let error = Profile::choose(Some("x"), None, "m").unwrap_err().to_string();
        assert_eq!(error, "no profile x: there are tiny, grmr-v3, grmr-v3-satcn, general");
        let own = "[[profile]]\nname = \"mine\"\nmatches = [\"tiny\"]\nsystem = \"S\"\n";
        assert_eq!(Profile::choose(None, Some(own), "tiny-f16").unwrap().name, "mine");
        assert!(Profile::choose(None, Some("[[profile]]\nname = \"a\"\ntemprature = 1\n"), "m").is_err());
        let own = "[[profile]]\nname = \"mine\"\nmatches = []\nsystem = \"S\"\ntop_p = 1.5\n";
        let error = Profile::choose(Some("mine"), Some(own), "m").unwrap_err().to_string();
        assert_eq!(error, "profile mine: top_p is 1.5: it is above 0 and at most 1");
    }

    #[test]
    fn a_text_is_asked_for_as_the_profile_says() {
        let grmr = Profile::choose(Some("grmr-v3"), None, "").unwrap().call("A text", 10);
        assert_eq!(grmr.max_tokens, 31);
        assert_eq!(
            grmr.prompt,
            Prompt::Text {
                prefix: "<|text_start|>\n".to_owned(),
                suffix: "A text\n<|text_end|>\n<|corrected_start|>\n".to_owned(),
                content: 0..6
            }
        );
        assert!((grmr.sampling.temperature - 0.7).abs() < 1e-6);
    }
}
