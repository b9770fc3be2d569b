//! Manuscripts: what an edit changes, and that everything else stays byte for byte.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use haul_corpus::manuscript::{
    Manuscript, ManuscriptError, ManuscriptFormat, PassageKind, RefusedEdit, Written,
};
use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use ManuscriptFormat::{Docx, Epub, Html, Markdown, Text};

fn read(text: &str, format: ManuscriptFormat) -> Manuscript {
    Manuscript::read(text.as_bytes().to_vec(), format).unwrap()
}

fn texts(manuscript: &Manuscript) -> Vec<&str> {
    manuscript.passages().iter().map(|passage| passage.text.as_str()).collect()
}

/// Applies the same replacement to every passage that has it.
fn replace(manuscript: &Manuscript, from: &str, to: &str) -> Written {
    let edit = |text: &str| text.contains(from).then(|| text.replace(from, to));
    let edits: Vec<_> = manuscript.passages().iter().map(|passage| edit(&passage.text)).collect();
    manuscript.write(&edits).unwrap()
}

fn replaced(text: &str, format: ManuscriptFormat, from: &str, to: &str) -> String {
    let written = replace(&read(text, format), from, to);
    assert_eq!(written.refused, [], "{text}");
    String::from_utf8(written.bytes).unwrap()
}

const MARKDOWN: &str = "---\ntitle: teh notes\n---\n\n# Teh harbour {#top}\n\nTeh *old* quay, see [teh plan](https://a.example/teh 'teh title'), is\n`teh` wide; ![teh crane](crane.png) stands.  \nTeh end. <https://teh.example>\n\n1. Teh first\n2. **Teh** second\n   - teh nested one\n\n> Teh quoted line\n> goes on.\n\n| teh a | b |\n|:------|--:|\n| teh c | `teh` |\n\n```text\nteh code\n```\n\n    teh indented code\n\n<div>teh html</div>\n\nTeh last[^1] one.\n\n[^1]: Teh note.\n";

#[test]
fn markdown_keeps_all_but_its_prose() {
    let manuscript = read(MARKDOWN, Markdown);
    let kinds: Vec<_> = manuscript.passages().iter().map(|passage| passage.kind).collect();
    for kind in [PassageKind::Heading, PassageKind::ListItem, PassageKind::Quote, PassageKind::TableCell] {
        assert!(kinds.contains(&kind), "{kind:?} of {kinds:?}");
    }
    let written = replace(&read(MARKDOWN, Markdown), "teh", "the");
    assert_eq!(
        written.refused.iter().filter(|(_, why)| !matches!(why, RefusedEdit::Protected { .. })).count(),
        0
    );
    let text = String::from_utf8(written.bytes).unwrap();
    for kept in [
        "title: teh notes",
        "(https://a.example/teh 'teh title')",
        "`teh`",
        "![teh crane](crane.png)",
        "<https://teh.example>",
        "|:------|--:|",
        "```text\nteh code\n```",
        "    teh indented code",
        "<div>teh html</div>",
        "{#top}",
    ] {
        assert!(text.contains(kept), "{kept:?} of\n{text}");
    }
    for changed in ["[the plan]", "- the nested one", "| the a |", "| the c |"] {
        // A passage with code in it is refused as a whole where the edit would touch the code.
        assert!(text.contains(changed) || changed == "[the plan]", "{changed:?} of\n{text}");
    }
}

#[test]
fn a_word_changes_where_it_stands_and_lines_stay_broken() {
    let text = "One two *three* four\nfive six **seven eight** nine.\n";
    assert_eq!(replaced(text, Markdown, "five", "5"), "One two *three* four\n5 six **seven eight** nine.\n");
    assert_eq!(
        replaced(text, Markdown, "eight", "ate"),
        "One two *three* four\nfive six **seven ate** nine.\n"
    );
    assert_eq!(
        replaced(text, Markdown, "four five", "for five"),
        "One two *three* for\nfive six **seven eight** nine.\n"
    );
}

#[test]
fn an_edit_brings_no_markup_in() {
    let manuscript = read("Plain words here.\n\nAnd more.\n", Markdown);
    let edits = [Some("Plain *words* [here](x) `now`.".to_owned()), None];
    let written = manuscript.write(&edits).unwrap();
    let again = Manuscript::read(written.bytes.clone(), Markdown).unwrap();
    let text = String::from_utf8(written.bytes).unwrap();
    if written.refused.is_empty() {
        assert_eq!(texts(&again)[0], "Plain *words* [here](x) `now`.", "{text}");
    } else {
        assert_eq!(text, "Plain words here.\n\nAnd more.\n");
    }
    assert!(again.passages().iter().all(|passage| passage.protected.is_empty()), "{text}");
}

#[test]
fn code_in_a_sentence_may_not_change() {
    let manuscript = read("Run `make all` now and `make test` later.\n", Markdown);
    let passage = &manuscript.passages()[0];
    assert_eq!(passage.protected.len(), 2, "{passage:?}");
    let written = replace(&manuscript, "make all", "make none");
    assert!(matches!(written.refused[..], [(0, RefusedEdit::Protected { .. })]), "{:?}", written.refused);
    assert_eq!(written.bytes, b"Run `make all` now and `make test` later.\n");
    assert_eq!(replaced("Run `make all` now.\n", Markdown, "now", "soon"), "Run `make all` soon.\n");
}

const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>teh title</title><style>p { content: 'teh' }</style></head>\n<body class=\"teh\"><!-- teh comment --><h1>Teh head</h1>\n<p>Teh <b class='x'>bold</b> caf&eacute; &amp; teh<br/>bar &lt;teh&gt;.</p><pre>teh pre</pre>\n<script>teh()</script><ul><li>teh item</li></ul><p>teh <code>teh</code> end</body></html>\n";

#[test]
fn html_keeps_tags_entities_and_what_is_no_prose() {
    let written = replace(&read(PAGE, Html), "Teh", "The");
    assert_eq!(written.refused, []);
    assert_eq!(
        String::from_utf8(written.bytes).unwrap(),
        PAGE.replace("<h1>Teh", "<h1>The").replace("<p>Teh", "<p>The")
    );
    let text = replaced("<p>Fish &amp; chips &copy; here</p>", Html, "here", "< there & \"back\"");
    let again = read(&text, Html);
    assert_eq!(texts(&again), ["Fish & chips © < there & \"back\""], "{text}");
    assert!(text.starts_with("<p>Fish &amp; chips &copy; "), "{text}");
}

#[test]
fn plain_text_keeps_its_encoding_and_line_ends() {
    assert_eq!(
        replaced("\u{feff}Teh one\r\nand two.\r\n\r\n\tTeh other.", Text, "Teh", "The"),
        "\u{feff}The one\r\nand two.\r\n\r\n\tThe other."
    );
    let latin: Vec<u8> = [&b"Teh caf\xe9 is closed.\n\nTeh end.\n"[..]].concat();
    let manuscript = Manuscript::read(latin.clone(), Text).unwrap();
    assert_eq!(texts(&manuscript)[0].trim(), "Teh café is closed.");
    let written = replace(&manuscript, "Teh", "The");
    assert_eq!(written.bytes, b"The caf\xe9 is closed.\n\nThe end.\n");
    // A letter that the encoding lacks is refused by name, and nothing else is.
    let written =
        manuscript.write(&[Some("The café is 閉店.".to_owned()), Some("The end.".to_owned())]).unwrap();
    assert!(matches!(written.refused[..], [(0, RefusedEdit::Encoding { .. })]), "{:?}", written.refused);
    assert_eq!(written.bytes, b"Teh caf\xe9 is closed.\n\nThe end.\n");
}

fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        let method =
            if *name == "mimetype" { CompressionMethod::Stored } else { CompressionMethod::Deflated };
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Contents by name, and the names in their order.
fn unzipped(bytes: &[u8]) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).unwrap();
    let (mut files, mut order) = (BTreeMap::new(), vec![]);
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        let name = entry.name().unwrap().into_owned();
        let mut content = vec![];
        entry.read_to_end(&mut content).unwrap();
        order.push(name.clone());
        files.insert(name, content);
    }
    (files, order)
}

const OPF: &str = r#"<?xml version="1.0"?><package version="3.0" unique-identifier="u"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="u">1</dc:identifier><dc:title>Teh book</dc:title></metadata><manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/><item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/></manifest><spine><itemref idref="n"/><itemref idref="a"/></spine></package>"#;
const CONTAINER: &str = r#"<?xml version="1.0"?><container><rootfiles><rootfile full-path="content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"#;

#[test]
fn a_book_changes_in_its_chapters_alone() {
    let chapter = "<?xml version=\"1.0\"?><html xmlns=\"http://www.w3.org/1999/xhtml\"><head><title>Teh</title></head><body><p>Teh <i>first</i> line.</p></body></html>";
    let nav = "<html xmlns=\"http://www.w3.org/1999/xhtml\"><body><nav><ol><li><a href=\"a.xhtml\">Teh one</a></li></ol></nav></body></html>";
    let book = zipped(&[
        ("mimetype", b"application/epub+zip"),
        ("META-INF/container.xml", CONTAINER.as_bytes()),
        ("content.opf", OPF.as_bytes()),
        ("a.xhtml", chapter.as_bytes()),
        ("nav.xhtml", nav.as_bytes()),
        ("cover.png", b"\x89PNG teh"),
    ]);
    let manuscript = Manuscript::read(book.clone(), Epub).unwrap();
    let untouched = manuscript.write(&vec![None; manuscript.passages().len()]).unwrap();
    assert_eq!(untouched.bytes, book);
    let written = replace(&manuscript, "Teh", "The");
    assert_eq!(written.refused, []);
    let ((before, order), (after, new_order)) = (unzipped(&book), unzipped(&written.bytes));
    assert_eq!(order, new_order);
    for (name, content) in before {
        let wanted = match name.as_str() {
            "a.xhtml" => chapter.replace("<p>Teh", "<p>The").into_bytes(),
            _ => content,
        };
        assert_eq!(after[&name], wanted, "{name}");
    }
    assert_eq!(&written.bytes[30..38], b"mimetype", "the first entry, stored");
}

const WORD: &str = r#"<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t xml:space="preserve">Teh first </w:t></w:r><w:r><w:rPr><w:b/></w:rPr><w:t>bold teh</w:t></w:r><w:r><w:tab/><w:t> end.</w:t></w:r></w:p><w:p><w:del><w:r><w:delText>Teh gone</w:delText></w:r></w:del><w:r><w:instrText>Teh field</w:instrText></w:r><w:r><w:t>Teh last</w:t></w:r></w:p></w:body></w:document>"#;

#[test]
fn a_word_document_changes_in_its_runs_alone() {
    let types = r#"<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"#;
    let rels = r#"<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>"#;
    let document = zipped(&[
        ("[Content_Types].xml", types.as_bytes()),
        ("_rels/.rels", rels.as_bytes()),
        ("word/document.xml", WORD.as_bytes()),
        ("word/header1.xml", b"<w:hdr>Teh header</w:hdr>"),
    ]);
    let manuscript = Manuscript::read(document.clone(), Docx).unwrap();
    assert_eq!(manuscript.write(&vec![None; manuscript.passages().len()]).unwrap().bytes, document);
    let written = replace(&manuscript, "Teh", "The");
    assert_eq!(written.refused, []);
    let (after, _) = unzipped(&written.bytes);
    let text = String::from_utf8(after["word/document.xml"].clone()).unwrap();
    for kept in
        ["<w:delText>Teh gone</w:delText>", "<w:instrText>Teh field</w:instrText>", "<w:b/>", "<w:tab/>"]
    {
        assert!(text.contains(kept), "{kept} of {text}");
    }
    assert!(text.contains(">The first </w:t>") && text.contains(">The last</w:t>"), "{text}");
    assert_eq!(after["word/header1.xml"], b"<w:hdr>Teh header</w:hdr>");
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Every sample of the repository: without an edit it stays as it is, and one changed word changes nothing else.
#[test]
fn the_samples_come_back_byte_for_byte() {
    let mut seen = 0;
    for folder in ["samples/library", "samples/sources", "samples/manuscript"] {
        for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let Some(format) = ManuscriptFormat::from_path(&path) else { continue };
            let bytes = std::fs::read(&path).unwrap();
            let manuscript = Manuscript::read(bytes.clone(), format).unwrap();
            assert!(!manuscript.passages().is_empty(), "{}", path.display());
            let none = vec![None; manuscript.passages().len()];
            assert!(manuscript.write(&none).unwrap().bytes == bytes, "{}", path.display());
            let written = replace(&manuscript, " the ", " teh ");
            assert!(
                written.refused.len() <= manuscript.passages().len() / 20,
                "{}: {:?}",
                path.display(),
                written.refused
            );
            if matches!(format, Markdown | Text | Html) {
                let back =
                    replace(&Manuscript::read(written.bytes.clone(), format).unwrap(), " teh ", " the ");
                assert!(back.bytes == bytes, "{}: there and back", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen} samples");
}

#[test]
fn hostile_documents_end_by_name_or_are_left_alone_in_bounded_time() {
    let deep_quotes = "> ".repeat(50_000) + "teh\n";
    let deep_tags = "<div>".repeat(100_000) + "teh";
    let documents: Vec<(ManuscriptFormat, Vec<u8>)> = vec![
        (Markdown, deep_quotes.into_bytes()),
        (Markdown, "[".repeat(50_000).into_bytes()),
        (Markdown, "*a ".repeat(50_000).into_bytes()),
        (Markdown, "x".repeat(2 << 20).into_bytes()),
        (Html, deep_tags.into_bytes()),
        (Html, ("<p>".to_owned() + &"&amp;".repeat(200_000)).into_bytes()),
        (Html, ("<p ".to_owned() + &"a=b ".repeat(200_000)).into_bytes()),
        (Html, b"<p>teh <!-- no end".to_vec()),
        (Text, vec![0; 1 << 20]),
        (Text, vec![0xff; 1000]),
        (Epub, b"PK\x03\x04".to_vec()),
        (Epub, zipped(&[("mimetype", b"application/epub+zip")])),
        (Docx, zipped(&[("word/document.xml", b"<w:document><w:body><w:p><w:r><w:t>teh")])),
    ];
    for (number, (format, bytes)) in documents.into_iter().enumerate() {
        let start = Instant::now();
        match Manuscript::read(bytes.clone(), format) {
            Ok(manuscript) => {
                let none = vec![None; manuscript.passages().len()];
                assert!(manuscript.write(&none).unwrap().bytes == bytes, "document {number}");
            }
            Err(error) => {
                assert!(
                    !error.to_string().contains('\n') && !error.hint().is_empty(),
                    "document {number}: {error}"
                );
            }
        }
        assert!(start.elapsed() < Duration::from_secs(10), "document {number}: {:?}", start.elapsed());
    }
}

#[test]
fn a_book_that_inflates_is_refused() {
    let bomb = vec![b' '; 300 << 20];
    let book = zipped(&[
        ("mimetype", b"application/epub+zip"),
        ("META-INF/container.xml", CONTAINER.as_bytes()),
        ("content.opf", OPF.as_bytes()),
        ("a.xhtml", &bomb),
    ]);
    match Manuscript::read(book, Epub) {
        Err(ManuscriptError::Unreadable(_) | ManuscriptError::TooLarge { .. }) => {}
        Err(other) => panic!("{other}"),
        Ok(manuscript) => assert!(manuscript.passages().is_empty(), "it was read"),
    }
}

/// Words with marks around some of them, as Markdown has them.
fn prose() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        6 => "[a-z]{1,8}",
        1 => "[a-z]{1,6}".prop_map(|word| format!("*{word}*")),
        1 => "[a-z]{1,6}".prop_map(|word| format!("**{word}**")),
        1 => "[a-z]{1,6}".prop_map(|word| format!("`{word}`")),
        1 => "[a-z]{1,6}".prop_map(|word| format!("[{word}](https://{word}.example)")),
    ];
    prop::collection::vec((word, prop_oneof![4 => Just(" "), 1 => Just("\n")]), 1..30).prop_map(|words| {
        let mut text: String = words.iter().flat_map(|(word, blank)| [word.as_str(), *blank]).collect();
        text.truncate(text.trim_end().len());
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The new text is read back from what was written, and what is not text has not changed.
    #[test]
    fn an_edit_is_read_back_or_refused(
        paragraphs in prop::collection::vec(prose(), 1..4),
        at in any::<prop::sample::Index>(),
        word in "[a-z]{1,6}",
        mode in 0..3,
    ) {
        let source = paragraphs.join("\n\n") + "\n";
        let manuscript = Manuscript::read(source.clone().into_bytes(), Markdown).unwrap();
        prop_assume!(!manuscript.passages().is_empty());
        let number = at.index(manuscript.passages().len());
        let mut words: Vec<&str> = manuscript.passages()[number].text.split(' ').collect();
        let place = at.index(words.len());
        match mode {
            0 => words[place] = &word,
            1 => words.insert(place, &word),
            _ if words.len() > 1 => { words.remove(place); }
            _ => {}
        }
        let wanted = words.join(" ");
        let mut edits = vec![None; manuscript.passages().len()];
        edits[number] = Some(wanted.clone());
        let written = manuscript.write(&edits).unwrap();
        let again = Manuscript::read(written.bytes.clone(), Markdown).unwrap();
        prop_assert_eq!(again.passages().len(), manuscript.passages().len());
        for (index, (old, new)) in manuscript.passages().iter().zip(again.passages()).enumerate() {
            let is_edited = index == number && written.refused.is_empty();
            prop_assert_eq!(&new.text, if is_edited { &wanted } else { &old.text });
        }
        let marks = |text: &str| text.matches(['*', '`', '[', ']', '(', ')']).count();
        prop_assert_eq!(marks(&source), marks(std::str::from_utf8(&written.bytes).unwrap()));
        if !written.refused.is_empty() {
            prop_assert_eq!(written.bytes, source.into_bytes());
        }
    }
}
