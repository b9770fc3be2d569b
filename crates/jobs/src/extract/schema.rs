//! What is looked for and how a model is asked, as data: TOML or JSON.
//!
//! A schema names an entity, groups of fields, the words of every prompt, the shape of every answer, and the limits that a
//! model needs. What it leaves out is ours, for models that follow instructions. [`Schema::parse`] reads everything
//! before it gives up and says with line and column what is wrong; nothing that it accepts fails later for a reason that
//! stands in the file. Templates are rendered once, with made-up values, before a schema is accepted.

mod answer;
mod decode;
pub mod explain;
mod node;
mod problem;
mod prompts;
mod rules;
mod table;

use std::path::Path;

use serde::Serialize;

pub use answer::{Confidence, EvidenceKind, Missing, Shape};
pub use problem::{Problem, SchemaError};
pub use prompts::{Line, PromptError, Question, Subject, Words};
pub use rules::{Condition, Rule, Setting, Test};

/// How a schema is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// With comments, and texts over several lines.
    Toml,
    /// As other programs write it.
    Json,
}

impl Syntax {
    /// By the name of a file: `.toml` or `.json`.
    #[must_use]
    pub fn from_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "toml" => Some(Syntax::Toml),
            "json" => Some(Syntax::Json),
            _ => None,
        }
    }
}

/// A schema that can be used.
#[derive(Clone, Debug)]
pub struct Schema {
    /// What a record is about.
    pub entity: Entity,
    /// In the order of the columns.
    pub groups: Vec<Group>,
    /// How a model is asked.
    pub words: Words,
    /// How sentences are numbered.
    pub numbering: Numbering,
    /// What answers are.
    pub answer: Shape,
    /// What a model can take.
    pub limits: Limits,
    /// How values are written.
    pub formats: Formats,
    /// What retrieval knows beside the words of fields.
    pub retrieval: Retrieval,
    /// Words of other languages than the schema's own.
    pub languages: Vec<Language>,
    /// What fields say of each other.
    pub rules: Vec<Rule>,
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entity {
    /// One of them, a variable of the templates: `facility`.
    pub name: String,
    /// Several, and the key of the answer that lists them: `facilities`.
    pub plural: String,
    /// What counts as one.
    pub description: String,
    /// The kinds there are; any where there are none.
    pub types: Vec<String>,
}

/// Fields that are asked for together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// As the presence question names it.
    pub name: String,
    /// What it is about.
    pub description: String,
    /// What the model is told when it is asked for this group.
    pub instructions: String,
    /// Shown to the model with the question.
    pub examples: Vec<Example>,
    /// Most tokens of an answer; the schema's limit without it.
    pub max_tokens: Option<u32>,
    /// In the order of the columns.
    pub fields: Vec<Field>,
}

/// A piece of a document and its right answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// Numbered as a window is.
    pub document: String,
    /// As the model should give it: JSON of the schema's shape.
    pub answer: String,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// The key of answers.
    pub name: String,
    /// The head of the column.
    pub label: String,
    /// What values are.
    #[serde(rename = "type")]
    pub kind: FieldType,
    /// What it means.
    pub description: String,
    /// What documents call it.
    pub keywords: Vec<String>,
    /// What the model is told with the question.
    pub hints: Vec<String>,
    /// The values there are; any where there are none.
    #[serde(rename = "enum")]
    pub values: Vec<String>,
    /// Other spellings of these values.
    pub synonyms: Vec<(String, Vec<String>)>,
    /// What amounts are counted in.
    pub unit: Unit,
    /// Most tokens of an answer to this field alone.
    pub max_tokens: Option<u32>,
}

/// What values of a field are, and by which normaliser they come into one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldType {
    /// Words.
    Text,
    /// A name, whose spelling is its own.
    Name,
    /// A day, a month, a quarter or a year.
    Date,
    /// A share of hundred, also in basis points.
    Percent,
    /// How many times: 1.35x, 1.35:1.
    Ratio,
    /// Yes or no.
    YesNo,
    /// Money, or another quantity with a unit.
    Amount,
    /// A length of time.
    Duration,
    /// A number.
    Number,
    /// One of the field's values.
    Enum,
}

impl FieldType {
    /// By the names that schemas use.
    pub const ALL: [(&'static str, FieldType); 10] = [
        ("text", FieldType::Text),
        ("name", FieldType::Name),
        ("date", FieldType::Date),
        ("percent", FieldType::Percent),
        ("ratio", FieldType::Ratio),
        ("yes_no", FieldType::YesNo),
        ("amount", FieldType::Amount),
        ("duration", FieldType::Duration),
        ("number", FieldType::Number),
        ("enum", FieldType::Enum),
    ];

    /// As schemas write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        FieldType::ALL.iter().find(|(_, kind)| *kind == self).map_or("text", |(name, _)| *name)
    }
}

/// What amounts are counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Ones.
    #[default]
    One,
    /// Thousands, as a column with ['000] at its head.
    Thousand,
    /// Millions.
    Million,
}

/// How sentences are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Numbering {
    /// What has a number.
    pub unit: NumberedUnit,
    /// Whether headings have one.
    pub headings_count: bool,
    /// The first number.
    pub first: u32,
    /// Where numbers begin again.
    pub restart: Restart,
}

/// What has a number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberedUnit {
    /// A sentence.
    Sentence,
    /// A paragraph, an item, a row of a table.
    Block,
}

/// Where numbers begin again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// In each window: small numbers.
    Window,
    /// In each document.
    Document,
    /// In each company: a number is one sentence and no other.
    Company,
}

/// What a model can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Tokens of prompt and answer together; the model's own where it is less or this is none.
    pub context_tokens: Option<u32>,
    /// Tokens of the document in a question.
    pub window_tokens: u32,
    /// Tokens of whole sentences that a window repeats of the one before.
    pub overlap_tokens: u32,
    /// Numbered lines of a window.
    pub window_lines: Option<u32>,
    /// Numbered lines that a window repeats of the one before, where the lines are what is short.
    pub overlap_lines: Option<u32>,
    /// Fields that one question asks for; all of a group where there is no limit.
    pub fields_per_question: Option<u32>,
    /// Tokens of an answer.
    pub max_answer_tokens: u32,
}

/// How values are written in tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Formats {
    /// Dates.
    pub date: DateFormat,
    /// What 03/04/2025 is; without it, such a date stays as it was found.
    pub day_first: Option<bool>,
    /// The point of numbers, where 1,234 could be both.
    pub decimal: char,
}

/// How dates are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum DateFormat {
    /// 2031-03-31; a month alone is 2031-03.
    #[serde(rename = "YYYY-MM-DD")]
    Day,
    /// 03/2031.
    #[serde(rename = "MM/YYYY")]
    Month,
}

/// What retrieval knows beside the words of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Retrieval {
    /// Questions that find the places where entities are named.
    pub entities: Vec<String>,
    /// Families of words and phrases that stand for each other.
    pub synonyms: Vec<Vec<String>>,
}

/// Words of another language than the schema's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Language {
    /// ISO 639-3: `spa`.
    pub code: String,
    /// As the prompts say it: `Spanish`.
    pub name: String,
    /// Questions that find the places where entities are named.
    pub entities: Vec<String>,
    /// Families of words that stand for each other, also with words of the schema's own language.
    pub synonyms: Vec<Vec<String>>,
    /// What documents in this language call a field, by the field's name.
    pub keywords: Vec<(String, Vec<String>)>,
}

impl Schema {
    /// Reads and checks a schema.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, syntax: Syntax) -> Result<Schema, SchemaError> {
        decode::schema(text, syntax)
    }

    /// All fields, in the order of the columns.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.groups.iter().flat_map(|group| &group.fields)
    }

    /// A field by its name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields().find(|field| field.name == name)
    }

    /// Words of a language, by ISO 639-3; none for the schema's own.
    #[must_use]
    pub fn language(&self, code: &str) -> Option<&Language> {
        self.languages.iter().find(|language| language.code == code)
    }

    /// Tokens that a window may have in a model whose context is `context_tokens`, beside a question and its answer; none
    /// where nothing is left.
    #[must_use]
    pub fn window_tokens(
        &self,
        context_tokens: Option<u32>,
        question_tokens: u32,
        answer_tokens: u32,
    ) -> Option<u32> {
        let context = [self.limits.context_tokens, context_tokens].into_iter().flatten().min();
        let room = context.map_or(self.limits.window_tokens, |context| {
            context.saturating_sub(question_tokens).saturating_sub(answer_tokens)
        });
        Some(room.min(self.limits.window_tokens)).filter(|tokens| *tokens > 0)
    }

    /// Fields of a group in the questions that ask for them.
    pub fn questions<'a>(&self, fields: &'a [&'a Field]) -> impl Iterator<Item = &'a [&'a Field]> {
        let most = self.limits.fields_per_question.map_or(usize::MAX, |most| most as usize);
        fields.chunks(most.min(fields.len().max(1)))
    }
}
