//! Text, Markdown, HTML and JSONL files, and files that are not what their names say.

use std::ops::ControlFlow;

use haul_corpus::document::Format;
use haul_corpus::limits::Limits;
use haul_corpus::parse::{Parsed, parse};
use haul_corpus::readers::Setup;
use haul_corpus::verdict::Verdict;

use crate::{outline, pairs, parse_all, parse_bytes, verdict_on};

const TEXT_FORMATS: [Format; 3] = [Format::Text, Format::Markdown, Format::Html];

#[test]
fn files_without_text_are_empty() {
    for format in TEXT_FORMATS {
        for content in [&b""[..], b" \n\t\r\n", b"\xef\xbb\xbf\n", "\u{a0}\u{2003}".as_bytes()] {
            assert_eq!(verdict_on(content, format, &Limits::DEFAULT).0, Verdict::Empty, "{format:?}");
        }
    }
    for format in [Format::Epub, Format::JsonLines] {
        assert_eq!(verdict_on(b"", format, &Limits::DEFAULT).0, Verdict::Empty, "{format:?}");
    }
}

#[test]
fn content_that_its_name_does_not_say_is_unsupported() {
    for (content, kind) in
        [(&b"PK\x03\x04.."[..], "zip"), (b"%PDF-1.4\n", "PDF"), (b"\x89PNG\r\n", "PNG"), (b"a\0b", "binary")]
    {
        for format in TEXT_FORMATS.into_iter().chain([Format::JsonLines]) {
            let (verdict, why) = verdict_on(content, format, &Limits::DEFAULT);
            assert_eq!(verdict, Verdict::Unsupported);
            assert!(why.contains(kind) && why.contains(format.name()), "{why}");
        }
    }
    let (verdict, why) = verdict_on(b"<html><p>x", Format::Epub, &Limits::DEFAULT);
    assert_eq!((verdict, why.as_str()), (Verdict::Unsupported, "named as epub, but its content is HTML"));
}

#[test]
fn a_missing_file_has_failed_and_a_folder_is_unsupported() {
    let folder = tempfile::tempdir().unwrap();
    let verdict =
        |path: &std::path::Path| parse_all(path, Format::Text, &Limits::DEFAULT).unwrap_err().verdict;
    assert_eq!(verdict(&folder.path().join("absent.txt")), Verdict::Failed);
    assert_eq!(verdict(folder.path()), Verdict::Unsupported);
}

#[test]
fn text_files_have_a_size_limit() {
    let limits = Limits { text_bytes: 8, ..Limits::DEFAULT };
    for format in TEXT_FORMATS {
        assert_eq!(parse_bytes(b"12345678", format, &limits).unwrap().text, "12345678");
        assert_eq!(verdict_on(b"123456789", format, &limits).0, Verdict::TooLarge);
    }
}

#[test]
fn the_language_of_the_text_is_found() {
    let german =
        "Es war einmal ein kleines Mädchen, das wohnte mit seiner Mutter am Rande des Waldes. ".repeat(5);
    let document = parse_bytes(german.as_bytes(), Format::Text, &Limits::DEFAULT).unwrap();
    assert_eq!((document.detected_language.as_deref(), document.language), (Some("deu"), None));
    assert_eq!(parse_bytes(b"ok", Format::Text, &Limits::DEFAULT).unwrap().detected_language, None);
}

#[test]
fn headings_of_html_make_chapters() {
    let page = b"<title>T</title><p>intro<h1>A</h1><h2>B</h2><p>b<h2>C</h2><p>c<h4>deep</h4><h1>D</h1><p>d";
    let document = parse_bytes(page, Format::Html, &Limits::DEFAULT).unwrap();
    assert_eq!(
        outline(&document),
        pairs(&[("", "intro"), ("A > B", "A B b"), ("A > C", "C c deep"), ("D", "D d")])
    );
    assert_eq!(document.title.as_deref(), Some("T"));
}

fn json_lines(content: &[u8], limits: &Limits) -> Vec<Parsed> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    parse_all(file.path(), Format::JsonLines, limits).unwrap()
}

/// Each document's part, and its text or its verdict and reason.
fn summary(documents: &[Parsed]) -> Vec<(String, String)> {
    let documents = documents.iter().map(|parsed| {
        let text =
            parsed.document.as_ref().map_or_else(ToString::to_string, |document| document.text.clone());
        (parsed.part.clone().unwrap(), text)
    });
    documents.collect()
}

#[test]
fn each_line_of_jsonl_is_a_document() {
    let content = "\u{feff}{\"id\":\"a\",\"title\":\"T\",\"text\":\"one\",\"year\":1950,\"tags\":[\"x\"]}\r\n\n{\"text\":\"two\"}\n{\"id\":7,\"text\":\"three\"}";
    let documents = json_lines(content.as_bytes(), &Limits::DEFAULT);
    assert_eq!(summary(&documents), pairs(&[("a", "one"), ("line 3", "two"), ("7", "three")]));
    let first = documents[0].document.as_ref().unwrap();
    assert_eq!(first.title.as_deref(), Some("T"));
    assert_eq!(
        serde_json::Value::Object(first.metadata.clone()),
        serde_json::json!({"year": 1950, "tags": ["x"]})
    );
}

#[test]
fn a_bad_line_is_one_failed_document_and_the_others_go_on() {
    let lines: [&[u8]; 9] = [
        b"{\"id\":\"a\",\"text\":\"good\"}",
        b"{\"text\": oops}",
        b"[1]",
        b"{\"id\":[],\"text\":\"x\"}",
        b"{\"text\":5}",
        b"{\"id\":\"b\"}",
        b"{\"id\":\"a\",\"text\":\"again\"}",
        b"{\"id\":\"c\",\"text\":\"\xff\"}",
        b"{\"id\":\"d\",\"text\":\" \"}",
    ];
    let documents = json_lines(&lines.join(&b'\n'), &Limits::DEFAULT);
    let found = summary(&documents);
    let reasons = [
        ("a", "good"),
        ("line 2", "corrupt: line 2: expected value"),
        ("line 3", "corrupt: line 3: invalid type: sequence"),
        ("line 4", "corrupt: line 4: the id is neither text nor a number: a list"),
        ("line 5", "corrupt: line 5: \"text\" is not text but a number"),
        ("b", "corrupt: line 6: no \"text\""),
        ("line 7", "corrupt: line 7: the id \"a\" is already that of an earlier line"),
        ("line 8", "corrupt: line 8: invalid unicode"),
        ("d", "empty: line 9: no text"),
    ];
    assert_eq!(found.len(), reasons.len());
    for ((part, text), (expected_part, expected)) in found.iter().zip(reasons) {
        assert!(part == expected_part && text.starts_with(expected), "{part}: {text}");
    }
}

/// A bad line 2 had the part "2", as a good line with the id 2 has: in a library one overwrote the other.
#[test]
fn no_id_is_the_part_of_a_nameless_line() {
    let content = r#"{"id": 2, "text": "two"}
oops
{"text": "nameless"}
{"id": "line 2", "text": "like line 2"}
{"id": "id line 2", "text": "like an id like line 2"}
{"id": "line of duty", "text": "a film"}
{"id": "line 3", "text": "like line 3"}"#;
    let documents = json_lines(content.as_bytes(), &Limits::DEFAULT);
    let found: Vec<_> = documents.iter().map(|parsed| parsed.part.as_deref().unwrap()).collect();
    let expected = ["2", "line 2", "line 3", "id line 2", "id id line 2", "line of duty", "id line 3"];
    assert_eq!(found, expected);
    assert_eq!(documents.iter().filter(|parsed| parsed.document.is_err()).count(), 1);
}

#[test]
fn a_line_over_the_limit_is_skipped_to_its_end() {
    let limits = Limits { text_bytes: 20, ..Limits::DEFAULT };
    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(100_000));
    let content = format!("{{\"text\":\"a\"}}\n{long}\n{{\"text\":\"b\"}}\n{long}");
    let found = summary(&json_lines(content.as_bytes(), &limits));
    let why = |line| format!("too_large: line {line} has more than 20 bytes");
    let expected =
        [("line 1", "a".to_owned()), ("line 2", why(2)), ("line 3", "b".to_owned()), ("line 4", why(4))];
    assert_eq!(found, expected.map(|(part, text)| (part.to_owned(), text)));
}

#[test]
fn reading_ends_where_the_caller_breaks_off() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"text\":\"a\"}\n".repeat(10)).unwrap();
    let mut count = 0;
    parse(file.path(), Format::JsonLines, &Setup::built_in(&Limits::DEFAULT), &mut |_| {
        count += 1;
        if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!(count, 3);
}
