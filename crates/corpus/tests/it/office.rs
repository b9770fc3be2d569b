//! Workbooks and mails, built here part by part.

use std::io::{Cursor, Write};

use haul_corpus::document::{BlockKind, Document, Format, PageStart};
use haul_corpus::limits::Limits;
use haul_corpus::verdict::Verdict;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::{outline, pairs, parse_bytes, verdict_on};

const OLD_OFFICE: &[u8] = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 and what follows";

pub(super) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A workbook of these sheets, with styles: 1 percent, 2 a date, 3 a month, 4 EUR, 5 a ratio.
fn workbook(sheets: &[(&str, &str)]) -> Vec<u8> {
    let named: String = (1..)
        .zip(sheets)
        .map(|(n, (name, _))| format!(r#"<sheet name="{name}" sheetId="{n}" r:id="rId{n}"/>"#))
        .collect();
    let related: String = (1..)
        .zip(sheets)
        .map(|(n, _)| format!(r#"<Relationship Id="rId{n}" Target="worksheets/s{n}.xml"/>"#))
        .collect();
    let parts = [
        ("xl/workbook.xml", format!("<workbook><sheets>{named}</sheets></workbook>")),
        ("xl/_rels/workbook.xml.rels", format!("<Relationships>{related}</Relationships>")),
        (
            "xl/sharedStrings.xml",
            "<sst><si><t>Facility</t></si><si><r><t>Term </t></r><r><t>Loan A</t></r></si>\
             <si><t>漢字</t><rPh><t>kana</t></rPh></si></sst>"
                .to_owned(),
        ),
        (
            "xl/styles.xml",
            r#"<styleSheet><numFmts><numFmt numFmtId="164" formatCode="mmm-yy"/><numFmt numFmtId="165"
            formatCode="&quot;EUR&quot;\ #,##0"/><numFmt numFmtId="166" formatCode="0.00&quot;x&quot;"/></numFmts>
            <cellStyleXfs><xf numFmtId="9"/></cellStyleXfs><cellXfs><xf numFmtId="0"/><xf numFmtId="10"/>
            <xf numFmtId="14"/><xf numFmtId="164"/><xf numFmtId="165"/><xf numFmtId="166"/></cellXfs></styleSheet>"#
                .to_owned(),
        ),
    ];
    let sheets: Vec<(String, String)> = (1..)
        .zip(sheets)
        .map(|(n, (_, rows))| {
            let sheet = format!("<worksheet><sheetData>{rows}</sheetData></worksheet>");
            (format!("xl/worksheets/s{n}.xml"), sheet)
        })
        .collect();
    let all = parts.iter().map(|(name, part)| (*name, part.as_bytes()));
    let all = all.chain(sheets.iter().map(|(name, part)| (name.as_str(), part.as_bytes())));
    zip(&all.collect::<Vec<_>>())
}

fn read(sheets: &[(&str, &str)]) -> Document {
    parse_bytes(&workbook(sheets), Format::Xlsx, &Limits::DEFAULT).unwrap()
}

#[test]
fn sheets_are_pages_and_rows_are_rows() {
    let terms = r#"<row r="1"><c r="B1" t="s"><v>0</v></c><c r="C1" t="inlineStr"><is><t>Margin</t></is></c></row>
        <row r="3"><c r="B3" t="s"><v>1</v></c><c r="C3" s="1"><v>2.75E-2</v></c><c r="D3" s="2"><v>48305</v></c></row>
        <row r="4"><c r="B4" t="s"><v>2</v></c><c r="D4" s="3"><f>D3+1</f><v>48305</v></c></row>
        <row r="5"><c r="E5" s="4"><v>250000000</v></c><c s="5"><v>1.35</v></c><c t="b"><v>1</v></c><c t="e"><v>#REF!</v></c></row>"#;
    let document = read(&[
        ("Terms", terms),
        ("Empty", "<row/>"),
        ("Notes", r#"<row><c t="str"><v>Signed</v></c></row>"#),
    ]);
    assert_eq!(
        document.text,
        "Terms\n\nFacility\tMargin\nTerm Loan A\t2.75%\t2032-04-01\n漢字\t\t04/2032\n\t\t\tEUR 250000000\t1.35x\tTRUE\t#REF!\n\nNotes\n\nSigned"
    );
    let notes = document.text.find("Notes").unwrap();
    assert_eq!(document.pages, [PageStart { number: 1, start: 0 }, PageStart { number: 3, start: notes }]);
    assert_eq!(document.blocks.iter().filter(|block| block.kind == BlockKind::TableRow).count(), 5);
    assert_eq!(document.chapters.len(), 2);
    assert_eq!(document.chapters[1].breadcrumb, ["Notes"]);
}

/// A cell 16,000 columns and a million rows away made a dense table of billions of cells in other readers.
#[test]
fn a_stray_cell_costs_no_table() {
    let document = read(&[(
        "S",
        r#"<row><c r="A1"><v>1</v></c></row><row><c r="A1048576"><v>2</v></c><c r="XFD1048576"><v>3</v></c></row>"#,
    )]);
    assert_eq!(document.text.len(), "S\n\n1\n2".len() + 33 + 1);
}

#[test]
fn workbooks_that_cannot_be_read_are_named() {
    let verdict = |bytes: &[u8]| verdict_on(bytes, Format::Xlsx, &Limits::DEFAULT);
    for (bytes, expected, why) in [
        (OLD_OFFICE.to_vec(), Verdict::Drm, "encrypted, or an old Excel workbook"),
        (b"Facility;Margin".to_vec(), Verdict::Corrupt, "not a zip archive, as an Excel workbook is"),
        (zip(&[("word/document.xml", b"<x/>")]), Verdict::Unsupported, "a Word document"),
        (zip(&[("xl/workbook.bin", b"x")]), Verdict::Unsupported, "binary workbook"),
        (zip(&[("a.txt", b"x")]), Verdict::Corrupt, "without a workbook"),
        (workbook(&[("S", "")]), Verdict::Empty, "no text"),
        (workbook(&[("S", "<row><c><v>1</v></c></row>")])[..300].to_vec(), Verdict::Corrupt, ""),
    ] {
        let (found, says) = verdict(&bytes);
        assert!(found == expected && says.contains(why), "{found}: {says}");
    }
    let scanned = zip(&[("xl/workbook.xml", b"<sheets></sheets>"), ("xl/media/image1.png", b"x")]);
    assert_eq!(verdict(&scanned).0, Verdict::NeedsOcr);
    let limits = Limits { text_bytes: 20, ..Limits::DEFAULT };
    let large = workbook(&[("S", &r#"<row><c t="str"><v>many words</v></c></row>"#.repeat(9))]);
    assert_eq!(verdict_on(&large, Format::Xlsx, &limits).0, Verdict::TooLarge);
}

/// Properties of a mail, of what hangs on it, or of a mail that hangs on it: streams by their names.
#[derive(Default)]
pub(super) struct Mail {
    streams: Vec<(String, Vec<u8>)>,
}

impl Mail {
    pub(super) fn text(mut self, path: &str, id: &str, text: &str) -> Mail {
        let bytes = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        self.streams.push((format!("{path}__substg1.0_{id}001F"), bytes));
        self
    }

    pub(super) fn bytes(mut self, path: &str, name: &str, bytes: &[u8]) -> Mail {
        self.streams.push((format!("{path}{name}"), bytes.to_vec()));
        self
    }

    /// With the table of properties that every mail has: when it was sent.
    pub(super) fn built(self) -> Vec<u8> {
        let mut row = 0x0039_0040_u32.to_le_bytes().to_vec();
        row.extend([0; 4]);
        // 14 September 2047, 09:30.
        row.extend(((134_774_u64 + 28_380) * 1440 + 570).wrapping_mul(600_000_000).to_le_bytes());
        let table = [vec![0; 32], row].concat();
        let mut file = cfb::CompoundFile::create(Cursor::new(Vec::new())).unwrap();
        for (path, bytes) in self.streams.iter().chain([&("/__properties_version1.0".to_owned(), table)]) {
            let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
            if !folder.is_empty() {
                file.create_storage_all(folder).unwrap();
            }
            file.create_stream(path).unwrap().write_all(bytes).unwrap();
        }
        file.flush().unwrap();
        file.into_inner().into_inner()
    }
}

pub(super) const FIRST: &str = "/__attach_version1.0_#00000000/";
pub(super) const SECOND: &str = "/__attach_version1.0_#00000001/";
pub(super) const INNER: &str = "/__attach_version1.0_#00000001/__substg1.0_3701000D/";

/// A mail with a text file, and with a mail that has a file of its own.
pub(super) fn mail() -> Vec<u8> {
    Mail::default()
        .text("/", "0037", "Offer for Term Loan A")
        .text("/", "0C1A", "Ann Lender")
        .text("/", "5D01", "ann@lender.example")
        .text("/", "0E04", "Bob Borrower")
        .text("/", "1000", "Dear Bob,\r\n\r\nthe margin is 2.75%.\r\nYours\r\n")
        .text(FIRST, "3707", "terms.txt")
        .bytes(FIRST, "__substg1.0_37010102", b"The term is ten years.")
        .text(SECOND, "3001", "The offer before")
        .text(INNER, "0037", "Earlier offer")
        .bytes(INNER, "__substg1.0_10130102", b"<p>The margin was <b>3%</b>.</p>")
        .text(&format!("{INNER}__attach_version1.0_#00000000/"), "3704", "OLD.TXT")
        .bytes(&format!("{INNER}__attach_version1.0_#00000000/"), "__substg1.0_37010102", b"Old terms.")
        .built()
}

#[test]
fn a_mail_says_who_wrote_what_to_whom() {
    let document = parse_bytes(&mail(), Format::Msg, &Limits::DEFAULT).unwrap();
    assert_eq!(
        outline(&document),
        pairs(&[
            (
                "Offer for Term Loan A",
                "Offer for Term Loan A From: Ann Lender <ann@lender.example> To: Bob Borrower \
                 Date: 2047-09-14 09:30 UTC Dear Bob, the margin is 2.75%. Yours"
            ),
            ("Offer for Term Loan A > Earlier offer", "Earlier offer The margin was 3%.")
        ])
    );
    assert_eq!(
        (document.furniture.attachments, document.title.as_deref()),
        (2, Some("Offer for Term Loan A"))
    );
    // A picture that the text shows was counted among the images of pages, where nobody looked for it.
    let logo = Mail::default().text("/", "1000", "Dear Bob").text(FIRST, "3707", "logo.png");
    let logo = logo.text(FIRST, "3712", "logo@id").built();
    let furniture = parse_bytes(&logo, Format::Msg, &Limits::DEFAULT).unwrap().furniture;
    assert_eq!((furniture.attachments, furniture.shown_pictures), (0, 1));
}

#[test]
fn mails_that_cannot_be_read_are_named() {
    let verdict = |bytes: &[u8]| verdict_on(bytes, Format::Msg, &Limits::DEFAULT);
    let rtf = Mail::default().text("/", "0037", "Offer").bytes("/", "__substg1.0_10090102", b"LZFu").built();
    assert!(verdict(&rtf).1.contains("RTF alone"));
    assert_eq!(verdict(&rtf).0, Verdict::Unsupported);
    assert_eq!(verdict(b"From: ann@lender.example\n").0, Verdict::Corrupt);
    assert_eq!(verdict(OLD_OFFICE).0, Verdict::Corrupt);
    assert_eq!(verdict(b"%PDF-1.7 and so on").0, Verdict::Unsupported);
    let torn = &mail()[..2000];
    assert_eq!(verdict(torn).0, Verdict::Corrupt);
}

#[test]
fn a_picture_needs_recognition() {
    let (verdict, why) = verdict_on(b"\x89PNG\r\n\x1a\n", Format::Picture, &Limits::DEFAULT);
    assert_eq!((verdict, why.as_str()), (Verdict::NeedsOcr, "a picture; --ocr reads it"));
}
