//! Tells a protected book from one whose fonts are merely obfuscated.

use std::collections::HashSet;

use crate::encoding;
use crate::markup::{Dialect, Token, tokens};
use crate::verdict::{ParseFailure, Verdict};

use super::package::{Package, resolve};
use crate::archive::Archive;

const ENCRYPTION: &str = "META-INF/encryption.xml";
/// Files that only protected books have: Adobe ADEPT, Readium LCP, Apple FairPlay.
const LICENSES: [&str; 3] = ["META-INF/rights.xml", "META-INF/license.lcpl", "META-INF/sinf.xml"];
/// What makes a resource text, where the spine does not already say so.
const TEXT_EXTENSIONS: [&str; 6] = [".xhtml", ".html", ".htm", ".xml", ".opf", ".ncx"];

/// A book with a licence is protected, whatever else it says.
pub(super) fn refuse_license(archive: &Archive) -> Result<(), ParseFailure> {
    match LICENSES.iter().find(|path| archive.has(path)) {
        Some(path) => Err(ParseFailure::new(Verdict::Drm, format!("the book has {path}"))),
        None => Ok(()),
    }
}

/// Encrypted resources are listed in one file. Fonts and images may be encrypted or obfuscated as they like;
/// a document may not.
pub(super) fn refuse_encrypted(archive: &mut Archive, package: &Package) -> Result<(), ParseFailure> {
    let Some(bytes) = archive.read(ENCRYPTION)? else { return Ok(()) };
    let source = encoding::decode_markup(bytes).text;
    let spine: HashSet<&str> = package.spine.iter().map(String::as_str).collect();
    let mut encrypted = 0;
    let mut example = None;
    tokens(&source, Dialect::Xml, |token| {
        let Token::Start(element) = token else { return };
        if element.name() != "cipherreference" {
            return;
        }
        // References are from the root of the archive.
        let Some((path, _)) = element.attribute("uri").and_then(|uri| resolve("", uri)) else { return };
        let folded = path.to_lowercase();
        if spine.contains(path.as_str()) || TEXT_EXTENSIONS.iter().any(|end| folded.ends_with(end)) {
            encrypted += 1;
            example.get_or_insert(path);
        }
    });
    match example {
        Some(path) => {
            let why = format!("{encrypted} documents of the book are encrypted, such as {path}");
            Err(ParseFailure::new(Verdict::Drm, why))
        }
        None => Ok(()),
    }
}
