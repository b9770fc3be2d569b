//! What answers are: the shape that a schema writes down, and the JSON schema that holds an answer to it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::prompts::Question;
use super::{Field, Schema};

/// The key of a value.
const VALUE: &str = "value";
/// The key of how sure the model is.
const CONFIDENCE: &str = "confidence";

/// What answers to a question for fields are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// The key that the fields stand under, where they do not stand alone.
    pub wrapper: Option<String>,
    /// Keys of a field, in their order.
    pub keys: Vec<String>,
    /// The key of the evidence.
    pub evidence: String,
    /// What it holds.
    pub evidence_kind: EvidenceKind,
    /// What stands for a field that the document does not state.
    pub missing: Missing,
    /// The value that says: perhaps it is stated.
    pub possible: Option<String>,
    /// How sure the model can be, surest first.
    pub confidence: Vec<String>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
}

/// How an answer says where a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceKind {
    /// The number of a sentence.
    Number,
    /// Numbers of sentences.
    Numbers,
    /// Words of the document.
    Quotation,
}

impl EvidenceKind {
    /// In the words of a schema.
    pub(super) const ALL: [(&'static str, EvidenceKind); 3] = [
        ("number of the sentence", EvidenceKind::Number),
        ("numbers of the sentences", EvidenceKind::Numbers),
        ("words of the document", EvidenceKind::Quotation),
    ];
}

/// What stands for a field that the document does not state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Nothing.
    Omitted,
    /// null.
    Null,
    /// This value, such as NOT_FOUND.
    Word(String),
}

/// How sure a model says it is, whatever its words for it are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Confidence {
    /// The last of the words.
    Low,
    /// Those between.
    Medium,
    /// The first.
    High,
}

impl Shape {
    /// Of models that are told everything.
    pub(super) fn usual() -> Shape {
        Shape {
            wrapper: None,
            keys: vec![VALUE.to_owned(), "at".to_owned(), CONFIDENCE.to_owned()],
            evidence: "at".to_owned(),
            evidence_kind: EvidenceKind::Number,
            missing: Missing::Omitted,
            possible: None,
            confidence: ["HIGH", "MEDIUM", "LOW"].map(str::to_owned).to_vec(),
            stop: vec![],
        }
    }

    /// Reads `{name: {value, at, confidence}}`, or the same under a key.
    pub(super) fn read(&mut self, text: &str) -> Result<(), String> {
        let wrong = || {
            format!(
                "`{text}` is no shape such as {{name: {{value, at, confidence}}}}, or {{fields: {{name: {{value, at}}}}}}"
            )
        };
        let bare: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let inside = bare.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(wrong)?;
        let (key, value) = inside.split_once(':').ok_or_else(wrong)?;
        let (wrapper, fields) = if key == "name" {
            (None, value)
        } else {
            let fields = value.strip_prefix("{name:").and_then(|rest| rest.strip_suffix('}'));
            (Some(key.to_owned()), fields.ok_or_else(wrong)?)
        };
        let keys = fields.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(wrong)?;
        let keys: Vec<String> = keys.split(',').map(str::to_owned).collect();
        let is_word =
            |word: &String| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_');
        if !keys.iter().chain(&wrapper).all(is_word) {
            return Err(wrong());
        }
        (self.wrapper, self.keys) = (wrapper, keys);
        Ok(())
    }

    /// What the keys must be, once the key of the evidence is known.
    pub(super) fn check(&self) -> Result<(), String> {
        for needed in [VALUE, &self.evidence] {
            if !self.keys.iter().any(|key| key == needed) {
                return Err(format!("the shape has no `{needed}`"));
            }
        }
        for (number, key) in self.keys.iter().enumerate() {
            if ![VALUE, CONFIDENCE, &self.evidence].contains(&key.as_str()) {
                return Err(format!(
                    "`{key}` is neither value, confidence nor the key of the evidence, `{}`",
                    self.evidence
                ));
            }
            if self.keys[..number].contains(key) {
                return Err(format!("`{key}` stands in the shape twice"));
            }
        }
        Ok(())
    }

    /// How sure a word says that the model is; none for a word that is not of the schema.
    #[must_use]
    pub fn confidence_of(&self, word: &str) -> Option<Confidence> {
        let at = self.confidence.iter().position(|known| known.eq_ignore_ascii_case(word.trim()))?;
        Some(match at {
            0 => Confidence::High,
            at if at + 1 == self.confidence.len() => Confidence::Low,
            _ => Confidence::Medium,
        })
    }

    /// An answer as a prompt shows it.
    pub(super) fn shown(&self) -> String {
        let evidence = match self.evidence_kind {
            EvidenceKind::Number => "17",
            EvidenceKind::Numbers => "[17]",
            EvidenceKind::Quotation => "\"words of the document\"",
        };
        let keys: Vec<String> = self
            .keys
            .iter()
            .map(|key| match key.as_str() {
                VALUE => "\"value\": \"...\"".to_owned(),
                CONFIDENCE => format!("\"confidence\": \"{}\"", self.confidence.join("|")),
                evidence_key => format!("\"{evidence_key}\": {evidence}"),
            })
            .collect();
        let field = format!("{{\"field name\": {{{}}}}}", keys.join(", "));
        match &self.wrapper {
            Some(wrapper) => format!("{{\"{wrapper}\": {field}}}"),
            None => field,
        }
    }

    /// What a prompt says of fields that are not stated.
    pub(super) fn missing_shown(&self) -> String {
        let missing = match &self.missing {
            Missing::Omitted => "Leave out every field that the document does not state.".to_owned(),
            Missing::Null => "Write null for every field that the document does not state.".to_owned(),
            Missing::Word(word) => {
                format!("Write {word} as the value of every field that the document does not state.")
            }
        };
        match &self.possible {
            Some(word) => {
                format!("{missing} Write {word} where it may be stated, and you cannot say which value.")
            }
            None => missing,
        }
    }

    fn evidence_schema(&self, numbers: &std::ops::RangeInclusive<u32>) -> Value {
        let number = json!({"type": "integer", "minimum": numbers.start(), "maximum": numbers.end()});
        match self.evidence_kind {
            EvidenceKind::Number => number,
            EvidenceKind::Numbers => json!({"type": "array", "items": number, "minItems": 1}),
            EvidenceKind::Quotation => json!({"type": "string"}),
        }
    }

    fn field_schema(&self, numbers: &std::ops::RangeInclusive<u32>) -> Value {
        let of = |key: &str| match key {
            VALUE => json!({"type": "string"}),
            CONFIDENCE => json!({"enum": self.confidence}),
            _ => self.evidence_schema(numbers),
        };
        let properties: Map<String, Value> = self.keys.iter().map(|key| (key.clone(), of(key))).collect();
        // Where a word stands for what is missing, there is no sentence to cite.
        let required: Vec<&str> = match (&self.missing, &self.possible) {
            (Missing::Word(_), _) | (_, Some(_)) => vec![VALUE],
            _ => self.keys.iter().map(String::as_str).collect(),
        };
        let object = object(properties, &required);
        match self.missing {
            Missing::Null => json!({"anyOf": [object, {"type": "null"}]}),
            _ => object,
        }
    }

    fn fields_schema(&self, fields: &[&Field], numbers: &std::ops::RangeInclusive<u32>) -> Value {
        let properties: Map<String, Value> =
            fields.iter().map(|field| (field.name.clone(), self.field_schema(numbers))).collect();
        let required: Vec<&str> = match self.missing {
            Missing::Omitted => vec![],
            _ => fields.iter().map(|field| field.name.as_str()).collect(),
        };
        let fields = object(properties, &required);
        match &self.wrapper {
            Some(wrapper) => object(Map::from_iter([(wrapper.clone(), fields)]), &[wrapper]),
            None => fields,
        }
    }
}

impl Schema {
    /// The JSON schema of the answer to a question about a window whose sentences have these numbers.
    #[must_use]
    pub fn answer_schema(&self, question: &Question<'_>, numbers: &std::ops::RangeInclusive<u32>) -> Value {
        let one_of = |names: &[String]| match names {
            [] => json!({"type": "string"}),
            names => json!({"enum": names}),
        };
        match question {
            Question::Entities => {
                let properties = [("name", json!({"type": "string"})), ("type", one_of(&self.entity.types))];
                let item = object(
                    properties.map(|(key, value)| (key.to_owned(), value)).into_iter().collect(),
                    &["name", "type"],
                );
                let list = json!({"type": "array", "items": item});
                object(Map::from_iter([(self.entity.plural.clone(), list)]), &[&self.entity.plural])
            }
            Question::Present { groups, .. } => {
                let names: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
                let list = json!({"type": "array", "items": {"enum": names}, "maxItems": names.len()});
                object(Map::from_iter([("present".to_owned(), list)]), &["present"])
            }
            Question::Fields { fields, .. } => self.answer.fields_schema(fields, numbers),
            Question::Verify { .. } => {
                let properties = [
                    ("correct", json!({"type": "boolean"})),
                    (VALUE, json!({"type": "string"})),
                    (self.answer.evidence.as_str(), self.answer.evidence_schema(numbers)),
                ];
                object(
                    properties.map(|(key, value)| (key.to_owned(), value)).into_iter().collect(),
                    &["correct"],
                )
            }
        }
    }
}

fn object(properties: Map<String, Value>, required: &[&str]) -> Value {
    json!({"type": "object", "properties": Value::Object(properties), "required": required, "additionalProperties": false})
}
