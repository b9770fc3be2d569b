//! Schemas as people read them.

use std::path::Path;

use haul_jobs::extract::measure::Measured;
use haul_jobs::extract::schema::explain::{Asked, Explanation, SizeUnit};
use haul_jobs::extract::schema::{Condition, Field, Group, Problem, Rule, Schema, Test};

use super::thousands;

/// "13 groups, 72 fields".
pub(crate) fn counts(schema: &Schema) -> String {
    let counted = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let mut counts = vec![counted(schema.groups.len(), "group"), counted(schema.fields().count(), "field")];
    for (count, what) in [(schema.rules.len(), "rule"), (schema.languages.len(), "language")] {
        counts.extend((count > 0).then(|| counted(count, what)));
    }
    counts.join(", ")
}

/// A line for each, with its hint behind it.
pub(crate) fn problems(file: &Path, problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        let hint = problem.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
        line!(text, "{}: {problem}{hint}", file.display());
    }
    line!(text, "{} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" });
    text
}

/// Groups and fields, rules, sizes, then every prompt in full.
pub(crate) fn explanation(schema: &Schema, groups: &[&Group], explanation: &Explanation) -> String {
    let entity = &schema.entity;
    let mut text = String::new();
    line!(text, "{}", described(&entity.name, &entity.description));
    if !entity.types.is_empty() {
        line!(text, "  types: {}", entity.types.join(", "));
    }
    line!(text, "  {}", counts(schema));
    for group in groups {
        line!(text);
        line!(text, "{}", described(&group.name, &group.description));
        for field in &group.fields {
            line!(text, "  {}", of_field(field));
        }
    }
    if !schema.rules.is_empty() {
        line!(text);
        line!(text, "rules");
        for rule in &schema.rules {
            line!(text, "  {}", of_rule(rule));
        }
    }
    sizes(&mut text, explanation);
    prompts(&mut text, explanation);
    text
}

fn described(name: &str, description: &str) -> String {
    if description.is_empty() { name.to_owned() } else { format!("{name}: {description}") }
}

fn of_field(field: &Field) -> String {
    let mut text = described(&format!("{} ({})", field.name, field.kind.name()), &field.description);
    if !field.values.is_empty() {
        text.push_str(&format!("; one of {}", field.values.join(", ")));
    }
    if !field.keywords.is_empty() {
        text.push_str(&format!("; found by {}", field.keywords.join(", ")));
    }
    text
}

fn of_rule(rule: &Rule) -> String {
    let when: Vec<String> = rule.when.iter().map(of_condition).collect();
    let then = match &rule.set {
        Some(set) => format!("{} becomes {}", set.field, set.value),
        None => "the record is marked".to_owned(),
    };
    format!("{}: where {}, {then}: {}", rule.name, when.join(" and "), rule.say)
}

fn of_condition(condition: &Condition) -> String {
    let fields = condition.fields.join(" or ");
    match &condition.test {
        Test::Found(true) => format!("{fields} is stated"),
        Test::Found(false) => format!("{fields} is not stated"),
        Test::Is(values) => format!("{fields} is {}", values.join(" or ")),
        Test::IsNot(values) => format!("{fields} is not {}", values.join(" or ")),
        Test::Below(other) => format!("{fields} is below {other}"),
        Test::Above(other) => format!("{fields} is above {other}"),
    }
}

fn sizes(text: &mut String, explanation: &Explanation) {
    const NAME_COLUMNS: usize = 34;
    let unit = match explanation.unit {
        SizeUnit::Tokens => "tokens",
        SizeUnit::Words => "words",
    };
    line!(text);
    line!(text, "{:NAME_COLUMNS$} {unit:>7}  questions  answer tokens", "sizes");
    if explanation.system.is_some() {
        line!(
            text,
            "  {:columns$} {:>7}",
            "system turn",
            explanation.system_size,
            columns = NAME_COLUMNS - 2
        );
    }
    for asked in &explanation.questions {
        let (size, answer) = (thousands(asked.size.into()), thousands(asked.answer_tokens.into()));
        let columns = NAME_COLUMNS - 2;
        line!(text, "  {:columns$} {size:>7}  {:>9}  {answer:>13}", name(asked), asked.count);
    }
    let context = explanation.context_tokens.map_or_else(String::new, |context| {
        format!(" of a context of {}, beside the largest question and its answer", thousands(context.into()))
    });
    match explanation.window_tokens {
        Some(window) => line!(text, "a window has {} tokens{context}", thousands(window.into())),
        None => line!(text, "a window has no room{context}"),
    }
}

fn name(asked: &Asked) -> String {
    match &asked.group {
        Some(group) => format!("{}: {group}", asked.template),
        None => asked.template.to_owned(),
    }
}

fn prompts(text: &mut String, explanation: &Explanation) {
    if let Some(system) = &explanation.system {
        line!(text);
        line!(text, "--- system");
        line!(text, "{system}");
    }
    line!(text);
    line!(text, "--- user: the window, then one of the questions");
    line!(text, "{}", explanation.document.trim_end());
    for asked in &explanation.questions {
        line!(text);
        line!(text, "--- {}", name(asked));
        line!(text, "{}", asked.question.trim_end());
        line!(text, "--- its answer: {}", asked.answer);
    }
}

/// Shares by ranking, then by field.
pub(crate) fn measured(measured: &Measured) -> String {
    let mut text = String::new();
    line!(
        text,
        "{} companies, {} windows; {} values in them, {} more in no window",
        measured.companies,
        thousands(measured.windows as u64),
        measured.cases,
        measured.not_in_text
    );
    line!(text, "ranking        top 1   top 3");
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    for (name, shares) in &measured.shares {
        line!(text, "{name:10} {:>9} {:>7}", percent(shares.top1), percent(shares.top3));
    }
    line!(text, "field, hybrid  top 1   top 3  values");
    for (name, (cases, shares)) in &measured.by_field {
        line!(text, "{name:14} {:>5} {:>7} {cases:>7}", percent(shares.top1), percent(shares.top3));
    }
    text
}
