//! PDFs whose pages are damaged.

use haul_corpus::document::Format;
use haul_corpus::limits::Limits;
use haul_corpus::pdf::PAGES_DAMAGED;
use haul_corpus::verdict::Verdict;
use serde_json::json;

use crate::{parse_bytes, verdict_on};

/// A file of one page for each of `pages`; the content of one without text is no content.
fn pdf(pages: &[Option<&str>]) -> Vec<u8> {
    let kids: Vec<String> = (0..pages.len()).map(|no| format!("{} 0 R", 4 + 2 * no)).collect();
    let mut objects = vec![
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        format!("<< /Type /Pages /Kids [{}] /Count {} >>", kids.join(" "), pages.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>".to_owned(),
    ];
    for page in pages {
        let content = objects.len() + 2;
        objects.push(format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {content} 0 R \
             /Resources << /Font << /F1 3 0 R >> >> >>"
        ));
        objects.push(page.map_or("42".to_owned(), |text| {
            let text = format!("BT /F1 12 Tf 72 400 Td ({text}) Tj ET");
            format!("<< /Length {} >>\nstream\n{text}\nendstream", text.len())
        }));
    }
    let mut file = "%PDF-1.7\n".to_owned();
    let mut table = format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for (number, object) in (1..).zip(&objects) {
        table.push_str(&format!("{:010} 00000 n \n", file.len()));
        file.push_str(&format!("{number} 0 obj\n{object}\nendobj\n"));
    }
    let (at, size) = (file.len(), objects.len() + 1);
    format!("{file}{table}trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{at}\n%%EOF\n").into_bytes()
}

/// Pages that could not be read were a count in the metadata that nobody saw.
#[test]
fn damaged_pages_are_named_and_the_others_keep_their_numbers() {
    let file = pdf(&[Some("The lamp was lit."), None, None, Some("Honey and salt.")]);
    let document = parse_bytes(&file, Format::Pdf, &Limits::DEFAULT).unwrap();
    assert_eq!(document.metadata.get(PAGES_DAMAGED), Some(&json!([2, 3])), "{document:#?}");
    let pages: Vec<u32> = document.pages.iter().map(|page| page.number).collect();
    assert_eq!((pages, document.metadata.get("pdf_pages")), (vec![1, 4], Some(&json!(4))));
    let (verdict, why) = verdict_on(&pdf(&[None, None]), Format::Pdf, &Limits::DEFAULT);
    assert_eq!(verdict, Verdict::Corrupt, "{why}");
}
