//! Files, models and libraries that are broken, lie or attack. Each ends in its verdict or a one-line error, at a
//! bounded price, and harms nothing beside it.

use std::ffi::OsStr;
use std::fs;
use std::io::{Cursor, ErrorKind, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use haul_corpus::limits::Limits;
use rusqlite::Connection;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::fixtures::{Home, Needs, copy_tree, full, samples, tiny_model};
use crate::pdfs::{Pdf, text};

const MIB: usize = 1 << 20;
/// All hostile files of the table together.
const TIME_MAX: Duration = Duration::from_secs(180);
/// Seconds of wall-clock time that one file may take its reader, and what may come on top of them.
const FILE_S_MAX: f64 = Limits::DEFAULT.wall_seconds as f64 + 10.0;
/// Stands in a file beside the corpus; entities of hostile books point there.
const SECRET: &str = "xyzzysecretxyzzy";

/// What hostile files reach for: a file beside the corpus, and a server.
struct Bait {
    secret: PathBuf,
    server: TcpListener,
}

impl Bait {
    fn new(home: &Home) -> Bait {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        Bait { secret: home.write("secret.txt", SECRET), server }
    }

    /// Entities of both.
    fn entities(&self) -> String {
        let (secret, url) = (self.secret.display(), self.url());
        format!(
            "<!ENTITY own SYSTEM \"file://{secret}\"><!ENTITY users SYSTEM \"file:///etc/passwd\">\
             <!ENTITY far SYSTEM \"{url}\"><!ENTITY % more SYSTEM \"file://{secret}\">%more;\
             <!ENTITY % most SYSTEM \"{url}/dtd\">%most;"
        )
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.local_addr().unwrap())
    }

    /// Nobody called; whoever did waits in the queue of the server.
    fn assert_uncalled(&self) {
        let called = self.server.accept();
        assert_eq!(
            called.unwrap_err().kind(),
            ErrorKind::WouldBlock,
            "a file makes nobody open a connection"
        );
    }
}

pub(crate) type Entries = Vec<(String, Vec<u8>)>;

pub(crate) fn archive(entries: &Entries) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A book of these pages; `doctype` and `title` go into its package file.
pub(crate) fn book(doctype: &str, title: &str, pages: &[&str]) -> Entries {
    let item =
        |no: usize| format!(r#"<item id="p{no}" href="p{no}.xhtml" media-type="application/xhtml+xml"/>"#);
    let items: String = (0..pages.len()).map(item).collect();
    let spine: String = (0..pages.len()).map(|no| format!(r#"<itemref idref="p{no}"/>"#)).collect();
    let package = format!(
        r#"<?xml version="1.0"?>{doctype}<package version="3.0"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
        <dc:title>{title}</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>"#
    );
    let container = r#"<?xml version="1.0"?><container><rootfiles><rootfile full-path="content.opf"
        media-type="application/oebps-package+xml"/></rootfiles></container>"#;
    let mut entries = vec![
        ("mimetype".to_owned(), b"application/epub+zip".to_vec()),
        ("META-INF/container.xml".to_owned(), container.into()),
        ("content.opf".to_owned(), package.into()),
    ];
    entries.extend(
        pages.iter().enumerate().map(|(no, page)| (format!("p{no}.xhtml"), page.as_bytes().to_vec())),
    );
    entries
}

fn with(mut entries: Entries, name: &str, content: &str) -> Entries {
    entries.push((name.to_owned(), content.into()));
    entries
}

const PAGE: &str = "<html><body><p>The lamp in the north window.</p></body></html>";

fn plain_book() -> Entries {
    book("", "A plain book", &[PAGE])
}

/// 1 GiB of blanks as one page.
fn bomb() -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in book("", "A bomb", &[PAGE]).into_iter().filter(|(name, _)| name != "p0.xhtml") {
        writer.start_file(name, SimpleFileOptions::default()).unwrap();
        writer.write_all(&content).unwrap();
    }
    writer.start_file("p0.xhtml", SimpleFileOptions::default()).unwrap();
    let blanks = vec![b' '; MIB];
    (0..1024).for_each(|_| writer.write_all(&blanks).unwrap());
    let bomb = writer.finish().unwrap().into_inner();
    assert!(bomb.len() < 2 * MIB, "{} bytes", bomb.len());
    bomb
}

/// Pages of which none is large and all together are.
fn many_pages() -> Vec<u8> {
    let page = format!("<p>{}</p>", "salt ".repeat(MIB / 5));
    archive(&book("", "Many pages", &[page.as_str(); 80]))
}

/// <https://en.wikipedia.org/wiki/Billion_laughs_attack>
fn laughs() -> String {
    let mut entities = String::from("<!ENTITY lol0 \"lollollol\">");
    for level in 1..12 {
        let before = format!("&lol{};", level - 1).repeat(10);
        entities.push_str(&format!("<!ENTITY lol{level} \"{before}\">"));
    }
    entities
}

fn page_with(doctype: &str, body: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>{doctype}<html xmlns=\"http://www.w3.org/1999/xhtml\"><body>{body}</body></html>"
    )
}

struct Case {
    name: &'static str,
    content: Vec<u8>,
    /// Of a PDF by haul's own reader and by pdfium, with `/` between them where they differ.
    verdict: &'static str,
    /// Part of the reason.
    why: &'static str,
}

fn case(name: &'static str, content: impl Into<Vec<u8>>, verdict: &'static str, why: &'static str) -> Case {
    Case { name, content: content.into(), verdict, why }
}

fn cases(bait: &Bait) -> Vec<Case> {
    let mut cases = archives();
    cases.extend(entities(bait));
    cases.extend(nesting());
    cases.extend(texts());
    cases.extend(odd_books());
    cases.extend(costly_books());
    cases.extend(reaching_books(bait));
    cases.extend(word_documents(bait));
    cases.extend(workbooks_and_mails(bait));
    cases
}

fn archives() -> Vec<Case> {
    let good = fs::read(samples().join("library/the-slow-loaf.epub")).unwrap();
    let encrypted = with(plain_book(), "META-INF/license.lcpl", "{}");
    vec![
        case("truncated.epub", &good[..good.len() / 2], "corrupt", ""),
        case("one-byte.epub", "P", "corrupt", ""),
        case("header.epub", &good[..40], "unsupported", "no EPUB"),
        case("zero.epub", "", "empty", "zero bytes"),
        case("text.epub", "just words", "corrupt", "not a zip archive"),
        case("page.epub", PAGE, "unsupported", "HTML"),
        case("paper.epub", "%PDF-1.7 and so on", "unsupported", "a PDF"),
        case("archive.txt", archive(&plain_book()), "unsupported", "a zip archive"),
        case("other.zip", archive(&plain_book()), "unsupported", "extension: zip"),
        case("office.epub", archive(&vec![("word/document.xml".into(), b"x".to_vec())]), "unsupported", ""),
        case("bomb.epub", bomb(), "too_large", "inflate"),
        case("many-pages.epub", many_pages(), "too_large", ""),
        case("encrypted.epub", archive(&encrypted), "drm", ""),
        case("scans.epub", archive(&book("", "Scans", &["<img src='1.png'/>"])), "needs_ocr", "1 images"),
        case("blank.epub", archive(&book("", "Blank", &["<p>&nbsp;</p>"])), "empty", ""),
        case("no-pages.epub", archive(&book("", "None", &[])), "corrupt", ""),
    ]
}

fn entities(bait: &Bait) -> Vec<Case> {
    let doctype = |name: &str, entities: &str| format!("<!DOCTYPE {name} [{entities}]>");
    let external = bait.entities();
    let laughing = page_with(&doctype("html", &laughs()), "<p>Ha: &lol11;</p>");
    let leaking = page_with(&doctype("html", &external), "<p>Read: &own; &users; &far;</p>");
    let included = format!(
        "<p>In: </p><xi:include href=\"file://{0}\" parse=\"text\"/><iframe src=\"file://{0}\"></iframe>\
         <xi:include href=\"{1}\"/><iframe src=\"{1}\"></iframe>",
        bait.secret.display(),
        bait.url()
    );
    let old = page_with(
        "<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.1//EN\" \"http://www.w3.org/TR/xhtml11/DTD/xhtml11.dtd\">",
        "<p>Caf&eacute; by the sea.</p>",
    );
    vec![
        case("doctype.epub", archive(&book("<!DOCTYPE package>", "Plain", &[&old])), "ok", ""),
        case(
            "laughs-package.epub",
            archive(&book(&doctype("package", &laughs()), "&lol11;", &[PAGE])),
            "ok",
            "",
        ),
        case("laughs-page.epub", archive(&book("", "Laughs", &[&laughing])), "ok", ""),
        case("laughs.html", laughing.clone(), "ok", ""),
        case(
            "leak-package.epub",
            archive(&book(&doctype("package", &external), "&own;&users;&far;", &[PAGE])),
            "ok",
            "",
        ),
        case("leak-page.epub", archive(&book("", "Leak", &[&leaking])), "ok", ""),
        case("leak.html", leaking.clone(), "ok", ""),
        case("include.html", page_with("", &included), "ok", ""),
        case("include.md", included.clone(), "ok", ""),
    ]
}

fn nesting() -> Vec<Case> {
    const DEEP: usize = 100_000;
    let nested = |open: &str, close: &str| format!("{}The lamp.{}", open.repeat(DEEP), close.repeat(DEEP));
    let divisions = nested("<div>", "</div>");
    // Numbered, so that it does not compress like a bomb.
    let numbered: String =
        (0..DEEP).map(|no| format!("<div id=\"{no}\">")).chain(["The lamp.".to_owned()]).collect();
    let contents = format!(
        "<html><body><nav epub:type=\"toc\">{}</nav></body></html>",
        nested("<ol><li><a href=\"p0.xhtml\">x</a>", "</li></ol>")
    );
    let mut navigated = plain_book();
    let package = String::from_utf8(navigated[2].1.clone()).unwrap();
    let item = "<manifest><item id=\"nav\" href=\"nav.xhtml\" properties=\"nav\" media-type=\"application/xhtml+xml\"/>";
    navigated[2].1 = package.replace("<manifest>", item).into();
    let mut metadata = plain_book();
    let package = String::from_utf8(metadata[2].1.clone()).unwrap();
    metadata[2].1 = package.replace("A plain book", &nested("<i>", "</i>")).into();
    vec![
        case("deep.html", divisions.clone(), "ok", ""),
        case("deep-tables.html", nested("<table><tr><td>", ""), "ok", ""),
        case("deep-bold.html", nested("<b>", ""), "ok", ""),
        case("deep.epub", archive(&book("", "Deep", &[&numbered])), "ok", ""),
        case("deep-contents.epub", archive(&with(navigated, "nav.xhtml", &contents)), "ok", ""),
        case("deep-package.epub", archive(&metadata), "too_large", "100000 elements"),
        case("deep-quotes.md", nested("> ", ""), "ok", ""),
        case("deep-lists.md", nested("- ", ""), "ok", ""),
        case("deep-brackets.md", nested("[", "](x)"), "ok", ""),
    ]
}

fn texts() -> Vec<Case> {
    let mut wide = vec![0xff, 0xfe];
    wide.extend("The lamp.".encode_utf16().flat_map(u16::to_le_bytes));
    vec![
        case("zero.txt", "", "empty", "zero bytes"),
        case("blank.md", " \n\t\n", "empty", ""),
        case("only-tags.html", "<html><head><title>t</title></head><body></body></html>", "empty", ""),
        case("binary.txt", [b"words".as_slice(), &[0; 64], b"\x01\x02"].concat(), "unsupported", "NUL bytes"),
        case("program.md", [b"\x7fELF".as_slice(), &[1; 64]].concat(), "unsupported", "a program"),
        case("latin.txt", b"Caf\xe9 by the sea.".as_slice(), "ok", ""),
        case("wide.txt", wide, "ok", ""),
        case("one-word.txt", "a".repeat(4 * MIB), "ok", ""),
        case("large.txt", "salt \n".repeat(65 * MIB / 6), "too_large", ""),
        case("picture.png", b"\x89PNG\r\n\x1a\n".as_slice(), "unsupported", "extension: png"),
    ]
}

/// Books that strict readers refuse and people read.
fn odd_books() -> Vec<Case> {
    let image = r#"<item id="i" href="blank.jpg" media-type="image/jpeg"/></manifest>"#;
    let with_entry = |name: &str, content: Vec<u8>, old: &str, new: &str| {
        let mut entries = plain_book();
        let package = String::from_utf8(entries[2].1.clone()).unwrap();
        entries[2].1 = package.replace(old, new).into();
        entries.push((name.to_owned(), content));
        archive(&entries)
    };
    // A blank page of a picture book: two megabytes of the same byte.
    let blank = with_entry("blank.jpg", vec![0xff; 2 * MIB], "</manifest>", image);
    let font = r#"<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><EncryptedData
        xmlns="http://www.w3.org/2001/04/xmlenc#"><EncryptionMethod Algorithm="http://www.idpf.org/2008/embedding"/>
        <CipherData><CipherReference URI="font.otf"/></CipherData></EncryptedData></encryption>"#;
    let obfuscated = archive(&with(with(plain_book(), "font.otf", "x"), "META-INF/encryption.xml", font));
    vec![
        case("blank-picture.epub", blank, "ok", ""),
        case("obfuscated-font.epub", obfuscated, "ok", ""),
        case("stored-twice.epub", [archive(&plain_book()), archive(&plain_book())].concat(), "ok", ""),
        case(
            "no-container.epub",
            archive(&plain_book().into_iter().filter(|(name, _)| !name.starts_with("META")).collect()),
            "ok",
            "",
        ),
        case(
            "no-package.epub",
            archive(&plain_book().into_iter().filter(|(name, _)| name != "content.opf").collect()),
            "unsupported",
            "",
        ),
        case("twice-named.epub", twice_named(), "ok", ""),
        case(
            "empty-archive.epub",
            b"PK\x05\x06".iter().copied().chain([0; 18]).collect::<Vec<u8>>(),
            "unsupported",
            "",
        ),
    ]
}

/// A book with two pages of the same name.
fn twice_named() -> Vec<u8> {
    let mut bytes = archive(&with(plain_book(), "p9.xhtml", PAGE));
    let names = bytes.windows(8).enumerate().filter(|(_, window)| window == b"p9.xhtml");
    let names: Vec<usize> = names.map(|(at, _)| at).collect();
    assert_eq!(names.len(), 2, "in the header of the entry, and in the directory");
    names.into_iter().for_each(|at| bytes[at + 1] = b'0');
    bytes
}

/// Attributes by the hundred thousand are quadratic to a tokenizer that compares each with all: a million are not done
/// when the time of the file is over.
fn costly_books() -> Vec<Case> {
    let (count, of_spaces) = if full() { (1_000_000, "timeout") } else { (40_000, "ok") };
    let attributes: String = (0..80_000).map(|no| format!(" a{no}=\"1\"")).collect();
    let spaces: String = (0..count).map(|no| format!(" xmlns:n{no}=\"u\"")).collect();
    let mut package = plain_book();
    let text = String::from_utf8(package[2].1.clone()).unwrap();
    package[2].1 = text.replace("<metadata", &format!("<metadata{attributes}")).into();
    let mut nested = plain_book();
    nested.push(("inner.epub".to_owned(), bomb()));
    vec![
        case(
            "attributes.epub",
            archive(&book("", "Attributes", &[&page_with("", &format!("<p{attributes}>The lamp.</p>"))])),
            "ok",
            "",
        ),
        case("attributes-package.epub", archive(&package), "ok", ""),
        case("namespaces.html", page_with("", &format!("<p{spaces}>The lamp.</p>")), of_spaces, ""),
        case("nested.epub", archive(&nested), "ok", ""),
    ]
}

/// Books that reach out of themselves.
fn reaching_books(bait: &Bait) -> Vec<Case> {
    let url = bait.url();
    let remote = format!(
        "<p>The lamp.</p><img src=\"{url}/x.png\"/><link rel=\"stylesheet\" href=\"{url}/x\"/><script src=\"{url}\"/>"
    );
    let traversal = archive(&with(plain_book(), "../../../../outside.xhtml", PAGE));
    vec![
        case("remote.epub", archive(&book("", "Remote", &[&page_with("", &remote)])), "ok", ""),
        case("traversal.epub", traversal, "ok", ""),
        case("linked.epub", linked(&bait.secret), "ok", ""),
    ]
}

/// A book whose page is a symbolic link to a file outside.
fn linked(to: &Path) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in plain_book() {
        if name == "p0.xhtml" {
            writer.add_symlink_from_path(name, to, SimpleFileOptions::default()).unwrap();
        } else {
            writer.start_file(name, SimpleFileOptions::default()).unwrap();
            writer.write_all(&content).unwrap();
        }
    }
    writer.finish().unwrap().into_inner()
}

/// A Word document of this body.
fn word(body: &str) -> Entries {
    let document = format!(
        "<?xml version=\"1.0\"?><w:document xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\">
        <w:body>{body}</w:body></w:document>"
    );
    vec![
        ("[Content_Types].xml".to_owned(), b"<Types/>".to_vec()),
        ("word/document.xml".to_owned(), document.into()),
    ]
}

const WORDS: &str = "<w:p><w:r><w:t>The lamp in the north window.</w:t></w:r></w:p>";

fn word_documents(bait: &Bait) -> Vec<Case> {
    let laughing = format!("<!DOCTYPE w [{}]>", laughs());
    let leaking = format!("<!DOCTYPE w [{}]>", bait.entities());
    let with_doctype = |doctype: &str, body: &str| {
        let mut entries = word(body);
        let document = String::from_utf8(entries[1].1.clone()).unwrap();
        entries[1].1 = document.replace("?>", &format!("?>{doctype}")).into();
        archive(&entries)
    };
    let numbered: String = (0..100_000).map(|no| format!("<w:x{no}>")).collect();
    let tables = "<w:tbl><w:tr><w:tc>".repeat(20_000);
    let deleted =
        "<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:r><w:t>kept</w:t></w:r></w:p>";
    let bomb = format!("<w:p><w:r><w:t>{}</w:t></w:r></w:p>", " ".repeat(65 * MIB));
    vec![
        case("plain.docx", archive(&word(WORDS)), "ok", ""),
        case("words.docx", "just words", "corrupt", "not a zip archive"),
        case("zero.docx", "", "empty", "zero bytes"),
        case("book.docx", archive(&plain_book()), "unsupported", "an EPUB"),
        case("sheet.docx", archive(&with(vec![], "xl/workbook.xml", "<x/>")), "unsupported", "Excel"),
        case(
            "no-document.docx",
            archive(&with(vec![], "word/styles.xml", "<x/>")),
            "corrupt",
            "without a Word document",
        ),
        case(
            "password.docx",
            [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".as_slice(), &[0; 512]].concat(),
            "drm",
            "encrypted",
        ),
        case("no-words.docx", archive(&word("<w:p/>")), "empty", "no text"),
        case(
            "laughs.docx",
            with_doctype(&laughing, "<w:p><w:r><w:t>Ha: &lol11;</w:t></w:r></w:p>"),
            "ok",
            "",
        ),
        case("leak.docx", with_doctype(&leaking, "<w:p><w:r><w:t>Read: &own;</w:t></w:r></w:p>"), "ok", ""),
        case("deep.docx", archive(&word(&format!("{numbered}{WORDS}"))), "ok", ""),
        case("deep-tables.docx", archive(&word(&format!("{tables}{WORDS}"))), "ok", ""),
        case("bomb.docx", archive(&word(&bomb)), "too_large", "to 1"),
        case("deleted.docx", archive(&word(deleted)), "ok", ""),
        case("truncated.docx", archive(&word(WORDS))[..150].to_vec(), "corrupt", ""),
    ]
}

/// A workbook of one sheet with these rows.
fn workbook(rows: &str) -> Entries {
    let sheet = format!("<worksheet><sheetData>{rows}</sheetData></worksheet>");
    let book = "<workbook><sheets><sheet name=\"Terms\" r:id=\"r1\"/></sheets></workbook>";
    let relations = "<Relationships><Relationship Id=\"r1\" Target=\"worksheets/s.xml\"/></Relationships>";
    let parts = [
        ("xl/workbook.xml", book),
        ("xl/_rels/workbook.xml.rels", relations),
        ("xl/worksheets/s.xml", &sheet),
    ];
    parts.map(|(name, part)| (name.to_owned(), part.as_bytes().to_vec())).into()
}

fn workbooks_and_mails(bait: &Bait) -> Vec<Case> {
    let row = |words: &str| format!("<row><c t=\"str\"><v>{words}</v></c></row>");
    let plain = row("The lamp in the north window.");
    let leaking = format!("<!DOCTYPE w [{}]>", bait.entities());
    let leak = workbook(&row("Read: &own;"));
    let leak = leak.into_iter().map(|(name, part)| (name, [leaking.as_bytes(), &part].concat())).collect();
    let stray = format!("{plain}<row r=\"1048576\"><c r=\"XFD1048576\"><v>1</v></c></row>");
    let many = "<row><c><v>1</v></c></row>".repeat(200_000);
    vec![
        case("plain.xlsx", archive(&workbook(&plain)), "ok", ""),
        case("words.xlsx", "just words", "corrupt", "not a zip archive"),
        case("no-rows.xlsx", archive(&workbook("")), "empty", "no text"),
        case("book.xlsx", archive(&plain_book()), "corrupt", "without a workbook"),
        case("password.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".as_slice(), "drm", "encrypted"),
        case("leak.xlsx", archive(&leak), "ok", ""),
        case("stray.xlsx", archive(&workbook(&stray)), "ok", ""),
        case("many.xlsx", archive(&workbook(&many)), "ok", ""),
        case("bomb.xlsx", archive(&workbook(&row(&" ".repeat(65 * MIB)))), "too_large", "to 1"),
        case("truncated.xlsx", archive(&workbook(&plain))[..120].to_vec(), "corrupt", ""),
        case("words.msg", "just words", "corrupt", "not a mail"),
        case("page.msg", "%PDF-1.7 and so on", "unsupported", "a PDF"),
        case("torn.msg", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".as_slice(), "corrupt", "damaged"),
    ]
}

/// A page of text in a file whose trailer or objects are not what they should be.
fn with_replaced(old: &str, new: &str) -> Vec<u8> {
    let good = Pdf::of_pages(&["The lamp in the north window."]).finish();
    let at = good.windows(old.len()).position(|window| window == old.as_bytes()).expect(old);
    [&good[..at], new.as_bytes(), &good[at + old.len()..]].concat()
}

fn pdf_with<T>(build: impl FnOnce(&mut Pdf) -> T) -> Vec<u8> {
    let mut pdf = Pdf::of_pages(&["The lamp in the north window."]);
    build(&mut pdf);
    pdf.finish()
}

/// Half of these came from the issues of one reader or another.
fn damaged_pdfs() -> Vec<Case> {
    let good = Pdf::of_pages(&["The lamp in the north window."]).finish();
    let table = good.windows(5).position(|window| window == b"xref\n").unwrap();
    let catalogue = good.windows(8).position(|window| window == b"/Catalog").unwrap();
    let mut flipped = good.clone();
    flipped[catalogue + 2] ^= 0x55;
    vec![
        case("good.pdf", good.clone(), "ok", ""),
        case("zero.pdf", "", "empty", "zero bytes"),
        case("header.pdf", "%PDF-1.7\n", "corrupt", "damaged"),
        case("words.pdf", "just words", "corrupt", "not a PDF"),
        case("page.pdf", PAGE, "corrupt", "not a PDF"),
        case("book.pdf", archive(&plain_book()), "unsupported", "a zip archive"),
        case("half.pdf", &good[..good.len() / 2], "corrupt", ""),
        case("no-table.pdf", &good[..table], "ok/corrupt", ""),
        case("junk-before.pdf", [b"X-Gateway: mail\r\n\r\n".as_slice(), &good].concat(), "ok", ""),
        case("junk-after.pdf", [good.as_slice(), &[0; 4096]].concat(), "ok", ""),
        case("flipped.pdf", flipped, "ok", ""),
        case("table-nowhere.pdf", with_replaced("startxref\n", "startxref\n9"), "ok", ""),
        case("table-loop.pdf", pdf_with(|pdf| pdf.trailer = " /Prev 15".to_owned()), "ok", ""),
        case("many.pdf", good.repeat(50), "ok", ""),
        case("no-root.pdf", with_replaced("/Root 1 0 R", "/Root 9 0 R"), "corrupt", ""),
        case("root-self.pdf", with_replaced("/Pages 2 0 R", "/Pages 1 0 R"), "ok/empty", ""),
        case("length.pdf", with_replaced("/Length ", "/Length 9999999999"), "ok", ""),
        case("length-negative.pdf", with_replaced("/Length ", "/Length -"), "ok", ""),
    ]
}

/// Objects that lie about other objects, or lead back to themselves.
fn twisted_pdfs() -> Vec<Case> {
    const DEEP: usize = 100_000;
    let tree = |tree: &str| Pdf::of_pages(&["The lamp."]).finish_with_tree(tree);
    let encrypted = format!(
        " /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{0}> /U <{0}> >> /ID [<00> <00>]",
        "41".repeat(32)
    );
    let many = "6 0 R ".repeat(20_001);
    vec![
        case("password.pdf", pdf_with(|pdf| pdf.trailer = encrypted), "drm", "password"),
        case("deep-arrays.pdf", pdf_with(|pdf| pdf.page_with(&"[".repeat(DEEP))), "ok", ""),
        case(
            "deep-catalogue.pdf",
            pdf_with(|pdf| pdf.catalogue = format!("/X {}", "[".repeat(DEEP))),
            "failed/ok",
            "",
        ),
        case("pages-cycle.pdf", tree("<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>"), "ok/corrupt", ""),
        case("pages-lie.pdf", tree("<< /Type /Pages /Kids [6 0 R] /Count 2147483647 >>"), "ok", ""),
        case("pages-negative.pdf", tree("<< /Type /Pages /Kids [6 0 R] /Count -5 >>"), "ok", ""),
        case(
            "pages-many.pdf",
            tree(&format!("<< /Type /Pages /Kids [{many}] /Count 20001 >>")),
            "too_large",
            "20001 pages",
        ),
        case(
            "outline-cycle.pdf",
            pdf_with(|pdf| {
                let root = pdf.object("<< /First 8 0 R /Last 8 0 R >>");
                pdf.object(format!(
                    "<< /Title (x) /Parent {root} 0 R /Next 8 0 R /First 8 0 R /Dest [6 0 R /Fit] >>"
                ));
                pdf.catalogue = format!(" /Outlines {root} 0 R");
            }),
            "failed/ok",
            "",
        ),
    ]
}

/// Files that reach outside of themselves.
fn reaching_pdfs(bait: &Bait) -> Vec<Case> {
    let xfa = format!("<?xml version=\"1.0\"?><!DOCTYPE x [{}]><x>&own;&far;</x>", bait.entities());
    let url = bait.url();
    let actions =
        format!(" /OpenAction << /S /Launch /F (/bin/sh) >> /AA << /WC << /S /URI /URI ({url}) >> >>");
    vec![
        case(
            "xfa.pdf",
            pdf_with(|pdf| {
                let xfa = pdf.stream("", xfa.as_bytes());
                pdf.catalogue = format!(" /AcroForm << /Fields [] /XFA {xfa} 0 R >>");
            }),
            "ok",
            "",
        ),
        case("actions.pdf", pdf_with(|pdf| pdf.catalogue = actions), "ok", ""),
    ]
}

/// Contents of pages that cost a reader much.
fn costly_pdfs(bomb_mib: usize) -> Vec<Case> {
    let mut form = Pdf::new();
    let itself = form.object("");
    let again = format!(
        "<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X {itself} 0 R >> >> /Length 5 >>\nstream\n/X Do\nendstream"
    );
    let content = form.stream("", b"/X Do /X Do");
    form.page_with(&format!("/Contents {content} 0 R /Resources << /XObject << /X {itself} 0 R >> >>"));
    form.replace(itself, &again);
    let widths =
        "<< /Type /Font /Subtype /Type0 /BaseFont /X /Encoding /Identity-H /DescendantFonts [<< /Type /Font
        /Subtype /CIDFontType2 /BaseFont /X /W [0 2147483647 500] /DW 1000 >>] >>";
    vec![
        case("form-cycle.pdf", form.finish(), "empty/needs_ocr", ""),
        case("saves.pdf", pdf_with(|pdf| pdf.page(&"q ".repeat(1_000_000))), "ok", ""),
        case("brackets.pdf", pdf_with(|pdf| pdf.page(&"[".repeat(1_000_000))), "ok", ""),
        case(
            "widths.pdf",
            pdf_with(|pdf| {
                let font = pdf.object(widths);
                let content = pdf.stream("", text(12.0, &[(72.0, 700.0, "xx")]).as_bytes());
                pdf.page_with(&format!(
                    "/Contents {content} 0 R /Resources << /Font << /F1 {font} 0 R >> >>"
                ));
            }),
            "ok",
            "",
        ),
        case(
            "picture-huge.pdf",
            {
                let mut pdf = Pdf::new();
                pdf.picture(2_147_483_647, 2_147_483_647, b"x");
                pdf.finish()
            },
            "needs_ocr",
            "",
        ),
        case("font-size.pdf", pdf_with(|pdf| pdf.page(&text(1e30, &[(-1e30, 1e30, "The lamp.")]))), "ok", ""),
        case("bomb.pdf", flate_bomb(bomb_mib), "ok/failed", ""),
    ]
}

/// Content of a page that inflates to so many megabytes from a thousandth of them.
fn flate_bomb(mib: usize) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("x", SimpleFileOptions::default()).unwrap();
    let blanks = vec![b' '; MIB];
    (0..mib).for_each(|_| writer.write_all(&blanks).unwrap());
    // A local header of 30 bytes and one letter stands before the deflated bytes; zlib wants two bytes more.
    let bytes = writer.finish().unwrap().into_inner();
    let directory = bytes.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
    let deflated = [b"\x78\x9c".as_slice(), &bytes[31..directory]].concat();
    let mut pdf = Pdf::of_pages(&["The lamp."]);
    let content = pdf.stream("/Filter /FlateDecode", &deflated);
    pdf.page_with(&format!("/Contents {content} 0 R"));
    pdf.finish()
}

/// By each reader of PDF, beside a good file that is read whatever they do.
#[test]
fn hostile_pdfs_end_in_their_verdicts() {
    let pdfium = Needs("hostile::hostile_pdfs_end_in_their_verdicts").pdfium();
    let mut wrong = Vec::new();
    for (reader, library) in std::iter::once(None).chain(pdfium.map(Some)).enumerate() {
        let home = Home::new();
        let bait = Bait::new(&home);
        let mut cases = damaged_pdfs();
        // Without optimisation, haul's own reader would take its whole time limit for a gigabyte of blanks.
        let bomb_mib = if library.is_some() { 2048 } else { 64 };
        cases.extend(twisted_pdfs());
        cases.extend(reaching_pdfs(&bait));
        cases.extend(costly_pdfs(bomb_mib));
        for case in &cases {
            home.write(&format!("books/{}", case.name), &case.content);
        }
        let library = library.map(|path| path.to_str().unwrap().to_owned());
        let mut args = vec!["books"];
        args.extend(library.iter().flat_map(|path| ["--pdfium", path]));
        let started = Instant::now();
        let (receipt, code) = home.ingest(&args);
        let took = started.elapsed();
        println!("{} hostile PDFs took {took:.1?} with {library:?}", cases.len());
        assert_eq!((code, receipt["items"]["total"].as_u64()), (1, Some(cases.len() as u64)));
        let mismatches = cases.iter().filter_map(|case| mismatch(case, reader, &receipt));
        wrong.extend(mismatches.map(|mismatch| format!("{library:?}: {mismatch}")));
        assert!(took < TIME_MAX && slowest_s(&home) < FILE_S_MAX, "{took:?}, {:.1} s", slowest_s(&home));
        bait.assert_uncalled();
        home.assert_sound();
        let hits = home.json(&["search", SECRET, "--store", "lib.haul", "--mode", "bm25"]);
        assert_eq!(hits["hits"], json!([]), "nothing outside a file is read");
    }
    assert!(wrong.is_empty(), "{} verdicts are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// All of it in one folder with two good books, as a thoughtless user has it.
#[test]
fn hostile_files_end_in_their_verdicts() {
    let home = Home::new();
    let bait = Bait::new(&home);
    let mut cases = cases(&bait);
    for case in &cases {
        home.write(&format!("books/{}", case.name), &case.content);
    }
    let books = home.path("books");
    cases.push(case("dangling.txt", "", "failed", "os error 2"));
    symlink("nowhere", books.join("dangling.txt")).unwrap();
    cases.push(case("memory.txt", "", "failed", "cannot be read"));
    symlink("/proc/self/mem", books.join("memory.txt")).unwrap();
    cases.push(case("pipe.txt", "", "unsupported", "not a regular file"));
    mknodat(CWD, books.join("pipe.txt"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    cases.push(case("caf\u{fffd}.txt", "", "unsupported", "the name is not UTF-8"));
    fs::write(books.join(OsStr::from_bytes(b"caf\xe9.txt")), "The lamp.").unwrap();
    cases.push(case("r\u{fffd}/a.txt", "", "unsupported", "the name is not UTF-8"));
    fs::create_dir(books.join(OsStr::from_bytes(b"r\xe9"))).unwrap();
    fs::write(books.join(OsStr::from_bytes(b"r\xe9/a.txt")), "The lamp.").unwrap();
    for good in ["the-slow-loaf.epub", "the-skarnholm-light.epub"] {
        fs::copy(samples().join("library").join(good), books.join(good)).unwrap();
        cases.push(case(good, "", "ok", ""));
    }

    let started = Instant::now();
    let (receipt, code) = home.ingest(&["books"]);
    let took = started.elapsed();
    println!("{} hostile files took {took:.1?}", cases.len());
    assert_eq!((code, receipt["items"]["total"].as_u64()), (1, Some(cases.len() as u64)));
    let wrong: Vec<String> = cases.iter().filter_map(|case| mismatch(case, 0, &receipt)).collect();
    assert!(wrong.is_empty(), "{} of {} verdicts are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(took < TIME_MAX && slowest_s(&home) < FILE_S_MAX, "{took:?}, {:.1} s", slowest_s(&home));

    bait.assert_uncalled();
    home.assert_sound();
    // The log is gone where the last writer closed the library in peace.
    let log = home.path("lib.haul-wal").exists().then_some("lib.haul-wal");
    for path in ["lib.haul"].into_iter().chain(log) {
        let bytes = fs::read(home.path(path)).unwrap();
        for leak in [SECRET, "root:x:0:0"] {
            assert!(
                !bytes.windows(leak.len()).any(|window| window == leak.as_bytes()),
                "{leak} is in {path}"
            );
        }
    }
    let hits = home.json(&["search", "lollollol", "--store", "lib.haul", "--mode", "bm25"]);
    assert_eq!(hits["hits"], json!([]), "no entity was expanded");
    let made =
        fs::read_dir(home.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut made: Vec<String> = made.filter(|name| !name.starts_with("lib.haul")).collect();
    made.sort();
    assert_eq!(made, ["books", "home", "secret.txt"]);
    assert_eq!(home.run(&["ingest", "books", "--store", "lib.haul"]).code, 1, "the rerun goes the same way");
}

/// Seconds from when a file was found to its verdict, of the slowest; its waiting for a reader is in it.
fn slowest_s(home: &Home) -> f64 {
    let journal = Connection::open(home.path("lib.haul.run/journal.sqlite")).unwrap();
    let slowest_ms: f64 =
        journal.query_row("SELECT CAST(max(ms) AS REAL) FROM entries", [], |row| row.get(0)).unwrap();
    slowest_ms / 1000.0
}

/// What a case should have been and was, if they differ; `reader`: 0 haul's own, 1 pdfium.
fn mismatch(case: &Case, reader: usize, receipt: &Value) -> Option<String> {
    let ending = format!("/books/{}", case.name);
    let failure = receipt["failures"]
        .as_array()
        .unwrap()
        .iter()
        .find(|failure| failure["item"].as_str().unwrap().ends_with(&ending));
    let (verdict, why) = match failure {
        Some(failure) => (failure["verdict"].as_str().unwrap(), failure["why"].as_str().unwrap()),
        None => ("ok", ""),
    };
    let Case { name, verdict: by_reader, why: expected_why, .. } = case;
    let expected = by_reader.split('/').nth(reader).unwrap_or(by_reader);
    (verdict != expected || !why.contains(expected_why))
        .then(|| format!("{name}: {verdict} ({why}), not {expected} ({expected_why})"))
}

#[test]
fn hostile_lines_of_a_jsonl() {
    let home = Home::new();
    let deep = format!(
        "{{\"id\":\"deep\",\"text\":\"The lamp.\",\"more\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let lines = [
        r#"{"id":"good","text":"The lamp in the north window."}"#,
        "not json",
        r#"{"id":"no-text","title":"T"}"#,
        r#"{"id":"number","text":7}"#,
        r#"{"id":"good","text":"The same id again."}"#,
        r#"{"id":["list"],"text":"x"}"#,
        r#"{"id":"blank","text":"  "}"#,
        r#"["not an object"]"#,
        r#"{"id":"half","text":"\ud800"}"#,
        &deep,
        r#"{"id":"last","text":"Honey and salt."}"#,
    ];
    home.write("books/lines.jsonl", lines.join("\n"));
    let (receipt, code) = home.ingest(&["books"]);
    assert_eq!(code, 1);
    assert_eq!(receipt["items"]["by_verdict"], json!({"corrupt": 8, "empty": 1, "ok": 2}), "{receipt:#}");
    home.assert_sound();
}

/// Writes over part of a file.
fn patch(path: &Path, at: usize, bytes: &[u8]) {
    let mut content = fs::read(path).unwrap();
    content[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(path, content).unwrap();
}

/// What is wrong with a model directory, and what a refusal of it names.
type BreakModel = (&'static str, fn(&Path));

const BROKEN_MODELS: &[BreakModel] = &[
    ("model.safetensors", |dir| fs::remove_file(dir.join("model.safetensors")).unwrap()),
    ("model.safetensors", |dir| fs::write(dir.join("model.safetensors"), "").unwrap()),
    ("model.safetensors", |dir| {
        let whole = fs::read(dir.join("model.safetensors")).unwrap();
        fs::write(dir.join("model.safetensors"), &whole[..whole.len() / 2]).unwrap();
    }),
    ("model.safetensors", |dir| patch(&dir.join("model.safetensors"), 0, &u64::MAX.to_le_bytes())),
    ("model.safetensors", |dir| patch(&dir.join("model.safetensors"), 8, b"\0\0\0\0")),
    ("tokenizer.json", |dir| fs::remove_file(dir.join("tokenizer.json")).unwrap()),
    ("tokenizer.json", |dir| fs::write(dir.join("tokenizer.json"), "{}").unwrap()),
    ("config.json", |dir| fs::remove_file(dir.join("config.json")).unwrap()),
    ("config.json", |dir| fs::write(dir.join("config.json"), "{\"model_type\": \"llama\"}").unwrap()),
    ("config.json", |dir| fs::write(dir.join("config.json"), "words").unwrap()),
    ("hidden_size 4096", |dir| {
        let config = fs::read_to_string(dir.join("config.json")).unwrap();
        fs::write(dir.join("config.json"), config.replace("\"hidden_size\": 32", "\"hidden_size\": 4096"))
            .unwrap();
    }),
];

/// Runs the program on each broken model, as `./model`; what was not refused by name with exit 2 comes back.
fn not_refused(home: &Home, args: &[&str]) -> Vec<String> {
    let mut wrong = vec![];
    for (number, (says, broken)) in BROKEN_MODELS.iter().enumerate() {
        let dir = home.path("model");
        copy_tree(&tiny_model(), &dir);
        broken(&dir);
        let ran = home.run(args);
        if ran.code != 2 || !ran.stderr.contains(says) || ran.stderr.contains("panicked") {
            wrong.push(format!("model {number}, haul {args:?} should exit 2 and name {says}: {ran:#?}"));
        }
        fs::remove_dir_all(dir).unwrap();
    }
    wrong
}

#[test]
fn a_broken_model_is_not_added() {
    let home = Home::new();
    let wrong = not_refused(&home, &["model", "add", "./model"]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(home.json(&["model", "list"])["models"].as_array().unwrap().len(), 1, "only `tiny` is there");
}

/// And no library is made with it, which the sound model would then not fit.
#[test]
fn a_broken_model_makes_no_library() {
    let home = Home::new();
    home.write("books/a.txt", "The lamp in the north window.");
    let wrong = not_refused(&home, &["ingest", "books", "--store", "lib.haul", "--model", "./model"]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!home.path("lib.haul").exists());
    home.write("line.txt", "lamp");
    let wrong = not_refused(&home, &["embed", "--model", "./model"]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A model that changes after it was added would make other vectors for the same library.
#[test]
fn a_model_that_changed_is_refused() {
    let home = Home::empty();
    copy_tree(&tiny_model(), &home.path("mine"));
    home.ok(&["model", "add", "mine"]);
    home.write("books/a.txt", "The lamp in the north window.");
    let weights = home.path("home/models/mine/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 4]).unwrap();
    let ran = home.run(&["ingest", "books", "--store", "lib.haul", "--model", "mine"]);
    assert!(ran.code == 2 && ran.stderr.contains("model.safetensors"), "{ran:#?}");
    assert!(ran.stderr.contains("hint: see what changed with `haul model check mine`"), "{ran:#?}");
    let check = home.run(&["model", "check", "mine"]);
    assert!(check.code == 1 && check.stdout.contains("changed"), "{check:#?}");
    fs::write(&weights, whole).unwrap();
    home.ok(&["model", "check", "mine"]);
    home.ok(&["ingest", "books", "--store", "lib.haul", "--model", "mine"]);
}

#[test]
fn broken_libraries_are_refused_and_left_alone() {
    const VERSION_AT: usize = 60;
    const APPLICATION_ID_AT: usize = 68;
    let home = Home::new();
    copy_tree(&samples().join("library"), &home.path("books"));
    home.ingest(&["books"]);
    let log_bytes = home.path("lib.haul-wal").metadata().map_or(0, |facts| facts.len());
    assert_eq!(log_bytes, 0, "the last to close the library empties its log");
    type Break = (&'static str, &'static str, fn(Vec<u8>) -> Vec<u8>);
    let breaks: &[Break] = &[
        ("text.haul", "not a Haul library", |_| b"words, words, words".to_vec()),
        ("zero.haul", "not a Haul library (an empty file)", |_| vec![]),
        ("short.haul", "not a Haul library", |bytes| bytes[..50].to_vec()),
        ("other.haul", "an SQLite file of another program", |mut bytes| {
            bytes[APPLICATION_ID_AT..APPLICATION_ID_AT + 4].fill(0);
            bytes
        }),
        ("newer.haul", "library of version 99", |mut bytes| {
            bytes[VERSION_AT..VERSION_AT + 4].copy_from_slice(&99_u32.to_be_bytes());
            bytes
        }),
        ("truncated.haul", "truncated.haul", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("one-page.haul", "one-page.haul", |bytes| bytes[..8192].to_vec()),
    ];
    let whole = fs::read(home.path("lib.haul")).unwrap();
    let mut wrong = vec![];
    for (name, says, broken) in breaks {
        let bytes = broken(whole.clone());
        home.write(name, &bytes);
        for args in [
            &["store", "info", "--store", name][..],
            &["store", "verify", "--store", name],
            &["search", "honey", "--store", name],
            &["ingest", "books", "--store", name],
        ] {
            let ran = home.run(args);
            // Of a library that opens and is damaged inside, `verify` says what it finds.
            let refused = ran.code == 2 && ran.stderr.contains(says);
            let examined = args[1] == "verify" && ran.code == 1 && !ran.stdout.is_empty();
            if !(refused || examined) || ran.stderr.contains("panicked") {
                wrong.push(format!("haul {args:?} should exit 2 and say {says:?}: {ran:#?}"));
            }
        }
        if fs::read(home.path(name)).unwrap() != bytes {
            wrong.push(format!("{name} was changed"));
        }
    }
    home.write("folder.haul/a.txt", "x");
    let ran = home.run(&["ingest", "books", "--store", "folder.haul"]);
    assert!(ran.code == 2 && ran.stderr.contains("not a Haul library (a folder)"), "{ran:#?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One flipped byte anywhere inside is found by `verify` or harmless: it never panics and never passes for sound with
/// another digest.
#[test]
fn a_flipped_byte_is_found() {
    let home = Home::new();
    copy_tree(&samples().join("library"), &home.path("books"));
    home.ingest(&["books"]);
    let digest = home.digest();
    let whole = fs::read(home.path("lib.haul")).unwrap();
    let mut random = crate::fixtures::Random(11);
    for _ in 0..12 {
        let at = 100 + random.below(whole.len() as u64 - 100) as usize;
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        home.write("bent.haul", &bytes);
        let verified = home.run(&["store", "verify", "--store", "bent.haul"]);
        let info = home.run(&["store", "info", "--store", "bent.haul", "--json"]);
        let story = format!("byte {at}: {verified:#?} {info:#?}");
        assert!([0, 1, 2].contains(&verified.code) && !story.contains("panicked"), "{story}");
        if verified.code == 0 && info.code == 0 {
            assert_eq!(info.json()["digest"], json!(digest), "{story}");
        }
    }
}
