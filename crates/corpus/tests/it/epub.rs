//! Books: reading order, tables of contents, protection, damage and bombs.

use std::io::{Cursor, Write};

use haul_corpus::document::{Document, Format};
use haul_corpus::limits::Limits;
use haul_corpus::verdict::{ParseFailure, Verdict};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::{outline, pairs, parse_bytes, verdict_on};

const CONTAINER: &str = r#"<?xml version="1.0"?><container><rootfiles>
    <rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"#;

type Files = Vec<(String, Vec<u8>)>;

fn zip(files: &Files) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A book whose spine is `spine`; its manifest lists the pages the other way round.
fn book(pages: &[(&str, &str)], spine: &[&str], more_manifest: &str) -> Files {
    let items: String = pages
        .iter()
        .rev()
        .map(|(name, _)| format!(r#"<item id="{name}" href="{name}" media-type="application/xhtml+xml"/>"#))
        .collect();
    let itemrefs: String = spine.iter().map(|name| format!(r#"<itemref idref="{name}"/>"#)).collect();
    let opf = format!(
        r#"<?xml version="1.0"?><!DOCTYPE package [<!ENTITY x "y">]>
        <package version="3.0" unique-identifier="uid"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
        <dc:identifier opf:scheme="ISBN">978-3</dc:identifier>
        <dc:identifier id="uid">urn:uuid:1234</dc:identifier>
        <dc:title>A &amp; B</dc:title><dc:creator opf:role="ill">Nobody</dc:creator>
        <dc:creator opf:role="aut">Ann
            Author</dc:creator><dc:creator>Bob</dc:creator><dc:language>en</dc:language>
        <dc:subject>x</dc:subject><dc:subject>y</dc:subject>
        <meta name="calibre:series" content="Sea"/></metadata>
        <manifest>{items}{more_manifest}</manifest><spine toc="ncx">{itemrefs}</spine></package>"#
    );
    let mut files = vec![
        ("mimetype".to_owned(), b"application/epub+zip".to_vec()),
        ("META-INF/container.xml".to_owned(), CONTAINER.into()),
        ("OEBPS/content.opf".to_owned(), opf.into()),
    ];
    files.extend(pages.iter().map(|(name, body)| (format!("OEBPS/{name}"), page(body).into())));
    files
}

fn page(body: &str) -> String {
    format!(
        r#"<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head>
        <body>{body}</body></html>"#
    )
}

fn plain_book() -> Files {
    book(
        &[("a.xhtml", "<p>First page.</p>"), ("b.xhtml", "<p>Second page.</p>")],
        &["a.xhtml", "b.xhtml"],
        "",
    )
}

fn with(mut files: Files, name: &str, content: &[u8]) -> Files {
    files.push((name.to_owned(), content.to_vec()));
    files
}

fn read(files: &Files) -> Result<Document, ParseFailure> {
    parse_bytes(&zip(files), Format::Epub, &Limits::DEFAULT)
}

fn verdict(files: &Files) -> Verdict {
    verdict_on(&zip(files), Format::Epub, &Limits::DEFAULT).0
}

const NAV_ITEM: &str =
    r#"<item id="nav" href="toc/nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>"#;
const NCX_ITEM: &str = r#"<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>"#;

const PAGES: [(&str, &str); 4] = [
    ("cover.xhtml", "<p>Front matter</p>"),
    ("part one.xhtml", "<h1>Part I</h1>"),
    ("c1.xhtml", "<h2 id='one'>One</h2><p>first</p><p>split <a id='two'/>here</p><h2>Two</h2><p>second</p>"),
    ("rest.xhtml", "<p>goes on</p>"),
];
const SPINE: [&str; 4] = ["cover.xhtml", "part one.xhtml", "c1.xhtml", "rest.xhtml"];

#[test]
fn spine_order_and_nested_navigation() {
    let nav = r##"<html xmlns:epub="x"><body>
        <nav epub:type="landmarks"><ol><li><a href="../cover.xhtml">Wrong</a></li></ol></nav>
        <nav epub:type="toc"><h1>Contents</h1><ol>
        <li><a href="../part%20one.xhtml">Part <i>I</i></a><ol>
            <li><a href="../c1.xhtml#one">One</a></li>
            <li><span>Unlinked</span><ol><li><a href="../c1.xhtml#two">Two&nbsp;&amp; more</a></li></ol></li>
            <li><a href="../c1.xhtml#nowhere">Gone</a></li>
            <li><a href="http://example.org/c1.xhtml">Remote</a></li>
        </ol></li></ol></nav></body></html>"##;
    let files = with(book(&PAGES, &SPINE, NAV_ITEM), "OEBPS/toc/nav.xhtml", nav.as_bytes());
    let document = read(&files).unwrap();
    assert_eq!(
        outline(&document),
        pairs(&[
            ("", "Front matter"),
            ("Part I > One", "Part I One first split here"),
            ("Part I > Unlinked > Two & more", "Two second"),
            ("Part I > Unlinked > Two & more", "goes on"),
        ])
    );
    let hrefs: Vec<_> = document.chapters.iter().filter_map(|c| c.href.as_deref()).collect();
    assert_eq!(hrefs, ["OEBPS/cover.xhtml", "OEBPS/c1.xhtml#one", "OEBPS/c1.xhtml#two", "OEBPS/rest.xhtml"]);
}

#[test]
fn ncx_of_epub_2() {
    let ncx = r#"<?xml version="1.0"?><!DOCTYPE ncx PUBLIC "-//NISO//DTD ncx 2005-1//EN"
            "http://www.daisy.org/z3986/2005/ncx-2005-1.dtd">
        <ncx><docTitle><text>Ignored</text></docTitle><navMap>
        <navPoint><navLabel><text>Cover</text></navLabel><content src="COVER.xhtml"/></navPoint>
        <navPoint><navLabel><text>Part I</text></navLabel><content src="part%20one.xhtml"/>
            <navPoint><navLabel><text>One</text></navLabel><content src="c1.xhtml"/></navPoint>
            <navPoint><navLabel><text>Two</text></navLabel><content src="c1.xhtml#two"/></navPoint>
        </navPoint></navMap></ncx>"#;
    let document = read(&with(book(&PAGES, &SPINE, NCX_ITEM), "OEBPS/toc.ncx", ncx.as_bytes())).unwrap();
    assert_eq!(
        outline(&document),
        pairs(&[
            ("Cover", "Front matter"),
            ("Part I > One", "Part I One first split here"),
            ("Part I > Two", "Two second"),
            ("Part I > Two", "goes on"),
        ])
    );
}

#[test]
fn the_deepest_of_several_entries_names_a_place() {
    let ncx = r#"<ncx><navMap><navPoint><navLabel><text>Part</text></navLabel><content src="a.xhtml"/>
        <navPoint><navLabel><text>One</text></navLabel><content src="a.xhtml#x"/></navPoint></navPoint>
        <navPoint><navLabel><text>Gone</text></navLabel><content src="b.xhtml#gone"/></navPoint>
        <navPoint><navLabel><text>B</text></navLabel><content src="b.xhtml"/></navPoint></navMap></ncx>"#;
    let pages = [("a.xhtml", "<p id='x'>first</p>"), ("b.xhtml", "<p>second</p>")];
    let files = with(book(&pages, &["a.xhtml", "b.xhtml"], NCX_ITEM), "OEBPS/toc.ncx", ncx.as_bytes());
    assert_eq!(outline(&read(&files).unwrap()), pairs(&[("Part > One", "first"), ("B", "second")]));
}

#[test]
fn without_a_table_of_contents_headings_make_chapters() {
    let document = read(&book(&PAGES, &SPINE, "")).unwrap();
    assert_eq!(
        outline(&document),
        pairs(&[
            ("", "Front matter"),
            ("Part I > One", "Part I One first split here"),
            ("Part I > Two", "Two second goes on"),
        ])
    );
}

#[test]
fn metadata_of_the_package() {
    let document = read(&plain_book()).unwrap();
    assert_eq!(document.title.as_deref(), Some("A & B"));
    assert_eq!(document.authors, ["Ann Author", "Bob"]);
    assert_eq!(document.language.as_deref(), Some("en"));
    let identifiers = document.identifiers.iter().map(|i| (i.scheme.as_deref(), i.value.as_str()));
    assert_eq!(identifiers.collect::<Vec<_>>(), [(None, "urn:uuid:1234"), (Some("ISBN"), "978-3")]);
    let metadata = serde_json::json!({"subject": ["x", "y"], "series": "Sea"});
    assert_eq!(serde_json::Value::Object(document.metadata), metadata);
}

#[test]
fn references_are_found_by_folded_case_and_missing_documents_are_counted() {
    let mut files = plain_book();
    files[3].0 = "OEBPS/A.XHTML".to_owned();
    assert_eq!(read(&files).unwrap().text, "First page.\n\nSecond page.");
    files.remove(3);
    let document = read(&files).unwrap();
    assert_eq!((document.text.as_str(), document.furniture.missing_documents), ("Second page.", 1));
    files.remove(3);
    assert_eq!(verdict(&files), Verdict::Corrupt);
}

fn encryption(algorithm: &str, uri: &str) -> String {
    format!(
        r#"<encryption xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:EncryptedData>
        <enc:EncryptionMethod Algorithm="{algorithm}"/><enc:CipherData>
        <enc:CipherReference URI="{uri}"/></enc:CipherData></enc:EncryptedData></encryption>"#
    )
}

#[test]
fn obfuscated_fonts_are_no_protection_and_encrypted_documents_are() {
    let protected =
        |algorithm, uri| with(plain_book(), "META-INF/encryption.xml", encryption(algorithm, uri).as_bytes());
    for algorithm in ["http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"] {
        assert!(read(&protected(algorithm, "OEBPS/fonts/a.otf")).is_ok());
    }
    let aes = "http://www.w3.org/2001/04/xmlenc#aes256-cbc";
    assert_eq!(verdict(&protected(aes, "OEBPS/b.xhtml")), Verdict::Drm);
    for license in ["META-INF/rights.xml", "META-INF/license.lcpl", "META-INF/sinf.xml"] {
        assert_eq!(verdict(&with(plain_book(), license, b"<x/>")), Verdict::Drm);
    }
}

#[test]
fn books_without_text() {
    let scanned = book(&[("a.xhtml", "<img src='1.png'/><svg/>")], &["a.xhtml"], "");
    let (verdict_of_scan, why) = verdict_on(&zip(&scanned), Format::Epub, &Limits::DEFAULT);
    assert_eq!((verdict_of_scan, why.as_str()), (Verdict::NeedsOcr, "no text, but 2 images"));
    assert_eq!(verdict(&book(&[("a.xhtml", "<p>&nbsp;</p>")], &["a.xhtml"], "")), Verdict::Empty);
    assert_eq!(verdict(&book(&[("a.xhtml", "x")], &[], "")), Verdict::Corrupt);
    assert_eq!(verdict(&vec![("word/document.xml".into(), b"x".to_vec())]), Verdict::Unsupported);
}

#[test]
fn declared_encodings_of_pages() {
    let mut files = plain_book();
    files[3].1 = b"<?xml version='1.0' encoding='windows-1252'?><p>na\xefve</p>".to_vec();
    files[4].1 = b"<p>caf\xe9</p>".to_vec();
    let document = read(&files).unwrap();
    assert_eq!(document.text, "naïve\n\ncafé");
    assert_eq!((document.furniture.guessed_encodings, document.furniture.replaced_characters), (1, 0));
}

#[test]
fn bombs_are_too_large_whatever_they_declare() {
    // 64 MiB of spaces deflate 1,000 to 1.
    let bomb = vec![b' '; 64 << 20];
    let mut files = plain_book();
    files[4].1 = bomb;
    let archive = zip(&files);
    let (verdict, why) = verdict_on(&archive, Format::Epub, &Limits::DEFAULT);
    assert_eq!(verdict, Verdict::TooLarge, "{why}");
    assert!(why.contains("b.xhtml") && why.contains("200 to 1"), "{why}");

    // The same with a declared size of 1 byte, in the local header and in the directory.
    let mut lying = archive;
    let declared = (64u32 << 20).to_le_bytes();
    let found: Vec<usize> =
        lying.windows(4).enumerate().filter(|(_, w)| *w == declared).map(|(at, _)| at).collect();
    assert_eq!(found.len(), 2);
    for at in found {
        lying[at..at + 4].copy_from_slice(&1u32.to_le_bytes());
    }
    let (verdict, why) = verdict_on(&lying, Format::Epub, &Limits::DEFAULT);
    assert!(matches!(verdict, Verdict::TooLarge | Verdict::Corrupt), "{verdict} {why}");
}

#[test]
fn limits_hold_at_the_limit_and_refuse_one_more() {
    let files = plain_book();
    let archive = zip(&files);
    let longest = files.iter().map(|(_, content)| content.len() as u64).max().unwrap();
    let total = files.iter().map(|(_, content)| content.len() as u64).sum::<u64>();
    let verdict_under =
        |limits: &Limits| parse_bytes(&archive, Format::Epub, limits).err().map(|f| f.verdict);
    type Set = fn(&mut Limits, u64);
    let cases: [(&str, Set, u64); 4] = [
        ("entries", |limits, n| limits.archive_entries = n, files.len() as u64),
        ("entry", |limits, n| limits.entry_bytes = n, longest),
        ("archive", |limits, n| limits.archive_bytes = n, total),
        ("text", |limits, n| limits.text_bytes = n, "First page.\n\nSecond page.".len() as u64),
    ];
    for (name, set, limit) in cases {
        let mut limits = Limits::DEFAULT;
        set(&mut limits, limit);
        assert_eq!(verdict_under(&limits), None, "{name}");
        set(&mut limits, limit - 1);
        assert_eq!(verdict_under(&limits), Some(Verdict::TooLarge), "{name}");
    }
}

#[test]
fn an_archive_of_too_many_entries_is_refused() {
    let mut files = plain_book();
    files.extend((files.len()..20_001).map(|index| (format!("{index}"), Vec::new())));
    assert_eq!(verdict(&files), Verdict::TooLarge);
    files.pop();
    assert!(read(&files).is_ok());
}

/// Real readers repair this: a download cut in its last bytes, a directory written over.
#[test]
fn a_broken_directory_is_read_by_its_local_headers() {
    let archive = zip(&plain_book());
    let read = |bytes: &[u8]| parse_bytes(bytes, Format::Epub, &Limits::DEFAULT);
    let cut = read(&archive[..archive.len() - 30]).unwrap();
    assert_eq!(cut.text, "First page.\n\nSecond page.");
    let half = archive.windows(12).position(|window| window == b"OEBPS/b.xhtm").unwrap();
    let (verdict, why) = verdict_on(&archive[..half], Format::Epub, &Limits::DEFAULT);
    assert_eq!(
        (verdict, why.as_str()),
        (Verdict::Corrupt, "1 of 2 documents of the spine are not in the archive")
    );
    assert_eq!(verdict_on(b"PK\x03\x04 and noise", Format::Epub, &Limits::DEFAULT).0, Verdict::Corrupt);
}

/// Without a directory no size is declared, and what has been inflated is all there is to count.
#[test]
fn the_inflated_bytes_of_all_entries_are_counted() {
    let files = plain_book();
    let archive = zip(&files);
    let read = |archive_bytes| {
        let limits = Limits { archive_bytes, ..Limits::DEFAULT };
        parse_bytes(&archive[..archive.len() - 30], Format::Epub, &limits)
            .err()
            .map(|failure| failure.verdict)
    };
    let read_bytes = files.iter().skip(1).map(|(_, content)| content.len() as u64).sum::<u64>();
    assert_eq!(read(read_bytes), None);
    assert_eq!(read(read_bytes - 1), Some(Verdict::TooLarge));
}

/// Every byte of a book damaged in turn: a verdict or a text each time, and never a panic.
#[test]
fn any_damaged_byte_has_a_verdict() {
    let archive = zip(&plain_book());
    let mut verdicts = std::collections::BTreeMap::new();
    for at in 0..archive.len() {
        let mut damaged = archive.clone();
        damaged[at] ^= 0x55;
        let result = parse_bytes(&damaged, Format::Epub, &Limits::DEFAULT);
        *verdicts.entry(result.map_or_else(|f| f.verdict, |_| Verdict::Ok)).or_insert(0) += 1;
    }
    assert!(verdicts[&Verdict::Corrupt] > archive.len() / 10, "{verdicts:?}");
    assert!(!verdicts.contains_key(&Verdict::Failed), "{verdicts:?}");
}
