//! Records beside the text they were read from, as one page for the eye of a person: no network, and no script but ours.
//!
//! What documents say reaches the page as data: JSON without `<`, which the script only ever writes as text. The policy of
//! the page holds that: nothing is loaded and nothing is sent.

use std::collections::BTreeMap;

use haul_jobs::extract::documents::{Company, Source};
use haul_jobs::extract::record::{Evidence, FieldRecord, Record};
use haul_jobs::extract::schema::Schema;
use serde::Serialize;
use serde_json::{Value, json};

use super::html::{STYLE, escaped};

const LOOK: &str = include_str!("review.css");
const SCRIPT: &str = include_str!("review.js");
/// All texts are in the page up to this size; beyond it, what stands around evidence.
const TEXT_BYTES_MAX: usize = 8 << 20;
/// Bytes before and behind evidence that a page of excerpts shows.
const CONTEXT_BYTES: usize = 2000;

/// The whole page.
pub(crate) fn page(schema: &Schema, records: &[Record], companies: &[Company]) -> String {
    let text_bytes: usize =
        companies.iter().flat_map(|company| &company.sources).map(|source| source.document.text.len()).sum();
    let data = data(schema, records, companies, text_bytes > TEXT_BYTES_MAX);
    let title = match companies {
        [company] => format!("{}: records", company.name),
        companies => format!("records of {} companies", companies.len()),
    };
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>\n{STYLE}{LOOK}</style>\n</head>\n<body>\n{}\
         <script type=\"application/json\" id=\"data\">{}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        escaped(&title),
        frame(&title),
        within_script(&data)
    )
}

/// What is there before the script fills it.
fn frame(title: &str) -> String {
    format!(
        "<header class=\"top\">\n<h1>{}</h1>\n<div id=\"filters\" role=\"group\" aria-label=\"Status\"></div>\n\
         <p id=\"place\" aria-live=\"polite\"></p>\n\
         <p class=\"keys\"><kbd>j</kbd> next <kbd>k</kbd> previous <kbd>n</kbd> next record <kbd>p</kbd> previous record</p>\n\
         </header>\n<noscript><p>This page needs its script, which is in it.</p></noscript>\n\
         <main class=\"review\">\n<section id=\"records\" aria-label=\"Records\"></section>\n\
         <section id=\"source\" aria-label=\"Source\" tabindex=\"0\"></section>\n</main>\n",
        escaped(title)
    )
}

/// JSON that no document can end: `<` is `\u003c` in it, so neither `</script>` nor `<!--` stands there.
fn within_script(data: &Value) -> String {
    data.to_string().replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

fn data(schema: &Schema, records: &[Record], companies: &[Company], excerpts: bool) -> Value {
    let mut marks = Marks::default();
    let records: Vec<Value> = records.iter().map(|record| of_record(schema, record, &mut marks)).collect();
    let files: Vec<Value> = companies
        .iter()
        .flat_map(|company| company.sources.iter().map(move |source| (&company.name, source)))
        .map(|(company, source)| {
            let none = Vec::new();
            let of_file = marks.by_file.get(&(company.clone(), source.file.clone())).unwrap_or(&none);
            json!({"company": company, "file": source.file, "pieces": pieces(source, of_file, excerpts)})
        })
        .collect();
    json!({"records": records, "files": files, "entity": schema.entity.name})
}

/// Places of evidence by company and file, each with its number.
#[derive(Default)]
struct Marks {
    by_file: BTreeMap<(String, String), Vec<Mark>>,
    count: usize,
}

struct Mark {
    number: usize,
    sentence: (usize, usize),
    value: Option<(usize, usize)>,
}

impl Marks {
    fn add(&mut self, company: &str, evidence: &Evidence) -> usize {
        let number = self.count;
        self.count += 1;
        let mark = Mark { number, sentence: (evidence.start, evidence.end), value: evidence.value_bytes };
        self.by_file.entry((company.to_owned(), evidence.file.clone())).or_default().push(mark);
        number
    }
}

fn of_record(schema: &Schema, record: &Record, marks: &mut Marks) -> Value {
    let known = schema.fields().filter_map(|field| {
        record.fields.get(&field.name).map(|of_record| (field.label.as_str(), field.name.as_str(), of_record))
    });
    // Fields of another schema than this one are shown as well.
    let others = record.fields.iter().filter(|(name, _)| schema.field(name).is_none());
    let others = others.map(|(name, of_record)| (name.as_str(), name.as_str(), of_record));
    let fields: Vec<Value> = known
        .chain(others)
        .map(|(label, name, field)| of_field(label, name, field, &record.company, marks))
        .collect();
    json!({
        "company": record.company, "facility": record.facility, "type": record.facility_type,
        "score": record.confidence_score, "language": record.language, "cuts": record.cuts,
        "findings": record.findings.iter().map(|finding| &finding.say).collect::<Vec<_>>(), "fields": fields,
    })
}

fn of_field(label: &str, name: &str, field: &FieldRecord, company: &str, marks: &mut Marks) -> Value {
    let at = field.evidence.as_ref().map(|evidence| place(evidence, company, marks));
    let others: Vec<Value> = field
        .others
        .iter()
        .map(|other| {
            let at = other.evidence.as_ref().map(|evidence| place(evidence, company, marks));
            json!({"value": other.value, "times": other.times, "why": other.why, "at": at})
        })
        .collect();
    json!({
        "label": label, "name": name, "value": field.value, "normal": field.normal, "status": field.status,
        "confidence": field.confidence, "probability": field.probability, "rule": field.rule, "at": at,
        "others": others,
    })
}

fn place(evidence: &Evidence, company: &str, marks: &mut Marks) -> Value {
    json!({
        "mark": marks.add(company, evidence), "file": evidence.file, "page": evidence.page,
        "quote": evidence.quote, "aligned": evidence.aligned, "heading": evidence.heading,
    })
}

/// A run of a text in which the same evidence stands.
#[derive(Serialize)]
struct Piece<'a> {
    /// The page that begins here.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u32>,
    #[serde(skip_serializing_if = "str::is_empty")]
    text: &'a str,
    /// Evidence whose sentence this is part of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    of: Vec<usize>,
    /// Evidence whose value this is part of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    value: Vec<usize>,
    /// Bytes that are left out here.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<usize>,
}

fn pieces<'a>(source: &'a Source, marks: &[Mark], excerpts: bool) -> Vec<Piece<'a>> {
    let text = source.document.text.as_str();
    let kept = |start: usize, end: usize| {
        let near = |mark: &Mark| {
            start < mark.sentence.1 + CONTEXT_BYTES && mark.sentence.0 < end.saturating_add(CONTEXT_BYTES)
        };
        !excerpts || marks.iter().any(near)
    };
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    for pair in boundaries(source, marks, excerpts).windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let page = source.document.pages.iter().find(|page| page.start == start).map(|page| page.number);
        if !kept(start, end) {
            match pieces.last_mut() {
                Some(Piece { left_out: Some(bytes), .. }) => *bytes += end - start,
                _ => pieces.push(Piece {
                    page,
                    text: "",
                    of: vec![],
                    value: vec![],
                    left_out: Some(end - start),
                }),
            }
            continue;
        }
        let holding =
            |range: Option<(usize, usize)>| range.is_some_and(|(from, to)| from <= start && end <= to);
        let of = marks.iter().filter(|mark| holding(Some(mark.sentence))).map(|mark| mark.number).collect();
        let value = marks.iter().filter(|mark| holding(mark.value)).map(|mark| mark.number).collect();
        pieces.push(Piece { page, text: &text[start..end], of, value, left_out: None });
    }
    pieces
}

/// Where evidence, pages and excerpts begin and end, in order, each once and between two characters.
fn boundaries(source: &Source, marks: &[Mark], excerpts: bool) -> Vec<usize> {
    let text = source.document.text.as_str();
    let mut at = vec![0, text.len()];
    at.extend(source.document.pages.iter().map(|page| page.start));
    for Mark { sentence, value, .. } in marks {
        at.extend([sentence.0, sentence.1]);
        at.extend(value.iter().flat_map(|(start, end)| [*start, *end]));
        if excerpts {
            at.extend([sentence.0.saturating_sub(CONTEXT_BYTES), sentence.1 + CONTEXT_BYTES]);
        }
    }
    let mut at: Vec<usize> = at.into_iter().map(|at| text.floor_char_boundary(at)).collect();
    at.sort_unstable();
    at.dedup();
    at
}

#[cfg(test)]
mod tests;
