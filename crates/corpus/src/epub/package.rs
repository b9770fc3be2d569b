//! The package file of a book: its metadata, and its spine.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::document::Identifier;
use crate::encoding;
use crate::limits::{METADATA_VALUE_BYTES_MAX, PACKAGE_ITEMS_MAX};
use crate::markup::{Dialect, Element, Token, tokens};
use crate::verdict::{ParseFailure, Verdict};

use crate::archive::Archive;

const CONTAINER: &str = "META-INF/container.xml";

/// What the package file says. Paths are inside the archive.
#[derive(Default)]
pub(super) struct Package {
    pub(super) title: Option<String>,
    pub(super) authors: Vec<String>,
    pub(super) language: Option<String>,
    pub(super) identifiers: Vec<Identifier>,
    pub(super) metadata: Map<String, Value>,
    /// Content documents in reading order.
    pub(super) spine: Vec<String>,
    /// Table of contents of EPUB 3, and of EPUB 2.
    pub(super) nav: Option<String>,
    pub(super) ncx: Option<String>,
}

/// Finds and reads the package file.
pub(super) fn read(archive: &mut Archive) -> Result<Package, ParseFailure> {
    let path = package_path(archive)?;
    let Some(bytes) = archive.read(&path)? else {
        let why = format!("{CONTAINER} names {path}, which is not in the archive");
        return Err(ParseFailure::new(Verdict::Corrupt, why));
    };
    let source = encoding::decode_markup(bytes).text;
    let mut reader = Reader::new(&path);
    tokens(&source, Dialect::Xml, |token| reader.token(token));
    reader.finish()
}

/// The path of the package file: what the container names, or the only one there is.
fn package_path(archive: &mut Archive) -> Result<String, ParseFailure> {
    if let Some(bytes) = archive.read(CONTAINER)? {
        let source = encoding::decode_markup(bytes).text;
        let mut path = None;
        tokens(&source, Dialect::Xml, |token| {
            if let Token::Start(element) = token
                && element.name() == "rootfile"
                && path.is_none()
            {
                path = element.attribute("full-path").map(str::to_owned);
            }
        });
        if let Some(path) = path.filter(|path| archive.has(path)) {
            return Ok(path);
        }
    }
    archive.find_by_suffix(".opf").ok_or_else(|| {
        let why = format!("a zip archive without {CONTAINER} and without a package file is no EPUB");
        ParseFailure::new(Verdict::Unsupported, why)
    })
}

/// A reference of a file as the path of an entry, and the fragment. References elsewhere have none.
pub(super) fn resolve(from: &str, reference: &str) -> Option<(String, Option<String>)> {
    let reference = reference.trim();
    if reference.contains("://") || reference.starts_with("data:") || reference.starts_with("mailto:") {
        return None;
    }
    let (path, fragment) = match reference.split_once('#') {
        Some((path, fragment)) => (path, Some(percent_decoded(fragment))),
        None => (reference, None),
    };
    let path = percent_decoded(path.split('?').next().unwrap_or(path));
    let fragment = fragment.filter(|fragment| !fragment.is_empty());
    if path.is_empty() {
        return Some((from.to_owned(), fragment));
    }
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    let joined = if path.starts_with('/') { path } else { format!("{folder}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Some((parts.join("/"), fragment))
}

fn percent_decoded(reference: &str) -> String {
    let hex = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let bytes = reference.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, _, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// A value of the metadata being read.
struct Open {
    name: String,
    id: Option<String>,
    scheme: Option<String>,
    is_author: bool,
    /// The property of a `meta` element of EPUB 3.
    property: Option<String>,
    value: String,
}

struct Reader<'a> {
    path: &'a str,
    package: Package,
    items: usize,
    unique_id: Option<String>,
    in_metadata: bool,
    open: Option<Open>,
    /// Author-like people whose role is another.
    other_creators: Vec<String>,
    manifest: HashMap<String, String>,
    spine_ids: Vec<String>,
    ncx_id: Option<String>,
}

impl<'a> Reader<'a> {
    fn new(path: &'a str) -> Reader<'a> {
        Reader {
            path,
            package: Package::default(),
            items: 0,
            unique_id: None,
            in_metadata: false,
            open: None,
            other_creators: Vec::new(),
            manifest: HashMap::new(),
            spine_ids: Vec::new(),
            ncx_id: None,
        }
    }

    fn token(&mut self, token: Token<'_>) {
        match token {
            Token::Start(element) => {
                self.items += 1;
                if self.items <= PACKAGE_ITEMS_MAX {
                    self.start(element);
                }
            }
            Token::End("metadata") => self.in_metadata = false,
            Token::End(name) => {
                if let Some(open) = self.open.take_if(|open| open.name == name) {
                    self.value(open);
                }
            }
            Token::Text(text) => {
                if let Some(open) = &mut self.open {
                    let room = METADATA_VALUE_BYTES_MAX.saturating_sub(open.value.len());
                    open.value.push_str(&text[..text.floor_char_boundary(room)]);
                }
            }
        }
    }

    fn start(&mut self, element: Element<'_>) {
        let owned = |name| element.attribute(name).map(str::to_owned);
        match element.name() {
            "package" => self.unique_id = owned("unique-identifier"),
            "metadata" => self.in_metadata = !element.is_self_closing(),
            "item" => self.item(element),
            "spine" => self.ncx_id = owned("toc"),
            "itemref" => self.spine_ids.extend(owned("idref")),
            name if self.in_metadata => {
                if let (Some(key), Some(value)) = (element.attribute("name"), element.attribute("content")) {
                    self.named_meta(key, value);
                } else if !element.is_self_closing() && element.attribute("refines").is_none() {
                    self.open = Some(Open {
                        name: name.to_owned(),
                        id: owned("id"),
                        scheme: owned("opf:scheme"),
                        is_author: element.attribute("opf:role").is_none_or(|role| role == "aut"),
                        property: owned("property"),
                        value: String::new(),
                    });
                }
            }
            _ => {}
        }
    }

    fn item(&mut self, element: Element<'_>) {
        let (Some(id), Some(href)) = (element.attribute("id"), element.attribute("href")) else { return };
        let Some((path, _)) = resolve(self.path, href) else { return };
        let properties = element.attribute("properties").unwrap_or_default();
        if properties.split_ascii_whitespace().any(|property| property == "nav") {
            self.package.nav = Some(path.clone());
        }
        if element.attribute("media-type") == Some("application/x-dtbncx+xml") {
            self.package.ncx = Some(path.clone());
        }
        self.manifest.insert(id.to_owned(), path);
    }

    /// `<meta name="calibre:series" content="...">` of EPUB 2.
    fn named_meta(&mut self, name: &str, content: &str) {
        let key = match name {
            "calibre:series" => "series",
            "calibre:series_index" => "series_index",
            _ => return,
        };
        let end = content.floor_char_boundary(METADATA_VALUE_BYTES_MAX);
        self.package.metadata.insert(key.to_owned(), Value::String(content[..end].to_owned()));
    }

    fn value(&mut self, open: Open) {
        let value = open.value.split_whitespace().collect::<Vec<_>>().join(" ");
        if value.is_empty() {
            return;
        }
        match open.name.as_str() {
            "title" if self.package.title.is_none() => self.package.title = Some(value),
            "creator" if open.is_author => self.package.authors.push(value),
            "creator" => self.other_creators.push(value),
            "language" if self.package.language.is_none() => self.package.language = Some(value),
            "identifier" => {
                let identifier = Identifier { scheme: open.scheme, value };
                let is_unique = open.id.is_some() && open.id == self.unique_id;
                let at = if is_unique { 0 } else { self.package.identifiers.len() };
                self.package.identifiers.insert(at, identifier);
            }
            "meta" => match open.property.as_deref() {
                Some("belongs-to-collection") => self.field("series", value),
                Some("dcterms:modified") => self.field("modified", value),
                _ => {}
            },
            name @ ("title" | "language" | "publisher" | "date" | "subject" | "description" | "rights"
            | "contributor" | "source" | "type" | "coverage" | "relation") => {
                let name = name.to_owned();
                self.field(&name, value);
            }
            _ => {}
        }
    }

    /// One value is text, several of one name are a list.
    fn field(&mut self, name: &str, value: String) {
        let value = Value::String(value);
        match self.package.metadata.get_mut(name) {
            None => {
                self.package.metadata.insert(name.to_owned(), value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }

    fn finish(mut self) -> Result<Package, ParseFailure> {
        if self.items > PACKAGE_ITEMS_MAX {
            let why = format!("{} has more than {PACKAGE_ITEMS_MAX} elements", self.path);
            return Err(ParseFailure::new(Verdict::TooLarge, why));
        }
        if self.package.authors.is_empty() {
            self.package.authors = std::mem::take(&mut self.other_creators);
        }
        if let Some(ncx) = self.ncx_id.as_ref().and_then(|id| self.manifest.get(id)) {
            self.package.ncx = Some(ncx.clone());
        }
        let paths = self.spine_ids.iter().filter_map(|id| self.manifest.get(id));
        let mut seen = std::collections::HashSet::new();
        self.package.spine = paths.filter(|path| seen.insert(path.as_str())).cloned().collect();
        if self.package.spine.is_empty() {
            let why = format!("{} names no documents in its spine", self.path);
            return Err(ParseFailure::new(Verdict::Corrupt, why));
        }
        Ok(self.package)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_stay_inside_the_archive() {
        let at = |reference| resolve("a/b/toc.xhtml", reference);
        assert_eq!(at("c%20d.xhtml#x"), Some(("a/b/c d.xhtml".into(), Some("x".into()))));
        assert_eq!(at("../c.xhtml"), Some(("a/c.xhtml".into(), None)));
        assert_eq!(at("../../../../etc/passwd"), Some(("etc/passwd".into(), None)));
        assert_eq!(at("/c.xhtml"), Some(("c.xhtml".into(), None)));
        assert_eq!(at("#here"), Some(("a/b/toc.xhtml".into(), Some("here".into()))));
        assert_eq!(at("http://example.org/c.xhtml"), None);
        assert_eq!(at("100%.xhtml"), Some(("a/b/100%.xhtml".into(), None)));
    }
}
