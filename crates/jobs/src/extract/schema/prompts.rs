//! The words of prompts: templates of a schema, and what they are rendered with.
//!
//! Every prompt is `[system] document, empty line, question`, so that all questions about a window begin alike and the
//! window is computed once. A template cannot change that order.

use std::fmt;
use std::sync::Arc;

use haul_generate::call::{Call, Constraint, Prompt};
use minijinja::value::Object;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use super::{Entity, Example, Field, Group, Schema};

/// Steps of one rendering; a template that loops without end is stopped.
const FUEL: u64 = 10_000_000;
/// A template that is longer is no template.
pub(super) const TEMPLATE_BYTES_MAX: usize = 64 << 10;

/// Templates by their names, each ours where the schema has none.
pub(super) const TEMPLATES: [(&str, &str); 6] = [
    ("system", include_str!("usual/system.jinja")),
    ("document", include_str!("usual/document.jinja")),
    ("entities", include_str!("usual/entities.jinja")),
    ("present", include_str!("usual/present.jinja")),
    ("fields", include_str!("usual/fields.jinja")),
    ("verify", include_str!("usual/verify.jinja")),
];

/// Variables that an entity cannot be named like.
pub(super) const VARIABLES: [&str; 11] = [
    "window", "entity", "subject", "group", "groups", "field", "fields", "value", "language", "shape",
    "missing",
];

/// The templates of a schema, compiled.
#[derive(Clone, Debug)]
pub struct Words {
    environment: Environment<'static>,
    /// Their texts, in the order of [`TEMPLATES`]; the system turn may be none.
    pub(super) texts: Vec<(&'static str, Option<String>)>,
}

/// A template that fails.
#[derive(Debug)]
pub struct PromptError {
    /// Its name.
    pub template: &'static str,
    /// The line of the template, from 1.
    pub line: Option<usize>,
    source: minijinja::Error,
}

impl fmt::Display for PromptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the template `{}`: {}", self.template, self.source.kind())?;
        if let Some(detail) = self.source.detail() {
            write!(f, ": {detail}")?;
        }
        self.line.map_or(Ok(()), |line| write!(f, " (its line {line})"))
    }
}

impl std::error::Error for PromptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A numbered line of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its number; none of a heading where headings have none.
    pub n: Option<u32>,
    /// One line of text.
    pub text: &'a str,
    /// File and page, where they are other than those of the line before: `loan.pdf, page 3`.
    pub mark: Option<String>,
    /// Its file.
    pub file: &'a str,
    /// Its page, where the format has pages.
    pub page: Option<u32>,
    /// Whether it is a heading.
    pub heading: bool,
}

/// What a record is about: one of the entities that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// As the documents name it.
    pub name: String,
    /// Its type, where it is known.
    pub kind: Option<String>,
}

/// What is asked about a window.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// Which entities are named.
    Entities,
    /// Of which groups something is stated.
    Present {
        /// The entity.
        subject: &'a Subject,
        /// The groups.
        groups: &'a [&'a Group],
    },
    /// What is stated of some fields of a group.
    Fields {
        /// The entity.
        subject: &'a Subject,
        /// The group.
        group: &'a Group,
        /// The fields, of this group.
        fields: &'a [&'a Field],
    },
    /// Whether a value is right.
    Verify {
        /// The entity.
        subject: &'a Subject,
        /// The field.
        field: &'a Field,
        /// The value, as it was answered.
        value: &'a str,
    },
}

impl Question<'_> {
    /// The name of its template.
    #[must_use]
    pub fn template(&self) -> &'static str {
        match self {
            Question::Entities => "entities",
            Question::Present { .. } => "present",
            Question::Fields { .. } => "fields",
            Question::Verify { .. } => "verify",
        }
    }
}

impl Words {
    /// Compiles templates; a text that is none takes ours, an empty system turn is no turn.
    pub(super) fn compile(texts: Vec<(&'static str, Option<String>)>) -> Result<Self, PromptError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        for (template, text) in &texts {
            if let Some(text) = text {
                environment
                    .add_template_owned(*template, text.clone())
                    .map_err(|source| PromptError::of(template, source))?;
            }
        }
        Ok(Words { environment, texts })
    }

    /// The text of a template.
    #[must_use]
    pub fn text(&self, template: &str) -> Option<&str> {
        self.texts.iter().find(|(name, _)| *name == template)?.1.as_deref()
    }

    fn render(&self, template: &'static str, context: Value) -> Result<String, PromptError> {
        self.environment
            .get_template(template)
            .and_then(|compiled| compiled.render(context))
            .map_err(|source| PromptError::of(template, source))
    }
}

impl PromptError {
    fn of(template: &'static str, source: minijinja::Error) -> Self {
        PromptError { template, line: source.line(), source }
    }
}

impl Schema {
    /// The system turn, if there is one. `language` is what prompts call the language of the documents, where it is not
    /// the schema's own.
    ///
    /// # Errors
    /// The template fails; it did not when the schema was read.
    pub fn system(&self, language: Option<&str>) -> Result<Option<String>, PromptError> {
        match self.words.text("system") {
            None => Ok(None),
            Some(_) => self.words.render("system", self.common(language)).map(Some),
        }
    }

    /// A window as the model reads it: what all questions about it share.
    ///
    /// # Errors
    /// The template fails.
    pub fn document(&self, window: &[Line<'_>], language: Option<&str>) -> Result<String, PromptError> {
        let line = |line: &Line<'_>| {
            context! {
                n => line.n, text => line.text, mark => line.mark.as_deref(), file => line.file, page => line.page,
                heading => line.heading,
            }
        };
        let window: Vec<Value> = window.iter().map(line).collect();
        let document = self.words.render("document", context! { window, ..self.common(language) })?;
        // One empty line between document and question, whatever the template ends with.
        Ok(format!("{}\n\n", document.trim_end_matches('\n')))
    }

    /// What is asked, as it stands behind the document.
    ///
    /// # Errors
    /// The template fails.
    pub fn question(&self, question: &Question<'_>, language: Option<&str>) -> Result<String, PromptError> {
        let own = |subject: &Subject| {
            let subject = subject_value(subject);
            Value::from_pairs([(self.entity.name.clone(), subject.clone()), ("subject".to_owned(), subject)])
        };
        let context = match question {
            Question::Entities => context! {},
            Question::Present { subject, groups } => {
                let groups: Vec<Value> = groups.iter().map(|group| group_value(group)).collect();
                context! { groups, ..own(subject) }
            }
            Question::Fields { subject, group, fields } => {
                let fields: Vec<Value> = fields.iter().map(|field| field_value(field)).collect();
                context! { group => group_value(group), fields, ..own(subject) }
            }
            Question::Verify { subject, field, value } => {
                context! { field => field_value(field), value => *value, ..own(subject) }
            }
        };
        self.words.render(question.template(), context! { ..context, ..self.common(language) })
    }

    /// The call that asks a question about a document that [`Schema::document`] rendered, whose sentences have `numbers`.
    ///
    /// # Errors
    /// A template fails.
    pub fn call(
        &self,
        document: &str,
        question: &Question<'_>,
        numbers: &std::ops::RangeInclusive<u32>,
        language: Option<&str>,
    ) -> Result<Call, PromptError> {
        let system = self.system(language)?;
        let prompt = Prompt::chat(system.as_deref(), document, &self.question(question, language)?);
        Ok(Call {
            stop: self.answer.stop.clone(),
            constraint: Some(Constraint::JsonSchema(self.answer_schema(question, numbers))),
            ..Call::greedy(prompt, self.answer_tokens(question))
        })
    }

    /// Most tokens of the answer to a question.
    #[must_use]
    pub fn answer_tokens(&self, question: &Question<'_>) -> u32 {
        let own = match question {
            Question::Fields { fields: [field], group, .. } => field.max_tokens.or(group.max_tokens),
            Question::Fields { group, .. } => group.max_tokens,
            Question::Verify { field, .. } => field.max_tokens,
            Question::Entities | Question::Present { .. } => None,
        };
        own.unwrap_or(self.limits.max_answer_tokens)
    }

    fn common(&self, language: Option<&str>) -> Value {
        let Entity { name, plural, description, types } = &self.entity;
        let entity = context! { plural => plural.as_str(), description => description.as_str(), types => types.clone() };
        context! {
            entity => named(name, entity),
            language => language,
            shape => self.answer.shown(),
            missing => self.answer.missing_shown(),
        }
    }
}

fn subject_value(subject: &Subject) -> Value {
    named(&subject.name, context! { type => subject.kind.as_deref() })
}

fn group_value(group: &Group) -> Value {
    let example = |example: &Example| {
        context! { document => example.document.as_str(), answer => example.answer.as_str() }
    };
    let attributes = context! {
        description => group.description.as_str(),
        instructions => group.instructions.as_str(),
        examples => group.examples.iter().map(example).collect::<Vec<_>>(),
        fields => group.fields.iter().map(field_value).collect::<Vec<_>>(),
    };
    named(&group.name, attributes)
}

fn field_value(field: &Field) -> Value {
    let attributes = context! {
        label => field.label.as_str(),
        type => field.kind.name().replace('_', " "),
        description => field.description.as_str(),
        keywords => field.keywords.clone(),
        hints => field.hints.clone(),
        enum => field.values.clone(),
    };
    named(&field.name, attributes)
}

/// Something that prints as its name and has more to say: `{{ fields | join(", ") }}`, `{{ field.description }}`.
fn named(name: &str, attributes: Value) -> Value {
    Value::from_object(Named { name: name.to_owned(), attributes })
}

#[derive(Debug)]
struct Named {
    name: String,
    attributes: Value,
}

impl Object for Named {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "name" => Some(Value::from(self.name.as_str())),
            _ => self.attributes.get_item(key).ok().filter(|value| !value.is_undefined()),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
