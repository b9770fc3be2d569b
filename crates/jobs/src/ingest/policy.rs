//! Rules by title and author that choose how a document is cut.
//!
//! A policy is a file of rules in the shape of Alexandria's, as TOML or JSON:
//!
//! ```toml
//! default = "fixed"
//! authors = ["Jung", { pattern = "Knuth", chunker = "tokens" }]
//! title_contains = [{ pattern = "cookbook", semantic = false }, { pattern = "catalogue", chunker = "none" }]
//! title_exact = []
//! ```
//!
//! A bare pattern means `semantic`; letter case does not matter.

use serde::{Deserialize, Serialize};

/// What a rule says of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Chosen {
    /// Ends where the topic changes.
    Semantic,
    /// Windows of words.
    Fixed,
    /// Whole sentences up to a number of tokens.
    Tokens,
    /// Not taken in.
    None,
}

/// Rules; the first that fits is taken, of exact titles first, then of parts of titles, then of authors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// For documents that no rule fits; without it, the chunker of the library.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Chosen>,
    /// The title is this.
    pub title_exact: Vec<Rule>,
    /// The title contains this.
    pub title_contains: Vec<Rule>,
    /// The authors, joined by ` & `, contain this.
    pub authors: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RuleInFile")]
pub struct Rule {
    /// What is looked for.
    pub pattern: String,
    /// What then.
    pub chunker: Chosen,
}

/// A rule as files have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum RuleInFile {
    Pattern(String),
    Semantic(PatternSemantic),
    Chunker(PatternChunker),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternSemantic {
    pattern: String,
    semantic: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternChunker {
    pattern: String,
    chunker: Chosen,
}

impl TryFrom<RuleInFile> for Rule {
    type Error = &'static str;

    fn try_from(rule: RuleInFile) -> Result<Rule, Self::Error> {
        let (pattern, chunker) = match rule {
            RuleInFile::Pattern(pattern) => (pattern, Chosen::Semantic),
            RuleInFile::Semantic(PatternSemantic { pattern, semantic: true }) => (pattern, Chosen::Semantic),
            RuleInFile::Semantic(PatternSemantic { pattern, semantic: false }) => (pattern, Chosen::Fixed),
            RuleInFile::Chunker(PatternChunker { pattern, chunker }) => (pattern, chunker),
        };
        if pattern.trim().is_empty() {
            return Err("an empty pattern would fit everything; `default` says what to do with the rest");
        }
        Ok(Rule { pattern, chunker })
    }
}

impl Policy {
    /// What a document's title and authors choose, and by which rule; `None` where nothing does.
    #[must_use]
    pub fn choose(&self, title: &str, authors: &[String]) -> Option<(Chosen, String)> {
        let title = title.to_lowercase();
        let authors = authors.join(" & ").to_lowercase();
        let fits = |list: &str, pattern: &str| match list {
            "title_exact" => title == pattern,
            "title_contains" => title.contains(pattern),
            _ => authors.contains(pattern),
        };
        let lists = [
            ("title_exact", &self.title_exact),
            ("title_contains", &self.title_contains),
            ("authors", &self.authors),
        ];
        for (list, rules) in lists {
            if let Some(rule) = rules.iter().find(|rule| fits(list, &rule.pattern.to_lowercase())) {
                return Some((rule.chunker, format!("{list} \"{}\"", rule.pattern)));
            }
        }
        self.default.map(|chosen| (chosen, "default".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_go_before_authors_and_authors_before_the_default() {
        let policy: Policy = serde_json::from_str(
            r#"{"authors": ["Jung", {"pattern": "Knuth", "chunker": "tokens"}],
                "title_contains": [{"pattern": "Cookbook", "semantic": false}, {"pattern": "junk", "chunker": "none"}],
                "title_exact": [{"pattern": "Python Cookbook", "semantic": true}],
                "default": "tokens"}"#,
        )
        .unwrap();
        let choose =
            |title: &str, author: &str| policy.choose(title, &["X".to_owned(), author.to_owned()]).unwrap();
        assert_eq!(choose("Red Book", "C. G. JUNG"), (Chosen::Semantic, "authors \"Jung\"".to_owned()));
        assert_eq!(choose("Jung's cookbook", "C. G. Jung").0, Chosen::Fixed);
        assert_eq!(choose("python cookbook", "Knuth").0, Chosen::Semantic);
        assert_eq!(choose("Junk mail", "Jung"), (Chosen::None, "title_contains \"junk\"".to_owned()));
        assert_eq!(choose("Emma", "Austen"), (Chosen::Tokens, "default".to_owned()));
        assert_eq!(Policy::default().choose("Emma", &[]), None);
        // What a library keeps of it says the same.
        let kept: Policy = serde_json::from_value(serde_json::to_value(&policy).unwrap()).unwrap();
        assert_eq!(kept, policy);
    }

    #[test]
    fn a_rule_that_says_too_much_or_nothing_is_refused() {
        for rule in [
            r#"{"pattern": "a", "semantic": true, "chunker": "fixed"}"#,
            r#"{"pattern": "a"}"#,
            r#"{"pattern": "a", "chunker": "magic"}"#,
            r#"" ""#,
        ] {
            let policy = serde_json::from_str::<Policy>(&format!(r#"{{"authors": [{rule}]}}"#));
            assert!(policy.is_err(), "{rule}");
        }
        assert!(serde_json::from_str::<Policy>(r#"{"titles": []}"#).is_err());
    }
}
