//! PDFs and Word documents through the program, by both readers of PDF.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::fixtures::{Home, Needs, Ran};
use crate::pdfs::{Pdf, text};

/// Each reader of PDFs as flags: haul's own, and pdfium where it is there.
fn readers(test: &'static str) -> Vec<Vec<String>> {
    let pdfium = Needs(test).pdfium().map(|library| vec!["--pdfium".to_owned(), shown(&library)]);
    std::iter::once(Vec::new()).chain(pdfium).collect()
}

fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Ingests `books` of a new home with these flags; the receipt and the exit code.
fn ingest(home: &Home, flags: &[String], more: &[&str]) -> (Value, i32) {
    let args: Vec<&str> =
        ["books"].into_iter().chain(flags.iter().map(String::as_str)).chain(more.iter().copied()).collect();
    home.ingest(&args)
}

fn hit(home: &Home, words: &str) -> Value {
    let found = home.json(&["search", words, "--store", "lib.haul", "--mode", "bm25", "--limit", "1"]);
    found["hits"][0].clone()
}

/// Six pages with running lines, an outline of two levels, hyphenated words and a paragraph over two pages.
fn handbook() -> Vec<u8> {
    let mut pdf = Pdf::new();
    pdf.information = "/Title (The Harbour Handbook) /Author (A. Keeper; B. Pilot)".to_owned();
    let bodies: [&[&str]; 6] = [
        &[
            "Lamps",
            "The lamp in the north window was lit before the storm, for the light-",
            "house had none.",
        ],
        &["Oil", "Oil is carried up at noon,"],
        &["when the keeper has trimmed it.", "Spare wicks hang in the well-known shed."],
        &["Boats", "The pilot boat is painted green each spring, and is a well-", "known sight."],
        &["Nets", "Nets are mended on the quay in the morning by whoever is there."],
        &["Ropes are tarred in the garden.", "Nothing else is said of ropes."],
    ];
    let mut pages = Vec::new();
    for (no, body) in (1..).zip(bodies) {
        let number = format!("{no}");
        // Footers come first in many files.
        let mut lines = vec![(300.0, 40.0, number.as_str()), (72.0, 760.0, "The Harbour Handbook")];
        lines.extend(body.iter().enumerate().map(|(row, line)| (72.0, 700.0 - 14.0 * row as f32, *line)));
        pages.push(pdf.page(&text(12.0, &lines)));
    }
    pdf.outline(&[
        (0, "Lamps", pages[0], 720.0),
        (1, "Oil", pages[1], 720.0),
        (0, "Boats", pages[3], 720.0),
        (1, "Nets", pages[4], 720.0),
    ]);
    pdf.finish()
}

#[test]
fn chapters_pages_hyphens_and_running_lines() {
    for flags in readers("pdf::chapters_pages_hyphens_and_running_lines") {
        let home = Home::new();
        home.write("books/handbook.pdf", handbook());
        let (receipt, code) = ingest(&home, &flags, &[]);
        assert_eq!(code, 0, "{receipt:#}");

        let lit = hit(&home, "lighthouse");
        assert_eq!((&lit["page"], &lit["breadcrumb"]), (&json!(1), &json!(["Lamps"])), "{flags:?} {lit:#}");
        assert_eq!(
            (&lit["title"], &lit["authors"]),
            (&json!("The Harbour Handbook"), &json!(["A. Keeper", "B. Pilot"]))
        );
        let tarred = hit(&home, "tarred garden");
        assert_eq!(
            (&tarred["page"], &tarred["breadcrumb"]),
            (&json!(6), &json!(["Boats", "Nets"])),
            "{flags:?}"
        );
        let wicks = hit(&home, "trimmed");
        assert_eq!(wicks["breadcrumb"], json!(["Lamps", "Oil"]), "{flags:?}");
        let wicks = wicks["text"].as_str().unwrap();
        assert!(wicks.contains("at noon, when the keeper"), "a paragraph over two pages, {flags:?}: {wicks}");
        let sight = hit(&home, "sight");
        // haul's own reader joins lines itself, and knows no word that has a hyphen of its own.
        let joined = if flags.is_empty() { "a wellknown sight" } else { "a well-known sight" };
        assert!(sight["text"].as_str().unwrap().contains(joined), "{flags:?} {sight:#}");
        let running = home.json(&["search", "handbook", "--store", "lib.haul", "--mode", "bm25"]);
        assert_eq!(running["hits"], json!([]), "running lines are no text, {flags:?}");
        home.assert_sound();
    }
}

/// Many outlines have parts that are only names: their chapters stood below each other, and the last one in a part
/// that was not its own.
#[test]
fn parts_that_lead_nowhere_name_their_chapters() {
    for flags in readers("pdf::parts_that_lead_nowhere_name_their_chapters") {
        let home = Home::new();
        let mut pdf = Pdf::new();
        let words = ["lamp", "rope", "salt", "honey"];
        let page =
            |word| pdf.page(&text(12.0, &[(72.0, 700.0, word), (72.0, 680.0, "stands in the north.")]));
        let pages = words.map(page);
        pdf.outline(&[
            (0, "Part I", 0, 0.0),
            (1, "lamp", pages[0], 720.0),
            (1, "rope", pages[1], 720.0),
            (0, "Part II", pages[2], 720.0),
            (0, "Part III", 0, 0.0),
            (1, "honey", pages[3], 720.0),
        ]);
        home.write("books/parts.pdf", pdf.finish());
        let (receipt, code) = ingest(&home, &flags, &["--chunk-tokens", "16"]);
        assert_eq!(code, 0, "{receipt:#}");
        for (word, expected) in words.iter().zip([
            &["Part I", "lamp"][..],
            &["Part I", "rope"],
            &["Part II"],
            &["Part III", "honey"],
        ]) {
            assert_eq!(hit(&home, word)["breadcrumb"], json!(expected), "{flags:?} {word}");
        }
    }
}

/// Two columns, written one after the other and written row by row.
#[test]
fn two_columns_are_read_one_after_the_other() {
    let words = "north south east west lamp rope salt honey wheel stone letter storm".split(' ');
    let words: Vec<&str> = words.collect();
    let left: Vec<String> = words.iter().map(|word| format!("the left column says {word} here")).collect();
    let right: Vec<String> = words.iter().map(|word| format!("the right column says {word} too")).collect();
    let y = |row: usize| 700.0 - 14.0 * row as f32;
    let rows = 0..words.len();
    let by_row: Vec<_> = rows
        .clone()
        .flat_map(|row| [(60.0, y(row), left[row].as_str()), (330.0, y(row), right[row].as_str())])
        .collect();
    let by_column: Vec<_> = rows
        .clone()
        .map(|row| (60.0, y(row), left[row].as_str()))
        .chain(rows.map(|row| (330.0, y(row), right[row].as_str())))
        .collect();
    let expected = format!("{} {}", left.join(" "), right.join(" "));
    for flags in readers("pdf::two_columns_are_read_one_after_the_other") {
        for lines in [&by_row, &by_column] {
            let home = Home::new();
            let mut pdf = Pdf::new();
            pdf.page(&text(11.0, lines));
            home.write("books/columns.pdf", pdf.finish());
            ingest(&home, &flags, &["--chunker", "whole"]);
            let found = hit(&home, "north")["text"]
                .as_str()
                .unwrap()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            assert_eq!(found, expected, "{flags:?}");
        }
    }
}

#[test]
fn pictures_without_text_are_listed() {
    for flags in readers("pdf::pictures_without_text_are_listed") {
        let home = Home::new();
        let mut some = Pdf::of_pages(&["The lamp in the north window."]);
        for _ in 0..3 {
            some.picture(8, 8, &[128; 64]);
        }
        some.page(&text(12.0, &[(72.0, 700.0, "Honey and salt.")]));
        some.picture(8, 8, &[0; 64]);
        home.write("books/some.pdf", some.finish());
        let mut all = Pdf::new();
        all.picture(8, 8, &[7; 64]);
        home.write("books/all.pdf", all.finish());
        let mut blank = Pdf::new();
        blank.page("");
        home.write("books/blank.pdf", blank.finish());
        let (receipt, code) = ingest(&home, &flags, &[]);
        assert_eq!(code, 1);
        assert_eq!(
            receipt["items"]["by_verdict"],
            json!({"empty": 1, "needs_ocr": 1, "ok": 1}),
            "{receipt:#}"
        );
        let note = &receipt["notes"][0];
        assert_eq!(note["says"], "pages 2-4, 6 of 6 have no text and need OCR", "{flags:?} {receipt:#}");
    }
}

/// Letters of five by seven dots, as large as print is in a scan of 300 dots an inch.
fn scanned(words: &str) -> (usize, usize, Vec<u8>) {
    const DOT: usize = 8;
    let letters: [(char, [u8; 7]); 7] = [
        ('A', [0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001]),
        ('E', [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111]),
        ('H', [0b10001, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001]),
        ('L', [0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111]),
        ('M', [0b10001, 0b11011, 0b10101, 0b10101, 0b10001, 0b10001, 0b10001]),
        ('P', [0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000]),
        ('T', [0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100]),
    ];
    let (width, height) = (DOT * 6 * (words.len() + 8), DOT * 30);
    let mut pixels = vec![255; width * height];
    for (no, letter) in words.chars().enumerate() {
        let Some((_, rows)) = letters.iter().find(|(known, _)| *known == letter) else { continue };
        for (y, x) in (0..7 * DOT).flat_map(|y| (0..5 * DOT).map(move |x| (y, x))) {
            if rows[y / DOT] >> (4 - x / DOT) & 1 == 1 {
                pixels[(y + 11 * DOT) * width + x + (4 + no) * 6 * DOT] = 0;
            }
        }
    }
    (width, height, pixels)
}

#[test]
fn pictures_are_recognised_when_asked_for() {
    let needs = Needs("pdf::pictures_are_recognised_when_asked_for");
    let Some(pdfium) = needs.pdfium() else { return };
    if Command::new("tesseract").arg("--version").output().is_err() {
        return needs.skip("there is no tesseract");
    }
    let home = Home::new();
    let mut pdf = Pdf::new();
    let (width, height, pixels) = scanned("HELP THE LAMP");
    pdf.picture(width, height, &pixels);
    pdf.page(&text(12.0, &[(72.0, 700.0, "The lamp in the north window.")]));
    home.write("books/scan.pdf", pdf.finish());
    let flags = ["--pdfium".to_owned(), shown(&pdfium)];
    let (receipt, _) = ingest(&home, &flags, &[]);
    assert_eq!(receipt["notes"][0]["says"], "page 1 of 2 has no text and needs OCR");
    let (receipt, code) = ingest(&home, &flags, &["--ocr"]);
    assert_eq!((code, &receipt["items"]["reused"]), (0, &json!(0)), "{receipt:#}");
    assert_eq!(receipt["notes"][0]["says"], "1 page is recognised from a picture");
    let found = home.json(&["search", "north", "--store", "lib.haul", "--mode", "bm25"]);
    assert_eq!(hit(&home, "help")["page"], json!(1), "{found:#}");
}

#[test]
fn recognising_needs_pdfium_and_tesseract() {
    let home = Home::new();
    home.write("books/scan.pdf", handbook());
    let args = ["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--ocr"];
    let ran = home.run(&args);
    let has_tesseract = Command::new("tesseract").arg("--version").output().is_ok();
    let says = if has_tesseract { "--ocr needs pdfium" } else { "--ocr: cannot run tesseract" };
    assert!(ran.code == 2 && ran.stderr.contains(says) && ran.stderr.contains("hint: "), "{ran:#?}");
    let mut without = home.haul(&args);
    let ran = crate::fixtures::ran(without.env("PATH", "/nowhere"), b"");
    assert!(ran.code == 2 && ran.stderr.contains("cannot run tesseract"), "{ran:#?}");
    assert!(!home.path("lib.haul").exists());
}

/// Another reader may see another text, so a library is never of two readers in silence.
#[test]
fn another_reader_reads_again_and_is_named() {
    let Some(pdfium) = Needs("pdf::another_reader_reads_again_and_is_named").pdfium() else { return };
    let home = Home::new();
    home.write("books/handbook.pdf", handbook());
    home.write("books/a.txt", "The lamp in the north window.");
    let run = |more: &[&str]| -> (Ran, Value) {
        let args = ["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--json"];
        let args: Vec<&str> = args.into_iter().chain(more.iter().copied()).collect();
        let ran = home.ok(&args);
        let receipt = ran.json();
        (ran, receipt)
    };
    let (ran, receipt) = run(&[]);
    assert!(
        ran.stderr.contains("pdf: pdf_oxide") && ran.stderr.contains("/backends/libpdfium.so"),
        "{ran:#?}"
    );
    assert!(receipt["settings"]["pdf_reader"].as_str().unwrap().starts_with("pdf_oxide"));
    let own = home.digest();
    assert_eq!(run(&[]).1["items"]["reused"], json!(2));
    let flag = shown(&pdfium);
    let (ran, receipt) = run(&["--pdfium", &flag]);
    assert!(ran.stderr.contains("pdf: pdfium "), "{ran:#?}");
    assert_eq!(receipt["items"]["reused"], json!(1), "the text is not read again");
    assert_ne!(home.digest(), own);
    // Found in the home folder as well, and then it is the same.
    let backends = home.path("home/backends");
    std::fs::create_dir_all(&backends).unwrap();
    std::os::unix::fs::symlink(&pdfium, backends.join("libpdfium.so")).unwrap();
    assert_eq!(run(&[]).1["items"]["reused"], json!(2));
    home.assert_sound();
}

#[test]
fn a_library_that_is_not_pdfium_is_refused_by_what_it_lacks() {
    let home = Home::new();
    home.write("books/handbook.pdf", handbook());
    let refused = |library: &str| {
        let ran =
            home.run(&["ingest", "books", "--store", "lib.haul", "--model", "tiny", "--pdfium", library]);
        assert!(ran.code == 2 && ran.stderr.contains("hint: "), "{ran:#?}");
        // It was found out by the first PDF, when there was a library already.
        assert!(!home.path("lib.haul").exists() && !home.path("lib.haul.lock").exists(), "{library}");
        ran.stderr
    };
    assert!(refused("nowhere.so").contains("--pdfium nowhere.so: there is no such file"));
    home.write("words.so", "not a library");
    assert!(refused("words.so").contains("words.so: cannot be used as pdfium"));
    let other =
        ["/lib/x86_64-linux-gnu/libm.so.6", "/usr/lib/libm.so.6", "/lib64/libm.so.6"].map(PathBuf::from);
    let Some(other) = other.into_iter().find(|path| path.is_file()) else {
        return Needs("pdf::a_library_that_is_not_pdfium").skip("there is no libm.so.6");
    };
    let said = refused(other.to_str().unwrap());
    assert!(said.contains("undefined symbol: FPDF_InitLibraryWithConfig"), "{said}");
}
