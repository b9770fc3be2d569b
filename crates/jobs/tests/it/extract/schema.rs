//! Schemas: what they can say, how a model is asked with them, and what is wrong with bad ones.

use std::fs;
use std::path::{Path, PathBuf};

use haul_generate::call::{Constraint, Prompt};
use haul_jobs::extract::schema::explain::{SizeUnit, explain};
use haul_jobs::extract::schema::{
    Confidence, DateFormat, EvidenceKind, Field, FieldType, Line, Missing, Problem, Question, Restart,
    Schema, Subject, Syntax, Test, Unit,
};
use serde_json::json;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(super) fn read(path: &str) -> Schema {
    let path = repository().join(path);
    let text = fs::read_to_string(&path).unwrap();
    Schema::parse(&text, Syntax::from_path(&path).unwrap())
        .unwrap_or_else(|error| panic!("{error}: {:#?}", error.problems))
}

fn tiny() -> Schema {
    read("assets/tiny-llm/schema.json")
}

fn line(n: u32, text: &str) -> Line<'_> {
    Line { n: Some(n), text, mark: Some("a.txt".to_owned()), file: "a.txt", page: None, heading: false }
}

fn subject(name: &str) -> Subject {
    Subject { name: name.to_owned(), kind: None }
}

fn fields<'a>(schema: &'a Schema, names: &[&str]) -> Vec<&'a Field> {
    names.iter().map(|name| schema.field(name).unwrap()).collect()
}

/// As the tiny model's own page prints it, between the marks of its chat template.
#[test]
fn the_tiny_models_schema_asks_as_the_model_was_trained() {
    let schema = tiny();
    let window = [
        line(17, "2. Term Loan A"),
        line(18, "The facility bears interest at a margin of 2.75% per annum."),
        line(19, "We understand that Kelmore Bank plc acts as facility agent for the financing."),
    ];
    let document = schema.document(&window, None).unwrap();
    let asked = |question: &Question<'_>| {
        let call = schema.call(&document, question, &(17..=19), None).unwrap();
        assert_eq!((call.stop.as_slice(), call.max_tokens), (&["<|im_end|>".to_owned()][..], 120));
        let Prompt::Chat { messages, shared_bytes } = call.prompt else { panic!("no turns") };
        assert_eq!((messages.len(), messages[0].role.as_str()), (1, "user"));
        assert_eq!(&messages[0].content[..shared_bytes], document);
        messages[0].content.clone()
    };
    let facility = subject("Term Loan A");
    let group = &schema.groups[1];
    let of = fields(&schema, &["margin", "maturity_date", "agent"]);
    let question = Question::Fields { subject: &facility, group, fields: &of };
    assert_eq!(
        asked(&question),
        "[17] 2. Term Loan A\n[18] The facility bears interest at a margin of 2.75% per annum.\n[19] We understand that \
         Kelmore Bank plc acts as facility agent for the financing.\n\nTASK fields\nFACILITY Term Loan A\nFIELDS margin, \
         maturity_date, agent"
    );
    let behind = |text: String| text.rsplit("\n\n").next().unwrap().to_owned();
    assert_eq!(behind(asked(&Question::Entities)), "TASK facilities");
    let groups = [&schema.groups[1], &schema.groups[2], &schema.groups[4]];
    assert_eq!(
        behind(asked(&Question::Present { subject: &facility, groups: &groups })),
        "TASK present\nFACILITY Term Loan A\nGROUPS pricing, dates, covenants"
    );
    let verify = Question::Verify { subject: &facility, field: of[0], value: "3.00%" };
    assert_eq!(behind(asked(&verify)), "TASK verify\nFACILITY Term Loan A\nFIELD margin\nVALUE 3.00%");
}

/// The answers that its page shows are answers of its schema, and near ones are not.
#[test]
fn the_tiny_models_answers_are_of_its_schema() {
    let schema = tiny();
    let facility = subject("Term Loan A");
    let of = fields(&schema, &["margin", "maturity_date", "agent"]);
    let groups = [&schema.groups[1], &schema.groups[2]];
    let fields = Question::Fields { subject: &facility, group: &schema.groups[1], fields: &of };
    let verify = Question::Verify { subject: &facility, field: of[0], value: "3.00%" };
    let present = Question::Present { subject: &facility, groups: &groups };
    for (question, answer, good) in [
        (
            fields,
            r#"{"margin":{"value":"2.75%","at":18,"confidence":"HIGH"},"agent":{"value":"Kelmore Bank plc","at":19,"confidence":"LOW"}}"#,
            true,
        ),
        (fields, "{}", true),
        (fields, r#"{"margin":{"value":"2.75%","at":20,"confidence":"HIGH"}}"#, false),
        (fields, r#"{"margin":{"value":"2.75%","at":18}}"#, false),
        (fields, r#"{"margin":"2.75%"}"#, false),
        (fields, r#"{"spread":{"value":"2.75%","at":18,"confidence":"HIGH"}}"#, false),
        (Question::Entities, r#"{"facilities":[{"name":"Term Loan A","type":"term loan"}]}"#, true),
        (Question::Entities, r#"{"facilities":[]}"#, true),
        (Question::Entities, r#"{"facilities":[{"name":"Term Loan A","type":"loan"}]}"#, false),
        (present, r#"{"present":["pricing"]}"#, true),
        (present, r#"{"present":["covenants"]}"#, false),
        (verify, r#"{"correct":true}"#, true),
        (verify, r#"{"correct":false,"value":"2.75%","at":18}"#, true),
        (verify, r#"{"value":"2.75%"}"#, false),
    ] {
        let answer_schema = schema.answer_schema(&question, &(17..=19));
        let checked = haul_generate::schema::Schema::parse(&answer_schema).unwrap().check(answer);
        assert_eq!(checked.is_ok(), good, "{answer}: {checked:?}");
    }
    // Keys come in the order of the shape, which is the order in which a model is made to write them.
    let text = schema.answer_schema(&fields, &(17..=19)).to_string();
    let places = ["\"value\"", "\"at\"", "\"confidence\""].map(|key| text.find(key).unwrap());
    assert!(places.is_sorted(), "{text}");
}

#[test]
fn the_tiny_schema_says_its_limits_and_shape() {
    let schema = tiny();
    assert_eq!((schema.groups.len(), schema.fields().count()), (6, 24));
    assert_eq!(schema.entity.plural, "facilities");
    assert_eq!(schema.answer.missing, Missing::Omitted);
    assert_eq!((schema.answer.evidence.as_str(), schema.answer.evidence_kind), ("at", EvidenceKind::Number));
    assert_eq!(schema.answer.confidence_of("low"), Some(Confidence::Low));
    assert_eq!(schema.numbering.restart, Restart::Window);
    let limits = schema.limits;
    assert_eq!(
        (limits.context_tokens, limits.window_tokens, limits.window_lines),
        (Some(1024), 450, Some(16))
    );
    assert_eq!((limits.fields_per_question, limits.max_answer_tokens), (Some(1), 120));
    assert_eq!(schema.system(None).unwrap(), None);
    let of = fields(&schema, &["margin", "base_rate"]);
    assert_eq!(schema.questions(&of).map(<[_]>::len).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(schema.field("base_rate").unwrap().values[0], "SOFR");
}

#[test]
fn a_window_has_what_context_question_and_answer_leave() {
    let schema = tiny();
    assert_eq!(schema.window_tokens(None, 40, 120), Some(450));
    assert_eq!(schema.window_tokens(Some(512), 40, 120), Some(352));
    assert_eq!(schema.window_tokens(Some(8192), 500, 120), Some(404));
    assert_eq!(schema.window_tokens(Some(128), 40, 120), None);
}

#[test]
fn the_samples_are_schemas() {
    let finance = read("samples/extract/project-finance.toml");
    assert_eq!((finance.groups.len(), finance.fields().count()), (13, 72));
    assert_eq!(finance.formats.date, DateFormat::Month);
    assert_eq!(finance.field("commitment").unwrap().unit, Unit::Thousand);
    assert_eq!(finance.language("spa").unwrap().name, "Spanish");
    assert!(finance.rules.len() >= 8 && finance.rules[0].set.as_ref().unwrap().value == "Yes");
    assert_eq!(finance.rules[4].when[0].test, Test::Above("lock-up DSCR".to_owned()));
    let contracts = read("samples/extract/contracts.toml");
    assert!(contracts.fields().all(|field| (1..=8).contains(&field.keywords.len())));
    assert_eq!(contracts.field("term").unwrap().kind, FieldType::Duration);
}

#[test]
fn our_own_prompts_say_what_a_model_must_know() {
    let schema = read("samples/extract/project-finance.toml");
    let group = schema.groups.iter().find(|group| group.name == "pricing").unwrap();
    let of: Vec<&Field> = group.fields.iter().collect();
    let facility = Subject { name: "Senior Loan".to_owned(), kind: Some("term loan".to_owned()) };
    let question = Question::Fields { subject: &facility, group, fields: &of };
    let document = schema.document(&[line(1, "Interest is 2%.")], None).unwrap();
    assert_eq!(document, "== a.txt ==\n[1] Interest is 2%.\n\n");
    let call = schema.call(&document, &question, &(1..=1), Some("Spanish")).unwrap();
    let Prompt::Chat { messages, shared_bytes } = &call.prompt else { panic!("no turns") };
    assert!(messages[0].content.contains("in Spanish"), "{}", messages[0].content);
    assert!(!schema.system(None).unwrap().unwrap().contains("Spanish"));
    let asked = &messages[1].content[*shared_bytes..];
    for part in [
        "The facility is: Senior Loan (term loan)",
        "- base rate (enum): Reference rate; one of EURIBOR, SOFR",
        "- rate floor (yes no): Whether",
        "For example, of this document:",
        "Leave out every field that the document does not state.",
        "POSSIBLY_PRESENT",
        r#"{"field name": {"value": "...", "at": 17, "confidence": "HIGH|MEDIUM|LOW"}}"#,
    ] {
        assert!(asked.contains(part), "no {part:?} in:\n{asked}");
    }
    assert_eq!(call.max_tokens, 768);
    let Some(Constraint::JsonSchema(answer)) = call.constraint else { panic!("no constraint") };
    // POSSIBLY_PRESENT has no sentence to cite.
    assert_eq!(answer["properties"]["base rate"]["required"], json!(["value"]));
}

const HEAD: &str = "[entity]\nname = \"loan\"\nplural = \"loans\"\n";
const GROUP: &str =
    "[[groups]]\nname = \"g\"\n[[groups.fields]]\nname = \"f\"\n[[groups.fields]]\nname = \"h\"\n";

#[test]
fn what_a_schema_leaves_out_is_ours() {
    let schema = Schema::parse(&format!("{HEAD}{GROUP}"), Syntax::Toml).unwrap();
    assert_eq!(schema.field("f").unwrap().kind, FieldType::Text);
    assert_eq!((schema.limits.window_tokens, schema.limits.overlap_tokens), (2000, 400));
    assert!(schema.system(None).unwrap().unwrap().contains("loans"));
    let json = r#"{"entity": {"name": "loan", "plural": "loans"}, "groups": [{"name": "g", "fields": [{"name": "f", "enum": ["a"]}]}], "prompts": {"system": null}}"#;
    let schema = Schema::parse(json, Syntax::Json).unwrap();
    assert_eq!(schema.field("f").unwrap().kind, FieldType::Enum);
    assert_eq!(schema.system(None).unwrap(), None);
}

#[test]
fn answers_have_other_shapes_where_a_schema_says_so() {
    let more = "[answer]\nfields = \"{fields: {name: {value, evidence, confidence}}}\"\nmissing = \"NOT_FOUND\"\nevidence = \"evidence = words of the document\"\nconfidence = [\"sure\", \"so so\", \"guess\"]\nstop = [\"</s>\", \"[/INST]\"]\n";
    let schema = Schema::parse(&format!("{HEAD}{GROUP}{more}"), Syntax::Toml).unwrap();
    let of = fields(&schema, &["f"]);
    let loan = subject("A");
    let question = Question::Fields { subject: &loan, group: &schema.groups[0], fields: &of };
    assert_eq!(
        schema.answer_schema(&question, &(1..=2))["properties"]["fields"],
        json!({
            "type": "object", "required": ["f"], "additionalProperties": false,
            "properties": {"f": {
                "type": "object", "required": ["value"], "additionalProperties": false,
                "properties": {"value": {"type": "string"}, "evidence": {"type": "string"}, "confidence": {"enum": ["sure", "so so", "guess"]}},
            }},
        })
    );
    assert_eq!(schema.answer.stop, ["</s>", "[/INST]"]);
    assert_eq!(schema.answer.confidence_of("So so"), Some(Confidence::Medium));
    assert_eq!(schema.answer.confidence_of("very"), None);
    let null = "[answer]\nmissing = \"null\"\nfields = \"{name: {value, lines}}\"\nevidence = \"lines = numbers of the sentences\"\n";
    let schema = Schema::parse(&format!("{HEAD}{GROUP}{null}"), Syntax::Toml).unwrap();
    let of = fields(&schema, &["f", "h"]);
    let question = Question::Fields { subject: &loan, group: &schema.groups[0], fields: &of };
    let answers = haul_generate::schema::Schema::parse(&schema.answer_schema(&question, &(1..=2))).unwrap();
    assert!(answers.check(r#"{"f": null, "h": {"value": "x", "lines": [1, 2]}}"#).is_ok());
    assert!(answers.check(r#"{"f": null}"#).is_err());
    assert!(answers.check(r#"{"f": null, "h": {"value": "x", "lines": []}}"#).is_err());
}

#[track_caller]
fn problems(text: &str, syntax: Syntax) -> Vec<String> {
    let error = Schema::parse(text, syntax).expect_err(text);
    let shown = |problem: &Problem| {
        let hint = problem.hint.as_ref().map_or_else(String::new, |hint| format!(" | {hint}"));
        format!("{problem}{hint}")
    };
    error.problems.iter().map(shown).collect()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of mistakes and what is said of them")]
fn what_is_wrong_is_said_with_its_place() {
    let cases = [
        (
            "keywords = [\"a\"]\nkewords = [\"b\"]\n",
            "line 11, column 1: groups[0].fields[1]: `kewords` is no key here | did you mean `keywords`?",
        ),
        (
            "type = \"sum of money\"\n",
            "line 10, column 8: groups[0].fields[1].type: `sum of money` is no type | there are text, name, date, percent, ratio, yes_no, amount, duration, number, enum",
        ),
        (
            "type = \"enum\"\n",
            "line 8, column 1: groups[0].fields[1]: `h` is of type enum, and has no `enum` | list its values, or take another type",
        ),
        ("enum = [\"a\", \"a\"]\n", "line 10, column 14: groups[0].fields[1].enum: `a` stands here twice"),
        (
            "enum = [\"a\"]\nsynonyms = { b = [\"c\"] }\n",
            "line 11, column 14: groups[0].fields[1].synonyms: `b` is no value of `enum` | did you mean `a`?",
        ),
        (
            "unit = \"thousand\"\n",
            "line 8, column 1: groups[0].fields[1].unit: `h` is no amount, and has no unit",
        ),
        (
            "max_tokens = 0\n",
            "line 10, column 14: groups[0].fields[1].max_tokens: 0, and a whole number within 16..=1048576 is wanted",
        ),
        (
            "max_tokens = 1.5\n",
            "line 10, column 14: groups[0].fields[1].max_tokens: a number with a fraction, and a whole number within 16..=1048576 is wanted",
        ),
        (
            "keywords = \"a\"\n",
            "line 10, column 12: groups[0].fields[1].keywords: a text, and a list of texts is wanted",
        ),
        (
            "keywords = [\"a\", 2031-03-01]\n",
            "line 10, column 18: groups[0].fields[1].keywords[1]: a date, and a text is wanted",
        ),
        (
            "[[groups.fields]]\nname = \"f\"\n",
            "line 11, column 8: groups[0].fields[2].name: a second field `f`",
        ),
        ("[[groups.fields]]\n", "line 10, column 1: groups[0].fields[2]: `name` is missing"),
        ("[[groups]]\nname = \"g2\"\n", "line 10, column 1: groups[1]: the group `g2` has no fields"),
        (
            "[limit]\nwindow_tokens = 300\n",
            "line 10, column 2: the schema: `limit` is no key here | did you mean `limits`?",
        ),
        (
            "[limits]\nwindow_tokens = 300\noverlap_tokens = 300\n",
            "line 10, column 1: limits: windows of 300 tokens that repeat 300 never end",
        ),
        (
            "[limits]\ncontext_tokens = 2048\n",
            "line 10, column 1: limits: a context of 2048 tokens has no room for a window of 2000, a question, and an answer of 1024",
        ),
        (
            "[answer]\nfields = \"[value]\"\n",
            "line 11, column 10: answer.fields: `[value]` is no shape such as {name: {value, at, confidence}}, or {fields: {name: {value, at}}}",
        ),
        (
            "[answer]\nfields = \"{name: {value, at, mood}}\"\n",
            "line 10, column 1: answer: `mood` is neither value, confidence nor the key of the evidence, `at`",
        ),
        (
            "[answer]\nevidence = \"somewhere\"\n",
            "line 11, column 12: answer.evidence: `somewhere` says no evidence | there are `KEY = number of the sentence`, `KEY = numbers of the sentences`, `KEY = words of the document`",
        ),
        (
            "[prompts]\nfields = \"{% for f in fields %}\"\n",
            "line 11, column 10: prompts.fields: the template `fields`: syntax error: unexpected end of input, expected end of block (its line 1)",
        ),
        (
            "[prompts]\npresent = \"ASK {{ facility }}\"\n",
            "line 11, column 11: prompts.present: the template `present`: undefined value (its line 1)",
        ),
        (
            "[prompts]\nfield = \"{{ loan }}\"\n",
            "line 11, column 1: prompts: `field` is no key here | did you mean `fields`?",
        ),
        (
            "[prompts]\ndocument = \" \"\n",
            "line 11, column 12: prompts.document: an empty prompt asks nothing",
        ),
        (
            "[[languages]]\ncode = \"es\"\nname = \"Spanish\"\n",
            "line 11, column 8: languages[0].code: `es` is no code of a language | ISO 639-3, three small letters: spa, deu, fra",
        ),
        (
            "[retrieval]\nsynonyms = [[\"a\"]]\n",
            "line 11, column 13: retrieval.synonyms[0]: a family has two words at least",
        ),
        (
            "[[rules]]\nname = \"r\"\nsay = \"s\"\nwhen = [{ field = \"x\", found = true }]\n",
            "line 13, column 19: rules[0].when[0]: `x` is no field of this schema | did you mean `f`?",
        ),
        (
            "[[rules]]\nname = \"r\"\nsay = \"s\"\nwhen = [{ field = \"f\" }]\n",
            "line 13, column 9: rules[0].when[0]: 0 tests, and one of found, is, is_not, below and above is wanted",
        ),
        (
            "[[rules]]\nname = \"r\"\nsay = \"s\"\n",
            "line 10, column 1: rules[0]: a rule without `when` would hold for every record",
        ),
        (
            "[formats]\ndate = \"day, month, year\"\n",
            "line 11, column 8: formats.date: `day, month, year` is no format | there are YYYY-MM-DD, MM/YYYY",
        ),
        ("keywords = [\"a\"]\nkeywords = [\"b\"]\n", "line 11, column 1: no TOML: duplicate key"),
        ("name == 1\n", "line 10, column 7: no TOML: extra `=`, expected nothing"),
    ];
    let found = |more: &str| problems(&format!("{HEAD}{GROUP}{more}"), Syntax::Toml);
    let wrong: Vec<String> = cases
        .iter()
        .filter(|(more, expected)| found(more) != [*expected])
        .map(|(more, expected)| {
            format!(
                "{more}{:#?}
not {expected:?}",
                found(more)
            )
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{}",
        wrong.join(
            "

"
        )
    );
}

#[test]
fn json_is_read_with_places_too() {
    let good = r#"{"entity": {"name": "loan", "plural": "loans"}, "groups": [{"name": "g", "fields": [{"name": "f"}]}]}"#;
    assert!(Schema::parse(good, Syntax::Json).is_ok());
    let cases = [
        (
            good.replace("\"fields\"", "\n \"feilds\""),
            vec![
                "line 1, column 60: groups[0]: the group `g` has no fields",
                "line 2, column 2: groups[0]: `feilds` is no key here | did you mean `fields`?",
            ],
        ),
        (
            good.replace("\"name\": \"f\"", "\"name\": \"f\", \"name\": \"h\""),
            vec!["line 1, column 99: groups[0].fields[0]: the key `name` stands here twice"],
        ),
        (
            good.replace("\"f\"", "\"f\\u00e9\\\"]\", \"type\": 3"),
            vec!["line 1, column 116: groups[0].fields[0].type: a number, and a text is wanted"],
        ),
        (
            good.replace("\"f\"", "\"f\\u00e9\\\"]\", \"max_tokens\": 12e3"),
            vec![
                "line 1, column 122: groups[0].fields[0].max_tokens: a number with a fraction, or beyond 64 bits, and a whole number within 16..=1048576 is wanted",
            ],
        ),
        (good.replace("]}]}", "]}]"), vec!["line 1, column 100: no JSON: EOF while parsing an object"]),
        (good.replace("\"g\",", "\"g\"\n"), vec!["line 2, column 2: no JSON: expected `,` or `}`"]),
        ("[1]".to_owned(), vec!["line 1, column 1: a list, and a table is wanted"]),
        (
            "{}".to_owned(),
            vec![
                "line 1, column 1: `entity` is missing: what is a record about?",
                "line 1, column 1: `groups` is missing: which fields are there?",
            ],
        ),
        (String::new(), vec!["line 1, column 1: no JSON: EOF while parsing a value"]),
        ("[".repeat(200), vec!["line 1, column 128: no JSON: recursion limit exceeded"]),
    ];
    let wrong: Vec<String> = cases
        .iter()
        .filter(|(text, expected)| problems(text, Syntax::Json) != *expected)
        .map(|(text, expected)| format!("{text}\n{:#?}\nnot {expected:#?}", problems(text, Syntax::Json)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn names_of_an_entity_are_variables_of_prompts() {
    let with = |name: &str| {
        problems(&format!("[entity]\nname = \"{name}\"\nplural = \"loans\"\n{GROUP}"), Syntax::Toml)
    };
    assert_eq!(
        with("Loan A"),
        [
            "line 2, column 8: entity: `Loan A` is a variable of the prompts: small letters, digits and _ alone"
        ]
    );
    assert_eq!(with("group"), ["line 2, column 8: entity.name: `group` is another variable of the prompts"]);
    assert_eq!(with(""), ["line 2, column 8: entity.name: an empty text"]);
}

#[test]
fn an_example_that_is_not_of_the_shape_is_refused() {
    let with = |answer: &str| {
        format!(
            "{HEAD}[[groups]]\nname = \"g\"\nfields = [{{ name = \"f\" }}]\nexamples = [{{ document = \"[1] A.\", answer = '{answer}' }}]\n"
        )
    };
    assert!(
        Schema::parse(&with(r#"{"f": {"value": "A", "at": 1, "confidence": "HIGH"}}"#), Syntax::Toml).is_ok()
    );
    let wrong = problems(&with(r#"{"f": {"value": "A", "at": "1"}}"#), Syntax::Toml);
    assert!(
        wrong[0].starts_with(
            "line 7, column 45: groups[0].examples[0].answer: not an answer of this schema's shape: at "
        ),
        "{wrong:?}"
    );
}

#[test]
fn all_problems_are_named_in_the_order_of_the_text() {
    let text = "[entity]\nname = \"loan\"\n[[groups]]\nname = \"g\"\nfields = [{ name = \"f\", type = \"dat\" }]\n[limits]\nwindow = 3\n";
    assert_eq!(
        problems(text, Syntax::Toml),
        [
            "line 1, column 1: entity: `plural` is missing",
            "line 5, column 32: groups[0].fields[0].type: `dat` is no type | did you mean `date`?",
            "line 7, column 1: limits: `window` is no key here | there are context_tokens, window_tokens, overlap_tokens, window_lines, overlap_lines, fields_per_question, max_answer_tokens",
        ]
    );
    let error = Schema::parse(text, Syntax::Toml).unwrap_err();
    assert_eq!(error.to_string(), "line 1, column 1: entity: `plural` is missing (and 2 more)");
    assert_eq!(error.hint().as_deref(), Some("`haul schema check FILE` lists them all"));
}

#[test]
fn a_schema_is_explained_with_sizes() {
    let schema = tiny();
    let explained = explain(&schema, None, |_| Ok::<_, ()>(None)).unwrap();
    assert_eq!((explained.unit, explained.window_tokens), (SizeUnit::Words, Some(450)));
    let names: Vec<_> = explained
        .questions
        .iter()
        .map(|asked| (asked.template, asked.group.as_deref(), asked.count))
        .collect();
    assert_eq!(names[..3], [("entities", None, 1), ("present", None, 1), ("fields", Some("amounts"), 4)]);
    assert_eq!(names.last(), Some(&("verify", None, 24)));
    assert_eq!(explained.document, "[1] (a sentence of the document)\n[2] (a sentence of the document)\n\n");
    // 500 tokens of each text leave 1024 - 500 - 120 for the window; a smaller context leaves nothing.
    let counted =
        |context| explain(&schema, context, |texts| Ok::<_, ()>(Some(vec![500; texts.len()]))).unwrap();
    assert_eq!(counted(None).window_tokens, Some(404));
    assert_eq!(counted(Some(600)).window_tokens, None);
}
