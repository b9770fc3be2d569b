use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use haul_corpus::document::{Block, BlockKind, Chapter, Document, PageStart};
use haul_jobs::extract::record::{Decided, Other, Status, Tie};
use haul_jobs::extract::schema::{Confidence, NumberedUnit, Syntax};

use super::*;

const SCHEMA: &str = r#"
[entity]
name = "facility"
plural = "facilities"

[[groups]]
name = "terms"
[[groups.fields]]
name = "margin"
label = "Margin p.a."
type = "percent"
[[groups.fields]]
name = "agent"
type = "name"
[[groups.fields]]
name = "maturity"
type = "date"
"#;
/// What a hostile document says.
const HOSTILE: &str = "</script><script>document.title='taken'</script><!-- <img src=x onerror=\"document.title='taken'\"> \u{2028}";
const PLACES: [&str; 2] = ["/usr/bin/chromium", "/usr/bin/google-chrome"];

fn schema() -> Schema {
    Schema::parse(SCHEMA, Syntax::Toml).unwrap()
}

fn company(name: &str, text: &str) -> Company {
    let mut document = Document { text: text.to_owned(), ..Document::default() };
    document.blocks.push(Block { kind: BlockKind::Paragraph, start: 0, end: text.len(), chapter: 0 });
    document.chapters.push(Chapter { breadcrumb: vec![], href: None, start: 0, end: text.len() });
    document.pages.push(PageStart { number: 1, start: 0 });
    Company::new(name, vec![Source { file: "deed.pdf".to_owned(), document }], NumberedUnit::Sentence)
}

fn found(text: &str, sentence: &str, value: &str) -> FieldRecord {
    let start = text.find(sentence).unwrap();
    let at = start + sentence.find(value).unwrap();
    let evidence = Evidence {
        file: "deed.pdf".to_owned(),
        page: Some(1),
        start,
        end: start + sentence.len(),
        quote: sentence.to_owned(),
        aligned: true,
        value_bytes: Some((at, at + value.len())),
        heading: Some("Pricing".to_owned()),
        tie: Tie::Names,
    };
    FieldRecord {
        value: Some(value.to_owned()),
        normal: None,
        status: Status::Found,
        confidence: Some(Confidence::High),
        rule: Decided::Only,
        evidence: Some(evidence),
        ..FieldRecord::default()
    }
}

fn record(company: &str, facility: &str, fields: Vec<(&str, FieldRecord)>) -> Record {
    Record {
        company: company.to_owned(),
        facility: facility.to_owned(),
        facility_type: Some("term loan".to_owned()),
        is_company: false,
        source_files: vec!["deed.pdf".to_owned()],
        language: Some("eng".to_owned()),
        confidence_score: 0.9,
        fields: fields.into_iter().map(|(name, field)| (name.to_owned(), field)).collect(),
        findings: vec![],
        cuts: vec![],
    }
}

/// Two records: a value in its sentence, one that is not in its, one that is not there; and words that would be markup.
fn sample() -> (Vec<Record>, Vec<Company>) {
    let text = format!(
        "Pricing.\n\nThe margin of Facility A is 2.75% per annum. {}\n\nKelmore Bank is the agent. {HOSTILE}\n\nFacility B \
         is repaid in May 2031.",
        "The land is level. ".repeat(60)
    );
    let not_aligned = |mut field: FieldRecord| {
        let evidence = field.evidence.as_mut().unwrap();
        (evidence.aligned, evidence.value_bytes) = (false, None);
        field.value = Some(HOSTILE.to_owned());
        field.others =
            vec![Other { value: "3%".to_owned(), times: 1, why: "fewer windows".to_owned(), evidence: None }];
        field
    };
    let nothing = || FieldRecord { status: Status::NotFound, ..FieldRecord::default() };
    let first = record(
        "Acme",
        "Facility A",
        vec![
            ("margin", found(&text, "The margin of Facility A is 2.75% per annum.", "2.75%")),
            ("agent", not_aligned(found(&text, "Kelmore Bank is the agent.", "Kelmore Bank"))),
            ("maturity", nothing()),
        ],
    );
    let second = record(
        "Acme",
        HOSTILE,
        vec![
            ("margin", nothing()),
            ("maturity", found(&text, "Facility B is repaid in May 2031.", "May 2031")),
        ],
    );
    (vec![first, second], vec![company("Acme", &text)])
}

#[test]
fn nothing_that_a_document_says_is_markup() {
    let (records, companies) = sample();
    let page = page(&schema(), &records, &companies);
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(!page.contains("<img") && !page.contains("<!--") && !page.contains('\u{2028}'));
    for address in ["http://", "https://", "url(", "@import", "src="] {
        let outside = page.split("id=\"data\">").next().unwrap();
        assert!(!outside.contains(address), "{address}");
    }
    let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["records"][1]["facility"], HOSTILE);
}

#[test]
fn a_text_is_whole_and_its_evidence_marked() {
    let (records, companies) = sample();
    let data = data(&schema(), &records, &companies, false);
    let pieces = data["files"][0]["pieces"].as_array().unwrap();
    let text: String = pieces.iter().map(|piece| piece["text"].as_str().unwrap()).collect();
    assert_eq!(text, companies[0].sources[0].document.text);
    let mark = &data["records"][0]["fields"][0]["at"]["mark"];
    let holding = |key: &str| -> Vec<&str> {
        let pieces = pieces.iter().filter(|piece| piece[key].as_array().is_some_and(|of| of.contains(mark)));
        pieces.map(|piece| piece["text"].as_str().unwrap()).collect()
    };
    assert_eq!(holding("of"), ["The margin of Facility A is ", "2.75%", " per annum."]);
    assert_eq!(holding("value"), ["2.75%"]);
    assert_eq!(pieces[0]["page"], 1);
}

/// Of very large companies the page has what stands around evidence, and says how much it leaves out.
#[test]
fn excerpts_say_what_they_leave_out() {
    let text = format!("{} The margin is 2%. {}", "é ".repeat(9000), "x ".repeat(9000));
    let records = [record("Acme", "A", vec![("margin", found(&text, "The margin is 2%.", "2%"))])];
    let companies = [company("Acme", &text)];
    let data = data(&schema(), &records, &companies, true);
    let pieces = data["files"][0]["pieces"].as_array().unwrap();
    let shown: usize = pieces.iter().filter_map(|piece| piece["text"].as_str()).map(str::len).sum();
    let left_out: u64 = pieces.iter().filter_map(|piece| piece["left_out"].as_u64()).sum();
    assert_eq!(shown + left_out as usize, text.len());
    assert!((4000..4100).contains(&shown), "{shown}");
}

/// Says what was not tested, and why.
#[expect(
    clippy::disallowed_methods,
    reason = "the product resolves settings once; its tests are not the product"
)]
fn skip(why: &str) {
    println!("skipped: {why}");
    if let Some(path) = std::env::var_os("HAUL_TEST_SKIPS") {
        let mut file = fs::File::options().append(true).create(true).open(path).unwrap();
        writeln!(file, "{why}").unwrap();
    }
}

/// Presses keys in a real browser and reads what is shown then.
#[test]
fn a_browser_shows_it_and_obeys_the_keys() {
    let Some(browser) = PLACES.iter().map(Path::new).find(|path| path.exists()) else {
        skip("the page in a browser: there is no chromium");
        return;
    };
    let (records, companies) = sample();
    let press = r##"<script>
        const said = [document.querySelectorAll(".field").length + " fields"];
        const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
        const say = () => said.push($("place").textContent + ": " + [...document.querySelectorAll("#source .current")].map((mark) => mark.textContent).join("|"));
        say(); press("j"); say(); press("k"); say(); press("n"); press("j"); say(); press("n"); press("p"); say();
        document.querySelector("input[data-kind=FOUND]").click(); say();
        said.push(document.querySelectorAll(".field").length + " fields");
        said.push("images " + document.images.length);
        document.getElementById("records").prepend(Object.assign(document.createElement("pre"), { id: "said", textContent: said.join(" ; ") }));
        </script>"##;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("review.html");
    let whole = page(&schema(), &records, &companies);
    fs::write(&file, whole.replace("</body>", &format!("{press}</body>"))).unwrap();
    let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"])
        .arg(profile)
        .arg(format!("file://{}", file.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let said = dom.split("id=\"said\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    let said: Vec<&str> = said.unwrap_or_else(|| panic!("{dom}")).split(" ; ").collect();
    assert_eq!(
        said,
        [
            "5 fields",
            "1 of 5: The margin of Facility A is |2.75%| per annum.",
            "2 of 5: Kelmore Bank is the agent.",
            "1 of 5: The margin of Facility A is |2.75%| per annum.",
            "5 of 5: Facility B is repaid in |May 2031|.",
            "1 of 5: The margin of Facility A is |2.75%| per annum.",
            "1 of 3: Kelmore Bank is the agent.",
            "3 fields",
            "images 0",
        ]
    );
    assert!(dom.contains("<title>Acme: records</title>"), "a document must not run");
}

#[test]
fn fields_of_another_schema_are_shown_as_well() {
    let record = record("Acme", "A", vec![("rating", FieldRecord::default())]);
    let mut marks = Marks { by_file: BTreeMap::new(), count: 0 };
    assert_eq!(of_record(&schema(), &record, &mut marks)["fields"][0]["label"], "rating");
}
