//! What a schema comes to: every question as it would be sent, with its size and what its answer must be.

use serde::Serialize;
use serde_json::Value;

use super::prompts::{Line, PromptError, Question, Subject};
use super::{Field, Group, Schema};

/// A line of the made-up window.
const SENTENCE: &str = "(a sentence of the document)";
/// Tokens of a word of English, where nobody can count them: three words take about four.
const TOKENS_OF_WORDS: (u32, u32) = (4, 3);

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The system turn, where there is one.
    pub system: Option<String>,
    /// A window of two made-up sentences, as it stands before every question.
    pub document: String,
    /// What is asked, in the order of the plan.
    pub questions: Vec<Asked>,
    /// What sizes are counted in.
    pub unit: SizeUnit,
    /// Of the system turn.
    pub system_size: u32,
    /// Tokens of the model's context, where it is known.
    pub context_tokens: Option<u32>,
    /// Tokens that a window may have beside the largest question and its answer; none where it has no room.
    pub window_tokens: Option<u32>,
}

/// A kind of question.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// The name of its template.
    pub template: &'static str,
    /// The group it is for.
    pub group: Option<String>,
    /// How many questions there are of it, about one window and one entity.
    pub count: usize,
    /// The first of them.
    pub question: String,
    /// Of the largest of them.
    pub size: u32,
    /// Most tokens of an answer.
    pub answer_tokens: u32,
    /// The JSON schema of the answer to the first.
    pub answer: Value,
}

/// What sizes are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SizeUnit {
    /// Tokens of a model.
    Tokens,
    /// Words between spaces, where no model is at hand.
    Words,
}

/// A schema cannot be explained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError<E> {
    /// A template fails.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Tokens cannot be counted.
    #[error("{0}")]
    Count(E),
}

/// Renders every question. `count` gives the tokens of texts, or none where it has no model to ask.
///
/// # Errors
/// A template fails, or `count` does.
pub fn explain<E>(
    schema: &Schema,
    context_tokens: Option<u32>,
    mut count: impl FnMut(&[&str]) -> Result<Option<Vec<u32>>, E>,
) -> Result<Explanation, ExplainError<E>> {
    let system = schema.system(None)?;
    let asked = all(schema)?;
    let texts: Vec<&str> =
        system.iter().chain(asked.iter().flat_map(|(_, texts)| texts)).map(String::as_str).collect();
    let counted = count(&texts).map_err(ExplainError::Count)?;
    let unit = if counted.is_some() { SizeUnit::Tokens } else { SizeUnit::Words };
    let sizes = counted.unwrap_or_else(|| texts.iter().map(|text| words(text)).collect());
    let mut sizes = sizes.into_iter();
    let system_size = if system.is_some() { sizes.next().unwrap_or(0) } else { 0 };
    let of_kind = |(asked, texts): (Asked, Vec<String>)| Asked {
        size: sizes.by_ref().take(texts.len()).max().unwrap_or(0),
        ..asked
    };
    let questions: Vec<Asked> = asked.into_iter().map(of_kind).collect();
    let tokens = |size: u32| match unit {
        SizeUnit::Tokens => size,
        SizeUnit::Words => size.saturating_mul(TOKENS_OF_WORDS.0).div_ceil(TOKENS_OF_WORDS.1),
    };
    let largest = questions.iter().map(|asked| (tokens(asked.size + system_size), asked.answer_tokens));
    let windows = largest.map(|(question, answer)| schema.window_tokens(context_tokens, question, answer));
    Ok(Explanation {
        document: document(schema)?,
        window_tokens: windows.min().flatten(),
        context_tokens: [schema.limits.context_tokens, context_tokens].into_iter().flatten().min(),
        system,
        questions,
        unit,
        system_size,
    })
}

fn words(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}

fn document(schema: &Schema) -> Result<String, PromptError> {
    let line = |number: u32| Line {
        n: Some(schema.numbering.first.saturating_add(number)),
        text: SENTENCE,
        mark: (number == 0).then(|| "example.pdf, page 1".to_owned()),
        file: "example.pdf",
        page: Some(1),
        heading: false,
    };
    schema.document(&[line(0), line(1)], None)
}

/// Kinds of questions, each with all of its texts.
fn all(schema: &Schema) -> Result<Vec<(Asked, Vec<String>)>, PromptError> {
    let subject = Subject {
        name: format!("(the name of the {})", schema.entity.name),
        kind: schema.entity.types.first().cloned(),
    };
    let groups: Vec<&Group> = schema.groups.iter().collect();
    let mut all = vec![
        kind(schema, None, &[Question::Entities])?,
        kind(schema, None, &[Question::Present { subject: &subject, groups: &groups }])?,
    ];
    for group in &schema.groups {
        let fields: Vec<&Field> = group.fields.iter().collect();
        let of_group = |fields| Question::Fields { subject: &subject, group, fields };
        let questions: Vec<Question<'_>> = schema.questions(&fields).map(of_group).collect();
        all.push(kind(schema, Some(group), &questions)?);
    }
    let verify = |field| Question::Verify { subject: &subject, field, value: "(the value)" };
    let questions: Vec<Question<'_>> = schema.fields().map(verify).collect();
    all.push(kind(schema, None, &questions)?);
    Ok(all)
}

fn kind(
    schema: &Schema,
    group: Option<&Group>,
    questions: &[Question<'_>],
) -> Result<(Asked, Vec<String>), PromptError> {
    let texts =
        questions.iter().map(|question| schema.question(question, None)).collect::<Result<Vec<_>, _>>()?;
    let first = schema.numbering.first;
    let asked = Asked {
        template: questions[0].template(),
        group: group.map(|group| group.name.clone()),
        count: questions.len(),
        question: texts[0].clone(),
        size: 0,
        answer_tokens: questions.iter().map(|question| schema.answer_tokens(question)).max().unwrap_or(0),
        answer: schema.answer_schema(&questions[0], &(first..=first.saturating_add(1))),
    };
    Ok((asked, texts))
}
