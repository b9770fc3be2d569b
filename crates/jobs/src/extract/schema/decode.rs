//! From the tree of a file to a [`Schema`], with everything that is wrong in it.

use std::ops::RangeInclusive;

use super::answer::{EvidenceKind, Missing, Shape};
use super::node::{self, Node};
use super::problem::{Problem, SchemaError};
use super::prompts::{Line, PromptError, Question, Subject, TEMPLATE_BYTES_MAX, TEMPLATES, VARIABLES, Words};
use super::rules::{self, must_be_known};
use super::table::{At, Problems, Table, plain, texts};
use super::{
    DateFormat, Entity, Example, Field, FieldType, Formats, Group, Language, Limits, NumberedUnit, Numbering,
    Restart, Retrieval, Schema, Syntax, Unit,
};

/// A schema that is longer is something else.
const SCHEMA_BYTES_MAX: usize = 4 << 20;
const GROUPS_MAX: usize = 256;
const FIELDS_MAX: usize = 4096;
/// The name of a group or field is the key of answers.
const NAME_CHARS_MAX: usize = 120;
const TOKENS: RangeInclusive<u32> = 16..=1_048_576;
const LINES: RangeInclusive<u32> = 1..=10_000;
const FIRST: RangeInclusive<u32> = 0..=1_000_000;
const WINDOW_TOKENS: u32 = 2000;
const ANSWER_TOKENS: u32 = 1024;
/// A window repeats one part in so many of the one before.
const OVERLAP_PART: u32 = 5;

pub(super) fn schema(text: &str, syntax: Syntax) -> Result<Schema, SchemaError> {
    let only = |problem| SchemaError { problems: vec![problem] };
    if text.len() > SCHEMA_BYTES_MAX {
        let what = format!("{} bytes, of at most {SCHEMA_BYTES_MAX}", text.len());
        return Err(only(Problem::new(text, 0, "", what)));
    }
    let root = node::parse(text, syntax).map_err(only)?;
    let mut problems = Problems::new(text);
    let read = read(&root, &mut problems);
    problems.into_result()?;
    match read {
        Some(read) => checked(text, read),
        None => unreachable!("a root that is no table is a problem"),
    }
}

/// A schema with the places that later checks speak of.
struct Read {
    schema: Schema,
    prompts: Vec<(&'static str, usize)>,
    examples: Vec<(usize, usize, At<String>)>,
}

fn read(root: &Node, problems: &mut Problems<'_>) -> Option<Read> {
    let mut table = Table::open(root, "", problems)?;
    let entity = entity(&mut table, problems);
    let mut examples = Vec::new();
    let groups = groups(&mut table, &mut examples, problems);
    let known: Vec<&str> =
        groups.iter().flat_map(|group| &group.fields).map(|field| field.name.as_str()).collect();
    let (words, prompts) = words(&mut table, &entity, problems);
    let numbering = table.table("numbering", problems);
    let answer = table.table("answer", problems);
    let limits = table.table("limits", problems);
    let formats = table.table("formats", problems);
    let retrieval = table.table("retrieval", problems);
    let languages = table.tables("languages", problems);
    let rules = table.tables("rules", problems);
    table.end(problems);
    let schema = Schema {
        numbering: numbering_of(numbering, problems),
        answer: shape(answer, problems),
        limits: limits_of(limits, problems),
        formats: formats_of(formats, problems),
        retrieval: retrieval_of(retrieval, problems),
        languages: languages_of(languages, &known, problems),
        rules: rules::read(rules, &known, problems),
        entity,
        groups,
        words,
    };
    Some(Read { schema, prompts, examples })
}

fn entity(root: &mut Table<'_>, problems: &mut Problems<'_>) -> Entity {
    let Some(mut table) = root.table("entity", problems) else {
        if !root.has("entity") {
            problems.add(root.at, "", "`entity` is missing: what is a record about?");
        }
        return Entity {
            name: "entity".to_owned(),
            plural: "entities".to_owned(),
            description: String::new(),
            types: vec![],
        };
    };
    let name = table.required("name", problems);
    let plural = table.required("plural", problems);
    for word in [&name, &plural] {
        if !word.value.is_empty() && !is_variable(&word.value) {
            let what =
                format!("`{}` is a variable of the prompts: small letters, digits and _ alone", word.value);
            problems.add(word.at, &table.place, what);
        }
    }
    let is_prompt = |(prompt, _): &(&str, &str)| *prompt == plural.value && *prompt != "entities";
    if TEMPLATES.iter().any(is_prompt) {
        problems.add(plural.at, table.place_of("plural"), format!("`{}` is another prompt", plural.value));
    }
    if VARIABLES.contains(&name.value.as_str()) {
        problems.add(
            name.at,
            table.place_of("name"),
            format!("`{}` is another variable of the prompts", name.value),
        );
    }
    let entity = Entity {
        description: table.text("description", problems).unwrap_or_default().value,
        types: unique(table.texts("types", problems), &table.place_of("types"), problems),
        name: name.value,
        plural: plural.value,
    };
    table.end(problems);
    entity
}

fn is_variable(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn groups(
    root: &mut Table<'_>,
    examples: &mut Vec<(usize, usize, At<String>)>,
    problems: &mut Problems<'_>,
) -> Vec<Group> {
    let tables = root.tables("groups", problems);
    if tables.is_empty() {
        problems.add(root.at, "", "`groups` is missing: which fields are there?");
    }
    if tables.len() > GROUPS_MAX {
        problems.add(root.at, "groups", format!("{} groups, of at most {GROUPS_MAX}", tables.len()));
    }
    let mut groups: Vec<Group> = Vec::new();
    let mut fields: Vec<At<String>> = Vec::new();
    for (number, mut table) in tables.into_iter().enumerate() {
        let name = name_of(&mut table, problems);
        if groups.iter().any(|group| group.name == name.value) {
            problems.add(name.at, table.place_of("name"), format!("a second group `{}`", name.value));
        }
        groups.push(group(table, number, name.value, &mut fields, examples, problems));
    }
    if fields.len() > FIELDS_MAX {
        problems.add(root.at, "groups", format!("{} fields, of at most {FIELDS_MAX}", fields.len()));
    }
    groups
}

fn group(
    mut table: Table<'_>,
    number: usize,
    name: String,
    names: &mut Vec<At<String>>,
    examples: &mut Vec<(usize, usize, At<String>)>,
    problems: &mut Problems<'_>,
) -> Group {
    let mut shown = Vec::new();
    for mut example in table.tables("examples", problems) {
        let document = example.required("document", problems).value;
        let answer = example.required("answer", problems);
        example.end(problems);
        shown.push(Example { document, answer: answer.value.trim().to_owned() });
        examples.push((number, shown.len() - 1, answer));
    }
    let tables = table.tables("fields", problems);
    if tables.is_empty() {
        problems.add(table.at, &table.place, format!("the group `{name}` has no fields"));
    }
    let mut fields: Vec<Field> = Vec::new();
    for mut of_field in tables {
        let name = name_of(&mut of_field, problems);
        if names.iter().any(|known| known.value == name.value) && !name.value.is_empty() {
            problems.add(name.at, of_field.place_of("name"), format!("a second field `{}`", name.value));
        }
        fields.push(field(of_field, &name.value, problems));
        names.push(name);
    }
    let group = Group {
        name,
        description: table.text("description", problems).unwrap_or_default().value,
        instructions: table.text("instructions", problems).unwrap_or_default().value.trim().to_owned(),
        examples: shown,
        max_tokens: table.number("max_tokens", TOKENS, problems),
        fields,
    };
    table.end(problems);
    group
}

fn name_of(table: &mut Table<'_>, problems: &mut Problems<'_>) -> At<String> {
    let name = table.required("name", problems);
    let chars = name.value.chars().count();
    if chars > NAME_CHARS_MAX {
        problems.add(
            name.at,
            table.place_of("name"),
            format!("{chars} characters, of at most {NAME_CHARS_MAX}"),
        );
    }
    if name.value.chars().any(char::is_control) || name.value.trim() != name.value {
        problems.add(name.at, table.place_of("name"), "a name is one line without spaces around it");
    }
    name
}

fn field(mut table: Table<'_>, name: &str, problems: &mut Problems<'_>) -> Field {
    const UNITS: [(&str, Unit); 3] =
        [("one", Unit::One), ("thousand", Unit::Thousand), ("million", Unit::Million)];
    let kind = table.choice("type", "type", &FieldType::ALL, problems);
    let values = unique(table.texts("enum", problems), &table.place_of("enum"), problems);
    let kind = kind.unwrap_or(if values.is_empty() { FieldType::Text } else { FieldType::Enum });
    if kind == FieldType::Enum && values.is_empty() {
        problems.add_with_hint(
            table.at,
            &table.place,
            format!("`{name}` is of type enum, and has no `enum`"),
            "list its values, or take another type",
        );
    }
    let synonyms = table
        .table("synonyms", problems)
        .map_or_else(Vec::new, |synonyms| synonyms_of(&synonyms, &values, problems));
    let unit = table.choice("unit", "unit", &UNITS, problems);
    if unit.is_some() && kind != FieldType::Amount {
        problems.add(table.at, table.place_of("unit"), format!("`{name}` is no amount, and has no unit"));
    }
    let field = Field {
        name: name.to_owned(),
        label: table.text("label", problems).map_or_else(|| name.to_owned(), |label| label.value),
        kind,
        description: table.text("description", problems).unwrap_or_default().value,
        keywords: unique(table.texts("keywords", problems), &table.place_of("keywords"), problems),
        hints: plain(table.texts("hints", problems)),
        values,
        synonyms,
        unit: unit.unwrap_or_default(),
        max_tokens: table.number("max_tokens", TOKENS, problems),
    };
    table.end(problems);
    field
}

/// Spellings by value. A spelling of two values says nothing.
fn synonyms_of(
    table: &Table<'_>,
    values: &[String],
    problems: &mut Problems<'_>,
) -> Vec<(String, Vec<String>)> {
    let known: Vec<&str> = values.iter().map(String::as_str).collect();
    let mut synonyms: Vec<(String, Vec<String>)> = Vec::new();
    for entry in table.all() {
        if !known.contains(&entry.key.as_str()) {
            problems.add_unknown(entry.at, &table.place, &entry.key, "value of `enum`", &known);
        }
        let place = table.place_of(&entry.key);
        let spellings = unique(texts(&entry.node, &place, problems), &place, problems);
        let twice = |spelling: &&String| synonyms.iter().any(|(_, others)| others.contains(spelling));
        if let Some(twice) = spellings.iter().find(twice) {
            problems.add(entry.at, &place, format!("`{twice}` is a spelling of another value too"));
        }
        synonyms.push((entry.key.clone(), spellings));
    }
    synonyms
}

/// Without their places; the same text twice is a mistake.
fn unique(texts: Vec<At<String>>, place: &str, problems: &mut Problems<'_>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for text in texts {
        if seen.contains(&text.value) {
            problems.add(text.at, place, format!("`{}` stands here twice", text.value));
        } else {
            seen.push(text.value);
        }
    }
    seen
}

/// Compiled templates; an empty or null system turn is none. The question for entities may be named by their plural.
fn words(
    root: &mut Table<'_>,
    entity: &Entity,
    problems: &mut Problems<'_>,
) -> (Words, Vec<(&'static str, usize)>) {
    let mut texts: Vec<(&'static str, Option<String>)> =
        TEMPLATES.iter().map(|(name, text)| (*name, Some((*text).to_owned()))).collect();
    let mut places = Vec::new();
    if let Some(mut table) = root.table("prompts", problems) {
        for (name, text) in &mut texts {
            let name = *name;
            let by_plural = if name == "entities" { table.take_named(&entity.plural) } else { None };
            let node = table.take(name);
            if let (Some(node), Some(_), true) = (node, by_plural, entity.plural != name) {
                problems.add(
                    node.at,
                    &table.place,
                    format!("`{name}` and `{}` are one prompt", entity.plural),
                );
            }
            let Some(node) = node.or(by_plural) else { continue };
            places.push((name, node.at));
            *text = template(node, name, &table.place_of(name), problems);
        }
        table.end_but(&entity.plural, problems);
    }
    match Words::compile(texts.clone()) {
        Ok(words) => (words, places),
        Err(error) => {
            report(&error, &places, problems);
            (Words::compile(vec![]).unwrap_or_else(|_| unreachable!("no templates compile")), places)
        }
    }
}

fn template(node: &Node, name: &str, place: &str, problems: &mut Problems<'_>) -> Option<String> {
    if matches!(node.value, node::Value::Null) && name == "system" {
        return None;
    }
    let text = super::table::text(node, place, problems)?;
    if text.value.len() > TEMPLATE_BYTES_MAX {
        problems.add(text.at, place, format!("{} bytes, of at most {TEMPLATE_BYTES_MAX}", text.value.len()));
        return None;
    }
    match text.value.trim().is_empty() {
        true if name == "system" => None,
        true => {
            problems.add(text.at, place, "an empty prompt asks nothing");
            None
        }
        false => Some(text.value),
    }
}

fn report(error: &PromptError, places: &[(&'static str, usize)], problems: &mut Problems<'_>) {
    let at = places.iter().find(|(name, _)| *name == error.template).map_or(0, |(_, at)| *at);
    problems.add(at, format!("prompts.{}", error.template), error.to_string());
}

fn numbering_of(table: Option<Table<'_>>, problems: &mut Problems<'_>) -> Numbering {
    const UNITS: [(&str, NumberedUnit); 2] =
        [("sentence", NumberedUnit::Sentence), ("block", NumberedUnit::Block)];
    const RESTARTS: [(&str, Restart); 3] =
        [("window", Restart::Window), ("document", Restart::Document), ("company", Restart::Company)];
    let mut numbering =
        Numbering { unit: NumberedUnit::Sentence, headings_count: true, first: 1, restart: Restart::Window };
    let Some(mut table) = table else { return numbering };
    numbering.unit = table.choice("unit", "unit", &UNITS, problems).unwrap_or(numbering.unit);
    numbering.headings_count = table.bool("headings_count", problems).unwrap_or(numbering.headings_count);
    numbering.first = table.number("first", FIRST, problems).unwrap_or(numbering.first);
    numbering.restart = table.choice("restart", "place", &RESTARTS, problems).unwrap_or(numbering.restart);
    table.end(problems);
    numbering
}

fn shape(table: Option<Table<'_>>, problems: &mut Problems<'_>) -> Shape {
    let mut shape = Shape::usual();
    let Some(mut table) = table else { return shape };
    if let Some(fields) = table.text("fields", problems)
        && let Err(what) = shape.read(&fields.value)
    {
        problems.add(fields.at, table.place_of("fields"), what);
    }
    if let Some(missing) = table.text("missing", problems) {
        shape.missing = match missing.value.trim() {
            "omitted" => Missing::Omitted,
            "null" => Missing::Null,
            word => Missing::Word(word.to_owned()),
        };
    }
    shape.possible = table.text("possible", problems).map(|word| word.value);
    if let Some(evidence) = table.text("evidence", problems) {
        let found = evidence.value.split_once('=').and_then(|(key, words)| {
            let kind = EvidenceKind::ALL.iter().find(|(known, _)| *known == words.trim())?.1;
            Some((key.trim().to_owned(), kind))
        });
        match found {
            Some((key, kind)) => (shape.evidence, shape.evidence_kind) = (key, kind),
            None => {
                let known = EvidenceKind::ALL.map(|(words, _)| format!("`KEY = {words}`")).join(", ");
                problems.add_with_hint(
                    evidence.at,
                    table.place_of("evidence"),
                    format!("`{}` says no evidence", evidence.value),
                    format!("there are {known}"),
                );
            }
        }
    }
    let words = table.texts("confidence", problems);
    if !words.is_empty() {
        shape.confidence = unique(words, &table.place_of("confidence"), problems);
    }
    shape.stop = stop(&mut table, problems);
    if let Err(what) = shape.check() {
        problems.add(table.at, &table.place, what);
    }
    table.end(problems);
    shape
}

/// A text or a list of them.
fn stop(table: &mut Table<'_>, problems: &mut Problems<'_>) -> Vec<String> {
    match table.take("stop") {
        Some(Node { value: node::Value::Text(text), .. }) => vec![text.clone()],
        Some(node) => plain(texts(node, &table.place_of("stop"), problems)),
        None => vec![],
    }
}

fn limits_of(table: Option<Table<'_>>, problems: &mut Problems<'_>) -> Limits {
    let mut limits = Limits {
        context_tokens: None,
        window_tokens: WINDOW_TOKENS,
        overlap_tokens: WINDOW_TOKENS / OVERLAP_PART,
        window_lines: None,
        overlap_lines: None,
        fields_per_question: None,
        max_answer_tokens: ANSWER_TOKENS,
    };
    let Some(mut table) = table else { return limits };
    limits.context_tokens = table.number("context_tokens", TOKENS, problems);
    limits.window_tokens = table.number("window_tokens", TOKENS, problems).unwrap_or(limits.window_tokens);
    let overlap = table.number("overlap_tokens", 0..=*TOKENS.end(), problems);
    limits.overlap_tokens = overlap.unwrap_or(limits.window_tokens / OVERLAP_PART);
    limits.window_lines = table.number("window_lines", LINES, problems);
    limits.overlap_lines = table.number("overlap_lines", 0..=*LINES.end(), problems);
    limits.fields_per_question = table.number("fields_per_question", 1..=FIELDS_MAX as u32, problems);
    limits.max_answer_tokens =
        table.number("max_answer_tokens", TOKENS, problems).unwrap_or(limits.max_answer_tokens);
    if limits.overlap_tokens >= limits.window_tokens {
        let what = format!(
            "windows of {} tokens that repeat {} never end",
            limits.window_tokens, limits.overlap_tokens
        );
        problems.add(table.at, &table.place, what);
    }
    if let (Some(lines), Some(overlap)) = (limits.window_lines, limits.overlap_lines)
        && overlap >= lines
    {
        problems.add(
            table.at,
            &table.place,
            format!("windows of {lines} lines that repeat {overlap} never end"),
        );
    }
    let needed = limits.window_tokens.saturating_add(limits.max_answer_tokens);
    if let Some(context) = limits.context_tokens.filter(|context| *context <= needed) {
        let what = format!(
            "a context of {context} tokens has no room for a window of {}, a question, and an answer of {}",
            limits.window_tokens, limits.max_answer_tokens
        );
        problems.add(table.at, &table.place, what);
    }
    table.end(problems);
    limits
}

fn formats_of(table: Option<Table<'_>>, problems: &mut Problems<'_>) -> Formats {
    const DATES: [(&str, DateFormat); 2] = [("YYYY-MM-DD", DateFormat::Day), ("MM/YYYY", DateFormat::Month)];
    const POINTS: [(&str, char); 2] = [(".", '.'), (",", ',')];
    let mut formats = Formats { date: DateFormat::Day, day_first: None, decimal: '.' };
    let Some(mut table) = table else { return formats };
    formats.date = table.choice("date", "format", &DATES, problems).unwrap_or(formats.date);
    formats.day_first = table.bool("day_first", problems);
    formats.decimal = table.choice("decimal", "point", &POINTS, problems).unwrap_or(formats.decimal);
    table.end(problems);
    formats
}

fn retrieval_of(table: Option<Table<'_>>, problems: &mut Problems<'_>) -> Retrieval {
    let Some(mut table) = table else { return Retrieval::default() };
    let retrieval = Retrieval {
        entities: plain(table.texts("entities", problems)),
        synonyms: families(&mut table, problems),
    };
    table.end(problems);
    retrieval
}

/// Families of words; a family of one says nothing.
fn families(table: &mut Table<'_>, problems: &mut Problems<'_>) -> Vec<Vec<String>> {
    let place = table.place_of("synonyms");
    let Some(node) = table.take("synonyms") else { return Vec::new() };
    let node::Value::List(items) = &node.value else {
        problems.add(node.at, place, format!("{}, and a list of lists is wanted", node.value.kind()));
        return Vec::new();
    };
    let mut families = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let place = format!("{place}[{number}]");
        let family = unique(texts(item, &place, problems), &place, problems);
        if family.len() < 2 {
            problems.add(item.at, &place, "a family has two words at least");
        }
        families.push(family);
    }
    families
}

fn languages_of(tables: Vec<Table<'_>>, known: &[&str], problems: &mut Problems<'_>) -> Vec<Language> {
    const CODE_LETTERS: usize = 3;
    let mut languages: Vec<Language> = Vec::new();
    for mut table in tables {
        let code = table.required("code", problems);
        let is_code =
            code.value.len() == CODE_LETTERS && code.value.bytes().all(|byte| byte.is_ascii_lowercase());
        if !code.value.is_empty() && !is_code {
            problems.add_with_hint(
                code.at,
                table.place_of("code"),
                format!("`{}` is no code of a language", code.value),
                "ISO 639-3, three small letters: spa, deu, fra",
            );
        }
        if languages.iter().any(|language| language.code == code.value) {
            problems.add(code.at, table.place_of("code"), format!("a second language `{}`", code.value));
        }
        let keywords = table.table("keywords", problems).map_or_else(Vec::new, |table| {
            let of_field = |entry: &node::Entry| {
                let name = At { at: entry.at, value: entry.key.clone() };
                must_be_known(&name, &table.place, known, problems);
                let place = table.place_of(&entry.key);
                (entry.key.clone(), unique(texts(&entry.node, &place, problems), &place, problems))
            };
            table.all().iter().map(of_field).collect()
        });
        languages.push(Language {
            code: code.value,
            name: table.required("name", problems).value,
            entities: plain(table.texts("entities", problems)),
            synonyms: families(&mut table, problems),
            keywords,
        });
        table.end(problems);
    }
    languages
}

/// Renders everything once and holds examples against the shape of answers: what fails here would fail in every call.
fn checked(text: &str, read: Read) -> Result<Schema, SchemaError> {
    let Read { schema, prompts, examples } = read;
    let mut problems = Problems::new(text);
    for error in rendered(&schema) {
        report(&error, &prompts, &mut problems);
    }
    for (group, number, answer) in examples {
        let place = format!("groups[{group}].examples[{number}].answer");
        if let Err(what) = check_example(&schema, &schema.groups[group], &answer.value) {
            problems.add(answer.at, place, what);
        }
    }
    problems.into_result()?;
    Ok(schema)
}

fn rendered(schema: &Schema) -> Vec<PromptError> {
    let line =
        Line { n: Some(1), text: "A", mark: Some("b".to_owned()), file: "b", page: Some(1), heading: false };
    let subject = Subject { name: "A".to_owned(), kind: None };
    let mut errors = Vec::new();
    errors.extend(schema.system(Some("Spanish")).err());
    errors.extend(schema.document(&[line], None).err());
    errors.extend(schema.question(&Question::Entities, None).err());
    let groups: Vec<&Group> = schema.groups.iter().collect();
    errors.extend(schema.question(&Question::Present { subject: &subject, groups: &groups }, None).err());
    for group in groups {
        let fields: Vec<&Field> = group.fields.iter().collect();
        let question = Question::Fields { subject: &subject, group, fields: &fields };
        let verify = Question::Verify { subject: &subject, field: fields[0], value: "1" };
        let error = schema.question(&question, None).and_then(|_| schema.question(&verify, None)).err();
        if error.is_some() {
            errors.extend(error);
            break;
        }
    }
    errors
}

fn check_example(schema: &Schema, group: &Group, answer: &str) -> Result<(), String> {
    let subject = Subject { name: String::new(), kind: None };
    let fields: Vec<&Field> = group.fields.iter().collect();
    let question = Question::Fields { subject: &subject, group, fields: &fields };
    let shape = schema.answer_schema(&question, &(0..=u32::MAX));
    let shape = haul_generate::schema::Schema::parse(&shape).map_err(|error| error.to_string())?;
    shape.check(answer).map(|_| ()).map_err(|why| format!("not an answer of this schema's shape: {why}"))
}
